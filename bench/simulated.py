"""`python -m bench simulated`: exchanges as `plan` predicts them, beside a simulation.

SimGrid's SMPI runs the collectives, with the algorithms that MPICH chooses, on a simulated switch
with one rank per host. Additions take no time on either side. Needs `smpicc` and `smpirun`, which
Debian's libsimgrid-dev brings.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from tallygrad.trainer.calibration.rehearsal import Rehearsal, Silent
from tallygrad.trainer.commands.chosen_model import ModelOptions
from tallygrad.trainer.cost.cluster.allreduce import FIXED_ORDER, allreduce
from tallygrad.trainer.cost.cluster.network import load
from tallygrad.trainer.cost.cluster.traffic import Group, Link
from tallygrad.trainer.cost.report.text_table import Column, text_table
from tallygrad.trainer.errors import UserError

from .options import BenchParser

SOURCE = Path(__file__).with_suffix(".c")
PLATFORM = """<?xml version='1.0'?>
<!DOCTYPE platform SYSTEM "https://simgrid.org/simgrid.dtd">
<platform version="4.1">
  <cluster id="cluster" prefix="n" suffix="" radical="0-{last}" speed="1Gf" bw="{bandwidth}Bps"
           lat="{latency}s" sharing_policy="SPLITDUPLEX"/>
</platform>
"""
# MPICH's choices, but of an allreduce, where SimGrid 3.32 takes recursive doubling for long arrays
# too. Latency and bandwidth as they are: by default SMPI multiplies them by factors of another
# cluster, and bounds the bandwidth by a window over the latency.
PLAIN = (
    "smpi/coll-selector:mpich", "smpi/allreduce:rab_rdb", "smpi/simulate-computation:no",
    "network/model:SMPI", "network/TCP-gamma:0", "smpi/bw-factor:0:1", "smpi/lat-factor:0:1",
    "network/weight-S:0", "network/crosstraffic:0",
)  # fmt: skip
COLUMNS = (
    Column("model", is_text=True), Column("ranks"), Column("predicted ms"), Column("simulated ms"),
    Column("error %"), Column("MPI's predicted ms"), Column("MPI's simulated ms"),
    Column("error % of MPI's"),
)  # fmt: skip


class Simulated(NamedTuple):
    """Seconds of a step's exchange, predicted and simulated: in a fixed order, and by MPI."""

    model: str
    ranks: int
    predicted: float
    simulated: float
    mpi_predicted: float
    mpi_simulated: float


def compare(model: str, ranks: int, link: Link, folder: Path) -> Simulated:
    """Return the exchange of a model's gradients on so many hosts."""
    sizes = _buckets(model)
    group = Group(ranks, 1, link, link, math.inf)
    pairs = [
        (
            sum(group.seconds(allreduce(group, n, by)[0]) for n in sizes),
            simulate(how, sizes, ranks, link, folder),
        )
        for by, how in ((FIXED_ORDER, "fixed"), ("mpi", "mpi"))
    ]
    return Simulated(model, ranks, *pairs[0], *pairs[1])


def _buckets(model: str) -> list[int]:
    """Return the bytes of the trainer's buckets."""
    chosen = ModelOptions(model=model, batch=1, input="", classes=0).resolve()
    job = Rehearsal(Silent(0, 2), model, chosen.input, chosen.classes, 1, bucket_mb=1.0)
    return [bucket.array.spec.nbytes for bucket in job.training.parts.sync.buckets]


def simulate(how: str, sizes: Sequence[int], ranks: int, link: Link, folder: Path) -> float:
    """Return the seconds of sums of arrays of `sizes` bytes, one after the other. UserError if the
    simulation fails."""
    platform, names = folder / "platform.xml", folder / "hosts"
    # A route goes over two links, up to the switch and down.
    latency = link.latency / 2
    platform.write_text(
        PLATFORM.format(last=ranks - 1, bandwidth=link.bandwidth, latency=latency), "utf-8"
    )
    names.write_text("".join(f"n{i}\n" for i in range(ranks)), "utf-8")
    different = sorted(set(sizes))
    command = [
        "smpirun", "-np", str(ranks), "-platform", str(platform), "-hostfile", str(names),
        *[f"--cfg={setting}" for setting in PLAIN], "--log=root.threshold:error",
        str(_program(folder)), how, *map(str, different),
    ]  # fmt: skip
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    seconds = [float(word) for word in answer.stdout.split()]
    if answer.returncode or len(seconds) != len(different):
        raise UserError(f"smpirun: status {answer.returncode}: {answer.stderr[-300:]}")
    each = dict(zip(different, seconds, strict=True))
    return sum(each[size] for size in sizes)


def _program(folder: Path) -> Path:
    program = folder / "simulated"
    if not program.exists():
        command = ["smpicc", "-O2", str(SOURCE), "-o", str(program)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return program


def rows(options: argparse.Namespace, folder: Path) -> Iterator[Simulated]:
    """Yield a row for each model and number of ranks."""
    link = load(options.network)[0].between
    if link is None:
        raise UserError(f"--network {options.network}: expected a link between hosts, got none")
    for model in options.models:
        for ranks in options.ranks:
            yield compare(model, ranks, link, folder)


def cells(row: Simulated) -> list[str]:
    """Return the texts of a row."""
    texts = [row.model, str(row.ranks)]
    for predicted, simulated in (row[2:4], row[4:6]):
        texts += [f"{1e3 * predicted:.2f}", f"{1e3 * simulated:.2f}"]
        texts.append(f"{100 * (predicted / simulated - 1):+.1f}")
    return texts


def _parser() -> BenchParser:
    about = "Compare plan's predictions of exchanges with SimGrid's simulation of their messages."
    parser = BenchParser("python -m bench simulated", description=about, allow_abbrev=False)
    add = parser.add_argument
    add("--models", type=_words, default=["lenet", "resnet20", "resnet18"], metavar="A,B",
        help="models (default: lenet,resnet20,resnet18)")  # fmt: skip
    add("--ranks", type=lambda text: [int(word) for word in _words(text)],
        default=[8, 64, 256, 1024], metavar="P,P", help="default: 8,64,256,1024")  # fmt: skip
    add("--network", default="gigabit-ethernet", metavar="NAME|FILE",
        help="network, as in plan (default: gigabit-ethernet)")  # fmt: skip
    add("--json", type=Path, metavar="FILE", help="also write the rows to a file")
    return parser


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",")]


def run(arguments: Sequence[str]) -> int:
    """Print the table. UserError for what cannot be done."""
    options = _parser().parse_args(arguments)
    if not all(map(shutil.which, ("smpicc", "smpirun"))):
        raise UserError("no smpicc or smpirun here; Debian's libsimgrid-dev has them")
    found = []
    with tempfile.TemporaryDirectory(prefix="tallygrad-simulated-") as name:
        for row in rows(options, Path(name)):
            print(*cells(row), file=sys.stderr, flush=True)
            found.append(row)
    print("\n".join(text_table(COLUMNS, [cells(row) for row in found])))
    if options.json:
        options.json.write_text(json.dumps([row._asdict() for row in found], indent=1), "utf-8")
    return 0
