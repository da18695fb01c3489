"""The calibration that a plan is made from, and the measured step that it is held against.

Ranks of one MPI job on this host measure, one after the other: what a message between two of them
takes, how fast one adds, how much of an exchange goes on meanwhile; the trainer's step where a rank
is alone, and where all compute at once, without a message; and, as the check, in turn with the
latter, the step with its messages. Predictions read nothing of the check.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...autograd import set_num_threads
from ..cost.cluster.allreduce import FIXED_ORDER, allreduce
from ..cost.cluster.step_time import Step
from ..cost.cluster.traffic import Group, Link
from ..cost.report.model.plan import CheckReport
from ..distributed.comm import Comm
from ..distributed.exchange import MpiSum, Reducer, TreeSum
from ..files import write_whole
from ..progress import compiling
from .rehearsal import Rehearsal, Silent
from .result import Calibration, CalibrationTask, LinkMeasurement, StepMeasurements

TASK, RESULT = "task.json", "result.json"
QUANTILES = 101
LEVELS = np.linspace(0, 1, QUANTILES)
ROUNDS, FEWEST = 3, 2  # of measuring, and steps of each at least
LARGE = tuple(1 << k for k in (19, 20, 21))  # bytes of messages, about those of a bucket
SMALL = 8
SHARES = {"link": 0.15, "alone": 0.25, "busy": 0.6}  # of the seconds; busy with the check
LEAST = 0.1  # of the time that is left, for few images
NAP = 0.005  # seconds between looks of a rank that must not take time from others


def worker(comm: Comm, folder: Path) -> None:
    """Do the task of a folder as a rank; rank 0 writes the result there."""
    result = measure(comm, CalibrationTask.from_json((folder / TASK).read_text("utf-8")))
    if comm.rank == 0:
        write_whole(folder / RESULT, json.dumps(result.to_json()))


def measure(comm: Comm, task: CalibrationTask) -> Calibration:
    """Measure all that the task asks for. Only that of rank 0 has the steps of one rank alone."""
    set_num_threads(1)
    parts = {name: f"for about {task.seconds * share:.0f} s" for name, share in SHARES.items()}
    messages, measured, overlap = None, [], "none"
    if comm.size > 1:
        _tell(comm, f"measuring messages between {comm.size} ranks of this host {parts['link']}")
        messages = link(comm, task)
        overlap = messages.overlap
    alone = Silent(0, max(comm.size, 2))
    _tell(comm, f"measuring steps of one rank {parts['alone']}, and compiling before")
    if comm.rank == 0:
        with compiling():
            measured.append(steps(comm, task, alone, 1))
    doze(comm)
    if comm.size > 1:
        _tell(comm, f"measuring steps of {comm.size} ranks at once {parts['busy']}")
        measured.append(steps(comm, task, Silent(comm.rank, comm.size), comm.size, overlap))
    every_step = tuple(step for part in measured for step in part.steps)
    return Calibration(comm.size, comm.library, messages, replace(measured[-1], steps=every_step))


def _tell(comm: Comm, text: str) -> None:
    if comm.rank == 0:
        print(f"plan: {text}", file=sys.stderr, flush=True)


def link(comm: Comm, task: CalibrationTask) -> LinkMeasurement:
    """Measure messages between ranks 0 and 1 in both directions at once, additions, and sums over
    all ranks, by MPI and in fixed order, beside the formulas and beside ranks that compute."""
    each = task.seconds * SHARES["link"] / (4 * len(LARGE) + 4)
    near, reduction = _pair(comm, each)
    group = Group(comm.size, comm.size, near, near, reduction)
    by_mpi = {n: _time(comm, each, _mpi_sum(comm, n), 0.25) for n in LARGE}
    fixed = {n: _time(comm, each, _tree_sum(comm, n), 0.25) for n in LARGE}
    middle = LARGE[len(LARGE) // 2]
    polled = hidden(comm, each, middle, "poll")
    threaded = hidden(comm, each, middle, "thread") if comm.concurrent else 0.0
    return LinkMeasurement(
        near.latency, near.bandwidth, reduction, _over_formula(group, by_mpi, "mpi"),
        _over_formula(group, fixed, FIXED_ORDER), polled, threaded, tuple(by_mpi.items()),
    )  # fmt: skip


def _pair(comm: Comm, seconds: float) -> tuple[Link, float]:
    """Return the link between ranks 0 and 1, and the bytes per second that a rank adds."""
    pair = comm.rank < 2
    latency = _time(comm, seconds, _message(comm, SMALL) if pair else None)
    rates, adding = [], []
    for size in LARGE:
        taken = _time(comm, seconds, _message(comm, size) if pair else None)
        rates.append(size / (taken - latency if taken > latency else taken))
        adding.append(size / _time(comm, seconds, _addition(np.ones(size // 4, np.float32))))
    return Link(latency, median(rates)), median(adding)


def _over_formula(group: Group, measured: dict[int, float], algorithm: str) -> float:
    """Return how many times as long as by formula sums took, measured by bytes."""
    expected = {n: group.seconds(allreduce(group, n, algorithm)[0]) for n in measured}
    return median(taken / expected[n] for n, taken in measured.items())


def _message(comm: Comm, size: int) -> Callable[[], None]:
    array = np.zeros(size, np.uint8)
    out = np.zeros_like(array)
    return lambda: comm.sendrecv(array, out, 1 - comm.rank)


def _addition(array: NDArray[Any]) -> Callable[[], object]:
    other = array.copy()
    return lambda: np.add(array, other, out=array)


def _mpi_sum(comm: Comm, size: int) -> Callable[[], None]:
    array = np.ones(size // 4, np.float32)
    return lambda: MpiSum(comm, array).finish()


def _tree_sum(comm: Comm, size: int) -> Callable[[], None]:
    array, back = np.ones(size // 4, np.float32), comm.stream("return")
    return lambda: TreeSum(comm, back, array, [*range(comm.size)]).finish()


def _time(
    comm: Comm, seconds: float, run: Callable[[], object] | None, level: float = 0.0
) -> float:
    """Return a quantile of rank 0's times of what ranks do together, for so long: the least, since
    others' work on this host only adds, unless that shall count. None: only wait."""
    times: list[float] = []
    end = perf_counter() + seconds
    going = np.array(1)
    while going:
        comm.barrier()
        begun = perf_counter()
        if run is not None:
            run()
        times.append(perf_counter() - begun)
        going[...] = perf_counter() < end or len(times) < FEWEST
        comm.bcast(going)
    quantile = np.array(np.quantile(times, level))
    comm.bcast(quantile)
    return float(quantile)


def hidden(comm: Comm, seconds: float, size: int, driven: str) -> float:
    """Return the share of a sum of `size` bytes that goes on while ranks compute for about as long
    as it takes: of its time alone, what is missing where both are done at once."""
    array, reducer = np.zeros(size // 4, np.float32), Reducer(comm, comm.size, driven)

    def exchange() -> None:
        reducer.start(array)
        reducer.wait()

    whole = _time(comm, seconds, exchange, 0.25)
    part = _addition(np.ones(1 << 14, np.float32))
    parts = max(1, round(whole / _time(comm, seconds / 4, part, 0.25)))

    def compute() -> None:
        for _ in range(parts):
            part()
            reducer.poll()

    def both() -> None:
        reducer.start(array)
        compute()
        reducer.wait()

    alone, taken = (_time(comm, seconds, run, 0.25) for run in (compute, both))
    return min(max((whole + alone - taken) / min(whole, alone), 0.0), 1.0)


def doze(comm: Comm) -> None:
    """Wait for all ranks without taking a core's time from one that works."""
    request = comm.iallreduce(np.zeros(1))
    while not request.test():
        time.sleep(NAP)


class Series:
    """Steps of a rehearsal, in rounds: seconds of each, and, of a silent rank, when all gradients
    are final and when each is, from the step's beginning, which is the end of the one before."""

    def __init__(self, job: Rehearsal, silent: Silent | None = None) -> None:
        self.job, self.silent = job, silent
        self.rounds: list[list[float]] = []
        self.sweeps: list[float] = []
        self.ready: list[list[float]] = []
        if silent is not None:
            job.stamp()
        job.warm()

    def round(self, more: Callable[[int], bool]) -> None:
        """Do steps while there are more to do than so many, behind one that does not count: what
        was loaded meanwhile is there at once."""
        ends = self.job.ends
        first = len(ends) + 1
        self.rounds.append([])
        self.job.run(lambda: len(ends) < first)
        if self.silent is not None:
            self.silent.waited = 0.0
        self.job.run(lambda: more(len(ends) - first), self._after)

    def _after(self) -> None:
        begun, end = self.job.ends[-2:]
        self.rounds[-1].append(end - begun)
        if self.silent is not None:
            self.sweeps.append(self.silent.waited - begun)
            self.ready.append([moment - begun for moment in self.job.ready])
            self.silent.waited = 0.0

    def pooled(self, comm: Comm, batch: int, busy: int) -> Step:
        """Return the quantiles over the steps of all ranks, their mean over rounds, since what
        changes from one to the next changes for all; and means of the ranks' medians."""
        drawn = [mixed(comm.allgather(np.quantile(r, LEVELS))) for r in self.rounds]
        times = np.mean(drawn, 0)
        final = np.array([median(self.sweeps), *np.median(self.ready, 0)])
        sweep, *ready = comm.allgather(final).mean(0).tolist()
        middles = tuple(float(np.median(quantiles)) for quantiles in drawn)
        return Step(batch, busy, tuple(times.tolist()), sweep, tuple(ready), middles)


def mixed(times: NDArray[Any]) -> NDArray[Any]:
    """Return the quantiles of one distribution for ranks that differ, given those of each, (ranks,
    QUANTILES): so many draws from it have the same slowest as a draw from each. Its distribution
    function is the geometric mean of theirs."""
    moments = np.unique(times)
    reached = [np.interp(moments, row, LEVELS, left=0.0) for row in times]
    mean = np.prod(reached, 0) ** (1 / len(times))
    last = np.flatnonzero(mean == 0)[-1:]  # nobody is slower than all until then
    start = int(last[0]) if len(last) else 0
    quantiles: NDArray[Any] = np.interp(LEVELS, mean[start:], moments[start:])
    return quantiles


def steps(
    comm: Comm, task: CalibrationTask, silent: Silent, busy: int, overlap: str = "none"
) -> StepMeasurements:
    """Measure steps without messages, of this rank alone or, where `busy` is more than 1, of all
    ranks at once, and then, in turn with them, the trainer's own, driven by `overlap`. From the
    fewest images on; more than the time allows are left out."""
    left = task.seconds * SHARES["busy" if busy > 1 else "alone"]
    together = comm if busy > 1 else silent
    measured: list[Step] = []
    checks: list[CheckReport] = []
    for i, share in enumerate(task.batches):
        checked = busy > 1 and share in task.checks
        if measured:
            expected = _expected(measured, share)
            dear = np.array(expected * ROUNDS * (FEWEST + 1) * (1 + checked) > max(left, 0.0))
            together.bcast(dear)
            if dear:
                break
        rehearse = partial(
            Rehearsal, model=task.model, shape=task.input, classes=task.classes, share=share,
            bucket_mb=task.bucket_mb, precision=task.precision,
        )  # fmt: skip
        series = Series(rehearse(silent), silent)
        real = Series(rehearse(comm, overlap=overlap)) if checked else None
        job = series.job
        begun = perf_counter()
        _rounds(together, series, real, left * max(share / sum(task.batches[i:]), LEAST))
        left -= perf_counter() - begun
        measured.append(series.pooled(together, share, busy))
        if real is not None:
            checks.append(_measured(real.rounds, comm.size, share))
    return StepMeasurements(
        job.training.parts.backend, tuple(job.names), tuple(job.sizes), tuple(measured),
        tuple(checks),
    )  # fmt: skip


def _expected(measured: list[Step], share: int) -> float:
    """Return the seconds of a step by the line through the largest two batches so far; through no
    images and no time where there is but one."""
    old, new = (measured[-2] if len(measured) > 1 else Step(0, 0, (0.0,), 0.0, ()), measured[-1])
    slope = (new.quantile(0.5) - old.quantile(0.5)) / (new.batch - old.batch)
    return max(new.quantile(0.5) + slope * (share - new.batch), new.quantile(0.5))


def _rounds(comm: Comm, series: Series, real: Series | None, seconds: float) -> None:
    """Do both in turn for so long, so that what else goes on here troubles both alike."""
    each = seconds / ROUNDS / (1 if real is None else 2)
    for _ in range(ROUNDS):
        comm.barrier()
        series.round(_until(perf_counter() + each))
        if real is not None:
            wanted = np.array(max(FEWEST, int(each / median(series.rounds[-1]))))
            comm.bcast(wanted)
            real.round(_so_many(int(wanted)))


def _so_many(steps: int) -> Callable[[int], bool]:
    return lambda done: done < steps


def _until(end: float) -> Callable[[int], bool]:
    return lambda done: perf_counter() < end or done < FEWEST


def _measured(rounds: list[list[float]], ranks: int, share: int) -> CheckReport:
    """Return the mean over rounds of their medians, and between which of these it lies."""
    middles = [median(times) for times in rounds]
    return CheckReport(
        ranks, share, sum(map(len, rounds)), float(np.mean(middles)), min(middles), max(middles)
    )
