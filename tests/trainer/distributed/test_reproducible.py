"""Sums in a fixed order: the tree of micro-batches, whoever owns them."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from tallygrad.datasets.sampler import owned
from tallygrad.trainer.distributed.reproducible import fold, merges

# The additions themselves: (a, b) stands for a + b, in a list that `add` can overwrite.
Sum = list[Any]


def add(a: Sum, b: Sum) -> None:
    a[:] = [(a[0], b[0])]


SHARED = st.integers(1, 40).flatmap(lambda n: st.tuples(st.just(n), st.integers(1, n)))


def test_the_tree_of_six() -> None:
    assert fold([[i] for i in range(6)], add) == [(((0, 1), 2), ((3, 4), 5))]
    assert merges(6) == [0, 1, 1, 0, 1, 2]
    assert [owned(6, rank, 4) for rank in range(4)] == [(0, 2), (2, 3), (3, 5), (5, 6)]


@given(SHARED)
def test_ranks_add_within_themselves_first_and_get_the_same_tree(sizes: tuple[int, int]) -> None:
    parts, ranks = sizes
    mine = [range(*owned(parts, rank, ranks)) for rank in range(ranks)]
    assert [part for own in mine for part in own] == list(range(parts))
    assert all(mine)
    sums = [fold([[part] for part in own], add) for own in mine]
    assert fold(sums, add) == fold([[part] for part in range(parts)], add)


@given(st.integers(1, 40))
def test_values_that_come_one_by_one_are_added_along_the_tree(count: int) -> None:
    aside: list[Sum] = []
    for part, completed in enumerate(merges(count)):
        value: Sum = [part]
        for _ in range(completed):
            left = aside.pop()
            add(left, value)
            value = left
        aside.append(value)
    assert aside == [fold([[part] for part in range(count)], add)]


ORDER = """
import numpy as np
from tallygrad.trainer.distributed.comm import connect
from tallygrad.trainer.distributed.sync import Reducer

comm = connect()
values = np.array([1e8, 1.0, -1e8, 3.0], np.float32)[: comm.size]
cuts = [0, 0, 1, 8, 9]
x = np.full(9, values[comm.rank]) + np.arange(9, dtype=np.float32) * (comm.rank == 3)
reducer = Reducer(comm, fixed=True)
for a, b in zip(cuts, cuts[1:]):
    reducer.start(x[a:b])
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


def test_ranks_are_added_in_order(mpirun: Any) -> None:
    """1e8 + 1 loses the 1 in float32, 1e8 - 1e8 does not: another order gives another sum."""
    for ranks in (3, 4):
        done = mpirun(ranks, ORDER)
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("fine") == ranks
