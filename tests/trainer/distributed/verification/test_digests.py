"""Digests: they change with any bit, and arrive alike on all ranks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tallygrad.trainer.distributed.comm import SerialComm
from tallygrad.trainer.distributed.verification.digests import digest, digests, gather, same_bits


@pytest.mark.parametrize("borders", [[7, 49], [8, 48], [1, 2]])
@pytest.mark.parametrize("dtype", ["uint8", "float32", "float64"])
def test_a_digest_changes_with_any_single_bit(dtype: str, borders: list[int]) -> None:
    """Whether or not parts consist of whole words; so does whether two arrays are the same."""
    for count in (50, 51, 56):
        x = (100 * np.random.default_rng(0).standard_normal(count)).astype(dtype)
        words, copy = x.view(f"u{x.itemsize}"), x.copy()
        before = digests(x, [0, *borders])
        assert same_bits(x, copy)
        for index in range(count):
            for bit in range(8 * x.itemsize):
                words[index] ^= words.dtype.type(1 << bit)
                part = int(np.searchsorted(borders, index, side="right"))
                assert np.flatnonzero(digests(x, [0, *borders]) != before).tolist() == [part]
                assert not same_bits(x, copy)
                words[index] ^= words.dtype.type(1 << bit)


def test_zeros_of_either_sign_are_not_the_same_bits_and_not_a_number_is() -> None:
    zeros = np.zeros(4, np.float32)
    assert not same_bits(zeros, -zeros) and same_bits(zeros / 1, zeros)
    assert same_bits(np.full(3, np.nan), np.full(3, np.nan))


def test_a_part_without_elements_has_an_empty_digest() -> None:
    assert digests(np.ones(3, np.float32), [0, 2, 3, 3])[2:].tolist() == [0, 0]
    assert digests(np.ones(0, np.float32), []).tolist() == []
    assert digest(np.ones((2, 0))).tolist() == [0]


class Script(SerialComm):
    """One of three ranks, whose collectives return what is prepared, as a rank sees it."""

    def __init__(self, answers: list[Any], rank: int = 0) -> None:
        super().__init__()
        self.rank, self.size, self.answers = rank, 3, answers

    def allgather(self, array: Any) -> Any:
        answer = self.answers.pop(0)
        return answer(array) if callable(answer) else answer


TRUE = np.arange(6, dtype=np.uint64).reshape(3, 2)


def everybody(votes: Any) -> Any:
    return np.stack([votes] * 3)


def test_rows_that_arrive_alike_cost_no_more() -> None:
    comm = Script([TRUE.copy(), everybody])
    assert gather(comm, TRUE[0], pytest.fail).tolist() == TRUE.tolist()


def test_the_own_row_is_not_taken_from_a_message() -> None:
    wrong = TRUE.copy()
    wrong[0, 1] ^= np.uint64(8)
    assert gather(Script([wrong, everybody]), TRUE[0], pytest.fail).tolist() == TRUE.tolist()


def test_one_flipped_vote_is_outvoted() -> None:
    def flipped(votes: Any) -> Any:
        answer = everybody(votes)
        answer[1, 2] ^= np.uint64(4)
        return answer

    assert gather(Script([TRUE.copy(), flipped]), TRUE[0], pytest.fail).tolist() == TRUE.tolist()


@pytest.mark.parametrize("rank", range(3))
def test_a_row_that_arrives_wrongly_is_found_by_all_and_replaced(rank: int) -> None:
    """On the rank that has it wrong, and on the others: the same rows and the same line."""
    received = np.stack([TRUE, TRUE, TRUE])
    received[rank, (rank + 1) % 3, 1] ^= np.uint64(8)
    votes = np.stack([digest(rows).repeat(3) for rows in received])
    for own in range(3):
        told: list[str] = []
        comm = Script([received[own].copy(), votes, received], own)
        rows = gather(comm, TRUE[own], told.append)
        assert rows.tolist() == TRUE.tolist()
        assert told == [f"rank {rank}: wrong digests received"]
