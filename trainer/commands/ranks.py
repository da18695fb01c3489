"""What the commands that ranks run jointly share: to meet, to agree, and to end together."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeAlias

from ..errors import UserError
from ..memory import memory_errors
from ..threads import MOST_THREADS, configure

if TYPE_CHECKING:
    from ..distributed.comm import Comm
    from ..stop import Stop

Start: TypeAlias = Callable[[int, list[str], float], int]  # ranks, command, seconds -> status


@contextmanager
def meet(
    command: str, threads: int, options: Mapping[str, Any], less_memory: str
) -> Iterator[tuple[Comm, Stop]]:
    """Settle the threads (0: those of the environment), meet the other ranks, which must run the
    same command with the same options, and handle signals. `less_memory` says what to try where
    memory runs out."""
    if not 0 <= threads <= MOST_THREADS:
        raise UserError(f"--threads: expected 0 to {MOST_THREADS}, got {threads}")
    count = configure(wanted=threads)  # before NumPy loads
    from ...autograd import context, set_num_threads
    from ..distributed.agreement import agree, program_facts
    from ..distributed.comm import connect
    from ..distributed.guard import guard
    from ..distributed.watchdog import watching
    from ..stop import Stop

    set_num_threads(count)
    comm = connect()
    # After `connect`: MPICH installs a handler of its own for SIGUSR1.
    # Options choose the backend of the work itself; what is made before is NumPy's.
    with (
        Stop(comm.rank == 0, *_requests(options)) as stop,
        watching(comm, float(options.get("collective_timeout", 60.0))),
        guard(comm),
        memory_errors(less_memory),
        context.using(backend="numpy"),
    ):
        agree(comm, lambda: program_facts(command, options))
        yield comm, stop


def _requests(options: Mapping[str, Any]) -> tuple[tuple[int, ...], float]:
    """Return the signals that preempt a run, and when it must have ended."""
    from ..config import TrainConfig, parse_signals, parse_time

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
    from ..distributed.guard import guard
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
