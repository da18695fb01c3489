"""Training on an HDF5 file that is read while training, beside the same data in memory: images a
second, resident memory, and whether the weights have the same bits. Each run is a process; the runs
take turns, and the best of each kind counts. Before a cold run, the file leaves the page cache."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tallygrad.datasets.own import Split
from tallygrad.datasets.packing import write_packed
from tallygrad.trainer.components.checkpoint import load
from tallygrad.trainer.values import parse_size

from .options import BenchParser, counted

# Kinds of runs: the images that they hold in memory, and whether they begin cold.
KINDS = {"memory": ("999GB", False), "read, warm": ("0", False), "read, cold": ("0", True)}
TESTS = 256


class Drawn:
    """Images (N, H, W, C) of random bytes, which depend on their numbers only."""

    def __init__(self, shape: tuple[int, int, int, int]) -> None:
        self.where, self.shape = "drawn", shape
        self.dtype: np.dtype[Any] = np.dtype(np.uint8)

    def read(self, indices: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Return images (n,)."""
        draw = np.random.default_rng(int(indices[0]) if len(indices) else 0)
        return draw.integers(0, 256, (len(indices), *self.shape[1:]), np.uint8)


@dataclass(frozen=True)
class Run:
    """What came of one training: images a second, the largest resident memory in MB, weights."""

    speed: float
    resident: float
    weights: dict[str, bytes]


def run(arguments: Sequence[str]) -> int:
    """Measure, and print a table; the status is 1 if bits differ."""
    options = parse(arguments)
    with tempfile.TemporaryDirectory() as place:
        path = Path(place, "drawn.h5")
        draw(path, options.size, options.side)
        runs: dict[str, list[Run]] = {kind: [] for kind in KINDS}
        for _ in range(options.rounds):
            for kind in KINDS:
                runs[kind].append(train(path, kind, options))
        first = runs["memory"][0].weights
        equal = all(one.weights == first for several in runs.values() for one in several)
        best = max(one.speed for one in runs["memory"])
        print(f"{path.stat().st_size / 1e9:.2f} GB, {options.model}, batches of {options.batch}, "
              f"{options.steps} steps, best of {options.rounds}")  # fmt: skip
        print(f"{'':12}images/s  of memory  resident MB")
        for kind, several in runs.items():
            speed = max(one.speed for one in several)
            resident = max(one.resident for one in several)
            print(f"{kind:12}{speed:8,.0f}{speed / best:11.1%}{resident:13,.0f}")
        print(f"bits {'equal' if equal else 'DIFFER'}")
    return 0 if equal else 1


def draw(path: Path, size: int, side: int, compression: str = "none") -> None:
    """Write a data set of `size` bytes of images (3, side, side)."""
    count = max(1000, size // (3 * side * side))
    parts = {
        split: Split(Drawn((n, side, side, 3)), np.arange(n) % 10)
        for split, n in (("train", count), ("test", TESTS))
    }
    write_packed(path, parts, (), compression=compression, progress=True)


def train(path: Path, kind: str, options: argparse.Namespace) -> Run:
    """Train for some steps in a process of its own."""
    memory, cold = KINDS[kind]
    if cold:
        descriptor = os.open(path, os.O_RDONLY)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)
    with tempfile.TemporaryDirectory() as out:
        words = [sys.executable, "-m", "tallygrad.trainer", "train", "--dataset", str(path)]
        words += ["--model", options.model, "--batch-size", str(options.batch), "--out", out]
        words += ["--max-steps", str(options.steps), "--data-memory", memory, "--lr", "0.001"]
        child = subprocess.Popen([*words, "--threads", str(options.threads)],
                                 stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)  # fmt: skip
        assert child.stderr is not None
        said = child.stderr.read().decode(errors="replace")
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        child.stderr.close()
        if child.returncode:
            raise RuntimeError(f"{kind}: status {child.returncode}: {said[-2000:]}")
        result = json.loads(Path(out, "result.json").read_text())
        tensors = load(Path(result["checkpoint"])).tensors
        weights = {name: array.tobytes() for name, array in tensors.items()}
        return Run(result["images_per_second"], usage.ru_maxrss / 1000, weights)


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Parse the command line. Errors end the process with status 2 and one line."""
    parser = BenchParser("python -m bench streaming", description=__doc__, allow_abbrev=False)
    add = parser.add_argument
    add("--size", type=parse_size, default="4GB", help="of all images (default: 4GB)")
    add("--side", type=counted, default=64, metavar="N", help="pixels (default: 64)")
    add("--model", default="resnet20", help="model (default: resnet20)")
    add("--batch", type=counted, default=128, metavar="N", help="images a step (default: 128)")
    add("--steps", type=counted, default=40, metavar="N", help="steps of a run (default: 40)")
    add("--threads", type=counted, default=1, metavar="N", help="of a run (default: 1)")
    add("--rounds", type=counted, default=3, metavar="N", help="rounds (default: 3)")
    return parser.parse_args(arguments)
