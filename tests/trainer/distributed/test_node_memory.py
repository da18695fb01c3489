"""Memory that the ranks of a node share: zeros, seen by all, and nothing stays of it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tallygrad.trainer.distributed import node_memory as module
from tallygrad.trainer.distributed.comm import SerialComm
from tallygrad.trainer.distributed.node_memory import node_memory

WRITE = """
import os
from tallygrad.trainer.distributed.comm import connect
from tallygrad.trainer.distributed.failures.guard import guard
from tallygrad.trainer.distributed.node_memory import node_memory

comm = connect()
with guard(comm):
    memories = node_memory(comm, 10_000)
    assert [(m.size, int(m.sum())) for m in memories] == [(10_000, 0)] * comm.size
    comm.barrier()
    for place, memory in enumerate(memories):  # each rank writes an element of every rank's
        memory[comm.rank] = 10 * place + comm.rank + 1
    comm.barrier()
    for place, memory in enumerate(memories):
        assert memory[: comm.size].tolist() == [10 * place + r + 1 for r in range(comm.size)]
        assert not memory[comm.size :].any()
    # A rank without any: no rank goes on as if it were there.
    if comm.rank == 1:
        del os.memfd_create
    assert node_memory(comm, 10) is None
print("fine\\n", end="")
"""


@pytest.mark.parametrize("ranks", [2, pytest.param(5, marks=pytest.mark.slow)])
def test_ranks_write_to_each_others_memory(mpirun: Any, ranks: int) -> None:
    done = mpirun(ranks, WRITE, timeout=200)
    assert done.stdout.count("fine") == ranks, done.stderr


def test_a_single_rank_has_its_own_even_a_little() -> None:
    for size in (0, 1, 5000):
        memories = node_memory(SerialComm(), size)
        assert memories is not None
        assert [m.tolist() for m in memories] == [[0] * size]


def test_what_has_the_number_of_a_descriptor_elsewhere_is_not_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "other"
    other.write_bytes(bytes(100))
    with other.open("rb+") as file:
        monkeypatch.setattr(module, "_create", lambda size, token: os.dup(file.fileno()))
        assert node_memory(SerialComm(), 100) is None
    assert other.read_bytes() == bytes(100)


def test_systems_without_such_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "memfd_create")
    assert node_memory(SerialComm(), 100) is None


def test_memory_ends_with_its_arrays() -> None:
    def held() -> tuple[int, int]:
        maps = Path("/proc/self/maps").read_text()
        return maps.count("memfd:tallygrad"), len(os.listdir("/proc/self/fd"))

    before = held()
    memories = node_memory(SerialComm(), 1 << 20)
    assert memories is not None and held()[0] == before[0] + 1
    part: np.ndarray | None = memories[0][:10]
    del memories
    assert part is not None and held()[0] == before[0] + 1
    del part
    assert held() == before
