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
UNNAMED = "nothing that can be named"

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
    backward pass finishes them, the figures, and what the `forward` pass has read or left, in its
    order."""

    parameters: Sequence[str]
    forward: Sequence[str]

    @property
    def count(self) -> int:
        """Number of digests."""
        return len(self.parameters) + 1 + len(self.forward)

    def wrong(self, columns: Sequence[int]) -> str:
        """Say what is wrong where these digests are. The first layer with wrong inputs or
        statistics, or with a wrong gradient after a good forward pass, is where it began."""
        figures = len(self.parameters)
        forward = [c - figures - 1 for c in columns if c > figures]
        gradients = [self.parameters[c] for c in columns if c < figures]
        if forward:
            return f"{self.forward[forward[0]]}{_more(gradients, 'gradient')}"
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
    both, (ranks, parameters + 1 + 2 ranks): by parameter, of the figures, and by the piece of
    gradients and of figures that each rank adds up."""

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
            and not self._unlike().any()
            and all((sums == sums[0]).all() for sums in (self.sums, self.sums_again))
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
            found += self._wrong_sums(self.sums_again, truth.sums_again)
        return found or [UNNAMED]

    def _wrong_sums(self, sums: Digests, truth: Digests) -> list[str]:
        """Name who added up sums wrongly, or received them so, by what they are of."""
        count, size = len(self.names.parameters), len(sums)
        cuts = count, count + 1, count + 1 + size
        gradients, figures, added, added_figures = np.split(sums != truth, cuts, axis=1)
        found = []
        if gradients.any():
            columns = np.flatnonzero(gradients.any(axis=0)).tolist()
            first, *more = (self.names.parameters[c] for c in columns)
            who = _ranks(_at_fault(added, gradients))
            found.append(f"{who}: wrong sum of gradients of {first}{_more(more, 'more', '')}")
        if figures.any():
            found.append(f"{_ranks(_at_fault(added_figures, figures))}: wrong sum of {FIGURES}")
        return found

    def _unlike(self) -> NDArray[np.bool_]:
        """Return which sums some rank has unlike another, or unlike the sums formed again,
        (parameters + 1,)."""
        shared = len(self.names.parameters) + 1
        first = self.sums[0, :shared]
        sums, sums_again = self.sums[:, :shared], self.sums_again[:, :shared]
        unlike: NDArray[np.bool_] = np.logical_or.reduce((sums != first) | (sums_again != first))
        return unlike

    def dispute(self) -> str:
        """Say what does not come out alike."""
        for branch, column in np.argwhere(self.own != self.again).tolist():
            pair = _ranks(sorted({branch, (branch - 1) % len(self.own)}), " and ")
            return f"{pair}: other {self.names.wrong([column])} from the same samples"
        for line in changes(self.changed, self.state):
            return line
        names = *[f"gradients of {name}" for name in self.names.parameters], FIGURES, "a piece"
        return f"ranks come to different sums of {_first(names, np.append(self._unlike(), True))}"


@dataclass(frozen=True)
class UpdateTrial:
    """An update: the digests of each rank's state after it, (ranks, names), done `once` and done
    `again`. The first `shared` pieces are the same on all ranks. Where a rank updates its share of
    the weights alone, a column for each rank's share follows the names."""

    state: Sequence[str]
    once: Digests
    again: Digests
    shared: int

    @property
    def _names(self) -> list[str]:
        return [*self.state, *["weights"] * (self.once.shape[1] - len(self.state))]

    @property
    def is_sound(self) -> bool:
        """Whether everything came out twice alike, and on all ranks."""
        return np.array_equal(self.once, self.again) and not self._unlike().any()

    def _unlike(self) -> NDArray[np.bool_]:
        """Return which columns differ between ranks, though they should not."""
        unlike: NDArray[np.bool_] = (self.once != self.once[0]).any(axis=0)
        unlike[self.shared : len(self.state)] = False
        return unlike

    def faults(self, truth: UpdateTrial) -> list[str]:
        """Return what was wrong, in the light of a sound trial of the same update."""
        wrong = (self.once != truth.once) | (self.again != truth.once)
        state, shares = np.split(wrong, [len(self.state)], axis=1)
        ranks = {*np.flatnonzero(state.any(axis=1)).tolist()}
        if shares.shape[1]:  # what a rank updates wrongly reaches all
            own = np.flatnonzero(state[:, self.shared :].any(axis=1)).tolist()
            ranks = {*_at_fault(shares, state), *own}
        found = []
        for rank in sorted(ranks):
            where = wrong[rank] if wrong[rank].any() else np.logical_or.reduce(wrong)
            found.append(f"rank {rank}: wrong update of {_first(self._names, where)}")
        return found or [UNNAMED]

    def dispute(self) -> str:
        """Say what does not come out alike."""
        twice = self.once != self.again
        for rank in np.flatnonzero(twice.any(axis=1)):
            return f"rank {rank}: {_first(self._names, twice[rank])} after the update"
        return f"ranks hold different {_first(self._names, self._unlike())}"


def _first(names: Sequence[str], wrong: NDArray[np.bool_]) -> str:
    return names[int(np.flatnonzero(wrong)[0])]


def _at_fault(added: NDArray[np.bool_], received: NDArray[np.bool_]) -> list[int]:
    """Return the ranks at fault for wrong sums. Of the piece that each rank adds up, `added`,
    (ranks, pieces), tells who has it wrong: if several, it was added up wrongly; if one, received
    so. Where no piece is wrong, a digest was: of a rank that has `received` something wrong."""
    several = added.sum(axis=0) > 1
    found = several | added[:, ~several].any(axis=1)
    ranks: list[int] = np.flatnonzero(found if found.any() else received.any(axis=1)).tolist()
    return ranks


def changes(changed: NDArray[np.int64], names: Sequence[str]) -> list[str]:
    """Return a line on each rank whose state has changed."""
    pairs = enumerate(changed.tolist())
    return [f"rank {rank}: {names[index]} changed" for rank, index in pairs if index >= 0]


def _ranks(ranks: Iterable[int], between: str = " or ") -> str:
    return between.join(f"rank {rank}" for rank in ranks)
