"""`tallygrad profile`: every kernel's time is filed once, beside the bounds of the machine."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tallygrad.autograd.deferred import recorders
from tallygrad.autograd.ledger import Cost
from tallygrad.trainer.calibration import kernels, roofs
from tallygrad.trainer.calibration.kernels import Measured, profile_report
from tallygrad.trainer.cli import main
from tallygrad.trainer.cost.report.profile_text import as_text
from tallygrad.trainer.cost.roofline import Roofs
from tallygrad.trainer.cost.workload import count

ROOFS = Roofs(gflops=100.0, gbytes=10.0)


@pytest.mark.parametrize(
    ("name", "training", "precision"),
    [("lenet", False, "float32"), ("lenet", True, "bf16"), ("resnet20", True, "float32"),
     ("resnet20", False, "float32")],
)  # fmt: skip
def test_work_is_that_of_shapes_alone(
    name: str, training: bool, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if precision == "bf16":
        pytest.importorskip("ml_dtypes", reason="ml_dtypes is not installed")
    shape = (1, 28, 28) if name == "lenet" else (3, 32, 32)
    counts = iter([5.0, 8.0])
    monkeypatch.setattr(kernels, "joules", lambda: next(counts))
    rows, energy = kernels.measure(name, 2, shape, 10, training, "numpy", 2, precision=precision)
    assert energy == 1.5
    ledger = count(name, 2, shape, 10, training, precision=precision).ledger
    predicted = {(r.key.scope, r.key.phase) for r in ledger.rows()}
    assert {(r.scope, r.phase) for r in rows} == predicted
    assert sum(r.cost.macs for r in rows) == ledger.total().macs
    assert sum(r.cost.bytes_read for r in rows) == ledger.total().bytes_read
    assert all(r.seconds > 0 for r in rows if r.cost.macs)
    kinds = {r.scope: r.kind for r in rows}
    assert kinds["conv1"] == "conv" and "fc" in kinds.values() and "other" in kinds.values()
    assert not recorders


def test_what_binds() -> None:
    compute = Cost(macs=10**9, bytes_read=10**6)  # 20 ms of arithmetic, 0.1 of memory
    memory = Cost(macs=10**6, bytes_read=10**8, bytes_written=10**8)  # 0.02 and 20
    assert ROOFS.seconds(compute) == (pytest.approx(0.02), "compute")
    assert ROOFS.seconds(memory) == (pytest.approx(0.02), "memory")


def test_figures_of_a_layer() -> None:
    rows = [
        Measured("conv1", "forward", "conv", 0.03, Cost(macs=3 * 10**8, bytes_read=2 * 10**7)),
        Measured("fc", "forward", "fc", 0.01, Cost(macs=10**8, bytes_written=4 * 10**7)),
    ]
    report = profile_report("lenet", 1, "numpy", rows, ROOFS, None)
    assert report.seconds == pytest.approx(0.04) and report.energy == "not available"
    assert report.conv_share["forward"] == (0.75, pytest.approx(0.75))
    conv, fc = report.layers
    row = conv.to_json()
    assert row["gflops"] == pytest.approx(20) and row["flops_per_byte"] == pytest.approx(30)
    assert (conv.bound_seconds, conv.roof) == (pytest.approx(0.006), "compute")
    assert (fc.bound_seconds, fc.roof) == (pytest.approx(0.004), "memory")
    text = as_text(profile_report("lenet", 1, "numpy", rows, ROOFS, 0.5))
    assert "75.0% of the MACs, 75.0% of the time" in text and "in joules: 0.5" in text


def test_energy_is_read_where_it_can_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(roofs, "POWER", tmp_path)
    assert roofs.joules() is None
    for zone, count_ in (("intel-rapl:0", 2_000_000), ("intel-rapl:1", 500_000)):
        (tmp_path / zone).mkdir()
        (tmp_path / zone / "energy_uj").write_text(f"{count_}\n")
    (tmp_path / "intel-rapl:0:0").mkdir()  # a part of the first
    (tmp_path / "intel-rapl:0:0" / "energy_uj").write_text("1000000\n")
    assert roofs.joules() == pytest.approx(2.5)
    (tmp_path / "intel-rapl:1" / "energy_uj").write_text("what")
    assert roofs.joules() is None


def test_the_command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(roofs, "calibrate", lambda: ROOFS)
    words = ["profile", "lenet", "--batch", "2", "--training", "--steps", "1", "--backend", "numpy"]
    assert main([*words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["roofs"] == {"gflops": 100.0, "gbytes_per_second": 10.0, "precision": "float32"}
    assert {e["pass"] for e in found["layers"]} > {"forward", "backward_weights", "update"}
    assert 0 < found["conv_share"]["forward"]["seconds"] < 1
    assert main(words) == 0
    assert "convolutions are 82.3% of the MACs" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["lenet", "--steps", "0"], "--steps: expected at least 1, got 0"),
        (["lenet", "--backend", "fast"], "unknown backend 'fast'"),
        (["lenets"], "unknown model 'lenets'"),
    ],
)
def test_what_does_not_fit(words: list[str], said: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["profile", *words]) == 2
    err = capfd.readouterr().err
    assert said in err and err.count("\n") == 1


def test_roofs_are_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(roofs, "SIZES", (64,))
    monkeypatch.setattr(roofs, "STREAM", 1 << 12)
    found = roofs.calibrate()
    assert found.gflops > 0 and found.gbytes > 0
