"""Trainings whose zeros are counted now and then: the same bits, and samples that add up."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tallygrad.autograd.ledger import Ledger, SparsitySample
from tallygrad.datasets.formats.idx import write_idx
from tallygrad.trainer.cli import main
from tallygrad.trainer.components.checkpoint import load
from tallygrad.trainer.cost.phases import PASSES


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Return the words of a training on a tiny data set, in MNIST's files."""
    folder = tmp_path_factory.mktemp("data")
    draw = np.random.default_rng(0)
    for name, count in (("train", 84), ("t10k", 12)):
        images = draw.integers(0, 256, (count, 28, 28), np.uint8)
        write_idx(folder / f"{name}-images-idx3-ubyte", images)
        write_idx(folder / f"{name}-labels-idx1-ubyte", draw.integers(0, 10, count, np.uint8))
    words = ["train", "--dataset", "mnist", "--data-dir", str(folder), "--batch-size", "12"]
    return [*words, "--threads", "1", "--log-every", "1"]


def bits(out: Path) -> list[Any]:
    """Return all tensors at the end, losses, and the ledger but for the samples."""
    held = load(max((out / "checkpoints").glob("step-*.h5")))
    lines = map(json.loads, (out / "log.jsonl").read_text().splitlines())
    tensors = {name: value.tobytes() for name, value in held.tensors.items()}
    return [tensors, [e["loss"] for e in lines if e["event"] == "step"], ledger_of(out).calls]


def ledger_of(out: Path) -> Ledger:
    return Ledger.from_json(json.loads((out / "ledger.json").read_text()))


@pytest.mark.parametrize("backend", ["numpy", "llvm"])
@pytest.mark.parametrize("model", ["lenet", "lstm", "resnet20"])
def test_a_run_has_the_same_bits_and_ledger_whether_zeros_are_counted(
    small: list[str], tmp_path: Path, backend: str, model: str
) -> None:
    """Steps are recorded and repeated between those that are looked at (llvm, one thread)."""
    if backend == "llvm":
        pytest.importorskip("llvmlite", reason="llvmlite is not installed")
    words = [*small, "--model", model, "--backend", backend]
    for name, every in (("off", "off"), ("some", "every=3"), ("all", "every=1")):
        assert main([*words, "--sparsity", every, "--out", str(tmp_path / name)]) == 0
    plain = bits(tmp_path / "off")
    assert plain == bits(tmp_path / "some") == bits(tmp_path / "all")
    assert not ledger_of(tmp_path / "off").sampled
    for name, count in (("some", 2), ("all", 7)):
        found = ledger_of(tmp_path / name)
        assert found.sampled_steps == count
        total = SparsitySample()
        for one in found.sampled.values():
            total = total.plus(one)
        every = found.total(lambda key: key.phase in PASSES).macs
        assert total.macs * 7 == every * count and not total.uncounted
        assert 0 < total.nonzero < total.macs and total.activation_zeros


def test_samples_go_on_across_a_resume_and_add_up_over_ranks(
    mpirun: Any, small: list[str], tmp_path: Path
) -> None:
    """Every rank counts its own share: the same samples as those of one rank that goes through."""
    words = [*small, "--model", "lenet", "--backend", "numpy", "--sparsity", "every=2"]
    assert main([*words, "--out", str(tmp_path / "one"), "--max-steps", "6"]) == 0
    out = tmp_path / "two"
    for more in (["--max-steps", "3"], ["--max-steps", "6", "--resume", "auto"]):
        given = small if "--resume" in more else words
        done = mpirun(2, ["-m", "tallygrad.trainer", *given, "--out", str(out), *more])
        assert done.returncode == 0, done.stderr
    assert "non-zero MACs" in done.stdout and "3 of 6 steps" in done.stdout
    one, two = ledger_of(tmp_path / "one"), ledger_of(out)
    assert one.sampled == two.sampled and one.sampled_steps == two.sampled_steps == 3
    assert len(one.sampled) >= 11  # four layers in three passes, but for the first one's data
    newest = load(max((out / "checkpoints").glob("step-*.h5")))
    assert Ledger.from_json(newest.meta["ledger"]).sampled == two.sampled
    assert json.loads((out / "config.json").read_text())["sparsity"] == "every=2"
