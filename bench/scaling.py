"""Training steps on one rank and on all, of Tallygrad and of torch's DistributedDataParallel, in
turn, with as many images on each rank. "apart" are all ranks at once, each with a model of its own:
what they lose is due to the host, and what is lost beyond it to the exchange."""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from tallygrad.autograd import context
from tallygrad.datasets import ImageDataset
from tallygrad.trainer.build import loaders
from tallygrad.trainer.components.logs import RunFolder
from tallygrad.trainer.config import TrainConfig
from tallygrad.trainer.distributed.comm import Comm, SerialComm
from tallygrad.trainer.distributed.failures.guard import guard
from tallygrad.trainer.loop import Training

from .cases import CASES, CLASSES, DTYPES, Case
from .options import BenchParser, chosen_cases, counted, positive
from .ranks import in_turn, several, timed

DEFAULT = ("resnet20-128", "lenet-64")
WARMING = 30  # steps before anything is measured: kernels are compiled, overlap is chosen
POOL = 20  # batches of images that steps take in turn
Step = Callable[[], object]


def run(arguments: Sequence[str]) -> int:
    """Measure, and print a table for each case on rank 0. UsageError on one rank."""
    options = parse(arguments)
    comm, load = several("scaling")
    if comm.rank == 0:
        print(f"{comm.size} ranks; {comm.library}; load {load:.1f} before")
    with guard(comm):
        for case in options.cases:
            times = measure(comm, case, options)
            if comm.rank == 0:
                print(table(case, comm.size, times), flush=True)
    return 0


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Parse the command line. Errors end the process with status 2 and one line."""
    parser = BenchParser("python -m bench scaling", description=__doc__, allow_abbrev=False)
    add = parser.add_argument
    add_cases(parser)
    add("--rounds", type=counted, default=12, metavar="N", help="rounds (default: 12)")
    add("--seconds", type=positive, default=0.5, metavar="S",
        help="seconds of a round of each contender (default: 0.5)")  # fmt: skip
    add("--precision", choices=DTYPES, default="float32", help="as in train; torch's by autocast")
    add("--overlap", default="auto", help="as in train")
    add("--hierarchical", default="auto", help="as in train")
    add("--torch", action=argparse.BooleanOptionalAction, default=True,
        help="compare with torch, if it is installed (default: yes)")  # fmt: skip
    return parser.parse_args(arguments)


def add_cases(parser: argparse.ArgumentParser) -> None:
    """Add the option that chooses the cases of a benchmark of steps."""
    parser.add_argument(
        "--cases", type=chosen_cases, default=tuple(CASES[name] for name in DEFAULT),
        metavar="A,B", help=f"cases or models (default: {', '.join(DEFAULT)})",
    )  # fmt: skip


def measure(comm: Comm, case: Case, options: argparse.Namespace) -> dict[str, list[float]]:
    """Return the seconds of a step in each round, by contender; one on "1" rank leaves the others
    asleep."""
    precision = options.precision
    alone = ours(SerialComm(), case, precision=precision)
    steps = {"tallygrad 1": _on_first(comm, alone), "tallygrad apart": alone}
    exchange = {"overlap": options.overlap, "hierarchical": options.hierarchical}
    steps["tallygrad all"] = ours(comm, case, precision=precision, **exchange)
    if options.torch and find_spec("torch"):
        from .ddp import theirs

        alone = theirs(case, precision)
        steps |= {"torch 1": _on_first(comm, alone), "torch apart": alone}
        steps["torch all"] = theirs(case, precision, comm, Path(_shared_folder(comm)) / "meeting")
    for step in steps.values():
        timed(comm, partial(repeat, step, WARMING))
    counts = {name: _fitting(comm, step, options.seconds) for name, step in steps.items()}
    works = {name: partial(repeat, step, counts[name]) for name, step in steps.items()}
    times = in_turn(comm, works, options.rounds, warming=1)
    return {name: [t / counts[name] for t in seconds] for name, seconds in times.items()}


def _on_first(comm: Comm, step: Step) -> Step:
    """Return a step on rank 0, and one that does nothing on the others."""
    return step if comm.rank == 0 else lambda: None


def repeat(step: Step, times: int) -> None:
    """Do so many steps."""
    for _ in range(times):
        step()


def _fitting(comm: Comm, step: Step, seconds: float) -> int:
    """Return how many steps take so many seconds."""
    return max(1, int(seconds / max(timed(comm, step), 1e-6)))


def _shared_folder(comm: Comm) -> str:
    """Return a new folder of rank 0, by the same name on all ranks."""
    name = tempfile.mkdtemp(prefix="tallygrad-bench-") if comm.rank == 0 else ""
    return comm.bcast_bytes(name.encode()).decode()


def ours(comm: Comm, case: Case, **options: Any) -> Step:
    """Return a step of the trainer with one micro-batch per rank and these options, loading of
    images included."""
    config = TrainConfig(
        model=case.model, batch_size=case.batch * comm.size, micro_batches=comm.size,
        threads=1, lr=1e-4, schedule="constant", epochs=1 << 20, log_every=1 << 30,
        augment="none", **options,
    )  # fmt: skip
    data = _images(case, comm.size)
    nowhere = RunFolder(Path(os.devnull), writes=False)
    training = Training(config, comm, nowhere, data=loaders(config, comm, data, data))
    training.record.open()
    batches = training.parts.data.train.endless()

    def step() -> None:
        quiet = np.errstate(over="ignore", invalid="ignore", divide="ignore")
        ledger = training.record.ledger
        with quiet, context.using(backend=training.parts.backend, ledger=ledger):
            training.step(next(batches))
        if training.state.step_in_epoch == POOL:
            training.state.end_epoch()

    return step


def _images(case: Case, ranks: int) -> ImageDataset:
    """Return random images and labels, some batches of them."""
    draw = np.random.default_rng(0)
    c, h, w = case.shape
    size = POOL * case.batch * ranks
    images = draw.integers(0, 256, (size, h, w, c), np.uint8).transpose(0, 3, 1, 2)
    labels = draw.integers(0, CLASSES, size)
    names = tuple(map(str, range(CLASSES)))
    return ImageDataset("random", "train", images, labels, names, (0.5,) * c, (0.25,) * c)


def table(case: Case, ranks: int, times: dict[str, list[float]]) -> str:
    """Return a row per contender: milliseconds of a step, images per second of all ranks, and for
    several how many times those of one rank they are, over the number of ranks."""
    lines = [f"{case.name:16}  median ms    min ms  images/s  efficiency (median, min)"]
    for name, seconds in times.items():
        middle, least = median(seconds), min(seconds)
        system, scope = name.split()
        several = scope != "1"
        rate = case.batch * (ranks if several else 1) / middle
        line = f"{name:16} {1e3 * middle:10.3f} {1e3 * least:9.3f} {rate:9.0f}"
        if several:
            alone = times[f"{system} 1"]
            line += f"  {median(alone) / middle:.3f} {min(alone) / least:.3f}"
        lines.append(line)
    return "\n".join(lines)
