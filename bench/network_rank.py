"""A rank of `python -m bench network`: measures its share of what rank 0 writes to a folder."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from time import perf_counter
from typing import NamedTuple

import numpy as np

from tallygrad.autograd import set_num_threads
from tallygrad.trainer.calibration.rehearsal import Rehearsal, Silent
from tallygrad.trainer.cost.cluster.allreduce import recursive_doubling
from tallygrad.trainer.cost.cluster.traffic import Group, Link
from tallygrad.trainer.cost.cluster.transfers import METRICS
from tallygrad.trainer.distributed.comm import Comm
from tallygrad.trainer.distributed.failures.guard import guard

TASK, RESULT = "task.json", "result.json"
ROUNDS = 20  # at least
LEVEL = 0.1  # quantile of rounds: what else the host does only adds
LARGE = 1 << 20  # bytes of a long message, and of an addition
WORDS, LARGES = 16, 2  # of them one after the other


class Task(NamedTuple):
    """A model's step to measure, with `batch` images a rank, for about so many seconds."""

    model: str
    input: tuple[int, int, int]
    classes: int
    batch: int
    bucket_mb: float
    seconds: float


class Result(NamedTuple):
    """What ranks measured, all at once: seconds of a message in a short allreduce, bytes per second
    of long ones to a neighbour beyond that, and of additions, and seconds of a step without
    messages, of its exchange alone, and of a whole step; names and bytes of the gradients, in the
    order in which they are final."""

    latency: float
    bandwidth: float
    reduction: float
    compute: float
    exchange: float
    step: float
    parameters: tuple[str, ...]
    bytes: tuple[int, ...]


def measure(comm: Comm, task: Task) -> Result:
    """Measure all in turn, round by round."""
    each = (task.model, task.input, task.classes, task.batch, task.bucket_mb)
    silent, whole = Rehearsal(Silent(comm.rank, comm.size), *each), Rehearsal(comm, *each)
    for job in (silent, whole):
        job.warm()
    array, word = np.zeros(LARGE // 4, np.float32), np.zeros(1)
    steps: dict[str, Callable[[], object]] = {
        "latency": _often(lambda: comm.allreduce(word), WORDS),
        "bandwidth": _often(_neighbours(comm), LARGES),
        "reduction": _often(lambda: np.add(array, array, out=array), LARGES),
        "compute": lambda: silent.run(_one(silent)),
        "exchange": _exchange(whole),
        "step": lambda: whole.run(_one(whole)),
    }
    found = _rounds(comm, steps, task.seconds)
    found["latency"] /= WORDS * _messages(comm.size)
    found["bandwidth"] = LARGE / (found["bandwidth"] / LARGES - found["latency"])
    found["reduction"] = LARGES * LARGE / found["reduction"]
    return Result(**found, parameters=tuple(silent.names), bytes=tuple(silent.sizes))


def _often(run: Callable[[], object], times: int) -> Callable[[], object]:
    return lambda: [run() for _ in range(times)]


def _messages(ranks: int) -> float:
    """Return the messages of an allreduce of a word, one after the other."""
    link = Link(0.0, 1.0)
    return recursive_doubling(Group(ranks, 1, link, link, 1.0), 8).far_messages


def _neighbours(comm: Comm) -> Callable[[], object]:
    """Return the function that sends a long message to the next rank, while one comes from the rank
    before."""
    own = comm.stream("neighbours")
    array, out = np.zeros(LARGE, np.uint8), np.zeros(LARGE, np.uint8)
    following, before = (comm.rank + 1) % comm.size, (comm.rank - 1) % comm.size
    return lambda: own.sendrecv(array, out, following, before)


def _one(job: Rehearsal) -> Callable[[], bool]:
    stop = len(job.ends) + 1
    return lambda: len(job.ends) < stop


def _exchange(job: Rehearsal) -> Callable[[], None]:
    """Return the function that sums arrays of the sizes of a step's, as a step does."""
    parts = job.training.parts
    gradients = [np.zeros(bucket.array.spec.size, np.float32) for bucket in parts.sync.buckets]
    metrics = np.zeros(METRICS // 8)

    def exchange() -> None:
        for reducer, arrays in ((parts.sync.reducer, gradients), (parts.reducer, [metrics])):
            for array in arrays:
                reducer.start(array)
            reducer.wait()
        job.training.stop.agreed(job.training.comm)

    return exchange


def _rounds(comm: Comm, steps: dict[str, Callable[[], object]], seconds: float) -> dict[str, float]:
    """Return a low quantile of the seconds of each, over rounds: from when the first rank begins to
    when the last one ends. All ranks here read one clock, and those that share a core with one
    that works begin late."""
    spans: dict[str, list[tuple[float, float]]] = {name: [] for name in steps}
    end, going = perf_counter() + seconds, np.array(1)
    while going:
        for name, step in steps.items():
            comm.barrier()
            begun = perf_counter()
            step()
            spans[name].append((begun, perf_counter()))
        going[...] = comm.rank == 0 and (perf_counter() < end or len(spans["step"]) < ROUNDS)
        comm.allreduce(going)
    begins, ends = np.moveaxis(comm.allgather(np.array([*spans.values()])), -1, 0)
    taken = ends.max(0) - begins.min(0)
    return dict(zip(steps, np.quantile(taken, LEVEL, axis=1).tolist(), strict=True))


def connect_all() -> Comm:
    """Return the ranks of this job. They share cores, as hosts do not: one that waits leaves its
    core to one that works."""
    from tallygrad.trainer.distributed.mpi import MpiComm  # initialises MPI

    return MpiComm(naps=True)


def _go_first() -> None:
    """Put this process before others' work, which would be measured with its own."""
    with suppress(AttributeError, OSError):  # not on this system, or not allowed
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))


def main(folder: Path) -> None:
    """Do the task of a folder."""
    _go_first()
    set_num_threads(1)
    comm = connect_all()
    with guard(comm):
        values = json.loads((folder / TASK).read_text("utf-8"))
        result = measure(comm, Task(**{**values, "input": tuple(values["input"])}))
        if comm.rank == 0:
            (folder / RESULT).write_text(json.dumps(result._asdict()), "utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
