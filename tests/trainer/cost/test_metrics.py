"""Metrics of a model and of hardware: what is known, from where, and what is said to be unknown."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tallygrad.autograd.ledger import Cost, Ledger, SparsitySample
from tallygrad.trainer.cli import main
from tallygrad.trainer.components.checkpoint import save
from tallygrad.trainer.cost.machines import machine
from tallygrad.trainer.cost.report.metrics import as_text, of_run, shown
from tallygrad.trainer.cost.report.model.bill import (
    PhaseReport,
    PricedCost,
    SampleReport,
    SparsityReport,
)
from tallygrad.trainer.cost.report.model.common import MetricReport
from tallygrad.trainer.cost.run import Run

pytestmark = pytest.mark.usefixtures("wide")

STATUSES = ("measured", "modelled", "exact", "unknown")


def cost(*words: str, capsys: pytest.CaptureFixture[str]) -> Any:
    assert main(["cost", *words, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def value(metrics: Any, name: str) -> Any:
    (entry,) = [group[name] for group in metrics.values() if name in group]
    return entry["value"]


@pytest.fixture
def record() -> dict[str, Any]:
    """Return a record of a run of two ranks: 40 images, each of 1,000 MACs forward."""
    ledger = Ledger()
    for phase in ("forward", "backward_weights"):
        ledger.count(("fc", phase, "linear", "numpy", Cost(macs=10_000, bytes_read=160)), 4)
    return {
        "step": 4, "epoch": 1, "step_in_epoch": 0, "images": 40, "seconds": 5.0, "aside": 1.0,
        "accuracy": 0.75, "evaluated": 4, "model": "mlp", "ranks": 2,
        "config": {"batch_size": 10}, "ledger": ledger.to_json(),
    }  # fmt: skip


@pytest.fixture
def tensors() -> dict[str, Any]:
    """Return weights of 12 of which 5 are zero, a bias, a statistic, and a velocity."""
    weight = np.arange(12, dtype=np.float32).reshape(3, 4)
    weight[weight < 5] = 0
    return {
        "model/fc.weight": weight,
        "model/fc.bias": np.ones(3, np.float32),
        "optimizer/velocity/fc.weight": np.ones((3, 4), np.float32),
    }


def billed(
    folder: Path, tensors: Any, record: Any, *words: str, capsys: pytest.CaptureFixture[str]
) -> Any:
    file = folder / "step-00000004.h5"
    save(file, tensors, record)
    assert main(["bill", str(file), "--json", *words]) == 0
    return json.loads(capsys.readouterr().out)["metrics"]


@pytest.mark.parametrize("name", ["", *machine.names()])
def test_every_metric_says_how_it_is_known(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--machine", name] if name else []
    found = cost("lenet", "--training", *words, capsys=capsys)["metrics"]
    for group in found.values():
        for entry in group.values():
            assert entry["status"] in STATUSES and entry["how"] and "\n" not in entry["how"]
            assert (entry["value"] is None) == (entry["status"] == "unknown")
    assert value(found, "weights") == 430_500 and value(found, "macs") == 2_293_000
    assert value(found, "accuracy") is value(found, "nonzero_weights") is None
    if name:
        origin = found["hardware"]["machine"]["how"]
        assert ("file" in origin) == (name != machine.HOST)
    if name != machine.HOST:  # of which counters may tell
        assert (value(found, "energy_per_inference") is None) == (not name)
    for needed in ("latency", "throughput", "power", "off_chip_accesses", "on_chip_storage"):
        assert needed in found["hardware"]


def test_a_chip(capsys: pytest.CaptureFixture[str]) -> None:
    described = cost("alexnet", "--batch", "4", "--machine", "eyeriss", capsys=capsys)
    found, total = described["metrics"], described["totals"]["on_machine"]["inference"]
    assert value(found, "units_present") == 168 and value(found, "bits") == 16
    assert value(found, "on_chip_storage") == 168 * (224 + 12 + 24) * 2 + 27 * 4096
    passes = [layer["passes"]["forward"] for layer in described["layers"] if layer["passes"]]
    seconds = [p["latency_seconds"] for p in passes]
    busy = sum(p["active_pes"] * s for p, s in zip(passes, seconds, strict=True)) / sum(seconds)
    assert value(found, "units_used") == pytest.approx(busy) and 100 < busy < 168
    assert value(found, "latency") == pytest.approx(sum(seconds))
    assert value(found, "throughput") == pytest.approx(4 / sum(seconds))
    assert value(found, "energy_per_inference") == pytest.approx(total["energy_joules"] / 4)
    assert value(found, "power") == pytest.approx(total["energy_joules"] / sum(seconds))
    assert value(found, "off_chip_accesses") == total["dram_bytes"] / 2 / 4
    assert value(found, "inputs") == 4 and value(found, "macs") == 724_406_816


def test_power_of_a_machine_is_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    found = cost("lenet", "--machine", "etann", capsys=capsys)["metrics"]
    assert value(found, "power") == pytest.approx(1.5) and value(found, "bits") is None
    relative = cost("lenet", "--machine", "eyeriss-isca16", capsys=capsys)["metrics"]
    assert relative["hardware"]["energy_per_inference"]["unit"] == "MAC energies/image"
    assert value(relative, "power") is None


def test_a_run(
    tmp_path: Path, record: Any, tensors: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    found = billed(tmp_path, tensors, record, "--machine", "etann", capsys=capsys)
    assert (value(found, "weights"), value(found, "nonzero_weights")) == (12, 7)
    assert value(found, "accuracy") == 0.75 and value(found, "network") == "mlp"
    assert value(found, "macs") == 1000 and value(found, "nonzero_macs") is None
    assert value(found, "training_throughput") == 40 / 4.0  # a second went to evaluation
    assert value(found, "training_latency") == 1.0 and value(found, "ranks") == 2
    assert value(found, "latency") == pytest.approx(10 * 1000 / 2e9)  # of a batch
    assert value(found, "energy_per_inference") == pytest.approx(1.5 * 1000 / 2e9)
    assert value(found, "energy_per_trained_image") == pytest.approx(2 * 1.5 * 1000 / 2e9)
    assert value(found, "inputs") == 40
    assert main(["bill", str(tmp_path / "step-00000004.h5")]) == 0
    lines = capsys.readouterr().out.splitlines()
    (line,) = [line for line in lines if "nonzero weights" in line]
    assert " ".join(line.split()) == (
        "nonzero weights 7 weights exact: counted in the checkpoint; biases are not"
    )


def test_a_run_of_another_task_has_a_metric_of_its_own(
    tmp_path: Path, record: Any, tensors: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    del record["accuracy"]
    figures = {"test_loss": 0.3, "test_mae": 12.5, "mae": 12.5, "train_loss": 0.3}
    found = billed(tmp_path, tensors, record | figures, capsys=capsys)
    assert value(found, "mae") == 12.5 and "accuracy" not in found["model"]
    for task, direction in (("reconstruction", "; lower is better"), ("unheard of", "")):
        record["config"]["task"] = task
        found = billed(tmp_path, tensors, record | figures, capsys=capsys)
        assert found["model"]["mae"]["how"] == f"on the test images after step 4{direction}"


@pytest.mark.parametrize(
    ("changes", "unknown"),
    [
        ({"accuracy": None}, "accuracy"),
        ({"accuracy": "0.9"}, "accuracy"),
        ({"accuracy": float("nan")}, "accuracy"),
        ({"accuracy": 2**1024 - 1}, "accuracy"),
        ({"accuracy": True}, "accuracy"),
        ({"model": ["mlp"]}, "network"),
        ({"ranks": 0}, "ranks"),
        ({"images": 0}, "training_throughput"),
        ({"images": 0}, "macs"),
        ({"seconds": 0.5}, "training_latency"),  # less than what went to evaluation
        ({"ledger": []}, "macs"),
    ],
)
def test_records_that_tell_nothing(
    changes: dict[str, Any], unknown: str, tmp_path: Path, record: Any, tensors: Any,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    found = billed(tmp_path, tensors, {**record, **changes, "aside": 1.0}, capsys=capsys)
    assert value(found, unknown) is None


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"images": 2**1024 - 1}, "images: expected int, got 1797"),
        ({"seconds": float("inf")}, "seconds: expected float, got inf"),
        ({"ledger": 2**1024 - 1}, "ledger: cannot be read: expected counts up to"),
    ],
)
def test_counts_beyond_all_bounds(
    changes: dict[str, Any], said: str, tmp_path: Path, record: Any,
    capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    if "ledger" in changes:
        record["ledger"][0]["macs"] = changes.pop("ledger")
    file = tmp_path / "step-00000004.h5"
    save(file, {}, {**record, **changes})
    capfd.readouterr()
    assert main(["bill", str(file)]) == 2
    err = capfd.readouterr().err
    assert said in err.replace("ledger on record cannot", "ledger cannot")
    assert err.count("\n") == 1


RUN = Run("run", Ledger(), steps=8, epochs=None, images=4, seconds=1.0)
NOTHING = PricedCost(Cost())


def test_macs_that_are_not_zero_are_read_where_they_were_counted() -> None:
    forward = PhaseReport(PricedCost(Cost(macs=40)))
    for sample, expected in ((SparsitySample(macs=8, nonzero=2), 2.5), (SparsitySample(), None)):
        report = SampleReport(sample)
        sampled = SparsityReport(2, 8, {"forward": report}, report, (), "")
        metric = of_run(RUN, forward, NOTHING, sampled, None).model["nonzero_macs"]
        assert metric.value == expected
        assert expected is None or (metric.status == "measured" and "2 sampled steps" in metric.how)


def test_names_do_not_steer_a_terminal() -> None:
    run = replace(RUN, model="\x1b[2J\ud800\u202e")
    text = as_text(of_run(run, None, NOTHING, None, None))
    assert "\\x1b[2J\\ud800\\u202e" in text and text.isascii() and "\x1b" not in text


@pytest.mark.parametrize("bits", ['"16"', "true", "0", "16.5"])
def test_bits_of_a_machine(bits: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "mine.toml"
    text = (machine.FOLDER / "etann.toml").read_text()
    file.write_text(text.replace("note =", f"bits = {bits}\nnote ="))
    assert main(["cost", "lenet", "--machine", str(file)]) == 2
    err = capfd.readouterr().err
    said = f"{file}: bits: expected a whole number from 1 to 1024, got "
    assert said in err and err.count("\n") == 1


@pytest.mark.parametrize(
    ("number", "unit", "text"),
    [(1, "images", "1 image"), (2, "images", "2 images"), (1, "s", "1 s"),
     (1.0, "images/s", "1 images/s"), (1, "bit", "1 bit"), (0, "ranks", "0 ranks")],
)  # fmt: skip
def test_one_is_no_plural(number: float, unit: str, text: str) -> None:
    assert shown(MetricReport(number, unit, "exact", "by hand")) == text
