"""Whether the steps of a calibration agree with each other, and the bounds between which they lie.

Background load only makes steps slower, and some more than others: rounds of one step disagree, or
a step takes longer alone than among busy ranks, or longer with fewer images. A plan from such a
calibration is a range.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import combinations
from statistics import fmean

from .step_time import Step, StepTimes

# Tolerated ratios. On an idle host the slowest round stays within 1.1 times the fastest.
ROUNDS_APART = 1.2  # of the slowest round of a step to the fastest
STEPS_APART = 1.1  # of a step to another that should take at least as long


def faults(times: StepTimes) -> list[str]:
    """Return a line for each disagreement, none where the calibration is fit."""
    return [*_rounds(times), *_orders(times)]


def _rounds(times: StepTimes) -> Iterator[str]:
    for step in times.steps:
        if step.rounds and max(step.rounds) > ROUNDS_APART * min(step.rounds):
            low, high = (f"{1e3 * end(step.rounds):.3g}" for end in (min, max))
            yield f"rounds of {_named(step)} took from {low} to {high} ms"


def _orders(times: StepTimes) -> Iterator[str]:
    for less, more in combinations(sorted(times.steps), 2):
        same = less.batch == more.batch or less.busy == more.busy
        if same and less.quantile(0.5) > STEPS_APART * more.quantile(0.5):
            took = [f"{_named(s)} took {1e3 * s.quantile(0.5):.3g} ms" for s in (less, more)]
            yield ", ".join(took)


def _named(step: Step) -> str:
    images = f"{step.batch:,} image{'s' * (step.batch > 1)}"
    return f"{images} {f'on each of {step.busy} ranks' if step.busy > 1 else 'on one rank'}"


def bounds(times: StepTimes) -> tuple[StepTimes, StepTimes]:
    """Return a lower and an upper bound of the steps: as their fastest rounds took them, and as the
    slowest did. In the former no step is slower than one with more images or busy ranks."""
    quick = [_scaled(step, min) for step in times.steps]
    low = tuple(_shortest([s, *[o for o in quick if _is_more(o, s)]]) for s in quick)
    high = tuple(_scaled(step, max) for step in times.steps)
    return replace(times, steps=low), replace(times, steps=high)


def _scaled(step: Step, end: Callable[[Sequence[float]], float]) -> Step:
    """Return a step scaled to the round that `end`, min or max, selects."""
    return step.slowed(end(step.rounds) / fmean(step.rounds) if step.rounds else 1.0)


def _is_more(other: Step, step: Step) -> bool:
    return other != step and other.batch >= step.batch and other.busy >= step.busy


def _shortest(steps: list[Step]) -> Step:
    """Return the first step with each quantile lowered to the least of all steps."""
    seconds = tuple(min(times) for times in zip(*[s.seconds for s in steps], strict=True))
    return steps[0]._replace(seconds=seconds)
