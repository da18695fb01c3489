"""The exchange: one order of additions, whatever drives it, and whoever has nothing to add."""

from __future__ import annotations

from typing import Any

import pytest

from tallygrad.trainer.distributed.exchange import OVERLAPS

ORDER = """
import sys
import numpy as np
from tallygrad.trainer.distributed.comm import connect
from tallygrad.trainer.distributed.exchange import Reducer

comm = connect()
values = np.array([1e8, 1.0, -1e8, 3.0], np.float32)[: comm.size]
cuts = [0, 0, 1, 8, 9]
x = np.full(9, values[comm.rank]) + np.arange(9, dtype=np.float32) * (comm.rank == 3)
reducer = Reducer(comm, parts=comm.size, overlap=sys.argv[1])
for a, b in zip(cuts, cuts[1:]):
    reducer.start(x[a:b])
    reducer.poll()
square = np.full((2, 3), values[comm.rank])
reducer.start(square)
reducer.wait()
v = [*values, 0, 0]
known = np.float32(np.float32(v[0] + v[1]) + v[2]) if comm.size == 3 else \\
    np.float32(v[0] + v[1]) + np.float32(v[2] + np.float32(v[3] + np.arange(9, dtype=np.float32)))
assert np.array_equal(x, np.broadcast_to(known, 9)), (x, known)
assert np.array_equal(square, np.full((2, 3), np.ravel(known)[0]))
print("fine\\n", end="")
"""


@pytest.mark.parametrize("overlap", OVERLAPS)
def test_ranks_are_added_in_order(mpirun: Any, overlap: str) -> None:
    """1e8 + 1 loses the 1 in float32, 1e8 - 1e8 does not: another order gives another sum."""
    for ranks in (3, 4):
        done = mpirun(ranks, ORDER, overlap)
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("fine") == ranks


FEWER = """
import sys
import numpy as np
from tallygrad.trainer.distributed.comm import connect
from tallygrad.trainer.distributed.exchange import Reducer
from tallygrad.trainer.distributed.reproducible import owners

comm = connect()
parts = int(sys.argv[1])
reducer = Reducer(comm, parts, overlap=sys.argv[2])
idle = comm.rank not in owners(parts, comm.size)
x = np.full(7, np.nan if idle else -0.0, np.float32)
reducer.start(x)
reducer.wait()
assert np.signbit(x).all() and not x.any(), x
print("fine\\n", end="")
"""


@pytest.mark.parametrize(("ranks", "parts"), [(2, 1), (3, 2), (4, 3)])
def test_ranks_without_micro_batches_add_nothing(mpirun: Any, ranks: int, parts: int) -> None:
    """Not even zeros, which would turn -0.0 into 0.0."""
    done = mpirun(ranks, FEWER, str(parts), "poll")
    assert done.stdout.count("fine") == ranks, done.stderr
