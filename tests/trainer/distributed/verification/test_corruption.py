"""Flipped bits: found, named, and without effect on what is trained."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tallygrad.trainer.components import checkpoint

Run = Callable[..., subprocess.CompletedProcess[str]]


FLIPPING = """
import sys
import numpy as np
from tallygrad.trainer import cli
from tallygrad.trainer.components import verified_steps
from tallygrad.trainer.distributed import exchange
rank, index, bit = (int(word) for word in sys.argv[1:4])
kind, out = sys.argv[4:6]
calls = [0]

def flip(array):
    array.reshape(-1).view(np.uint32)[index % array.size] ^= np.uint32(1 << bit)

run = verified_steps.Verification._run
def flipping(self, branch, batch, sync, use):
    first = calls[0] == 0 and self.comm.rank == rank
    calls[0] += 1
    rows = run(self, branch, batch, sync, use)
    if first and kind == "gradient":
        flip(self.parts.flat.grad.value)
    if first and kind == "weight":
        flip(self.parts.flat.data.value)
    return rows
verified_steps.Verification._run = flipping

compare = verified_steps.Verification.compare
def comparing(self, before):
    if self.comm.rank == rank and kind == "drift":
        flip(self.parts.flat.data.value)
    compare(self, before)
    if self.comm.rank == rank and kind == "statistics" and self.state.step == 1:
        flip(self.parts.buffers.copies[-1][index].value)
verified_steps.Verification.compare = comparing

update = verified_steps.Verification.update
def updating(self):
    step = self.parts.update.optimizer.step
    def disturbed():
        step()
        if kind == "update" and self.comm.rank == rank and self.due() and "update" not in calls:
            calls.append("update")
            flip(self.parts.update.optimizer.groups[-1].flat.data.value)
    self.parts.update.optimizer.step = disturbed
    update(self)
    del self.parts.update.optimizer.step
verified_steps.Verification.update = updating

fold = exchange.TreeSum._fold
def folding(self):
    sums = fold(self)
    once = kind == "sum" and "sum" not in calls
    if calls[0] and self._comm.rank == rank and (once or kind == "sums"):
        calls.append("sum")
        flip(sums)
    return sums
exchange.TreeSum._fold = folding

sys.exit(cli.main(["train", "--backend", "numpy", "--batch-size", "12", "--max-steps", "3",
    "--verify-every", "2", "--compare-every", "1", "--seed", "3", "--out", out, *sys.argv[6:]]))
"""


def weights(folder: Path) -> bytes:
    """Return the weights of the last checkpoint of a run."""
    tensors = checkpoint.load(folder / "checkpoints" / "step-00000003.h5").tensors
    return b"".join(tensors[name].tobytes() for name in sorted(tensors))


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory, write_mnist: Any) -> list[str]:
    data = tmp_path_factory.mktemp("data")
    write_mnist(data / "mnist", 120, 30)
    return ["--dataset", "mnist", "--data-dir", str(data / "mnist")]


MLP = ("--model", "mlp", "--micro-batches", "3")
IDLE = ("--model", "mlp", "--micro-batches", "2")  # less than ranks
RAGGED = ("--model", "resnet20", "--micro-batches", "4", "--augment", "none")  # on 3 ranks
SHARDED = (*MLP, "--shard-optimizer", "--bucket-mb", "0.01")
TOGETHER = (*MLP, "--hierarchical", "on")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("ranks", "words", "kind", "named"),
    [
        (3, MLP, "gradient", "rank 1: wrong gradient of "),
        (3, MLP, "weight", "rank 1: weights of "),
        (3, MLP, "sum", "rank 1: wrong sum of gradients of "),
        (2, MLP, "sum", "rank 1: wrong sum of gradients of "),
        (3, MLP, "update", "rank 1: wrong update of weights of "),
        (3, IDLE, "weight", "rank 1: weights of "),
        (3, IDLE, "sum", "rank 1: wrong sum of gradients of "),
        (3, TOGETHER, "gradient", "rank 1: wrong gradient of "),
        (3, SHARDED, "sum", "rank 1: wrong sum of gradients of "),
        (3, SHARDED, "update", "rank 1: wrong update of weights of "),
        (3, RAGGED, "statistics", "rank 0: bn1.running_var changed"),
    ],
)
def test_a_flipped_bit_of_a_verified_step_is_found_named_and_mended(
    mpirun: Run, tmp_path: Path, options: list[str], ranks: int, words: tuple[str, ...], kind: str,
    named: str,
) -> None:  # fmt: skip
    """What is not disturbed has the bits of a run without verified steps."""
    rest = [*options, *words]
    sound = mpirun(ranks, FLIPPING, "-1", "0", "0", kind, str(tmp_path / "sound"), *rest, *NEVER)
    assert sound.returncode == 0, sound.stderr
    args = (named[5], "1", "30", kind)
    flipped = mpirun(ranks, FLIPPING, *args, str(tmp_path / "flipped"), *rest)
    assert flipped.returncode == 0, flipped.stderr
    lines = [line for line in flipped.stderr.splitlines() if "corrupted" in line]
    assert len(lines) == 1 and f"step 2: corrupted: {named}" in lines[0], lines
    assert weights(tmp_path / "flipped") == weights(tmp_path / "sound")


@pytest.mark.slow
def test_a_run_that_is_to_stop_does(mpirun: Run, tmp_path: Path, options: list[str]) -> None:
    args = "1", "41", "30", "weight", str(tmp_path / "run"), *options, *MLP
    done = mpirun(3, FLIPPING, *args, "--on-corruption", "stop")
    assert done.returncode == 5 and "step 2: corrupted: rank 1: weights of " in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(("what", "said"), [
    # A core that always adds wrongly, and a rank that holds other weights.
    (("1", "41", "30", "sums"), ["5 attempts: ranks come to different sums of gradients of "]),
    (("2", "5", "3", "drift"), ["rank 2 differs from the others in ", "after step 1"]),
])  # fmt: skip
def test_what_cannot_be_repaired_ends_the_run(
    mpirun: Run, tmp_path: Path, options: list[str], what: tuple[str, ...], said: list[str]
) -> None:
    done = mpirun(3, FLIPPING, *what, str(tmp_path / "run"), *options, *MLP)
    assert done.returncode == 5
    assert all(text in done.stderr for text in said), done.stderr


NEVER = ("--verify-every", "0")
