"""The ranks of an MPI job. Importing this module initialises MPI: see `comm.connect`. A rank that
lacks NumPy can import it too, to end the others."""

from __future__ import annotations

import os
import time
import weakref
from collections.abc import Sequence
from contextlib import suppress
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NoReturn

from mpi4py import MPI

from ..threads import HostCores
from .comm import Comm, Request, SerialComm, check_buffer, check_reduction, check_rows
from .journal import MAIN, Call, Journal

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_OPS = {"sum": MPI.SUM, "max": MPI.MAX, "min": MPI.MIN}


# Set by `mpirun --with-ft ulfm` of Open MPI.
FAULT_TOLERANCE = "OMPI_MCA_mpi_ft_enable"
DRAINING = 1.0  # seconds for an exchange to fail after its communicator was revoked
EXCHANGED, GATHERED = 0, 1  # tags of messages
NAP = 5e-5  # seconds between looks at an exchange, where ranks share cores
IDLE_NAP = 1e-3  # seconds between looks at a wait that may be long


class MpiRequest:
    """An exchange in flight."""

    def __init__(self, request: MPI.Request, call: Call, naps: bool) -> None:
        self._request, self._call, self._naps = request, call, naps
        self.waiting = False  # a thread is in `wait`

    def wait(self) -> None:
        """Block until the arrays hold the result."""
        self.waiting = True
        try:
            with self._call:
                _await(self._request, self._naps)
        finally:
            self.waiting = False

    def test(self) -> bool:
        """Drive the exchange a little; true once the arrays hold the result."""
        ended = self._request.Test()
        if ended:
            self._call.polled()
        return ended


class MpiComm:
    """A communicator of mpi4py in buffer mode; by default all ranks of the job.

    One that `naps` leaves its core to other ranks while it waits, where MPI would look at full
    speed; by default all do if any host has more ranks than cores that these may use."""

    def __init__(
        self,
        group: MPI.Intracomm = MPI.COMM_WORLD,
        journal: Journal | None = None,
        stream: str = MAIN,
        naps: bool | None = None,
    ) -> None:
        self._group, self._stream = group, stream
        self.journal = journal or Journal()
        self._streams: dict[str, MpiComm] = {}
        self._requests: weakref.WeakSet[MpiRequest] = weakref.WeakSet()  # begun and perhaps ended
        self.rank = group.Get_rank()
        self.size = group.Get_size()
        node = group.Split_type(MPI.COMM_TYPE_SHARED)  # a collective: all ranks are here
        self.local_rank = node.Get_rank()
        self.local_size = node.Get_size()
        if naps is None:  # all ranks alike: a blocking collective would not meet another kind
            usable = set[int]().union(*node.allgather(os.sched_getaffinity(0)))
            cores = min(len(usable), HostCores.here(os.environ).cores)
            naps = group.allreduce(self.local_size > cores, MPI.LOR)
        node.Free()
        self._naps = naps
        # Its own group: a rank may leave while others are in a collective.
        self._leaving = group.Dup()

    def stream(self, name: str) -> MpiComm:
        """Return a communicator of the same ranks whose collectives have an order of their own."""
        if name not in self._streams:
            with self.journal.collective(self._stream, "stream"):
                self._streams[name] = MpiComm(self._group.Dup(), self.journal, name, self._naps)
        return self._streams[name]

    def split(self, color: int, name: str) -> Comm:
        """Return a communicator of the ranks that pass the same number."""
        with self.journal.collective(self._stream, "split"):
            group = MPI.Intracomm(self._group.Split(color, self.rank))
            if group.Get_size() == 1:
                return SerialComm()
            # Among the streams, to be revoked with this one.
            self._streams[name] = MpiComm(group, self.journal, name, naps=self._naps)
        return self._streams[name]

    def leaders(self) -> list[int]:
        """Return for each rank the first rank of its node."""
        import numpy as np

        first = np.array(self.rank, np.int64)
        with self.journal.collective(self._stream, "leaders"):
            node = self._group.Split_type(MPI.COMM_TYPE_SHARED)
            node.Bcast(first, 0)
            node.Free()
        return [int(rank) for rank in self.allgather(first)]

    def ibarrier(self) -> Request:
        """Tell that this rank has come here; the request ends once all have."""
        call = self.journal.collective(self._stream, "ibarrier")
        return self._begun(MpiRequest(self._group.Ibarrier(), call, self._naps))

    @property
    def concurrent(self) -> bool:
        """Whether MPI lets threads call it at the same time; a library may be built without."""
        return MPI.Query_thread() >= MPI.THREAD_MULTIPLE

    @property
    def library(self) -> str:
        """First line of the MPI library's version."""
        return " ".join(MPI.Get_library_version().splitlines()[0].strip("\0").split())

    def bcast(self, array: NDArray[Any], root: int = 0) -> None:
        """Overwrite `array` with that of rank `root`."""
        check_buffer(array)
        with self.journal.collective(self._stream, "bcast", array):
            self._complete("Bcast", _bytes_of(array), root)

    def allreduce(self, array: NDArray[Any], op: str = "sum") -> None:
        """Overwrite `array` with its elementwise sum, max or min over the ranks."""
        check_reduction(array, op)
        with self.journal.collective(self._stream, "allreduce", array):
            self._complete("Allreduce", MPI.IN_PLACE, array, _OPS[op])

    def iallreduce(self, array: NDArray[Any]) -> Request:
        """Start to overwrite `array` with its sum over the ranks."""
        check_reduction(array, "sum")
        call = self.journal.collective(self._stream, "iallreduce", array)
        request = self._group.Iallreduce(MPI.IN_PLACE, array, MPI.SUM)
        return self._begun(MpiRequest(request, call, self._naps))

    def allgather(self, array: NDArray[Any]) -> NDArray[Any]:
        """Stack the ranks' arrays of equal shape: (size, *shape)."""
        import numpy as np

        check_buffer(array)
        out = np.empty((self.size, *array.shape), array.dtype)
        with self.journal.collective(self._stream, "allgather", array):
            self._complete("Allgather", _bytes_of(array), _bytes_of(out))
        return out

    def allgather_pieces(self, array: NDArray[Any], borders: Sequence[int]) -> None:
        """Overwrite each rank's piece of `array` (n,), which lies between two of the `borders`,
        with that of the rank."""
        check_buffer(array)
        # Of elements of any size, so that counts stay small.
        kind = MPI.BYTE.Create_contiguous(array.itemsize).Commit()
        counts = [stop - start for start, stop in pairwise(borders)]
        whole = [_bytes_of(array), counts, [*borders[:-1]], kind]
        with self.journal.collective(self._stream, "allgather", array):
            self._complete("Allgatherv", MPI.IN_PLACE, whole)
        kind.Free()

    def iallgather(self, array: NDArray[Any]) -> tuple[Request, NDArray[Any]]:
        """Start to stack the ranks' arrays of equal shape; return the request and a new array,
        (size, *shape), where they will be."""
        import numpy as np

        check_buffer(array)
        out = np.empty((self.size, *array.shape), array.dtype)
        call = self.journal.collective(self._stream, "iallgather", array)
        request = self._group.Iallgather(_bytes_of(array), _bytes_of(out))
        return self._begun(MpiRequest(request, call, self._naps)), out

    def ialltoall(self, array: NDArray[Any]) -> tuple[Request, NDArray[Any]]:
        """Start to send `array[r]` to each rank r; return the request and a new array of the same
        shape, whose row r will be what rank r sent."""
        import numpy as np

        check_rows(array, self.size)
        out = np.empty_like(array)
        call = self.journal.collective(self._stream, "ialltoall", array)
        request = self._group.Ialltoall(_bytes_of(array), _bytes_of(out))
        return self._begun(MpiRequest(request, call, self._naps)), out

    def _begun(self, request: MpiRequest) -> MpiRequest:
        self._requests.add(request)
        return request

    def sendrecv(
        self, array: NDArray[Any], out: NDArray[Any], other: int, source: int | None = None
    ) -> None:
        """Send `array` to a rank while `out`, of as many bytes as come, receives what `source`
        sends, by default the same rank."""
        check_buffer(array)
        check_buffer(out)
        with self.journal.message("sendrecv", array):
            source = other if source is None else source
            coming = self._group.Irecv(_bytes_of(out), source, EXCHANGED)
            going = self._group.Isend(_bytes_of(array), other, EXCHANGED)
            for request in (going, coming):
                _await(request, self._naps)

    def bcast_bytes(self, data: bytes, root: int = 0) -> bytes:
        """Return the bytes that rank `root` passed, of any length."""
        import numpy as np

        length = np.array(len(data), np.int64)
        self.bcast(length, root)
        buffer = np.empty(int(length), np.uint8)
        if self.rank == root:
            buffer[:] = np.frombuffer(data, np.uint8)
        self.bcast(buffer, root)
        return buffer.tobytes()

    def gather_bytes(self, data: bytes, root: int = 0) -> list[bytes]:
        """Return every rank's bytes, of any lengths, on rank `root`; an empty list elsewhere."""
        with self.journal.collective(self._stream, "gather", len(data)):
            if self.rank != root:  # as messages: nobody but the root waits
                _await(self._group.Isend([data, MPI.BYTE], root, GATHERED), self._naps)
                return []
            return [data if r == root else self._receive(r) for r in range(self.size)]

    def _receive(self, source: int) -> bytes:
        """Return a message of `gather_bytes`, of whatever length."""
        status = MPI.Status()
        probe = self._group.Improbe if self._naps else self._group.Mprobe
        while (message := probe(source, GATHERED, status)) is None:
            time.sleep(NAP)
        out = bytearray(status.Get_count(MPI.BYTE))
        _await(message.Irecv([out, MPI.BYTE]), self._naps)
        return bytes(out)

    def barrier(self) -> None:
        """Wait until every rank has come here."""
        with self.journal.collective(self._stream, "barrier"):
            self._complete("Barrier")

    def idle_barrier(self) -> None:
        """Wait until every rank has come here, and leave the cores to those that still work."""
        with self.journal.collective(self._stream, "barrier"):
            _nap_until(self._group.Ibarrier(), IDLE_NAP)

    def depart(self, seconds: float) -> bool:
        """Tell that this rank ends its work, and wait for the others to end theirs; return whether
        they did within so many seconds."""
        # Not a plain barrier: it cannot be given up, and most libraries wait in it at full speed,
        # which takes a core from ranks that still work.
        with self.journal.collective("departure", "depart"):
            end, request = time.monotonic() + seconds, self._leaving.Ibarrier()
            while not request.Test():
                if time.monotonic() > end:
                    return False
                time.sleep(IDLE_NAP)
        return True

    @property
    def outlives_ranks(self) -> bool:
        """Whether MPI can go on without a rank that has ended (ULFM, Bland et al. 2013)."""
        return os.environ.get(FAULT_TOLERANCE) == "1" and hasattr(self._group, "Shrink")

    def survivors(self, error: BaseException) -> tuple[MpiComm, list[int]] | None:
        """Return a communicator of the ranks that are left, and those that are not, where `error`
        says that one has ended and MPI can go on without it; else None."""
        if not isinstance(error, MPI.Exception) or not self.outlives_ranks:
            return None
        self._revoke()
        # The revoked communicators stay: to free one is a collective, and ranks of it have ended.
        group = self._group
        with self.journal.collective("shrinking", "shrink"):
            while True:
                try:
                    group = MPI.Intracomm(group.Shrink())
                    lost = self._lacking(group)
                    return (MpiComm(group), lost) if lost else None
                except MPI.Exception:  # another has ended meanwhile
                    group.Revoke()

    def _lacking(self, other: MPI.Intracomm) -> list[int]:
        """Return the ranks of this communicator that are not in another one."""
        whole, left = self._group.Get_group(), other.Get_group()
        theirs = left.Translate_ranks(range(left.Get_size()), whole)
        whole.Free()
        left.Free()
        return sorted({*range(self.size)} - {*theirs})

    def _revoke(self) -> None:
        """Make all operations fail, here and on the other ranks, and wait until none of this rank's
        is in flight: MPI may write to their arrays until then."""
        for group in (self._group, self._leaving):
            with suppress(MPI.Exception):
                group.Revoke()
        for stream in self._streams.values():
            stream._revoke()
        end = time.monotonic() + DRAINING
        for request in list(self._requests):
            with suppress(MPI.Exception):
                # No two threads may complete a request.
                while (request.waiting or not request.test()) and time.monotonic() < end:
                    time.sleep(IDLE_NAP)

    def _complete(self, name: str, *arguments: Any) -> None:
        """Run a blocking collective of mpi4py to its end."""
        if self._naps:
            _nap_until(getattr(self._group, f"I{name.lower()}")(*arguments))
        else:
            getattr(self._group, name)(*arguments)

    def abort(self, status: int) -> NoReturn:
        """End all ranks of the job at once; the launcher returns `status`."""
        MPI.COMM_WORLD.Abort(status)
        os._exit(status)  # in case Abort returns


def _await(request: MPI.Request, naps: bool) -> None:
    """Return once a request has ended."""
    if naps:
        _nap_until(request)
    else:
        request.Wait()


def _nap_until(request: MPI.Request, nap: float = NAP) -> None:
    """Return once a request has ended; leave the core to others meanwhile."""
    while not request.Test():
        time.sleep(nap)


def _bytes_of(array: NDArray[Any]) -> NDArray[np.uint8]:
    # Copies need no arithmetic, so bytes also carry the types that MPI lacks.
    return array.reshape(-1).view("u1")
