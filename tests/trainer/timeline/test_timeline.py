"""`train --timeline` on real ranks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tallygrad.trainer.cli import main
from tallygrad.trainer.components.checkpoint import load

from .test_trace import check_format

WORDS = ["train", "--model", "lenet", "--dataset", "mnist", "--batch-size", "12"]
# Rank 1's clock is a thousand seconds ahead.
SKEWED = """
import os, sys, time
real, rank = time.monotonic, int(os.environ.get("PMI_RANK") or os.environ["OMPI_COMM_WORLD_RANK"])
time.monotonic = lambda: real() + 1000.0 * rank
from tallygrad.trainer.cli import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture
def words(tmp_path: Path, write_mnist: Any) -> list[str]:
    data = write_mnist(tmp_path / "data", 48, 12)
    return [*WORDS, "--data-dir", str(data), "--micro-batches", "3", "--epochs", "2"]


def bits(out: Path) -> dict[str, bytes]:
    held = load(max((out / "checkpoints").glob("step-*.h5")))
    return {name: value.tobytes() for name, value in held.tensors.items()}


def test_ranks_lie_beside_one_another(mpirun: Any, tmp_path: Path, words: list[str]) -> None:
    out = tmp_path / "run"
    more = ["--timeline", "auto", "--timeline-steps", "6", "--out", str(out)]
    done = mpirun(2, SKEWED, *words, *more)
    assert done.returncode == 0, done.stderr
    assert "slowest: rank" in done.stdout and str(out / "timeline.json") in done.stdout
    text = (out / "timeline.json").read_text()
    clocks = json.loads(text)["otherData"]["clocks"]
    assert clocks["rank 1"]["offset_seconds"] == pytest.approx(-1000, abs=30)
    events = check_format(text)
    spans = [e for e in events if e["ph"] == "X"]
    for rank in (0, 1):
        mine = [e for e in spans if e["pid"] == rank]
        steps = [e["args"]["step"] for e in mine if e["cat"] == "step"]
        assert steps == [1, 2, 3, 4, 5, 6]
        assert len([e for e in mine if e["cat"] == "micro-batch"]) == 6 * (2 - rank)
        assert {"evaluating", "checkpoint"} <= {e["name"] for e in mine if e["cat"] == "activity"}
        kinds = {e["cat"] for e in mine}
        assert {"loader", "prepare", "exchange", "update", "operation", "pass"} <= kinds
        assert {e["name"] for e in mine if e["cat"] == "pass"} == {"forward", "backward"}
    # Nobody leaves an allreduce before all have come.
    error = 1e6 * clocks["rank 1"]["error_seconds"]
    calls: dict[int, list[dict[str, Any]]] = {}
    for e in spans:
        if e["cat"] == "collective" and e["args"]["stream"] == "main" and e["name"] == "allreduce":
            calls.setdefault(e["args"]["number"], []).append(e)
    assert len(calls) >= 6
    for pair in calls.values():
        assert [e["pid"] for e in pair] == [0, 1]
        last = max(e["ts"] for e in pair)
        assert all(e["ts"] + e["dur"] >= last - error - 1 for e in pair)


def test_operations_are_those_of_the_last_recorded_step(
    tmp_path: Path, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """And the training is the same as without a timeline."""
    file = tmp_path / "t.json"
    on, off = tmp_path / "on", tmp_path / "off"
    assert main([*words, "--out", str(off)]) == 0
    assert main([*words, "--out", str(on), "--timeline", str(file), "--timeline-steps", "4"]) == 0
    assert bits(on) == bits(off)
    assert json.loads((on / "ledger.json").read_text()) == json.loads(
        (off / "ledger.json").read_text()
    )
    assert not (off / "timeline.json").exists() and not (on / "timeline.json").exists()
    events = check_format(file.read_text())
    steps = {e["name"]: e for e in events if e.get("cat") == "step"}
    assert [*steps] == ["step 1", "step 2", "step 3", "step 4"]
    last = steps["step 4"]
    operations = [e for e in events if e.get("cat") == "operation"]
    assert {"conv1: conv2d", "conv2: conv2d_dw"} <= {e["name"] for e in operations}
    for e in operations:
        assert last["ts"] <= e["ts"] and e["ts"] + e["dur"] <= last["ts"] + last["dur"] + 0.01


def test_a_foreign_file_is_refused_before_training(
    tmp_path: Path, words: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "mine.json"
    file.write_text('{"mine": 1}')
    assert main([*words, "--out", str(tmp_path / "run"), "--timeline", str(file)]) == 2
    assert "--timeline: expected a new file or a timeline" in capfd.readouterr().err
    assert file.read_text() == '{"mine": 1}'
