"""Work that was done twice: whether it came out alike, and where not, who and what is at fault."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from .corruption import Corrupted
from .digests import Digests

ATTEMPTS = 5  # times that work is done before the run ends
FIGURES = "loss and metrics"

Tell = Callable[[str], None]


T = TypeVar("T")


class Trial(Protocol):
    """What an attempt has come to, the same on every rank."""

    @property
    def is_sound(self) -> bool:
        """Whether everything came out twice alike."""

    def faults(self: T, truth: T) -> list[str]:
        """Return what was wrong, in the light of a sound trial of the same work."""

    def dispute(self) -> str:
        """Say what does not come out alike."""


S = TypeVar("S", bound=Trial)


def settle(attempt: Callable[[int], S], tell: Tell) -> S:
    """Return the first sound trial; `attempt` gets its number, from 0. `tell` gets a line on each
    fault that was mended. Raises Corrupted where there is none within `ATTEMPTS`. All ranks must
    call it."""
    bad: list[S] = []
    for number in range(ATTEMPTS):
        trial = attempt(number)
        if trial.is_sound:
            for earlier in bad:
                for fault in earlier.faults(trial):
                    tell(fault)
            return trial
        bad.append(trial)
    raise Corrupted(
        f"corrupted: a step does not come out twice alike in {ATTEMPTS} attempts: "
        f"{bad[-1].dispute()}; go on from the last checkpoint, without the faulty host, with "
        "--resume"
    )


@dataclass(frozen=True)
class BranchNames:
    """What the digests of a branch stand for: gradients of `parameters`, in the order in which the
    backward pass finishes them, the figures, and the `statistics` of the forward pass, in its
    order."""

    parameters: Sequence[str]
    statistics: Sequence[str]

    @property
    def count(self) -> int:
        """Number of digests."""
        return len(self.parameters) + 1 + len(self.statistics)

    def wrong(self, columns: Sequence[int]) -> str:
        """Say what is wrong where these digests are. The first layer with wrong statistics, or with
        a wrong gradient after a good forward pass, is the one where it began."""
        figures = len(self.parameters)
        statistics = [c - figures - 1 for c in columns if c > figures]
        gradients = [self.parameters[c] for c in columns if c < figures]
        if statistics:
            return f"statistics of {self.statistics[statistics[0]]}{_more(gradients, 'gradient')}"
        if figures in columns:
            return f"{FIGURES}{_more(gradients, 'gradient')}"
        return f"gradient of {gradients[0]}{_more(gradients[1:], 'more', '')}"


def _more(names: Sequence[str], word: str, plural: str = "s") -> str:
    """Return " and 2 gradients" and the like; nothing for no names."""
    return f" and {len(names)} {word}{plural * (len(names) != 1)}" if names else ""


@dataclass(frozen=True)
class GradientTrial:
    """The gradients of a step: the digests of each rank's branch, (ranks, names), computed by
    itself (`own`) and by the rank before it (`again`); which piece of a rank's state has changed
    meanwhile (`changed`, numbers of `state`, -1: none); and those of the sums over the ranks from
    both, (ranks, parameters + 1 + pieces): by parameter, of the figures, and by the piece that each
    rank adds, where it is known who does."""

    names: BranchNames
    state: Sequence[str]
    own: Digests
    again: Digests
    changed: NDArray[np.int64]
    sums: Digests
    sums_again: Digests

    @classmethod
    def of(cls, names: BranchNames, state: Sequence[str], rows: Digests) -> GradientTrial:
        """Return the trial of rows with own, again, changed, sums and sums again of each rank."""
        count = names.count
        half = (rows.shape[1] - 2 * count - 1) // 2
        cuts = np.cumsum([count, count, 1, half])
        own, again, changed, sums, sums_again = np.split(rows, cuts, axis=1)
        again = np.roll(again, 1, axis=0)  # rank 0 did that of rank 1
        return cls(names, state, own, again, changed[:, 0].view(np.int64), sums, sums_again)

    @property
    def is_sound(self) -> bool:
        """Whether everything came out twice alike."""
        return (
            np.array_equal(self.own, self.again)
            and not (self.changed >= 0).any()
            and np.array_equal(self.sums, self.sums_again)
            and np.array_equal(self.sums, np.broadcast_to(self.sums[0], self.sums.shape))
        )

    def faults(self, truth: GradientTrial) -> list[str]:
        """Return what was wrong, in the light of a sound trial of the same step."""
        found = changes(self.changed, self.state)
        whole = set(np.flatnonzero(self.changed < 0))  # what others computed with is no news
        for computed, shift in ((self.own, 0), (self.again, 1)):
            wrong = computed != truth.own
            for branch in np.flatnonzero(wrong.any(axis=1)):
                rank = (int(branch) - shift) % len(self.own)
                if rank in whole:
                    what = self.names.wrong(np.flatnonzero(wrong[branch]).tolist())
                    found.append(f"rank {rank}: wrong {what}")
        if not found:
            found += self._wrong_sums(self.sums, truth.sums)
            found += self._wrong_sums(self.sums_again, truth.sums)
        return found or ["nothing that can be named"]

    def _wrong_sums(self, sums: Digests, truth: Digests) -> list[str]:
        """Name the rank that added a piece wrongly, if all got it so, else the one that got it."""
        wrong, count = sums != truth, len(self.names.parameters)
        columns = np.flatnonzero(wrong[:, : count + 1].any(axis=0))
        if not len(columns):
            return []
        what = FIGURES
        if columns[0] < count:
            more = ["" for c in columns[1:] if c < count]
            what = f"gradients of {self.names.parameters[columns[0]]}{_more(more, 'more', '')}"
        by_all = np.flatnonzero(wrong[:, count + 1 :].all(axis=0))
        ranks = by_all if len(by_all) else np.flatnonzero(wrong.any(axis=1))
        return [f"{_ranks(ranks)}: wrong sum of {what}"]

    def dispute(self) -> str:
        """Say what does not come out alike."""
        for branch, column in np.argwhere(self.own != self.again).tolist():
            pair = _ranks(sorted({branch, (branch - 1) % len(self.own)}), " and ")
            return f"{pair}: other {self.names.wrong([column])} from the same samples"
        return (changes(self.changed, self.state) or ["sums over the ranks differ"])[0]


@dataclass(frozen=True)
class UpdateTrial:
    """An update: the digests of each rank's state after it, (ranks, names), done `once` and done
    `again`. The first `shared` pieces are the same on all ranks."""

    state: Sequence[str]
    once: Digests
    again: Digests
    shared: int

    @property
    def is_sound(self) -> bool:
        """Whether everything came out twice alike, and on all ranks."""
        shared = self.once[:, : self.shared]
        return np.array_equal(self.once, self.again) and bool((shared == shared[0]).all())

    def faults(self, truth: UpdateTrial) -> list[str]:
        """Return what was wrong, in the light of a sound trial of the same update."""
        wrong = (self.once != truth.once) | (self.again != truth.once)
        own = wrong[:, self.shared :].any(axis=1)  # a wrong share reaches all ranks
        ranks = np.flatnonzero(own if own.any() else wrong.any(axis=1)).tolist()
        if self.shared < wrong.shape[1] and len(ranks) == len(wrong):
            return [f"{_ranks(ranks)}: wrong update of {self._first(wrong[0])}"]
        return [f"rank {rank}: wrong update of {self._first(wrong[rank])}" for rank in ranks]

    def dispute(self) -> str:
        """Say what does not come out alike."""
        twice = self.once != self.again
        for rank in np.flatnonzero(twice.any(axis=1)):
            return f"rank {rank}: {self._first(twice[rank])} after the update"
        shared = self.once[:, : self.shared]
        return f"ranks hold different {self._first((shared != shared[0]).any(axis=0))}"

    def _first(self, wrong: NDArray[np.bool_]) -> str:
        return self.state[int(np.flatnonzero(wrong)[0])]


def changes(changed: NDArray[np.int64], names: Sequence[str]) -> list[str]:
    """Return a line on each rank whose state has changed."""
    pairs = enumerate(changed.tolist())
    return [f"rank {rank}: {names[index]} changed" for rank, index in pairs if index >= 0]


def _ranks(ranks: Iterable[int], between: str = " or ") -> str:
    return between.join(f"rank {rank}" for rank in ranks)
