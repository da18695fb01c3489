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
from tallygrad.trainer.components import verification
rank, index, bit = (int(word) for word in sys.argv[1:4])
kind, out = sys.argv[4:6]
calls = [0]

def flip(array):
    array.reshape(-1).view(np.uint32)[index % array.size] ^= np.uint32(1 << bit)

run = verification.Verification._run
def flipping(self, branch, batch, sync, use):
    first = calls[0] == 0 and self.comm.rank == rank
    calls[0] += 1
    rows = run(self, branch, batch, sync, use)
    if first and kind == "gradient":
        flip(self.parts.flat.grad.value)
    if first and kind == "weight":
        flip(self.parts.flat.data.value)
    return rows
verification.Verification._run = flipping

sys.exit(cli.main(["train", "--model", "mlp", "--backend", "numpy",
    "--batch-size", "12", "--micro-batches", "3", "--max-steps", "3", "--verify-every", "2",
    "--compare-every", "1", "--seed", "3",
    "--out", out, *sys.argv[6:]]))
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


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "named"),
    [
        ("gradient", "rank 1: wrong gradient of "),
        ("weight", "rank 1: weights of "),
    ],
)
def test_a_flipped_bit_of_a_verified_step_is_found_named_and_mended(
    mpirun: Run, tmp_path: Path, options: list[str], kind: str, named: str
) -> None:
    sound = mpirun(3, FLIPPING, "-1", "0", "0", kind, str(tmp_path / "sound"), *options)
    assert sound.returncode == 0 and "corrupted" not in sound.stderr, sound.stderr
    args = ("1", "41", "30", kind, str(tmp_path / "flipped"), *options)
    flipped = mpirun(3, FLIPPING, *args)
    assert flipped.returncode == 0, flipped.stderr
    assert f"step 2: corrupted: {named}" in flipped.stderr
    assert weights(tmp_path / "flipped") == weights(tmp_path / "sound")
    stopped = mpirun(3, FLIPPING, *args[:4], str(tmp_path / "x"), *options, *STOP)
    assert stopped.returncode == 5 and f"step 2: corrupted: {named}" in stopped.stderr


@pytest.mark.slow
def test_ranks_that_hold_other_weights_are_named(
    mpirun: Run, tmp_path: Path, options: list[str]
) -> None:
    code = FLIPPING.replace("sys.exit(cli", DRIFT + "sys.exit(cli")
    done = mpirun(3, code, "2", "5", "3", "late", str(tmp_path / "run"), *options)
    assert done.returncode == 5
    assert "rank 2 differs from the others in " in done.stderr and "after step 1" in done.stderr


STOP = ("--on-corruption", "stop")
DRIFT = """
compare = verification.Verification.compare
def comparing(self, before):
    if self.comm.rank == rank:
        flip(self.parts.flat.data.value)
    compare(self, before)
verification.Verification.compare = comparing
"""
