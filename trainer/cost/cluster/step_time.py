"""What a model's step takes on a host whose ranks do not wait for one another, as a calibration
measured it, by images of a rank and by how many ranks of the host are busy at once.

In a file:

    [compute]
    model = "lenet"
    input = [1, 28, 28]
    classes = 10
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
from pathlib import Path
from typing import Any, NamedTuple

from ...errors import UserError

KEYS = ("model", "input", "classes", "source", "parameters", "bytes", "step")
LARGEST = 1e30  # of any number in a file
STEP = ("batch", "busy", "seconds", "sweep", "ready")
ROUNDS = "rounds"


class Step(NamedTuple):
    """A step of a rank with `batch` images, among `busy` ranks of its host: quantiles of its
    seconds, in ascending order, and when gradients are final, all of them (`sweep`) and each
    parameter's. `rounds` are the medians of the rounds of measuring, where they are known."""

    batch: int
    busy: int
    seconds: tuple[float, ...]
    sweep: float
    ready: tuple[float, ...]
    rounds: tuple[float, ...] = ()

    def quantile(self, share: float) -> float:
        """Return the seconds that this share of the steps does not exceed."""
        place = share * (len(self.seconds) - 1)
        low = min(int(place), len(self.seconds) - 1)
        high = min(low + 1, len(self.seconds) - 1)
        return self.seconds[low] + (place - low) * (self.seconds[high] - self.seconds[low])


@dataclass(frozen=True)
class StepTimes:
    """Steps of a model, and its parameters, in the order in which their gradients are final, with
    the bytes of these."""

    model: str
    input: tuple[int, ...]
    classes: int
    source: str
    parameters: tuple[str, ...]
    bytes: tuple[int, ...]
    steps: tuple[Step, ...]

    def fits(self, model: str, shape: tuple[int, ...], classes: int) -> bool:
        """Tell whether this is of such a model."""
        return (self.model, self.input, self.classes) == (model, shape, classes)

    def largest(self) -> int:
        """Return the most images of a rank that were measured."""
        return max(step.batch for step in self.steps)

    def busiest(self) -> int:
        """Return how many ranks of a host were busy at most."""
        return max(step.busy for step in self.steps)

    def at(self, batch: int, busy: int) -> Step:
        """Return the step of a rank with so many images on a host with so many busy ranks. Between
        what was measured the times run in straight lines; beyond the largest batch the last line
        goes on; below the smallest, and beyond the busiest host, nothing is known, and its times
        stand. No time is less than that among fewer busy ranks."""
        levels = sorted({step.busy for step in self.steps})
        found = [*accumulate((self._at(batch, level) for level in levels), _longer)]
        busy = min(max(busy, levels[0]), levels[-1])
        return _between(found, levels, busy)._replace(busy=busy)

    def _at(self, batch: int, busy: int) -> Step:
        steps = sorted(step for step in self.steps if step.busy == busy)
        if len(steps) == 1 and batch > steps[0].batch:
            nothing = Step(0, busy, (0.0,) * len(steps[0].seconds), 0.0, (0.0,) * len(self.bytes))
            steps.insert(0, nothing)
        return _between(steps, [step.batch for step in steps], batch)._replace(batch=batch)

    def lines(self) -> list[str]:
        """Return the lines of a file that `read` understands."""
        head = [f"{key} = {json.dumps(getattr(self, key))}" for key in KEYS[:-1]]
        lines = ["[compute]", *head]
        for step in self.steps:
            keys = (*STEP, ROUNDS) if step.rounds else STEP
            values = [f"{key} = {json.dumps(_rounded(getattr(step, key)))}" for key in keys]
            lines += ["", "[[compute.step]]", *values]
        return [*lines, ""]

    @classmethod
    def read(cls, path: Path, held: Any) -> StepTimes:
        """Return what a file holds. UserError, naming the key and the value, for what does not
        fit."""
        _check(path, "compute", held, KEYS)
        for key, kind in (("model", str), ("source", str), ("classes", int)):
            if not isinstance(held[key], kind):
                raise UserError(f"{path}: compute.{key} = {held[key]!r}: no {kind.__name__}")
        shape, sizes = (_numbers(path, f"compute.{key}", held[key]) for key in ("input", "bytes"))
        named = held["parameters"]
        if not isinstance(named, list) or not all(isinstance(name, str) for name in named):
            raise UserError(f"{path}: compute.parameters = {named!r}: names are needed")
        if len(named) != len(sizes):
            raise UserError(f"{path}: compute has {len(named)} parameters, {len(sizes)} bytes")
        steps = held["step"]
        if not isinstance(steps, list) or not steps:
            raise UserError(f"{path}: compute.step = {steps!r}: a list of steps is needed")
        found = tuple(_step(path, i, step, len(named)) for i, step in enumerate(steps))
        for i, step in enumerate(found):
            if len(step.seconds) != len(found[0].seconds):
                raise UserError(
                    f"{path}: compute.step[{i}].seconds: expected {len(found[0].seconds)} numbers, "
                    f"as many as step[0] has, got {len(step.seconds)}"
                )
            if (step.batch, step.busy) in [(s.batch, s.busy) for s in found[:i]]:
                raise UserError(
                    f"{path}: compute.step[{i}]: batch = {step.batch} with busy = {step.busy} is "
                    "there twice"
                )
        return cls(
            held["model"], tuple(map(int, shape)), held["classes"], held["source"], tuple(named),
            tuple(map(int, sizes)), found,
        )  # fmt: skip


def _rounded(value: Any) -> Any:
    """Return seconds to the nanosecond."""
    if isinstance(value, tuple):
        return [round(one, 9) for one in value]
    return round(value, 9)


def _between(steps: Sequence[Step], places: Sequence[int], place: int) -> Step:
    """Return the step at a place on the lines through those at `places`, which ascend."""
    if len(steps) == 1 or place <= places[0]:
        return steps[0]
    pairs = zip(pairwise(steps), pairwise(places), strict=True)
    for (a, b), (low, high) in pairs:
        if place <= high:
            return _mix(a, b, (place - low) / (high - low))
    low, high = places[-2:]
    return _mix(steps[-2], steps[-1], (place - low) / (high - low))


def _mix(a: Step, b: Step, share: float) -> Step:
    """Return a + share (b - a); beyond b no time is less than there, and steps are spread about
    their median as there: lines through single quantiles would cross."""

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


def _check(
    path: Path, name: str, held: Any, keys: tuple[str, ...], optional: tuple[str, ...] = ()
) -> None:
    if not isinstance(held, dict) or (missing := [key for key in keys if key not in held]):
        what = f"{name}.{missing[0]}" if isinstance(held, dict) else f"table [{name}]"
        raise UserError(f"{path}: {what} is missing; there are {', '.join(keys)}")
    for key in held:
        if key not in (*keys, *optional):
            raise UserError(f"{path}: {name}.{key} is unknown; there are {', '.join(keys)}")


def _numbers(path: Path, key: str, value: Any) -> tuple[float, ...]:
    """Return a list of one finite number at least, none below 0."""
    if not isinstance(value, list) or not value or not all(map(_is_number, value)):
        raise UserError(f"{path}: {key} = {value!r}: a list of finite numbers from 0 up is needed")
    return tuple(map(float, value))


def _is_number(value: Any) -> bool:
    real = isinstance(value, int | float) and not isinstance(value, bool)
    return real and 0 <= value < LARGEST


def _step(path: Path, place: int, held: Any, parameters: int) -> Step:
    name = f"compute.step[{place}]"
    _check(path, name, held, STEP, (ROUNDS,))
    for key in ("batch", "busy"):
        if not isinstance(held[key], int) or not _is_number(held[key]) or held[key] < 1:
            raise UserError(f"{path}: {name}.{key} = {held[key]!r}: a whole number from 1 up")
    if not _is_number(held["sweep"]):
        raise UserError(f"{path}: {name}.sweep = {held['sweep']!r}: a number from 0 up is needed")
    seconds, ready = (_numbers(path, f"{name}.{key}", held[key]) for key in ("seconds", "ready"))
    if min(seconds) == 0:
        raise UserError(f"{path}: {name}.seconds = {held['seconds']}: a step takes more than 0")
    for one, other in pairwise(seconds):
        if one > other:
            raise UserError(
                f"{path}: {name}.seconds: expected ascending numbers, got {other:g} after {one:g}"
            )
    if len(ready) != parameters:
        raise UserError(f"{path}: {name}.ready has {len(ready)} of {parameters} parameters")
    rounds = _numbers(path, f"{name}.{ROUNDS}", held[ROUNDS]) if ROUNDS in held else ()
    if 0 in rounds:
        raise UserError(f"{path}: {name}.{ROUNDS}: expected more than 0, got {held[ROUNDS]}")
    return Step(held["batch"], held["busy"], seconds, float(held["sweep"]), ready, rounds)
