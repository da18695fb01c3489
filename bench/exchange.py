"""The exchange of a gradient buffer beside one bare buffer Allreduce of as many bytes, and beside a
bare Allreduce of each bucket, in turn, on ranks with a core each."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from functools import partial
from statistics import median

import numpy as np
from numpy.typing import NDArray

from tallygrad.trainer.distributed.comm import Comm
from tallygrad.trainer.distributed.exchange import OVERLAPS, Reducer
from tallygrad.trainer.distributed.failures.guard import guard
from tallygrad.trainer.distributed.hierarchy import Hierarchy, obstacle

from .options import BenchParser, counted, positive
from .ranks import in_turn, several

WARMING = 2  # rounds that are not counted: pages are touched, connections made
BARE = "bare Allreduce"
Buckets = Sequence[NDArray[np.float32]]


def run(arguments: Sequence[str]) -> int:
    """Measure, and print a table on rank 0. UsageError on one rank."""
    options = parse(arguments)
    comm, load = several("exchange")
    with guard(comm):
        works = contenders(comm, options.mb, options.bucket_mb)
        times = in_turn(comm, works, options.rounds, WARMING)
    if comm.rank == 0:
        what = f"{options.mb:g} MB on {comm.size} ranks, buckets of {options.bucket_mb:g} MB"
        print(f"{what}; {comm.library}; load {load:.1f} before")
        print(table(times))
    return 0


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Parse the command line. Errors end the process with status 2 and one line."""
    parser = BenchParser("python -m bench exchange", description=__doc__, allow_abbrev=False)
    parser.add_argument("--mb", type=positive, default=100.0, help="MB of gradients")
    parser.add_argument("--bucket-mb", type=positive, default=1.0, help="MB of a bucket")
    parser.add_argument("--rounds", type=counted, default=9, help="rounds of measuring")
    return parser.parse_args(arguments)


def contenders(comm: Comm, mb: float, bucket_mb: float) -> dict[str, Callable[[], object]]:
    """Return what exchanges so many MB, by name."""
    array = np.zeros(int(mb * 1e6) // 4, np.float32)
    buckets = cut(array, bucket_mb)
    works: dict[str, Callable[[], object]] = {
        BARE: partial(comm.allreduce, array),
        "bare, by bucket": partial(_allreduces, comm, buckets),
    }
    for overlap in OVERLAPS:
        reducer = Reducer(comm, comm.size, overlap)
        works[f"buckets, {overlap}"] = partial(_exchange, reducer, buckets)
    leaders = comm.leaders()
    if not obstacle(leaders, range(comm.size)):
        nodes = Hierarchy(comm, leaders, len(array), array.dtype)
        for overlap in OVERLAPS:
            reducer = Reducer(comm, comm.size, overlap, nodes=nodes)
            shared = cut(nodes.buffer, bucket_mb)
            works[f"by node, {overlap}"] = partial(_exchange, reducer, shared)
    return works


def cut(array: NDArray[np.float32], bucket_mb: float) -> Buckets:
    """Return an array in buckets."""
    width = max(1, int(bucket_mb * 1e6) // 4)
    return [array[i : i + width] for i in range(0, len(array), width)]


def _allreduces(comm: Comm, buckets: Buckets) -> None:
    for bucket in buckets:
        comm.allreduce(bucket)


def _exchange(reducer: Reducer, buckets: Buckets) -> None:
    for bucket in buckets:
        reducer.start(bucket)
    reducer.wait()


def table(times: dict[str, list[float]]) -> str:
    """Return a row per contender: median, minimum, and both over those of the bare Allreduce."""
    bare = times[BARE]
    lines = [f"{'':16}  median ms    min ms  median/bare  min/bare"]
    for name, seconds in times.items():
        middle, least = median(seconds), min(seconds)
        lines.append(
            f"{name:16} {1e3 * middle:10.3f} {1e3 * least:9.3f} {middle / median(bare):12.2f} "
            f"{least / min(bare):9.2f}"
        )
    return "\n".join(lines)
