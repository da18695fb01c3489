"""Sums in a fixed order: the tree of micro-batches, whoever owns them."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from tallygrad.datasets.sampler import owned
from tallygrad.trainer.distributed.reproducible import fold, merges, owners

# The additions themselves: (a, b) stands for a + b, in a list that `add` can overwrite.
Sum = list[Any]


def add(a: Sum, b: Sum) -> None:
    a[:] = [(a[0], b[0])]


SHARED = st.tuples(st.integers(1, 40), st.integers(1, 60))


def test_the_tree_of_six() -> None:
    assert fold([[i] for i in range(6)], add) == [(((0, 1), 2), ((3, 4), 5))]
    assert merges(6) == [0, 1, 1, 0, 1, 2]
    assert [owned(6, rank, 4) for rank in range(4)] == [(0, 2), (2, 3), (3, 5), (5, 6)]


@given(SHARED)
def test_ranks_add_within_themselves_first_and_get_the_same_tree(sizes: tuple[int, int]) -> None:
    parts, ranks = sizes
    mine = [range(*owned(parts, rank, ranks)) for rank in range(ranks)]
    assert [part for own in mine for part in own] == list(range(parts))
    busy = [own for own in mine if own]
    assert owners(parts, ranks) == [rank for rank, own in enumerate(mine) if own]
    assert len(busy) == min(parts, ranks)
    sums = [fold([[part] for part in own], add) for own in busy]
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
