"""Step times of a model on a host whose ranks do not wait for each other, as measured by a
calibration, by images of a rank and by the number of ranks that compute at once.

In a file:

    [compute]
    model = "lenet"
    input = [1, 28, 28]
    classes = 10
    precision = "float32"        # or "bf16"; optional
    source = "llvm, one thread a rank, a processor"
    parameters = ["fc2.weight", "fc2.bias"]  # in the order in which their gradients are final
    bytes = [20000, 40]          # of these gradients

    [[compute.step]]
    batch = 64                   # images of a rank
    busy = 2                     # ranks of the host that compute at once
    seconds = [0.010, 0.011]     # of a step, from the shortest to the longest, at even quantiles
    sweep = 0.009                # from a step's beginning until all its gradients are final
    ready = [0.004, 0.005]       # until that of each parameter is
    rounds = [0.0103, 0.0101]    # optional: medians of the rounds of measuring
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any, NamedTuple

from ...errors import UserError
from ..precision import PRECISIONS
from ..reader import (
    COUNT,
    COUNT_OR_ZERO,
    NOT_NEGATIVE,
    POSITIVE,
    TEXT,
    KeyPath,
    Many,
    Optional,
    Table,
    Text,
)

KEYS = ("model", "input", "classes", "precision", "source", "parameters", "bytes")
STEP = ("batch", "busy", "seconds", "sweep", "ready")
ROUNDS = "rounds"


class Step(NamedTuple):
    """A step of a rank with `batch` images while `busy` ranks of its host compute.

    `seconds` are evenly spaced quantiles in ascending order. All gradients are final `sweep`
    seconds after the step began, each parameter's after its entry of `ready`. `rounds` are the
    medians of the rounds of measuring, empty where unknown.
    """

    batch: int
    busy: int
    seconds: tuple[float, ...]
    sweep: float
    ready: tuple[float, ...]
    rounds: tuple[float, ...] = ()

    def slowed(self, factor: float) -> Step:
        """Return the step with all of its times multiplied."""
        seconds, ready = (tuple(factor * x for x in some) for some in (self.seconds, self.ready))
        return self._replace(seconds=seconds, ready=ready, sweep=factor * self.sweep)

    def repeated(self, times: int, between: float) -> Step:
        """Return the step with so many sweeps, `between` seconds from the end of one to the next.
        Gradients are final in the last one, and only after it comes what follows a sweep."""
        before = (times - 1) * (self.sweep + between)
        seconds, ready = (tuple(before + x for x in some) for some in (self.seconds, self.ready))
        return self._replace(seconds=seconds, ready=ready, sweep=before + self.sweep)

    def quantile(self, share: float) -> float:
        """Return the seconds that a `share` of the steps, 0 to 1, does not exceed; linear between
        the measured quantiles."""
        index = share * (len(self.seconds) - 1)
        low = min(int(index), len(self.seconds) - 1)
        high = min(low + 1, len(self.seconds) - 1)
        return self.seconds[low] + (index - low) * (self.seconds[high] - self.seconds[low])


@dataclass(frozen=True)
class StepTimes:
    """Measured steps of a model, and its parameters with the bytes of their gradients, in the order
    in which these are final. `classes` is 0 of a model without classes, such as an autoencoder.
    `precision` is float32 or bf16."""

    model: str
    input: tuple[int, ...]
    classes: int
    source: str
    parameters: tuple[str, ...]
    bytes: tuple[int, ...]
    steps: tuple[Step, ...]
    precision: str = "float32"

    def fits(
        self, model: str, shape: tuple[int, ...], classes: int, precision: str = "float32"
    ) -> bool:
        """Tell whether the steps are those of this model, input (C, H, W), number of classes and
        precision."""
        own = self.model, self.input, self.classes, self.precision
        return own == (model, shape, classes, precision)

    def largest(self) -> int:
        """Return the largest batch of a rank that was measured."""
        return max(step.batch for step in self.steps)

    def busiest(self) -> int:
        """Return the largest number of busy ranks that was measured."""
        return max(step.busy for step in self.steps)

    def at(self, batch: int, busy: int) -> Step:
        """Return the step of a rank with `batch` images on a host with `busy` busy ranks.

        Times are interpolated linearly between measurements and extrapolated beyond the largest
        batch. Below the smallest batch and beyond the busiest host nothing is known, and the
        nearest measurement is used. No time is less than that among fewer busy ranks.
        """
        levels = sorted({step.busy for step in self.steps})
        steps = [*accumulate((self._at(batch, level) for level in levels), _longer)]
        busy = min(max(busy, levels[0]), levels[-1])
        return _between(steps, levels, busy)._replace(busy=busy)

    def _at(self, batch: int, busy: int) -> Step:
        steps = sorted(step for step in self.steps if step.busy == busy)
        if len(steps) == 1 and batch > steps[0].batch:
            nothing = Step(0, busy, (0.0,) * len(steps[0].seconds), 0.0, (0.0,) * len(self.bytes))
            steps.insert(0, nothing)
        return _between(steps, [step.batch for step in steps], batch)._replace(batch=batch)

    def lines(self) -> list[str]:
        """Return the lines of a TOML file that `read` understands."""
        head = [f"{key} = {json.dumps(getattr(self, key))}" for key in KEYS]
        lines = ["[compute]", *head]
        for step in self.steps:
            keys = (*STEP, ROUNDS) if step.rounds else STEP
            values = [f"{key} = {json.dumps(_rounded(getattr(step, key)))}" for key in keys]
            lines += ["", "[[compute.step]]", *values]
        return [*lines, ""]

    @classmethod
    def read(cls, key_path: KeyPath, value: Any) -> StepTimes:
        """Return the step times of a `[compute]` table. UserError, naming key and value, for
        anything that does not fit."""
        times = _TABLE.read(key_path, value)
        times._check(key_path)
        return times

    def _check(self, key_path: KeyPath) -> None:
        """UserError where lists that belong together differ in length, where quantiles do not
        ascend, and for a step that appears twice."""
        if len(self.parameters) != len(self.bytes):
            key_path.at("bytes").refuse(f"{len(self.parameters)} numbers", [*self.bytes])
        first = self.steps[0]
        for i, step in enumerate(self.steps):
            entry = key_path._replace(key=f"{key_path.key}.step[{i}]")
            if len(step.ready) != len(self.parameters):
                entry.at("ready").refuse(f"{len(self.parameters)} numbers", [*step.ready])
            if len(step.seconds) != len(first.seconds):
                entry.at("seconds").refuse(f"{len(first.seconds)} numbers", [*step.seconds])
            if [*step.seconds] != sorted(step.seconds):
                entry.at("seconds").refuse("ascending numbers", [*step.seconds])
            if (step.batch, step.busy) in [(s.batch, s.busy) for s in self.steps[:i]]:
                raise UserError(
                    f"{entry}: expected each pair of batch and busy once, got batch = "
                    f"{step.batch}, busy = {step.busy}"
                )


def _rounded(value: Any) -> Any:
    """Return seconds rounded to nanoseconds."""
    if isinstance(value, tuple):
        return [round(one, 9) for one in value]
    return round(value, 9)


def _between(steps: Sequence[Step], positions: Sequence[int], x: int) -> Step:
    """Return the step at `x`, by lines through `steps`, which lie at ascending `positions`."""
    if len(steps) == 1 or x <= positions[0]:
        return steps[0]
    pairs = zip(pairwise(steps), pairwise(positions), strict=True)
    for (a, b), (low, high) in pairs:
        if x <= high:
            return _mix(a, b, (x - low) / (high - low))
    low, high = positions[-2:]
    return _mix(steps[-2], steps[-1], (x - low) / (high - low))


def _mix(a: Step, b: Step, share: float) -> Step:
    """Return a + share (b - a), which lies beyond b for a share above 1.

    Beyond b no time is less than that of b, and quantiles keep b's ratios to the median: lines
    through single quantiles would cross.
    """

    def every(xs: Iterable[float], ys: Iterable[float]) -> tuple[float, ...]:
        pairs = zip(xs, ys, strict=True)
        return tuple(max(x + share * (y - x), y if share > 1 else 0.0) for x, y in pairs)

    (sweep,) = every([a.sweep], [b.sweep])
    if share > 1:
        (middle,) = every([a.quantile(0.5)], [b.quantile(0.5)])
        seconds = tuple(middle / b.quantile(0.5) * x for x in b.seconds)
    else:
        seconds = every(a.seconds, b.seconds)
    return Step(a.batch, a.busy, seconds, sweep, every(a.ready, b.ready))


def _longer(few: Step, many: Step) -> Step:
    """Return the step among `many` busy ranks, nowhere shorter than that among `few`."""
    seconds = tuple(map(max, few.seconds, many.seconds))
    ready = tuple(map(max, few.ready, many.ready))
    return many._replace(seconds=seconds, ready=ready, sweep=max(few.sweep, many.sweep))


def _step_times(step: Sequence[Step], **values: Any) -> StepTimes:
    return StepTimes(**values, steps=tuple(step))


_TABLE = Table(
    _step_times, model=TEXT, input=Many(COUNT, "whole numbers"), classes=COUNT_OR_ZERO, source=TEXT,
    precision=Optional(Text(PRECISIONS), PRECISIONS[0]), parameters=Many(TEXT, "names"),
    bytes=Many(COUNT, "whole numbers"),
    step=Many(
        Table(
            Step, batch=COUNT, busy=COUNT, seconds=Many(POSITIVE, "numbers"), sweep=NOT_NEGATIVE,
            ready=Many(NOT_NEGATIVE, "numbers"), rounds=Optional(Many(POSITIVE, "numbers"), ()),
        ),
        "steps",
    ),
)  # fmt: skip
