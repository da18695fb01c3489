"""The benchmarks on several ranks. No test looks at a time."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tallygrad.trainer.distributed.comm import SerialComm
from tallygrad.trainer.distributed.exchange import OVERLAPS

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_the_exchange_is_compared_with_a_bare_allreduce(mpirun: Any) -> None:
    words = ["-m", "bench", "exchange", "--mb", "0.1", "--bucket-mb", "0.03", "--rounds", "3"]
    done = mpirun(2, words, env={"PYTHONPATH": str(ROOT)})
    assert done.returncode == 0, done.stderr
    head, _, *rows = done.stdout.splitlines()
    assert head.startswith("0.1 MB on 2 ranks, buckets of 0.03 MB; ")
    ways = [f"{kind}, {way}" for kind in ("buckets", "by node") for way in OVERLAPS]
    assert [row[:16].strip() for row in rows] == ["bare Allreduce", "bare, by bucket", *ways]
    figures = np.array([row[16:].split() for row in rows], float)
    assert (figures > 0).all() and figures[0, 2:].tolist() == [1, 1]


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_ranks_are_compared_with_one(mpirun: Any, precision: str) -> None:
    if precision == "bf16":
        pytest.importorskip("ml_dtypes", reason="ml_dtypes is not installed")
    words = ["-m", "bench", "scaling", "--cases", "mlp", "--rounds", "2", "--seconds", "0.01"]
    words += ["--precision", precision, "--no-torch"]
    done = mpirun(2, words, env={"PYTHONPATH": str(ROOT)})
    assert done.returncode == 0, done.stderr
    _, head, *rows = done.stdout.splitlines()
    assert head.startswith("mlp-64")
    assert [row[:16].strip() for row in rows] == [f"tallygrad {n}" for n in ("1", "apart", "all")]
    assert [len(row[16:].split()) for row in rows] == [3, 5, 5]
    assert (np.array([row[16:].split()[:3] for row in rows], float) > 0).all()


@pytest.mark.slow
def test_steps_are_compared_with_verified_ones(mpirun: Any) -> None:
    """Over the end of an epoch: what is not repeated exactly would be reported."""
    words = ["-m", "bench", "verification", "--cases", "mlp", "--every", "3,7", "--rounds", "2"]
    done = mpirun(2, words, env={"PYTHONPATH": str(ROOT)})
    assert done.returncode == 0 and "corrupted" not in done.stderr, done.stderr
    _, head, *rows = done.stdout.splitlines()
    assert head.startswith("case ")
    assert [row.split()[:2] for row in rows] == [["mlp-64", "3"], ["mlp-64", "7"]]
    assert [row.split()[-1] for row in rows] == ["35%", "16%"]
    assert (np.array([row.split()[2:4] for row in rows], float) > 0).all()


@pytest.mark.parametrize("name", ["exchange", "scaling", "verification"])
def test_one_rank_is_refused(name: str) -> None:
    command = [sys.executable, "-m", "bench", name]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "expected at least 2 ranks, got 1" in done.stderr


def test_one_rank_and_all_train_in_the_precision(
    bench_package: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    scaling, chosen = import_module("bench.scaling"), []

    def ours(comm: SerialComm, case: Any, **options: Any) -> Callable[[], None]:
        chosen.append(options["precision"])
        return lambda: None

    monkeypatch.setattr(scaling, "ours", ours)
    words = ["--precision", "bf16", "--rounds", "1", "--seconds", "1e-6", "--no-torch"]
    options = scaling.parse(words)
    scaling.measure(SerialComm(), options.cases[0], options)
    assert chosen == ["bf16", "bf16"]
