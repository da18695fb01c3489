"""The facts about a run that a bill needs; whoever reads the run hands them over.

The protocols are those of records that the trainer keeps; any object with these attributes will do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from ...autograd.ledger import Cost, Ledger


class EpochRecord(Protocol):
    """A whole epoch by itself."""

    @property
    def epoch(self) -> int:
        """Its number."""

    @property
    def step(self) -> int:
        """Its steps."""

    @property
    def images(self) -> int:
        """Its images."""

    @property
    def seconds(self) -> float:
        """Its seconds."""

    @property
    def overhead_seconds(self) -> float:
        """Those of them that were not training."""

    @property
    def phases(self) -> Mapping[str, Cost]:
        """Its costs by phase."""

    @property
    def exchange_exposed(self) -> float:
        """Seconds that a rank spent on the exchange of gradients, on average."""

    @property
    def exchange_hidden(self) -> float:
        """Seconds of it that went on behind computation."""


class RestartRecord(Protocol):
    """A restart from the checkpoint at `step` of a run whose log had `reached` a later step."""

    @property
    def step(self) -> int:
        """The step of the checkpoint."""

    @property
    def reached(self) -> int:
        """The last step of the log."""

    @property
    def log_every(self) -> int:
        """Steps between lines of the log."""

    @property
    def evaluations(self) -> int:
        """Evaluations since the checkpoint."""

    @property
    def seconds(self) -> float:
        """Seconds since the checkpoint."""

    @property
    def at_least(self) -> int:
        """Steps that are known to be lost."""

    @property
    def at_most(self) -> int:
        """Steps that may be lost."""


@dataclass(frozen=True)
class Run:
    """The facts about a run that a bill needs. Fields of type Any come from a checkpoint unchecked,
    and the bill checks them; None is what is not on record.

    `epochs` is None within the first epoch, whose length is not on record. `unsaved` is work in the
    log beyond the checkpoint. `metric` names the task's figure of merit, and `score` is its value
    after step `evaluated`. `overhead_seconds`, a part of `seconds`, were not spent training. The
    exchange of gradients took a rank `exchange_exposed` seconds on average, and went on for
    `exchange_hidden` behind its computation.
    """

    source: str
    ledger: Ledger
    steps: int
    epochs: float | None
    images: int
    seconds: float
    evaluations: int = 0
    each_epoch: Sequence[EpochRecord] = ()
    restarts: Sequence[RestartRecord] = ()
    unsaved: Sequence[RestartRecord] = ()
    weights: int = 0
    nonzero_weights: int = 0
    model: Any = None
    input: Any = None
    classes: Any = None
    metric: str = "accuracy"
    higher_is_better: bool = True
    score: Any = None
    evaluated: Any = None
    overhead_seconds: Any = None
    batch_size: Any = None
    ranks: Any = None
    precision: str = "float32"
    exchange_exposed: float = 0.0
    exchange_hidden: float = 0.0
