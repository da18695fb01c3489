"""What `cost`, `profile`, `plan`, `bill` and `inspect` print: it fits, and says what it counts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tallygrad.autograd.ledger import Cost, Ledger
from tallygrad.trainer.calibration.kernels import Measured, profile_report
from tallygrad.trainer.cli import main
from tallygrad.trainer.components.checkpoint import save
from tallygrad.trainer.cost.report.profile_text import as_text
from tallygrad.trainer.cost.roofline import Roofs

LONG = "encoder.stage3.blocks.17.attention.projection.conv2"
Printed = Callable[..., list[str]]


@pytest.fixture
def printed(capsys: pytest.CaptureFixture[str]) -> Printed:
    """Return a function that runs a command and returns its lines."""

    def run(*words: str) -> list[str]:
        assert main(words) == 0
        return capsys.readouterr().out.splitlines()

    return run


@pytest.fixture
def run(tmp_path: Path) -> str:
    """Return a checkpoint of a made-up run on two ranks with long names and large numbers."""
    ledger = Ledger()
    for layer in ("conv1", LONG):
        for phase in ("forward", "recompute", "backward_data", "backward_weights", "evaluate"):
            cost = Cost(macs=123 * 10**12, saved=10**12, bytes_read=10**15, bytes_written=10**14)
            ledger.count((layer, phase, "conv2d", "numpy", cost), 7)
    sent = Cost(bytes_sent=10**15, bytes_read=1000, messages=2)
    ledger.count((LONG, "communicate", "allreduce", "numpy", sent), 14)
    meta = {"step": 7, "epoch": 1, "step_in_epoch": 0, "images": 70, "seconds": 2.0}
    file = tmp_path / "step-00000007.h5"
    tensors = {f"model/{LONG}.weight": np.full((64, 64, 3, 3), np.nan, np.float32)}
    record = {**meta, "model": "lenet", "note": "word " * 40, "ledger": ledger.to_json()}
    save(file, tensors, record)
    return str(file)


def profiled() -> str:
    rows = [
        Measured(LONG, "forward", "conv", 0.01, Cost(macs=10**9, saved=64 * 10**7)),
        Measured("pool", "forward", "other", 1e-4, Cost(cmp=9, bytes_read=10**7)),
        Measured("", "backward_weights", "other", 0.02, Cost(bytes_read=10**7)),
        Measured("relu", "backward_data", "other", 1e-6, Cost(bytes_read=10)),
    ]
    return as_text(profile_report("lenet", 1, "numpy", rows, Roofs(100.0, 10.0), None))


def too_long(lines: list[str], width: int) -> list[str]:
    """Return the lines that do not fit though they could be cut, as a path cannot."""
    return [line for line in lines if len(line) > width and len(line.split()) > 1]


@pytest.mark.parametrize("width", [44, 60, 80, 100, 132])
def test_all_of_it_fits(
    width: int, run: str, printed: Printed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    for words in (
        ["cost", "resnet20"],
        ["cost", "lenet", "--training", "--machine", "eyeriss"],
        ["bill", run, "--machine", "horowitz45", "--co2", "300"],
        ["inspect", run],
    ):
        assert too_long(printed(*words), width) == []
    assert too_long(profiled().splitlines(), width) == []


def test_without_a_terminal_it_is_80(printed: Printed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    lines = printed("cost", "resnet20", "--training")
    assert max(map(len, lines)) in (78, 79, 80)


def test_cost_has_units_sums_and_no_columns_of_zeros(wide: None, printed: Printed) -> None:
    lines = printed("cost", "lenet")
    assert lines[0].split() == ["layer", "shape", "weights", "fwd", "MACs", "other", "ops", "bytes"]
    head, *_ = lines
    rows = {line.split("  ")[0]: line for line in lines}
    assert rows["all layers"].split()[-4:-2] == ["430k", "2.29M"]
    assert rows["4 without MACs"].split()[3:5] == ["0", "0"] and "stash" not in head
    lines = printed("cost", "lenet", "--training")
    assert lines[0].split("  ")[-1].strip() == "stash bytes"
    unknown = [line for line in lines if line.startswith("unknown")]
    assert len(unknown) == 3 and unknown[2].startswith("unknown (--machine prices it): machine, b")


def test_profile_explains_what_is_above_the_roof(wide: None) -> None:
    lines = profiled().splitlines()
    rows = {line.split("  ")[0]: line.split() for line in lines}
    assert rows[LONG][2:] == ["10.000", "33.2%", "200.0", "-", "20.000", "compute*"]
    assert rows["pool"][4:6] == ["-", "-"] and rows["pool"][-1] == "memory*"
    assert rows["(the model itself)"][-1] == "memory" and rows["1 under 0.1%"][-1] == "0.000"
    assert rows["all"][1:3] == ["30.101", "100.0%"]
    (said,) = [line for line in lines if line.startswith("* ")]
    assert "still in a cache" in said and "executes 36% of the multiplications" in said
