"""Memory that the ranks of a node share. It has no name in a file system: nothing of it stays when
they end, however they do, and the size of /dev/shm is no limit."""

from __future__ import annotations

import mmap
import os
import secrets
from contextlib import suppress
from typing import Any

import numpy as np

from ...autograd.array import NDArray
from .comm import Comm

TOKEN = 16  # bytes that tell a rank's memory from a file that has its number elsewhere


def node_memory(comm: Comm, size: int) -> list[NDArray] | None:
    """Return `size` bytes of each rank, zeros, which all ranks can read and write; they must be on
    one node, and all must call this. What a rank writes before a barrier, the others see after it.
    None on every rank where the system does not let them share: they need one namespace of
    processes, and one user."""
    token = np.array([*secrets.token_bytes(TOKEN)], np.uint8)
    own = _create(max(size, TOKEN), token)
    places = comm.allgather(np.array([os.getpid(), -1 if own is None else own], np.int64))
    tokens = comm.allgather(token)
    pairs = zip(places.tolist(), tokens, strict=True)
    found = [_map(process, file, token) for (process, file), token in pairs]
    complete = np.array(all(memory is not None for memory in found), np.int64)
    comm.allreduce(complete, "min")  # also: all have mapped what they need
    if own is not None:
        os.close(own)
    if not complete:
        return None
    memories = [memory for memory in found if memory is not None]
    memories[comm.rank][:TOKEN] = 0
    comm.barrier()
    return [memory[:size] for memory in memories]


def _create(size: int, token: NDArray) -> int | None:
    """Return a file descriptor of new memory that begins with the token."""
    if not hasattr(os, "memfd_create"):
        return None
    with suppress(OSError):
        file = os.memfd_create("tallygrad")
        os.truncate(file, size)
        os.write(file, token.tobytes())
        return file
    return None


def _map(process: int, file: int, token: NDArray) -> NDArray | None:
    """Return the memory of another rank, in whose `process` it has the descriptor `file`; None
    where it cannot be had."""
    with suppress(OSError, ValueError):
        path = f"/proc/{process}/fd/{file}"
        opened = os.open(path, os.O_RDWR)
        try:
            memory: Any = mmap.mmap(opened, 0)
        finally:
            os.close(opened)
        found = np.frombuffer(memory, np.uint8)
        return found if np.array_equal(found[:TOKEN], token) else None
    return None
