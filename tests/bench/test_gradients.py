"""The benchmark of gradients in bf16: its figures, and the runs that it takes."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module
from math import isnan
from pathlib import Path
from typing import Any

import numpy as np
import pytest

TRAIN = [sys.executable, "-m", "tallygrad.trainer", "train", "--backend", "numpy", "--max-steps"]


@pytest.fixture
def gradients(bench_package: Any) -> Any:
    return import_module("bench.gradients")


def trained(folder: Path, *words: str) -> str:
    """Return the folder of a new run of two steps."""
    command = [*TRAIN, "2", "--dataset", "digits", *words, "--out", str(folder)]
    answer = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert answer.returncode == 0, answer.stderr
    return str(folder)


def test_the_figures_tell_scale_error_and_what_is_common(gradients: Any) -> None:
    batches = [(np.zeros(1), np.array([k])) for k in range(4)]

    def computing(_: Any, labels: Any, narrow: bool) -> dict[str, Any]:
        sign = -1.0 if labels[0] % 2 else 1.0
        return {
            "halved": np.full((2, 2), 4.0) * (0.5 if narrow else 1.0),
            "shaken": np.array([3.0, 4.0 + 0.5 * narrow * sign]),
            "exact": np.array([1.0]),
        }

    sums, apart = gradients.compare(computing, batches)
    assert sums["halved"].figures() == pytest.approx((0.5, 0.5, 2.0))  # the root of 4 batches
    assert sums["shaken"].figures() == pytest.approx((1.0, 0.1, 0.0))
    assert all(map(isnan, sums["exact"].figures()))
    assert apart == 0.0
    lines = list(gradients.report(["", "torch "], [(sums, 0.25), (sums, 0.5)], ["halved"]))
    row = "0.5000 | 0.5000 | 2.00"
    assert lines[1] == f"| halved | {row} | {row} |"
    # Of 4 batches: g g is 4 (64 + 25 + 1), g d 4 (-32), d d 4 (16 + 0.25), |sum d| 16 in each of 4.
    assert lines[2].startswith("| all parameters | 0.6444 | 0.4249 | 1.98 |")
    assert lines[3] == "batches differ by 0.250, torch 0.500"


def test_batches_differ_by_what_is_not_their_mean(gradients: Any) -> None:
    batches = [(np.zeros(1), np.array([k])) for k in (1, 3)]
    sums, apart = gradients.compare(lambda _, k, narrow: {"w": np.array([k[0], 0.0])}, batches)
    assert apart == pytest.approx(np.sqrt((1 + 9 - 8) / 10)) and sums["w"].exact == 10


def test_a_run_is_compared_with_its_own_weights_and_images(
    gradients: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("ml_dtypes", reason="ml_dtypes is not installed")
    run = trained(tmp_path / "run", "--model", "mlp")
    words = [run, "--batches", "3", "--batch-size", "32", "--backend", "numpy"]
    assert gradients.run(words) == 0
    table = [line.strip("| ").split(" | ") for line in capsys.readouterr().out.splitlines()]
    rows = {
        row[0]: [float(cell) for cell in row[1:4]]
        for row in table
        if len(row) >= 4 and row[1][0].isdigit()
    }
    weights = [name for name in rows if name.endswith("weight")]
    assert len(weights) == 3 and "all parameters" in rows
    for scale, error, common in rows.values():
        assert scale == pytest.approx(1, abs=0.01) and 1e-4 < error < 0.2 and 0 < common < 2


def test_what_cannot_be_compared_ends_in_one_line(gradients: Any, tmp_path: Path) -> None:
    usage = import_module("bench.options").UsageError
    run = trained(tmp_path / "run", "--model", "mlp")
    with pytest.raises(usage, match="--batches: expected at most 1, got 2"):
        gradients.run([run, "--batches", "2", "--batch-size", "40000", "--backend", "numpy"])
    other = trained(tmp_path / "other", "--model", "autoencoder", "--task", "reconstruction")
    with pytest.raises(usage, match=r"expected lenet, .* with 10 classes, got autoencoder"):
        gradients.run([other])
