"""The ledger: what dispatch counted, by scope, phase, primitive and backend. It counts and never
prices."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from operator import add, attrgetter
from typing import Any, NamedTuple, TypeVar

from .recent import KINDS

T = TypeVar("T")


class Cost(NamedTuple):
    """The work of one call.

    MACs are multiply-accumulates (2 FLOP), nominal: zero padding counts, bias additions do not.
    Other operations are counted by kind; `exp` stands for every transcendental function and square
    root. Bytes: every operand read once, every result written once. `saved` are multiplications
    that the backend's method did without; everything else is the same on any backend."""

    macs: int = 0
    add: int = 0
    mul: int = 0
    div: int = 0
    cmp: int = 0
    exp: int = 0
    bytes_read: int = 0
    bytes_written: int = 0
    bytes_sent: int = 0
    messages: int = 0
    saved: int = 0

    @property
    def executed(self) -> int:
        """Multiplications really done for the MACs.

        They are those of results and of the transforms that save others, without what fills up
        blocks and vectors."""
        return self.macs - self.saved

    def times(self, n: int) -> Cost:
        """Return the cost of n such calls."""
        return Cost(*[n * field for field in self])

    def plus(self, other: Cost) -> Cost:
        """Return the cost of both."""
        return Cost(*map(add, self, other))


def _plain(cost: Cost) -> dict[str, int]:
    """Return the counts that are not zero, and for MACs how many multiplications were executed."""
    counts = {name: count for name, count in cost._asdict().items() if count}
    return counts | ({"executed": cost.executed} if cost.macs else {})


class Key(NamedTuple):
    """What a count is filed under."""

    scope: str
    phase: str
    primitive: str
    backend: str

    @property
    def scope_and_phase(self) -> tuple[str, str]:
        """The layer and the pass that a count belongs to."""
        return self.scope, self.phase


class LedgerRow(NamedTuple):
    """All calls of one key.

    It has their number, their total cost, the bytes that the tape stashed for them, and the most
    bytes of results that were alive while one ran (0 where nobody measured)."""

    key: Key
    calls: int
    cost: Cost
    stashed: int
    peak: int = 0


class SparsitySample(NamedTuple):
    """What was found in the numbers of some calls.

    Nominal MACs, those whose factors are both non-zero, and by kind of factor the numbers that were
    looked at and the zeros among them. `uncounted` are MACs of calls that cannot be looked into."""

    calls: int = 0
    macs: int = 0
    nonzero: int = 0
    activations: int = 0
    activation_zeros: int = 0
    gradients: int = 0
    gradient_zeros: int = 0
    weights: int = 0
    weight_zeros: int = 0
    uncounted: int = 0

    def plus(self, other: SparsitySample) -> SparsitySample:
        """Return what was found in both."""
        return SparsitySample(*map(add, self, other))


class CallBatch:
    """Calls that are always made together, counted as one.

    It has what they are filed under, the bytes that the tape saves meanwhile, and the most bytes
    that are alive then."""

    __slots__ = ("keys", "peaks", "stashes")

    def __init__(
        self,
        keys: Iterable[tuple[str, str, str, str, Cost]],
        stashes: Iterable[tuple[tuple[str, str, str, str], int]] = (),
        peaks: Iterable[tuple[tuple[str, str, str, str], int]] = (),
    ) -> None:
        self.keys, self.stashes, self.peaks = tuple(keys), tuple(stashes), tuple(peaks)


class Ledger:
    """Counts of calls.

    Equal calls are counted, not added up, so that a call costs one dictionary update; sums are
    formed on request. `sampled` is what was found in numbers, by (scope, phase, primitive,
    backend), on `sampled_steps` steps: it differs from step to step, and is no part of the
    comparison of two ledgers."""

    def __init__(self) -> None:
        self._calls: Counter[tuple[str, str, str, str, Cost]] = Counter()
        self._batches: Counter[CallBatch] = Counter()
        self._stashed: Counter[tuple[str, str, str, str]] = Counter()
        self.sampled: dict[tuple[str, str, str, str], SparsitySample] = {}
        self.sampled_steps = 0
        self._peaks: dict[tuple[str, str, str, str], int] = {}

    def count(self, key: tuple[str, str, str, str, Cost], n: int = 1) -> None:
        """File n calls under (scope, phase, primitive, backend, cost)."""
        self._calls[key] += n

    def count_batch(self, batch: CallBatch) -> None:
        """File one call for each key of a batch."""
        # Rows are listed in the order of first calls, which must not depend on whether calls came
        # in a batch.
        if batch not in self._batches:
            for key in batch.keys:
                self._calls.setdefault(key, 0)  # in the order in which keys were first seen
        self._batches[batch] += 1
        if len(self._batches) > KINDS:
            self._add_batches()  # a batch that is made no more would be kept

    @property
    def calls(self) -> Counter[tuple[str, str, str, str, Cost]]:
        """Numbers of calls by (scope, phase, primitive, backend, cost)."""
        self._add_batches()
        return self._calls

    @property
    def stashed(self) -> Counter[tuple[str, str, str, str]]:
        """Bytes that the tape kept by (scope, phase, primitive, backend)."""
        self._add_batches()
        return self._stashed

    @property
    def peaks(self) -> dict[tuple[str, str, str, str], int]:
        """Most bytes of results that were alive while a call ran, by (scope, phase, primitive,
        backend), as far as somebody looked: `trace` does, in the first call of a kind."""
        self._add_batches()
        return self._peaks

    def _add_batches(self) -> None:
        while self._batches:
            batch, n = self._batches.popitem()
            for key in batch.keys:
                self._calls[key] += n
            for names, size in batch.stashes:
                self._stashed[names] += n * size
            self.add_peaks(batch.peaks)

    def stash(self, key: tuple[str, str, str, str], size: int) -> None:
        """File `size` bytes that the tape keeps for the backward sweep under a Key, or what is
        equal to one."""
        self._stashed[key] += size

    def sample(self, key: tuple[str, str, str, str], sample: SparsitySample) -> None:
        """File what was found in the numbers of calls under a Key, or what is equal to one."""
        self.sampled[key] = self.sampled.get(key, SparsitySample()).plus(sample)

    def peak(self, key: tuple[str, str, str, str], size: int) -> None:
        """File that `size` bytes were alive at once; of several the largest counts."""
        self._peaks[key] = max(size, self._peaks.get(key, 0))

    def add_peaks(self, peaks: Iterable[tuple[tuple[str, str, str, str], int]]) -> None:
        """File several peaks."""
        for key, size in peaks:
            self.peak(key, size)

    def rows(self) -> list[LedgerRow]:
        """Return one row for each key, in the order in which the keys were first seen."""
        rows: dict[Key, LedgerRow] = {}
        for (*names, cost), n in self.calls.items():
            key = Key(*names)
            old = rows.get(key, LedgerRow(key, 0, Cost(), 0))
            rows[key] = old._replace(calls=old.calls + n, cost=old.cost.plus(cost.times(n)))
        # The tape knows the backend by its full name, a call by who did it: they may differ.
        alike: dict[tuple[str, ...], Key] = {}
        for key in rows:
            alike.setdefault(key[:3], key)
        for own in [Key(*key) for key in dict.fromkeys([*self.stashed, *self.peaks])]:
            key = own if own in rows else alike.get(own[:3], own)
            old = rows.get(key, LedgerRow(key, 0, Cost(), 0))
            stashed = old.stashed + self.stashed.get(own, 0)
            peak = max(old.peak, self.peaks.get(own, 0))
            rows[key] = old._replace(stashed=stashed, peak=peak)
        return list(rows.values())

    def total(self, where: Callable[[Key], bool] = lambda key: True) -> Cost:
        """Return the cost of all rows whose key passes `where`."""
        total = Cost()
        for row in self.rows():
            if where(row.key):
                total = total.plus(row.cost)
        return total

    def sums(self, what: Callable[[Key], T]) -> dict[T, Cost]:
        """Return costs summed by what a function makes of the key, its scope and phase for example,
        in the order in which the keys were first seen."""
        sums: dict[T, Cost] = {}
        for row in self.rows():
            name = what(row.key)
            sums[name] = sums.get(name, Cost()).plus(row.cost)
        return sums

    def by(self, field: str) -> dict[str, Cost]:
        """Return costs summed by one field of the key, "phase" for example."""
        return self.sums(attrgetter(field))

    def sample_sums(self, what: Callable[[Key], T]) -> dict[T, SparsitySample]:
        """Return samples summed by what a function makes of the key."""
        sums: dict[T, SparsitySample] = {}
        for names, sample in self.sampled.items():
            name = what(Key(*names))
            sums[name] = sums.get(name, SparsitySample()).plus(sample)
        return sums

    def merge(self, other: Ledger) -> None:
        """Add another ledger's counts, those of an earlier run or of another rank.

        Of peaks the larger one stays, since each is that of one process."""
        self.calls.update(other.calls)
        self.stashed.update(other.stashed)
        for key, sample in other.sampled.items():
            self.sample(key, sample)
        self.sampled_steps += other.sampled_steps
        self.add_peaks(other.peaks.items())

    def copy(self) -> Ledger:
        """Return an independent copy."""
        twin = Ledger()
        twin.merge(self)
        return twin

    def clear(self) -> None:
        """Forget all counts."""
        self._calls.clear()
        self._batches.clear()
        self._stashed.clear()
        self.sampled.clear()
        self.sampled_steps = 0
        self._peaks.clear()

    def counts(self) -> Counter[tuple[Any, ...]]:
        """Return counts without the backend and what it saved: what must be equal on any two
        backends."""
        counts: Counter[tuple[Any, ...]] = Counter()
        for (where, phase, name, _, cost), n in self.calls.items():
            counts[where, phase, name, cost._replace(saved=0)] += n
        for (where, phase, name, _), size in self.stashed.items():
            counts[where, phase, name, "stashed"] += size
        return counts

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Ledger) and self.counts() == other.counts()

    __hash__ = None  # type: ignore[assignment]

    def __iter__(self) -> Iterator[LedgerRow]:
        return iter(self.rows())

    def to_json(self) -> list[dict[str, Any]]:
        """Return the counts as a list of plain dictionaries, for `from_json`.

        There is an entry for each distinct cost of a key, so that the ledger read from it is
        equal."""
        entries = [
            {**Key(*names)._asdict(), "calls": n, **_plain(cost)}
            for (*names, cost), n in self.calls.items()
        ]
        for name, sizes in (("stashed", self.stashed), ("peak", self.peaks)):
            entries += [{**Key(*key)._asdict(), name: n} for key, n in sizes.items() if n]
        return entries + self._samples()

    def _samples(self) -> list[dict[str, Any]]:
        """Return the entries of the samples: what they hold is under a name of its own, so that it
        is not taken for work."""
        entries: list[dict[str, Any]] = [
            {**Key(*names)._asdict(), "sampled": {k: n for k, n in one._asdict().items() if n}}
            for names, one in self.sampled.items()
        ]
        return entries + ([{"sampled_steps": self.sampled_steps}] if self.sampled_steps else [])

    @classmethod
    def from_json(cls, entries: Iterable[Mapping[str, Any]]) -> Ledger:
        """Read what `to_json` wrote. KeyError or ValueError where an entry is not one."""
        ledger = cls()
        for entry in entries:
            if "sampled_steps" in entry:
                ledger.sampled_steps += int(entry["sampled_steps"])
                continue
            key = Key(*[str(entry[name]) for name in Key._fields])
            if "stashed" in entry:
                ledger.stash(key, int(entry["stashed"]))
            elif "peak" in entry:
                ledger.peak(key, int(entry["peak"]))
            elif "sampled" in entry:
                sampled = dict(entry["sampled"])
                counts = [int(sampled.get(name, 0)) for name in SparsitySample._fields]
                ledger.sample(key, SparsitySample(*counts))
            else:
                cost = Cost(*[int(entry.get(name, 0)) for name in Cost._fields])
                ledger.count((*key, cost), int(entry["calls"]))
        return ledger
