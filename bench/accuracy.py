"""Test accuracy of training in float32 and in bf16, over several seeds.

`python -m bench accuracy --seeds 5 -- --model lenet --dataset mnist --epochs 3` trains with the
trainer's options after `--`, with each seed in both precisions: weights at the start, order of the
data and augmentation are the same. It prints the accuracy after the last epoch in percent, means
with their standard errors, and the mean difference with the standard error of the pairs.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from math import sqrt
from pathlib import Path
from statistics import mean, stdev

from .cases import DTYPES
from .options import BenchParser, counted

TOLERATED = 0.15  # points; a difference above it, or above two standard errors, is a fault
OWN = ("--seed", "--precision", "--out", "--resume", "--eval-every", "--task")


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Return the options. Errors end the process with status 2 and one line."""
    parser = BenchParser("python -m bench accuracy", description=__doc__, allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    add = parser.add_argument
    add("--seeds", type=counted, default=5, metavar="N", help="seeds 0 to N - 1 (default: 5)")
    add("trainer", nargs="*", help="options of the trainer")
    options = parser.parse_args(arguments)
    if options.seeds < 2:
        parser.error(f"--seeds: expected at least 2, got {options.seeds}")
    for word in options.trainer:
        if (name := word.partition("=")[0]) in OWN:
            parser.error(f"{name}: expected none, as the benchmark sets it, got {word}")
    return options


def run(arguments: Sequence[str]) -> int:
    """Train and print; return 0, or the status of a training that failed."""
    options = parse(arguments)
    points: dict[str, list[float]] = {name: [] for name in DTYPES}
    for seed in range(options.seeds):
        for precision in DTYPES:
            try:
                accuracy = train([*options.trainer, "--precision", precision], seed)
            except subprocess.CalledProcessError as error:
                return error.returncode  # the trainer has said why
            points[precision].append(100 * accuracy)
        shown = [f"{name} {values[-1]:.2f}" for name, values in points.items()]
        print(f"seed {seed}: {', '.join(shown)}", flush=True)
    print(report(*points.values()))
    return 0


def train(words: Sequence[str], seed: int) -> float:
    """Return the test accuracy, 0 to 1, at the end of a training in a process of its own.
    CalledProcessError where it fails."""
    with tempfile.TemporaryDirectory(prefix="accuracy-") as out:
        command = [sys.executable, "-m", "tallygrad.trainer", "train", *words]
        own = ["--seed", str(seed), "--out", out, "--eval-every", str(1 << 30)]
        subprocess.run([*command, *own], check=True, stdout=subprocess.DEVNULL)
        return float(json.loads(Path(out, "result.json").read_text())["test_accuracy"])


def report(plain: Sequence[float], mixed: Sequence[float]) -> str:
    """Return means, their difference and standard errors of accuracies in percent, by seed."""
    lines = []
    for name, values in zip(DTYPES, (plain, mixed), strict=True):
        average, error = summary(values)
        lines.append(f"{name}: mean {average:.2f}, standard error {error:.2f}")
    difference, error = summary([b - a for a, b in zip(plain, mixed, strict=True)])
    limits = {f"{TOLERATED} points": TOLERATED, "two standard errors": 2 * error}
    above = [name for name, limit in limits.items() if abs(difference) > limit]
    verdict = f"above {' and '.join(above)}" if above else f"within {' and '.join(limits)}"
    return "\n".join(
        [*lines, f"difference {difference:+.2f}, standard error {error:.2f}: {verdict}"]
    )


def summary(values: Sequence[float]) -> tuple[float, float]:
    """Return the mean and its standard error."""
    return mean(values), stdev(values) / sqrt(len(values))
