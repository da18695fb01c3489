"""What is kept twice: flips of either are undone."""

from __future__ import annotations

import numpy as np
import pytest

from tallygrad.autograd.array import Array, array
from tallygrad.trainer.distributed.verification.corruption import Corrupted
from tallygrad.trainer.distributed.verification.sealed import FlatRegion, JoinedRegion, SealedState


def numbers(count: int) -> Array:
    return array(np.arange(1.0, count + 1, dtype=np.float32))


@pytest.fixture
def state() -> SealedState:
    """Return a sealed state: two parameters of two and three elements, and three joined arrays."""
    weights = FlatRegion(numbers(5), [0, 2], ["a", "b"])
    joined = JoinedRegion([numbers(1), numbers(0), numbers(3)], ["velocity"])
    state = SealedState(3, [weights, joined])
    state.seal()
    return state


def arrays(state: SealedState) -> list[Array]:
    weights, joined = state.regions
    assert isinstance(weights, FlatRegion) and isinstance(joined, JoinedRegion)
    return [weights.array, *joined.arrays]


@pytest.mark.parametrize(("which", "index", "number"), [(0, 1, 0), (0, 4, 1), (1, 0, 2), (3, 2, 2)])
def test_a_change_is_undone_and_named(
    state: SealedState, which: int, index: int, number: int
) -> None:
    before = [a.value.copy() for a in arrays(state)]
    assert state.names == ["a", "b", "velocity"] and state.mend() == -1
    arrays(state)[which].value[index] = -7.0
    assert state.mend() == number
    for a, value in zip(arrays(state), before, strict=True):
        assert np.array_equal(a.value, value)
    assert state.mend() == -1


def test_a_change_of_the_copy_is_undone(state: SealedState) -> None:
    state.copies[0][3] = -7.0
    assert state.mend() == -1
    arrays(state)[0].value[3] = 0.0
    state.restore()
    assert arrays(state)[0].value[3] == 4.0


def test_a_change_of_both_ends_the_run(state: SealedState) -> None:
    state.copies[1][0] ^= 1
    arrays(state)[1].value[0] = 0.0
    with pytest.raises(Corrupted, match="rank 3: the copy of velocity changed"):
        state.mend()
    with pytest.raises(Corrupted, match="rank 3: the copy of velocity changed"):
        state.restore()


def test_what_is_kept_counts_not_what_is_there(state: SealedState) -> None:
    """A bit that flips after the digest was taken is seen."""
    copies = state.copy()
    found = state.digests(copies)
    arrays(state)[0].value[0] = 0.0
    state.keep(copies, found)
    assert state.mend() == 0 and arrays(state)[0].value[0] == 1.0
    state.drop()
    assert not state.is_sealed
