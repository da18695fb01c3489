"""Silent corruption: a processor, a memory or a network that gives a wrong number without an error.

Since the bits of a step depend on nothing but its inputs, a step that is done twice must give the
same bits, and a difference is a fault of hardware. In a verified step each rank computes the share
of its neighbour too, and the sums over the ranks are formed from both; what differs tells which
rank and which parameter are at fault. The step is then done again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ...autograd.nn.flat import FlatParameters
from ..errors import UserError
from .comm import Comm
from .exchange import Reducer, piece

ATTEMPTS = 5  # times that a step is done before the run ends
FIGURES = "loss and metrics"

Digests: TypeAlias = NDArray[np.uint64]
Rows: TypeAlias = NDArray[np.float64]
Branch: TypeAlias = Callable[[], Rows]  # leaves a branch's gradients in the flat buffer


class Corrupted(UserError):
    """Ranks hold, or compute, different numbers."""

    status = 5


def digests(array: NDArray[Any], offsets: Sequence[int]) -> Digests:
    """Return a sum of the bits of each part of an array (n,) that begins at an offset: any single
    flip changes it."""
    words, starts = array.view(f"u{array.dtype.itemsize}"), np.array(offsets)
    sums = np.zeros(len(starts), np.uint64)
    inside = starts < len(words)  # what begins at the end has no elements
    sums[inside] = np.add.reduceat(words, starts[inside], dtype=np.uint64)
    return sums


class DesyncGuard:
    """Compares weights, step and rates of all ranks, by parameter. `names` are those of the flat
    buffer's parameters."""

    def __init__(self, comm: Comm, flat: FlatParameters, names: Sequence[str]) -> None:
        self.comm, self.flat, self.names = comm, flat, names

    def check(self, step: int, rates: Sequence[float]) -> None:
        """Raise Corrupted on all ranks, which must call it alike, unless they hold the same."""
        facts = np.array([step, *rates], np.float64).view(np.uint64)
        own = np.concatenate([facts, digests(self.flat.data.value, self.flat.offsets)])
        every = self.comm.allgather(own)
        differing = np.flatnonzero((every != every[0]).any(axis=0))
        if not len(differing):
            return
        names = ["the number of the step", *["the learning rate"] * len(rates), *self.names]
        column = every[:, differing[0]]
        values, counts = np.unique(column, return_counts=True)
        others = np.flatnonzero(column != values[counts.argmax()])
        who = f"rank {others[0]} differs from the others"
        if counts.max() * 2 <= len(column):
            who = f"rank 0 and rank {np.flatnonzero(column != column[0])[0]} differ"
        raise Corrupted(
            f"{who} in {names[differing[0]]} after step {step}; "
            "go on from a checkpoint before it with --resume"
        )


@dataclass(frozen=True)
class Trial:
    """What a step has come to, all alike on every rank: the digests of each rank's branch (ranks,
    parameters + 1), computed by itself (`own`) and by the rank before it (`again`); which parameter
    of a rank's weights has changed meanwhile (`changed`, -1: none); and the digests of the sums
    over the ranks, from both, by parameter and by the piece that each rank adds (ranks, parameters
    + ranks)."""

    own: Digests
    again: Digests
    changed: NDArray[np.int64]
    sums: Digests
    sums_again: Digests

    @property
    def is_sound(self) -> bool:
        """Whether everything came out twice alike."""
        return (
            np.array_equal(self.own, self.again)
            and not (self.changed >= 0).any()
            and np.array_equal(self.sums, self.sums_again)
            and np.array_equal(self.sums, np.broadcast_to(self.sums[0], self.sums.shape))
        )

    def faults(self, truth: Trial, names: Sequence[str]) -> list[str]:
        """Return what was wrong, in the light of a sound trial of the same step."""
        size, found = len(self.own), []
        for rank, index in enumerate(self.changed.tolist()):
            if index >= 0:
                found.append(f"rank {rank}: weights of {names[index]} changed")
        for computed, shift in ((self.own, 0), (self.again, 1)):
            for branch, index in np.argwhere(computed != truth.own).tolist():
                rank = (branch - shift) % size
                what = FIGURES if index == len(names) else f"gradient of {names[index]}"
                found.append(f"rank {rank}: wrong {what}")
        if not found:
            found += self._wrong_sums(self.sums, truth.sums, names)
            found += self._wrong_sums(self.sums_again, truth.sums, names)
        return found or ["nothing that can be named"]

    @staticmethod
    def _wrong_sums(sums: Digests, truth: Digests, names: Sequence[str]) -> list[str]:
        """Name the rank that added a piece wrongly, if all got it so, else the one that got it."""
        wrong = sums != truth
        indices = np.flatnonzero(wrong[:, : len(names)].any(axis=0))
        if not len(indices):
            return []
        pieces = wrong[:, len(names) :]
        by_all = np.flatnonzero(pieces.all(axis=0))
        ranks = by_all if len(by_all) else np.flatnonzero(pieces.any(axis=1))
        return [f"rank {rank}: wrong sum of gradients of {names[indices[0]]}" for rank in ranks]


class Verifier:
    """Does steps twice. `own` and `again` compute the branch of this rank and of the next one;
    `parts` is the number of micro-batches of all ranks."""

    def __init__(self, comm: Comm, flat: FlatParameters, names: Sequence[str], parts: int) -> None:
        self.comm, self.flat, self.names = comm, flat, names
        self._reducer = Reducer(comm, parts)
        self._shifted = Reducer(comm, parts, shift=1)

    def step(self, own: Branch, again: Branch, tell: Callable[[str], None]) -> Rows:
        """Leave the gradients summed over the ranks in the flat buffer, and return this rank's
        figures. `tell` gets a line on each fault that was mended. Raises Corrupted where a step
        does not come out twice alike within `ATTEMPTS`. All ranks must call it."""
        weights = self.flat.data.value.copy()
        bad: list[Trial] = []
        for _ in range(ATTEMPTS):
            trial, rows = self._try(weights, own, again)
            if trial.is_sound:
                for earlier in bad:
                    for fault in earlier.faults(trial, self.names):
                        tell(fault)
                return rows
            bad.append(trial)
        raise Corrupted(f"a step does not come out twice alike in {ATTEMPTS} attempts")

    def _try(self, weights: NDArray[Any], own: Branch, again: Branch) -> tuple[Trial, Rows]:
        grad, comm = self.flat.grad.value, self.comm
        rows = own().copy()
        mine, digest = grad.copy(), self._digest(rows)
        digest_again = self._digest(again())
        theirs = grad.copy()
        changed = self._restore(weights)
        sums = self._sum(self._reducer, mine)
        sums_again = self._sum(self._shifted, theirs)
        trial = Trial(
            own=comm.allgather(digest),
            again=np.roll(comm.allgather(digest_again), 1, axis=0),
            changed=comm.allgather(np.array(changed)),
            sums=comm.allgather(self._digest_sums(sums)),
            sums_again=comm.allgather(self._digest_sums(sums_again)),
        )
        grad[...] = sums
        return trial, rows

    def _digest(self, rows: Rows) -> Digests:
        """Return the digests of a branch's gradients, and one of its figures."""
        of_rows = rows.view(np.uint64).sum(dtype=np.uint64, keepdims=True).reshape(1)
        return np.concatenate([digests(self.flat.grad.value, self.flat.offsets), of_rows])

    def _digest_sums(self, sums: NDArray[Any]) -> Digests:
        """Return the digests of the parameters' sums, and of the pieces."""
        width = piece(len(sums), self.comm.size)
        starts = [rank * width for rank in range(self.comm.size)]
        return np.concatenate([digests(sums, self.flat.offsets), digests(sums, starts)])

    def _restore(self, weights: NDArray[Any]) -> int:
        """Undo changes of the weights; return the number of the first parameter with one, or -1."""
        now, offsets = self.flat.data.value, self.flat.offsets
        wrong = np.flatnonzero(digests(now, offsets) != digests(weights, offsets))
        if len(wrong):
            self.flat.data.write(weights)
        return int(wrong[0]) if len(wrong) else -1

    @staticmethod
    def _sum(reducer: Reducer, array: NDArray[Any]) -> NDArray[Any]:
        reducer.start(array)
        reducer.wait()
        return array
