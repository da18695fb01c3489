"""Copies of a run's state in the memory of two hosts, which outlive its processes.

A copy has what a checkpoint has (`packed`), under /dev/shm of rank 0's host and of a partner: the
first rank on another host. The run folder's `copies.json` has the name of their folder, and all
hosts that may have one. They are kept between the checkpoints on disk: only what is newer than
those is ever read.
"""

from __future__ import annotations

import os
import shutil
import socket
import uuid
from pathlib import Path

import numpy as np

from ...launch.copies import RECORD, Record
from ...launch.reap import MEMORY
from ..distributed.comm import Comm
from ..errors import UserError, warn
from ..files import collect_temporaries, user_errors
from . import checkpoint, packed
from .checkpoint import CheckpointFolder
from .logs import RunFolder

KEPT = 2  # newest copies on each host
RESERVED = 16 << 20  # bytes that are left free: MPI needs this memory too


class MemoryCopies:
    """The copies of a run. All ranks come to its methods together."""

    def __init__(self, comm: Comm, folder: RunFolder, every: int) -> None:
        self.comm, self.run, self.every = comm, folder, every
        self.name = ""
        self.partner = -1
        self._lost: list[str] = []  # hosts that may have copies, and no ranks; on rank 0
        self._warned = False

    @property
    def folder(self) -> Path:
        """Where this host has its copies."""
        return MEMORY / self.name

    def open(self, step: int, goes_on: bool) -> None:
        """Settle the name, that of the run before where this one `goes_on` from its newest state,
        and the partner; put the step on record, from which this run begins."""
        before = _recorded(self.run.path) if self.comm.rank == 0 and goes_on else Record()
        hosts = [host.decode() for host in self.comm.gather_bytes(_host())]
        name = before.name
        if self.every:
            name = name or f"tallygrad-{uuid.uuid4().hex}"
            self.partner = self._choose_partner(hosts)
        self.name = self.comm.bcast_bytes(name.encode()).decode()
        self._lost = sorted({*before.hosts, *before.left} - {*hosts})
        if self.name:
            record = Record(self.name, step, hosts=(*sorted({*hosts, *self._lost}),))
            self.run.write_json(RECORD, record.to_json())
        elif self.run.writes:  # copies of another beginning may be of later steps
            (self.run.path / RECORD).unlink(missing_ok=True)

    def store(self, step: int, data: memoryview | None) -> None:
        """Keep packed bytes, which rank 0 has, here and at the partner's."""
        if self.comm.rank == 0:
            assert data is not None
            self._keep(step, data)
        if self.partner < 0:
            return
        size = np.array(len(data) if data is not None else 0)
        self.comm.bcast(size)
        nothing = np.empty(0, np.uint8)
        if self.comm.rank == 0:
            image = np.frombuffer(data or b"", np.uint8)
            self.comm.sendrecv(image, nothing, self.partner)
        elif self.comm.rank == self.partner:
            image = np.empty(int(size), np.uint8)
            self.comm.sendrecv(nothing, image, 0)
            self._keep(step, image.data)

    def remove(self) -> None:
        """Remove the copies of this job's hosts, and their record unless other hosts may have some:
        then it names these as `left`, for whoever reaches them."""
        if not self.name:
            return
        shutil.rmtree(self.folder, ignore_errors=True)
        if self._lost:
            self.run.write_json(RECORD, Record(self.name, left=(*self._lost,)).to_json())
        elif self.run.writes:
            (self.run.path / RECORD).unlink(missing_ok=True)

    def _choose_partner(self, hosts: list[str]) -> int:
        """Return the first rank on another host than rank 0's, -1 where there is none. Rank 0 has
        the hosts of all."""
        others = [rank for rank, host in enumerate(hosts) if host != hosts[0]]
        return int(self.comm.bcast_bytes(str(others[0] if others else -1).encode()))

    def _keep(self, step: int, data: memoryview) -> None:
        """Write a copy, and remove old ones before that. Where it does not fit, warn, once."""
        try:
            _write(self.folder, step, data)
        except UserError as error:
            if not self._warned:
                warn(f"no copy in memory of step {step}: {error}; checkpoints on disk go on")
            self._warned = True


def newer_in_memory(comm: Comm, out: Path) -> Path | None:
    """Return the newest valid copy of the run in `out`, None where a checkpoint on disk is as new.

    Whichever host has it, afterwards each has it, under the same path. All ranks call it."""
    name = comm.bcast_bytes(_recorded(out).name.encode() if comm.rank == 0 else b"").decode()
    if not name:
        return None
    mine = _newest(MEMORY / name) if comm.local_rank == 0 else None
    steps = comm.allgather(np.array(mine[0] if mine else -1))
    owner = int(steps.argmax())
    step = int(steps[owner])
    on_disk = comm.rank == 0 and CheckpointFolder(out / "checkpoints").has_since(step)
    data = b""
    if comm.rank == owner and mine:
        data = mine[1].read_bytes()
    if step < 0 or comm.bcast_bytes(b"disk" if on_disk else b""):
        return None
    if not _spread(comm, name, step, comm.bcast_bytes(data, owner)):
        return None
    host = comm.bcast_bytes(_host(), owner).decode()
    if comm.rank == 0:
        warn(f"{out}: step {step} comes from the memory of {host}")
    return _path(MEMORY / name, step)


def _spread(comm: Comm, name: str, step: int, data: bytes) -> bool:
    """Give each host a copy; tell whether all could take it."""
    fits = np.array(1)
    if comm.local_rank == 0 and not _path(MEMORY / name, step).exists():
        try:
            _write(MEMORY / name, step, memoryview(data))
        except UserError as error:
            warn(f"no copy in memory of step {step}: {error}")
            fits[...] = 0
    comm.allreduce(fits, "min")
    return bool(fits)


def _write(folder: Path, step: int, data: memoryview) -> None:
    """Write a copy beside `KEPT` - 1 others. UserError where memory has not that much room."""
    with user_errors(folder):
        folder.mkdir(mode=0o700, exist_ok=True)
        collect_temporaries(folder)
        for _, old in _steps(folder)[KEPT - 1 :]:
            old.unlink(missing_ok=True)
        state = os.statvfs(folder)
    free = state.f_bavail * state.f_frsize
    needed = len(data) + RESERVED
    if free < needed:
        raise UserError(f"{MEMORY}: expected {needed / 1e6:.0f} MB free, got {free / 1e6:.0f} MB")
    checkpoint.write(_path(folder, step), data)


def _newest(folder: Path) -> tuple[int, Path] | None:
    """Return the newest copy of this host that verifies, and its step."""
    for step, path in _steps(folder):
        try:
            packed.verify(path)
            return step, path
        except UserError as error:
            warn(f"copy in memory skipped: {error}")
    return None


def _steps(folder: Path) -> list[tuple[int, Path]]:
    """Return the steps and the files of this host's copies, the newest first."""
    names = ((path.stem.removeprefix("step-"), path) for path in folder.glob(f"*{packed.SUFFIX}"))
    return sorted(((int(n), p) for n, p in names if n.isdecimal()), reverse=True)


def _path(folder: Path, step: int) -> Path:
    return folder / f"step-{step:08d}{packed.SUFFIX}"


def _recorded(out: Path) -> Record:
    return Record.of(RunFolder(out, writes=False).read_json(RECORD))


def _host() -> bytes:
    return socket.gethostname().encode()
