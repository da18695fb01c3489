"""The history of a run beside its ledger: the totals at each epoch's end, and the work lost by
restarts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from ...autograd.ledger import Cost, Ledger
from ..errors import UserError
from .logs import EXCHANGE
from .state import MOST


class Epoch(NamedTuple):
    """Totals of a run at the end of an epoch: steps, images, seconds, the seconds of them that were
    not training (evaluation, checkpoints, tuning), costs by phase, and the seconds that the
    exchange of gradients took and that it was hidden, as means over the ranks."""

    epoch: int
    step: int
    images: int
    seconds: float
    overhead_seconds: float
    phases: Mapping[str, Cost]
    exchange_exposed: float = 0.0
    exchange_hidden: float = 0.0

    def since(self, earlier: Epoch) -> Epoch:
        """Return what an epoch took by itself, `earlier` being the end of the one before."""
        differences = {
            name: cost.plus(earlier.phases.get(name, Cost()).times(-1))
            for name, cost in self.phases.items()
        }
        return Epoch(
            self.epoch,
            self.step - earlier.step,
            self.images - earlier.images,
            self.seconds - earlier.seconds,
            self.overhead_seconds - earlier.overhead_seconds,
            {name: cost for name, cost in differences.items() if any(cost)},
            self.exchange_exposed - earlier.exchange_exposed,
            self.exchange_hidden - earlier.exchange_hidden,
        )

    def to_json(self) -> dict[str, Any]:
        """Return plain values; costs as lists, in the order of `Cost`."""
        return {
            "epoch": self.epoch,
            "step": self.step,
            "images": self.images,
            "seconds": self.seconds,
            "aside": self.overhead_seconds,
            "phases": {name: [*cost] for name, cost in self.phases.items()},
            "exchange": [self.exchange_exposed, self.exchange_hidden],
        }


START = Epoch(0, 0, 0, 0.0, 0.0, {})


class Restart(NamedTuple):
    """A run that died and went on from its checkpoint at `step`. Its log, which had a line every
    `log_every` steps, knew of the step `reached`, of evaluations since the checkpoint and of
    seconds since then."""

    step: int
    reached: int
    log_every: int
    evaluations: int
    seconds: float

    @property
    def at_least(self) -> int:
        """Steps that are known to be lost."""
        return max(self.reached - self.step, 0)

    @property
    def at_most(self) -> int:
        """Steps that may be lost: the log would have told of its next line."""
        last = max(self.reached, self.step)
        return (last // self.log_every + 1) * self.log_every - self.step


def epoch_of(state: Any, ledger: Ledger) -> dict[str, Any]:
    """Return the record of an epoch that has just ended."""
    totals = state.epoch, state.step, state.images, state.seconds, state.overhead_seconds
    times = state.exchange_exposed, state.exchange_hidden
    return Epoch(*totals, ledger.by("phase"), *times).to_json()


def exchange_of(state: Any) -> dict[str, float]:
    """Return the seconds of an epoch's exchange of gradients, for the log: those since the end of
    the epoch before."""
    last = state.finished_epochs[-1] if state.finished_epochs else {}
    before = last.get("exchange", (0.0, 0.0))
    now = state.exchange_exposed, state.exchange_hidden
    return {name: a - b for name, a, b in zip(EXCHANGE, now, before, strict=True)}


def lost_work(
    events: Iterable[Mapping[str, Any]], step: int, seconds: float, log_every: int
) -> dict[str, Any]:
    """Return the record of a restart from a checkpoint at `step` and `seconds`, by the events that
    the log has beyond it."""
    reached, latest, evaluations = step, seconds, 0
    for event in events:
        reached = max(reached, int(event["step"]))
        latest = max(latest, float(event.get("seconds", 0.0)))
        evaluations += "test_loss" in event
    return Restart(step, reached, log_every, evaluations, latest - seconds)._asdict()


def epochs(path: Path, value: Any) -> list[Epoch]:
    """Return the epochs on record, each by itself. UserError where they cannot be read."""
    result, before = [], START
    for entry in _entries(path, "closed", value):
        try:
            phases = {str(n): Cost(*map(int, cost)) for n, cost in entry["phases"].items()}
            step, images = int(entry["step"]), int(entry["images"])
            seconds, overhead = float(entry["seconds"]), float(entry["aside"])
            exposed, hidden = map(float, entry.get("exchange", (0.0, 0.0)))
            totals = step, images, seconds, overhead
            ends = Epoch(int(entry["epoch"]), *totals, phases, exposed, hidden)
            _check((ends.epoch, *totals, exposed, hidden), *phases.values())
        except (LookupError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise UserError(
                f"{path}: closed: expected a finished epoch, got {entry!r:.60}"
            ) from error
        result.append(ends.since(before))
        before = ends
    return result


def restarts(path: Path, value: Any) -> list[Restart]:
    """Return the restarts on record. UserError where they cannot be read."""
    result = []
    for entry in _entries(path, "restarts", value):
        try:
            step, reached, every, evaluations = (int(entry[n]) for n in Restart._fields[:4])
            restart = Restart(step, reached, every, evaluations, float(entry["seconds"]))
            _check(restart)
        except (LookupError, TypeError, ValueError, OverflowError) as error:
            raise UserError(f"{path}: restarts: expected a restart, got {entry!r:.60}") from error
        if restart.log_every < 1:
            raise UserError(
                f"{path}: restarts: log_every: expected at least 1, got {restart.log_every}"
            )
        result.append(restart)
    return result


def _check(*numbers: Iterable[float]) -> None:
    """ValueError for a number that counts nothing."""
    if not all(abs(number) < MOST for number in chain(*numbers)):
        raise ValueError(f"expected counts below {MOST}")


def _entries(path: Path, name: str, value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise UserError(f"{path}: {name}: expected a list, got {value!r:.60}")
    return value
