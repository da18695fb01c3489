"""What `tallygrad verify` asks of a training, and what comes out. It needs the standard library
only: threads are settled before NumPy loads."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any

TRIAL, RESULT = "trial.json", "outcome.json"


@dataclass(frozen=True, kw_only=True)
class Trial:
    """A short training. `sums` over ranks are formed in a fixed order, "auto" in shared memory if
    possible, as in every training, or by "messages" alone; or, with "mpi", by the MPI library in an
    order of its own."""

    model: str
    dataset: str
    data_dir: str
    batch_size: int
    micro_batches: int
    steps: int
    backend: str
    precision: str
    ranks: int
    threads: int
    sums: str = "auto"

    @property
    def title(self) -> str:
        """Ranks, threads and sums in words."""
        how = {"messages": " (--hierarchical off)", "mpi": " (MPI's order)"}.get(self.sums, "")
        return f"{_plural(self.ranks, 'rank')} with {_plural(self.threads, 'thread')}{how}"


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """Digests of a training: the `figures` (loss, metrics, samples) of each step, and the `tensors`
    of the final checkpoint by name. `seconds` is the median of the second half of the steps;
    `shares` tells whether ranks summed in shared memory."""

    figures: list[str]
    tensors: dict[str, str]
    seconds: float
    library: str
    backend: str
    shares: bool

    @property
    def digest(self) -> str:
        """One hash of everything."""
        return hashlib.sha256(json.dumps([self.figures, self.tensors]).encode()).hexdigest()

    def difference(self, other: Outcome) -> str:
        """Say what differs first from another outcome; "" where nothing does."""
        said = []
        steps = zip(self.figures, other.figures, strict=True)
        if step := next((i for i, (a, b) in enumerate(steps, 1) if a != b), 0):
            said.append(f"the loss of step {step}")
        names = dict.fromkeys([*self.tensors, *other.tensors])
        differing = [n for n in names if self.tensors.get(n) != other.tensors.get(n)]
        if differing:
            said.append(f"{differing[0]} ({len(differing)} of {len(names)} tensors)")
        return " and ".join(said)

    @classmethod
    def from_json(cls, text: str) -> Outcome:
        """Return the outcome that a worker wrote."""
        fields: dict[str, Any] = json.loads(text)
        return cls(**fields)


def _plural(number: int, name: str) -> str:
    return f"{number} {name}{'s' * (number != 1)}"
