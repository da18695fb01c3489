"""Training on an HDF5 file that is read while training, beside the same data in memory. Slices of
steps of both take turns in one process, and the file leaves the page cache before each of its own.
Two more processes, one a kind, tell the largest resident memory and whether the weights have the
same bits."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from tallygrad.autograd import context
from tallygrad.datasets.own import Split
from tallygrad.datasets.packing import write_packed
from tallygrad.trainer.components.checkpoint import load
from tallygrad.trainer.components.logs import RunFolder
from tallygrad.trainer.config import TrainConfig
from tallygrad.trainer.distributed.comm import SerialComm
from tallygrad.trainer.loop import Training
from tallygrad.trainer.values import parse_size

from .measure import seconds
from .options import BenchParser, counted

MEMORY = {"memory": "999GB", "file": "0"}  # --data-memory of both kinds
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


class Trainer:
    """A training of one kind that does a step at a time."""

    def __init__(self, path: Path, kind: str, options: argparse.Namespace) -> None:
        memory, comm = MEMORY[kind], SerialComm()
        config = TrainConfig(
            model=options.model, dataset=str(path), data_memory=memory, batch_size=options.batch,
            lr=0.001, threads=options.threads, epochs=1000, log_every=1 << 30,
        )  # fmt: skip
        self.training = Training(config, comm, RunFolder(Path(os.devnull), writes=False))
        self.training.record.open()
        self.batches = self.training.parts.data.train.endless()

    def step(self) -> None:
        """Do a step."""
        parts, record = self.training.parts, self.training.record
        with context.using(backend=parts.backend, ledger=record.ledger):
            self.training.step(next(self.batches))


def run(arguments: Sequence[str]) -> int:
    """Measure, and print a table; the status is 1 if bits differ."""
    options = parse(arguments)
    with tempfile.TemporaryDirectory() as place:
        path = Path(place, "drawn.h5")
        draw(path, options.size, options.side)
        # First, while this process is small: a child's largest memory begins with its parent's.
        ends = {kind: train(path, kind, options) for kind in MEMORY}
        times = measure(path, options)
        print(f"{path.stat().st_size / 1e9:.2f} GB, {options.model}, batches of {options.batch}, "
              f"{options.rounds} slices of {options.steps} steps each")  # fmt: skip
        print("        images/s  of memory   fastest  of memory  resident MB")
        for kind, taken in times.items():
            figures = []
            for choose in (median, min):
                speed, best = (options.batch / choose(times[k]) for k in (kind, "memory"))
                figures.append(f"{speed:10,.0f}{speed / best:11.1%}")
            print(f"{kind:6}{''.join(figures)}{ends[kind][0]:13,.0f}  ({len(taken)} slices)")
        equal = ends["memory"][1] == ends["file"][1]
        print(f"bits {'equal' if equal else 'DIFFER'} after {options.steps} steps")
    return 0 if equal else 1


def measure(path: Path, options: argparse.Namespace) -> dict[str, list[float]]:
    """Return the seconds a step of each slice of both kinds, which take turns."""
    trainers = {kind: Trainer(path, kind, options) for kind in MEMORY}
    for trainer in trainers.values():
        seconds(trainer.step, 5)  # compiled and captured
    times: dict[str, list[float]] = {kind: [] for kind in MEMORY}
    for turn in range(options.rounds):
        for kind in sorted(MEMORY, reverse=turn % 2 == 0):
            evict(path)
            times[kind].append(seconds(trainers[kind].step, options.steps))
    return times


def evict(path: Path) -> None:
    """Remove a file from the page cache."""
    descriptor = os.open(path, os.O_RDONLY)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(descriptor)


def draw(path: Path, size: int, side: int, compression: str = "none") -> None:
    """Write a data set of `size` bytes of images (3, side, side)."""
    count = max(1000, size // (3 * side * side))
    parts = {
        split: Split(Drawn((n, side, side, 3)), np.arange(n) % 10)
        for split, n in (("train", count), ("test", TESTS))
    }
    write_packed(path, parts, (), compression=compression, progress=True)


def train(path: Path, kind: str, options: argparse.Namespace) -> tuple[float, dict[str, bytes]]:
    """Train for some steps in a process of its own; return its largest resident memory in MB and
    the weights."""
    with tempfile.TemporaryDirectory() as out:
        words = [sys.executable, "-m", "tallygrad.trainer", "train", "--dataset", str(path)]
        words += ["--model", options.model, "--batch-size", str(options.batch), "--out", out]
        words += ["--max-steps", str(options.steps), "--data-memory", MEMORY[kind], "--lr", "0.001"]
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
        return usage.ru_maxrss / 1000, {name: a.tobytes() for name, a in tensors.items()}


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Parse the command line. Errors end the process with status 2 and one line."""
    parser = BenchParser("python -m bench streaming", description=__doc__, allow_abbrev=False)
    add = parser.add_argument
    add("--size", type=parse_size, default="4GB", help="of all images (default: 4GB)")
    add("--side", type=counted, default=64, metavar="N", help="pixels (default: 64)")
    add("--model", default="resnet20", help="model (default: resnet20)")
    add("--batch", type=counted, default=128, metavar="N", help="images a step (default: 128)")
    add("--steps", type=counted, default=40, metavar="N", help="steps of a slice (default: 40)")
    add("--threads", type=counted, default=1, metavar="N", help="of a run (default: 1)")
    add("--rounds", type=counted, default=7, metavar="N", help="slices (default: 7)")
    return parser.parse_args(arguments)
