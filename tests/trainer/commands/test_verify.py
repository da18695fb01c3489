"""`tallygrad verify`: real trainings that must agree, and what it says where they do not."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tallygrad.launch import mpirun as launcher
from tallygrad.trainer.calibration.outcome import Outcome, Trial
from tallygrad.trainer.calibration.trial import _config
from tallygrad.trainer.cli import main
from tallygrad.trainer.commands import verifying
from tallygrad.trainer.commands.verify import VerifyOptions
from tallygrad.trainer.commands.verify_report import VerifyReport
from tallygrad.trainer.commands.verifying import run_trial
from tallygrad.trainer.errors import UserError

pytestmark = pytest.mark.usefixtures("wide")
Alone = Callable[[], AbstractContextManager[None]]
OPTIONS = VerifyOptions(
    model="lenet", dataset="digits", data_dir="", ranks="1,3", threads="1", batch_size=8,
    micro_batches=4, steps=3, backend="auto", precision="bf16", as_json=False, worker="",
)  # fmt: skip
GOOD = Outcome(
    figures=["a", "b", "c"], tensors={"model/w": "1", "optimizer/velocity/w": "2"}, seconds=0.2,
    library="MPICH Version: 5", backend="llvm:auto", shares=False,
)  # fmt: skip


def words(folder: Path, write_mnist: Any, *more: str) -> list[str]:
    write_mnist(folder, 40, 8)
    data = ["--dataset", "mnist", "--data-dir", str(folder), "--model", "lenet"]
    return ["verify", *data, "--batch-size", "10", "--micro-batches", "4", "--steps", "5", *more]


@pytest.mark.slow
def test_ranks_and_threads_agree_and_the_control_does_not(
    alone: Alone, write_mnist: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Steps go beyond the first epoch, and a rank has no micro-batch."""
    try:
        launcher.find_mpirun()
    except launcher.LaunchError as error:
        pytest.skip(str(error))
    more = ("--ranks", "1,3,5", "--threads", "1,2", "--json")
    with alone():
        assert main(words(tmp_path / "data", write_mnist, *more)) == 0
    found = json.loads(capfd.readouterr().out)
    trials = found["trials"]
    ways = [(t["ranks"], t["threads"], t["sums"]) for t in trials]
    assert [way for way in ways if way[0] < 4] == [
        (1, 1, "auto"), (1, 2, "auto"), (3, 1, "auto"), (3, 1, "messages"), (3, 2, "auto"),
    ]  # fmt: skip
    assert ways[5:] == [(5, 1, "auto"), (5, 2, "auto")]  # one of which has no micro-batch
    assert [t["shared_memory"] for t in trials] == [False] * 2 + [True, False, True] + [False] * 2
    assert len({t["digest"] for t in trials}) == 1 and found["same_bits"]
    assert trials[0]["library"] == "none" != trials[2]["library"]
    control = found["control"]
    assert control["micro_batches"] == 2 and control["digest"] != trials[0]["digest"]
    assert control["difference"].startswith("the loss of step 1 and model/conv1.weight")
    assert found["mpi_order"]["ranks"] == 5 and found["mpi_order"]["sums"] == "mpi"
    assert not found["mpi_order"]["shared_memory"]
    assert found["fixed_order_seconds_per_step"] == trials[5]["seconds_per_step"] > 0
    assert found["shared_memory_seconds_per_step"] is None


def test_without_mpi_threads_are_compared(
    write_mnist: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    def missing() -> str:
        raise launcher.LaunchError("no mpirun")

    monkeypatch.setattr(launcher, "find_mpirun", missing)
    assert main(words(tmp_path / "data", write_mnist, "--threads", "1")) == 0
    said = capfd.readouterr().out
    assert "threads only: no mpirun" in said and "reference" in said
    assert "control: 2 micro-batches differ" in said and "no MPI" in said
    assert len([line for line in said.splitlines() if "one rank  " in line]) == 2


def compare(outcome_of: Callable[[Trial], Outcome]) -> VerifyReport:
    return verifying.compare(OPTIONS, [1, 3], [1], outcome_of)


def of_trial(trial: Trial) -> Outcome:
    """What a sound trainer gives: other bits for other micro-batches, and a slower fixed order."""
    if trial.sums == "mpi":
        return replace(GOOD, seconds=0.1)
    good = GOOD if trial.micro_batches == 4 else replace(GOOD, figures=["x", "b", "c"])
    shares = trial.ranks > 1 and trial.sums == "auto"
    return replace(good, seconds=0.05, shares=True) if shares else good


def test_a_sound_comparison_tells_what_the_fixed_order_costs() -> None:
    report = compare(of_trial)
    assert report.is_sound
    text = " ".join(report.as_text().split())
    assert (
        "on 3 ranks with 1 thread takes 200.00 ms per step by messages, in shared memory 50.00 ms, "
        "MPI's own by messages 100.00 ms"
    ) in text
    assert "same bits: the losses of all steps and 2 tensors" in text and "in 3 trainings" in text
    ways = [(t["ranks"], t["sums"], t["shared_memory"]) for t in report.to_json()["trials"]]
    assert ways == [(1, "auto", False), (3, "auto", True), (3, "messages", False)]
    assert "llvm, bf16," in text and _config(report.control.trial).precision == "bf16"


def test_ranks_that_cannot_share_memory_are_not_tried_twice() -> None:
    report = compare(lambda trial: replace(of_trial(trial), shares=False))
    assert [t.trial.sums for t in report.trials] == ["auto", "auto"]
    text = " ".join(report.as_text().split())
    assert "takes 200.00" not in text and "takes 50.00 ms per step by messages, MPI's own" in text


def test_the_reference_has_a_twin_too() -> None:
    report = verifying.compare(OPTIONS, [2], [1, 2], of_trial)
    ways = [(t.trial.threads, t.trial.sums) for t in report.trials]
    assert ways == [(1, "auto"), (1, "messages"), (2, "auto")] and report.mpi is None


def test_the_first_tensor_and_step_that_differ_are_named() -> None:
    def spoiled(trial: Trial) -> Outcome:
        wrong = replace(
            GOOD, figures=["a", "B", "c"], tensors={**GOOD.tensors, "optimizer/velocity/w": "3"}
        )
        return wrong if trial.ranks == 3 and trial.sums == "messages" else of_trial(trial)

    report = compare(spoiled)
    assert not report.is_sound and not report.to_json()["same_bits"]
    text = " ".join(report.as_text().split())
    assert (
        "3 ranks with 1 thread (--hierarchical off) differs from 1 rank with 1 thread in the loss "
        "of step 2 and optimizer/velocity/w (1 of 2 tensors)"
    ) in text
    assert "same bits" not in text


def test_a_tensor_that_is_missing_differs() -> None:
    assert GOOD.difference(replace(GOOD, tensors={"model/w": "1"})).startswith(
        "optimizer/velocity/w"
    )
    assert GOOD.difference(GOOD) == ""


def test_a_control_that_does_not_differ_fails() -> None:
    report = compare(lambda trial: GOOD)
    assert not report.is_sound and not any(t.difference for t in report.trials)
    assert "should differ, and do not" in report.as_text()
    assert "same, must differ" in report.as_text()


def test_a_training_that_fails_is_told(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", "--dataset", "digitz", "--ranks", "1", "--threads", "1"]) == 2
    said = capfd.readouterr().err
    assert "unknown data set 'digitz'" in said
    assert "the training on 1 rank with 1 thread ended with status 2" in said


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--model", "lenett"], "did you mean 'lenet'?"),
        (["--ranks", "1,x"], "--ranks: expected whole numbers from 1 to 1024, got 'x'"),
        (["--threads", "0"], "--threads: expected whole numbers from 1"),
        (["--steps", "1"], "--steps: expected at least 2, got 1"),
        (["--micro-batches", "0"], "--micro-batches: expected at least 1, got 0"),
        (["--batch-size", "4"], "--batch-size: expected at least 8"),
    ],
)
def test_options_out_of_range_are_refused(
    flags: list[str], said: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["verify", *flags]) == 2
    assert said in capfd.readouterr().err


@pytest.mark.parametrize(
    ("status", "ends", "said"),
    [
        (5, 1, "2 ranks with 1 thread: the ranks hold different weights"),
        (124, 2, "took more than 600 s; take fewer --steps"),
        (3, 2, "ended with status 3"),
    ],
)
def test_how_ranks_fail_is_told(status: int, ends: int, said: str) -> None:
    trial = Trial(
        model="mlp", dataset="digits", data_dir="", batch_size=8, micro_batches=2, steps=1,
        backend="numpy", precision="float32", ranks=2, threads=1,
    )  # fmt: skip
    with pytest.raises(UserError, match=said) as error:
        run_trial(trial, lambda ranks, command, seconds: status)
    assert error.value.status == ends
