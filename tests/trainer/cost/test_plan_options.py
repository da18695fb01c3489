"""Plans for what `train` may exchange besides gradients: statistics of batch norm, or weights."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from tallygrad.trainer.cli import main
from tallygrad.trainer.cost.cluster.allreduce import allreduce
from tallygrad.trainer.cost.cluster.network import Exchange, Network, as_toml
from tallygrad.trainer.cost.cluster.step_time import Step, StepTimes
from tallygrad.trainer.cost.cluster.traffic import Group, Link
from tallygrad.trainer.cost.cluster.transfers import METRICS, STOP

pytestmark = pytest.mark.usefixtures("wide")

INSIDE, BETWEEN, REDUCTION = Link(1e-6, 1e9), Link(1e-5, 1e8), 2e9
NETWORK = Network("by hand", "", "", 2, 0, INSIDE, BETWEEN, Exchange(REDUCTION, 1.0))
TIMES = StepTimes(
    "lenet", (1, 28, 28), 10, "by hand", ("b", "a"), (600_000, 400_000),
    (Step(4, 2, (0.010, 0.010, 0.030), 0.009, (0.002, 0.008)),),
)  # fmt: skip


def test_a_plan_knows_the_statistics_of_batch_norm(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """ResNet-20 has a batch norm after each of its 19 convolutions: 7 with 16 channels, 6 with 32,
    6 with 64. Their sums are exposed."""
    times = replace(TIMES, model="resnet20", input=(3, 32, 32))
    (file := tmp_path / "saved.toml").write_text(as_toml(NETWORK, times))
    words = ["plan", "resnet20", "--network", str(file), "--ranks", "4", "--algorithm", "ring"]
    found = []
    for more in ([], ["--sync-batch-norm"]):
        assert main([*words, "--json", *more]) == 0
        found.append(json.loads(capsys.readouterr().out))
    plain, shared = (each["plans"]["weak"][0] for each in found)
    group = Group(4, 2, INSIDE, BETWEEN, REDUCTION)
    sizes = [4 * n for c in [16] * 7 + [32] * 6 + [64] * 6 for n in (c, c, c + 1, c + 1)]
    added = sum(group.seconds(allreduce(group, size, "ring")[0]) for size in sizes)
    for key in ("exposed_seconds", "communication_seconds"):
        assert shared[key] - plain[key] == pytest.approx(added)
    notes = [note for note in found[1]["notes"] if "--sync-batch-norm" in note]
    assert len(notes) == 1 and notes[0] not in found[0]["notes"]


def test_a_plan_exchanges_weights_once_in_some_steps(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By hand: a ring over all weights at once, then a step of waiting that grows by a root."""
    (file := tmp_path / "saved.toml").write_text(as_toml(NETWORK, TIMES))
    words = ["plan", "lenet", "--network", str(file), "--ranks", "4", "--algorithm", "ring"]
    found = []
    for steps in ("0", "1", "4"):
        assert main([*words, "--batch", "4", "--json", "--local-steps", steps]) == 0
        found.append(json.loads(capsys.readouterr().out)["plans"]["weak"][0])
    group = Group(4, 2, INSIDE, BETWEEN, REDUCTION)
    pairs = [(1_000_000, "ring"), (METRICS, "ring"), (STOP, "mpi")]
    whole = sum(group.seconds(allreduce(group, size, name)[0]) for size, name in pairs)
    for row, steps in zip(found[1:], (1, 4), strict=True):
        assert row["exposed_seconds"] == row["communication_seconds"]
        assert row["exposed_seconds"] == pytest.approx(whole / steps)
        assert row["waiting_seconds"] == pytest.approx(found[0]["waiting_seconds"] / steps**0.5)
    each = 4 * 431_080
    plain, alone = found[0]["memory_bytes"], found[1]["memory_bytes"]
    assert (alone["weights"], alone["momentum"]) == (2 * each, 2 * each)
    assert alone["total"] == plain["total"] + 2 * each
