"""What benchmarks on several ranks share: a core for each rank, and contenders in turn."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping

import numpy as np

from tallygrad.trainer.distributed.comm import Comm, connect

from .options import UsageError

NAP = 0.0005  # seconds between two looks whether the others have come


def several(name: str) -> tuple[Comm, float]:
    """Return the ranks of a benchmark, each on a core of its own, and the load of the host before.
    UsageError on one rank."""
    comm = connect()
    if comm.size < 2:
        raise UsageError(f"{name}: expected at least 2 ranks, got 1: mpirun -n 2 python -m bench")
    pin(comm)
    return comm, os.getloadavg()[0]


def pin(comm: Comm) -> None:
    """Keep this rank on a core of its own, where there are enough of them."""
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    if len(cores) >= comm.local_size:
        os.sched_setaffinity(0, {cores[comm.local_rank]})


def timed(comm: Comm, work: Callable[[], object]) -> float:
    """Return the seconds from when all ranks begin until the last one ends."""
    nap_until_all(comm)
    comm.barrier()
    begun = time.perf_counter()
    work()
    slowest = np.array(time.perf_counter() - begun)
    nap_until_all(comm)
    comm.allreduce(slowest, "max")
    return float(slowest)


def nap_until_all(comm: Comm) -> None:
    """Wait for all ranks without taking anything from one that still works."""
    request = comm.ibarrier()
    while not request.test():
        time.sleep(NAP)


def in_turn(
    comm: Comm, contenders: Mapping[str, Callable[[], object]], rounds: int, warming: int
) -> dict[str, list[float]]:
    """Return the seconds of each round by contender, without those of the first rounds. The order
    of contenders changes from round to round."""
    times: dict[str, list[float]] = {name: [] for name in contenders}
    names = [*contenders]
    for index in range(warming + rounds):
        start = index % len(names)
        for name in names[start:] + names[:start]:
            seconds = timed(comm, contenders[name])
            if index >= warming:
                times[name].append(seconds)
    return times
