"""What a script of the user shares with the other ranks: to join them, to print, to add up.

Under `mpirun` or `srun` every rank runs the script; alone, and in a notebook, there is one rank."""

from __future__ import annotations

import atexit
import builtins
import math
import os
import sys
from types import TracebackType
from typing import IO, Any, overload

import numpy as np
from numpy.typing import NDArray

from ..autograd import Tensor, set_num_threads
from .distributed.agreement import agree, program_facts
from .distributed.comm import Comm, connect
from .distributed.failures.guard import fail
from .distributed.failures.watchdog import watching
from .distributed.journal import WHOLE
from .threads import configure, limit_blas
from .user_code import refuse_training

_joined: list[Comm] = []  # the ranks, once they have met
_status: list[object] = [None]  # what sys.exit was given


def init(*, threads: int = 0, collective_timeout: float = 60.0) -> None:
    """Join the other ranks, if a launcher started any; what needs them does so by itself.

    From then on only rank 0 prints to stdout; an exception in one rank ends the job, with its
    traceback, and so does a rank that does not come to a collective within `collective_timeout`
    seconds. `threads` are those of a rank; 0: its share of the host's cores. UserError where ranks
    cannot meet, or run different software. A second call does nothing."""
    refuse_training()
    if _joined:
        return
    set_num_threads(configure(wanted=threads))
    limit_blas()
    comm = connect()
    comm.journal.inner = WHOLE
    _joined.append(comm)
    if comm.size > 1:
        _watch(comm, collective_timeout)
    agree(comm, lambda: program_facts(" ".join(sys.argv), {}))


def _watch(comm: Comm, timeout: float) -> None:
    """End all ranks where one fails, and wait for one another at the end."""
    watchdog = watching(comm, timeout)
    watchdog.__enter__()

    def failed(
        kind: type[BaseException], error: BaseException, trace: TracebackType | None
    ) -> None:
        fail(comm, error)

    def leave() -> None:
        if _status[0] not in (None, 0):  # Python has printed a text
            fail(comm, SystemExit(_status[0] if isinstance(_status[0], int) else 1))
        comm.depart(math.inf)
        watchdog.__exit__(None, None, None)

    def leaving(status: Any = None) -> None:
        _status[0] = status  # which Python tells nobody
        raise SystemExit(status)

    sys.excepthook, sys.exit = failed, leaving  # type: ignore[assignment]
    atexit.register(leave)
    if comm.rank:
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115


def comm() -> Comm:
    """Return the communicator of all ranks."""
    init()
    return _joined[0]


def rank() -> int:
    """Return the number of this rank, from 0."""
    return comm().rank


def size() -> int:
    """Return the number of ranks."""
    return comm().size


def barrier() -> None:
    """Wait until all ranks have come here."""
    comm().barrier()


def print(*values: object, sep: str = " ", end: str = "\n", file: IO[str] | None = None) -> None:
    """Print on rank 0."""
    if rank() == 0:
        builtins.print(*values, sep=sep, end=end, file=file, flush=True)


@overload
def sum(value: int) -> int: ...
@overload
def sum(value: float | Tensor) -> float: ...
@overload
def sum(value: NDArray[Any]) -> NDArray[Any]: ...
def sum(value: float | Tensor | NDArray[Any]) -> float | NDArray[Any]:
    """Return the sum over the ranks of a number, such as a count, or of an array. All ranks must
    call it. Integers are summed as int64, exactly on any number of ranks, all else as float64."""
    own = np.asarray(value.numpy() if isinstance(value, Tensor) else value)
    total = np.array(own, np.int64 if own.dtype.kind in "biu" else np.float64, order="C")
    comm().allreduce(total)
    return total if isinstance(value, np.ndarray) else total.item()
