"""Communication between ranks: one interface for a single process and for many.

Collectives work in place on C-contiguous arrays and are named after MPI. MPI itself is imported
only by `connect`, and only under a launcher. NumPy is not needed to import this module: a rank that
lacks it must still be able to end the others.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NoReturn, Protocol

from ..errors import UserError
from ..threads import launched_rank
from .failures.orphan import watch_parent
from .journal import Journal
from .launchers import expected_size, launcher, refuse_others, way_to_meet

if TYPE_CHECKING:
    from numpy.typing import NDArray

OPS = ("sum", "max", "min")


class Request(Protocol):
    """An exchange in flight; its arrays must not be touched before `wait` returns."""

    def wait(self) -> None:
        """Block until the arrays hold the result."""

    def test(self) -> bool:
        """Drive the exchange a little; true once the arrays hold the result."""


class Comm(Protocol):
    """What the trainer may ask of a group of ranks."""

    @property
    def rank(self) -> int:
        """Number of this rank in the group, from 0."""

    @property
    def size(self) -> int:
        """Number of ranks in the group."""

    @property
    def local_rank(self) -> int:
        """Number of this rank among those that share this node's memory, from 0."""

    @property
    def local_size(self) -> int:
        """Number of ranks that share this node's memory."""

    @property
    def library(self) -> str:
        """First line of the MPI library's version, or "none"."""

    @property
    def concurrent(self) -> bool:
        """Whether threads may communicate at the same time."""

    @property
    def journal(self) -> Journal:
        """Which collectives this rank has begun, for the watchdog."""

    def stream(self, name: str) -> Comm:
        """Return a communicator of the same ranks whose collectives have an order of their own:
        within one, all ranks must come to them in the same order. All ranks must call this."""

    def split(self, color: int, name: str) -> Comm:
        """Return a communicator of the ranks that pass the same number. All ranks must call
        this."""

    def leaders(self) -> list[int]:
        """Return for each rank the first rank of its node. All ranks must call this."""

    def ibarrier(self) -> Request:
        """Tell that this rank has come here; the request ends once all have."""

    def bcast(self, array: NDArray[Any], root: int = 0) -> None:
        """Overwrite `array` with that of rank `root`."""

    def allreduce(self, array: NDArray[Any], op: str = "sum") -> None:
        """Overwrite `array` with its elementwise sum, max or min over the ranks."""

    def iallreduce(self, array: NDArray[Any]) -> Request:
        """Start to overwrite `array` with its sum over the ranks."""

    def allgather(self, array: NDArray[Any]) -> NDArray[Any]:
        """Stack the ranks' arrays of equal shape: (size, *shape)."""

    def allgather_pieces(self, array: NDArray[Any], borders: Sequence[int]) -> None:
        """Overwrite each rank's piece of `array` (n,), which lies between two of the `borders`,
        with that of the rank."""

    def iallgather(self, array: NDArray[Any]) -> tuple[Request, NDArray[Any]]:
        """Start to stack the ranks' arrays of equal shape; return the request and a new array,
        (size, *shape), where they will be."""

    def ialltoall(self, array: NDArray[Any]) -> tuple[Request, NDArray[Any]]:
        """Start to send `array[r]` to each rank r; return the request and a new array of the same
        shape, whose row r will be what rank r sent. ValueError unless there is a row a rank."""

    def sendrecv(
        self, array: NDArray[Any], out: NDArray[Any], other: int, source: int | None = None
    ) -> None:
        """Send `array` to a rank while `out`, of as many bytes as come, receives what `source`
        sends, by default the same rank."""

    def bcast_bytes(self, data: bytes, root: int = 0) -> bytes:
        """Return the bytes that rank `root` passed, of any length."""

    def gather_bytes(self, data: bytes, root: int = 0) -> list[bytes]:
        """Return every rank's bytes, of any lengths, on rank `root`; an empty list elsewhere."""

    def barrier(self) -> None:
        """Wait until every rank has come here."""

    def idle_barrier(self) -> None:
        """Wait until every rank has come here, and leave the cores to those that still work."""

    def depart(self, seconds: float) -> bool:
        """Tell that this rank ends its work, and wait for the others to end theirs; return whether
        they did within so many seconds."""

    @property
    def outlives_ranks(self) -> bool:
        """Whether MPI can go on without a rank that has ended."""

    def survivors(self, error: BaseException) -> tuple[Comm, list[int]] | None:
        """Return a communicator of the ranks that are left, and those that are not, where `error`
        says that one has ended and MPI can go on without it; else None. All that are left come
        here: every operation on this communicator fails from now on."""

    def abort(self, status: int) -> NoReturn:
        """End all ranks at once; the launcher returns `status`."""


def check_buffer(array: NDArray[Any]) -> None:
    """Raise ValueError unless `array` can be overwritten as one block of memory."""
    if not array.flags.c_contiguous or not array.flags.writeable:
        raise ValueError(
            f"collective: expected a writable C-contiguous array, got shape {array.shape} "
            f"with strides {array.strides}, writable {array.flags.writeable}"
        )


def check_reduction(array: NDArray[Any], op: str) -> None:
    """Raise ValueError unless `op` over `array` means the same under every MPI library."""
    check_buffer(array)
    if op not in OPS:
        raise ValueError(f"reduction: expected one of {', '.join(OPS)}, got {op!r}")
    if array.dtype.kind not in "iuf" or array.dtype.itemsize not in (1, 2, 4, 8):
        raise ValueError(f"reduction: expected integers or floats, got {array.dtype}")
    if array.dtype.name == "float16":
        raise ValueError("reduction: expected a type that MPI has, such as float32, got float16")


def check_rows(array: NDArray[Any], size: int) -> None:
    """Raise ValueError unless `array` can be sent in one row a rank."""
    check_buffer(array)
    if array.shape[:1] != (size,):
        raise ValueError(
            f"all-to-all: expected shape ({size}, ..), one row per rank, got {array.shape}"
        )


class _Done:
    """The request of an exchange that needed no exchange."""

    def wait(self) -> None:
        """Return at once."""

    def test(self) -> bool:
        """Return true."""
        return True


class SerialComm:
    """The only rank of a group of one; nothing is copied."""

    rank = 0
    size = 1
    local_rank = 0
    local_size = 1
    library = "none"
    concurrent = True
    outlives_ranks = False

    def __init__(self) -> None:
        self.journal = Journal()

    def stream(self, name: str) -> Comm:
        """Return this one."""
        return self

    def split(self, color: int, name: str) -> Comm:
        """Return this one."""
        return self

    def leaders(self) -> list[int]:
        """Return that the only rank is the first."""
        return [0]

    def ibarrier(self) -> Request:
        """Return a request that has ended."""
        return _Done()

    def bcast(self, array: NDArray[Any], root: int = 0) -> None:
        """Leave `array` as it is."""
        self._check_root(root)
        check_buffer(array)

    def allreduce(self, array: NDArray[Any], op: str = "sum") -> None:
        """Leave `array` as it is."""
        check_reduction(array, op)

    def iallreduce(self, array: NDArray[Any]) -> Request:
        """Leave `array` as it is."""
        check_reduction(array, "sum")
        return _Done()

    def allgather(self, array: NDArray[Any]) -> NDArray[Any]:
        """Return a view of `array` with a leading axis of one."""
        check_buffer(array)
        return array[None]

    def allgather_pieces(self, array: NDArray[Any], borders: Sequence[int]) -> None:
        """Do nothing: the only piece is there."""
        check_buffer(array)

    def iallgather(self, array: NDArray[Any]) -> tuple[Request, NDArray[Any]]:
        """Return a view of `array` with a leading axis of one."""
        return _Done(), self.allgather(array)

    def ialltoall(self, array: NDArray[Any]) -> tuple[Request, NDArray[Any]]:
        """Return a copy of `array`, (1, ..)."""
        check_rows(array, 1)
        return _Done(), array.copy()

    def sendrecv(
        self, array: NDArray[Any], out: NDArray[Any], other: int, source: int | None = None
    ) -> None:
        """Copy `array` to `out`."""
        self._check_root(other or source or 0)
        check_buffer(array)
        out[...] = array.reshape(out.shape)

    def bcast_bytes(self, data: bytes, root: int = 0) -> bytes:
        """Return `data`."""
        self._check_root(root)
        return data

    def gather_bytes(self, data: bytes, root: int = 0) -> list[bytes]:
        """Return `data` alone."""
        self._check_root(root)
        return [data]

    def barrier(self) -> None:
        """Return at once."""

    def idle_barrier(self) -> None:
        """Return at once."""

    def depart(self, seconds: float) -> bool:
        """Return at once."""
        return True

    def survivors(self, error: BaseException) -> tuple[Comm, list[int]] | None:
        """Return None: there is nobody else."""
        return None

    def abort(self, status: int) -> NoReturn:
        """Raise SystemExit."""
        raise SystemExit(status)

    def _check_root(self, root: int) -> None:
        if root != 0:
            raise ValueError(f"root: expected 0, the only rank, got {root}")


class UnmetComm(SerialComm):
    """A rank of several that fails before it has met the others."""

    def __init__(self, env: Mapping[str, str] = os.environ) -> None:
        super().__init__()
        self.rank = launched_rank(env)
        self.size = expected_size(env) or 1
        # srun's PMI2 has a protocol of its own; srun itself ends ranks that wait (--wait).
        self._manager = env.get("PMI_FD", "") if launcher(env) == "mpirun" else ""

    def abort(self, status: int) -> NoReturn:
        """Raise SystemExit. MPICH's launcher is told to end the job: it would leave the others
        waiting for a rank that ends before MPI_Init, whatever its status."""
        with suppress(OSError, ValueError):
            os.write(int(self._manager), b"cmd=abort exitcode=%d\n" % status)
        super().abort(status)


def connect(env: Mapping[str, str] = os.environ) -> Comm:
    """Return this process as one of the ranks; without a launcher, a SerialComm.

    UserError where no MPI library loads, and where the library sees another number of ranks than
    the launcher started: the mpirun of one MPI with the library of another would otherwise train
    as many independent models as there are ranks. The same for launchers without MPI, which are
    known by their variables. A single rank needs no MPI library.
    """
    expected = expected_size(env)
    if expected in (None, 1):
        refuse_others(env)
    if expected is None:
        return SerialComm()
    watch_parent()
    try:
        from .mpi import MpiComm
    except (ImportError, RuntimeError) as error:
        if expected == 1:
            return SerialComm()
        raise _no_library(error, expected, env) from error
    comm = MpiComm()
    if comm.size != expected:
        raise _other_library(comm, expected, env)
    return comm


def _no_library(error: Exception, expected: int, env: Mapping[str, str]) -> UserError:
    """Return what to say where mpi4py or its MPI does not load."""
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    return UserError(
        f"MPI cannot be loaded ({reason}), though the launcher started {expected} ranks: "
        "install mpi4py and the MPI that your mpirun belongs to, such as `pip install mpich`"
        + (" (then `srun --mpi=pmi2`)" if launcher(env) == "srun" else "")
    )


def _other_library(comm: Comm, expected: int, env: Mapping[str, str]) -> UserError:
    """Return what to say where the library of one MPI meets the launcher of another."""
    name = comm.library.partition(",")[0]
    return UserError(
        f"expected {expected} ranks, as the launcher started, got {comm.size} by {name}: "
        f"{way_to_meet(name, env)}"
    )
