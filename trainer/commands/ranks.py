"""What the commands that ranks run jointly share: to join, to agree, and to end together."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, NoReturn, TypeAlias

from ..errors import UserError
from ..threads import MOST_THREADS, configure

if TYPE_CHECKING:
    from ..distributed.comm import Comm
    from ..stop import Stop

Start: TypeAlias = Callable[[int, list[str], float], int]  # ranks, command, seconds -> status


@contextmanager
def join(
    command: str, threads: int, options: Mapping[str, Any], less_memory: str
) -> Iterator[tuple[Comm, Stop]]:
    """Settle the threads (0: those of the environment), join the other ranks, which must run the
    same command with the same options, and handle signals. `less_memory` says what to try where
    memory runs out."""
    with (
        arrive(threads, options) as (comm, stop),
        together(comm, command, options, less_memory),
    ):
        yield comm, stop


@contextmanager
def arrive(threads: int, options: Mapping[str, Any]) -> Iterator[tuple[Comm, Stop]]:
    """Settle the threads (0: those of the environment), find the other ranks, and handle
    signals."""
    if not 0 <= threads <= MOST_THREADS:
        raise UserError(f"--threads: expected 0 to {MOST_THREADS}, got {threads}")
    count = configure(wanted=threads)  # before NumPy loads
    from ...autograd import set_num_threads
    from ..distributed.comm import connect
    from ..stop import Stop

    set_num_threads(count)
    comm = connect()
    # After `connect`: MPICH installs a handler of its own for SIGUSR1.
    with Stop(comm.rank == 0, *_requests(options)) as stop:
        yield comm, stop


@contextmanager
def together(
    comm: Comm, command: str, options: Mapping[str, Any], less_memory: str
) -> Iterator[None]:
    """Watch the ranks for the length of a block, which all of them enter with the same command and
    options and leave together. `Shrunk` where some have ended and the others are to go on."""
    from ...autograd import context
    from ..distributed.agreement import agree, program_facts
    from ..distributed.failures.guard import guard, shrinking
    from ..distributed.failures.watchdog import watching

    shrinks = comm.size > 1 and options.get("on_lost_rank") == "shrink"
    watchdog = watching(comm, float(options.get("collective_timeout", 60.0)), shrinks)
    with ExitStack() as stack:
        with shrinking(comm, shrinks):
            stack.enter_context(watchdog)
        stack.enter_context(guard(comm, shrinks, less_memory))
        # Options choose the backend of the work itself; what is made before is NumPy's.
        stack.enter_context(context.using(backend="numpy"))
        if shrinks and not comm.outlives_ranks:
            raise UserError(
                "--on-lost-rank shrink: expected Open MPI, started by `mpirun --with-ft ulfm`, or "
                "by `tallygrad launch` with this option on the command line, got "
                f"{comm.library} without fault tolerance"
            )
        agree(comm, lambda: program_facts(command, options))
        yield


def leave(status: int) -> NoReturn:
    """End this process, of a job that has shrunk, without MPI's end, which may wait for ever for
    the ranks that are lost."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _requests(options: Mapping[str, Any]) -> tuple[tuple[int, ...], float]:
    """Return the signals that preempt a run, and when it must have ended."""
    from ..config import TrainConfig
    from ..values import parse_signals, parse_time

    names = options.get("preempt_signals", TrainConfig.preempt_signals)
    return parse_signals(names), parse_time(options.get("stop_before", TrainConfig.stop_before))


def launcher() -> tuple[Start | None, str]:
    """Return the function that runs a command on ranks of this host and returns their status;
    None and the reason where there is no mpirun."""
    from ...launch import job, mpirun

    def start(count: int, command: list[str], timeout: float) -> int:
        try:
            return job.start(count, command, timeout)
        except mpirun.LaunchError as error:
            raise UserError(str(error)) from error

    try:
        mpirun.find_mpirun()
    except mpirun.LaunchError as error:
        return None, str(error)
    return start, ""


def report(error: Exception, alone: bool) -> int:
    """Say what is wrong, and end the ranks that wait for this one. Never returns: raises the error
    itself for a fault of ours, else SystemExit."""
    from ..distributed.comm import SerialComm, UnmetComm, connect
    from ..distributed.failures.guard import guard
    from ..distributed.launchers import expected_size

    if not isinstance(error, UserError) and (alone or expected_size() is None):
        raise error
    comm: Comm = SerialComm()
    if not alone:
        try:
            comm = connect()
        except UserError:
            comm = UnmetComm()
    with guard(comm):
        raise error
