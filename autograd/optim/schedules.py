"""Learning-rate schedules: functions of the step, which counts updates from 0.

They have no state, so a run that resumes at a step continues with its rate; ReduceLROnPlateau has
one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from inspect import signature
from math import cos, inf, pi
from typing import TypeAlias

from ..suggest import unknown

Schedule: TypeAlias = Callable[[int], float]


@dataclass(frozen=True)
class Constant:
    """The same rate in every step."""

    lr: float

    def __call__(self, step: int) -> float:
        return self.lr


@dataclass(frozen=True)
class StepDecay:
    """Multiply by gamma every `step_size` steps and, besides, at each milestone (a number of
    steps).

    ValueError where neither is given."""

    lr: float
    step_size: int | None = None
    milestones: tuple[int, ...] = ()
    gamma: float = 0.1

    def __post_init__(self) -> None:
        if self.step_size is None and not self.milestones:
            raise ValueError("step decay: expected step_size or milestones, got neither")
        if self.step_size is not None and self.step_size < 1:
            raise ValueError(f"step decay: expected step_size above 0, got {self.step_size}")
        if not self.gamma >= 0:
            raise ValueError(f"step decay: expected gamma of at least 0, got {self.gamma}")

    def __call__(self, step: int) -> float:
        drops = sum(step >= m for m in self.milestones) + step // (self.step_size or step + 1)
        return self.lr * self.gamma**drops


@dataclass(frozen=True)
class Cosine:
    """Half a cosine from lr to `minimum` over `total` steps, then constant (Loshchilov and Hutter
    2017)."""

    lr: float
    total: int
    minimum: float = 0.0

    def __post_init__(self) -> None:
        _positive("cosine", self.total)

    def __call__(self, step: int) -> float:
        return _between(self.lr, self.minimum, min(step / self.total, 1.0))


@dataclass(frozen=True)
class Exponential:
    """Multiply by gamma in `step_size` steps, a part of that in each."""

    lr: float
    gamma: float = 0.95
    step_size: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.gamma <= 1 or not self.step_size > 0:
            raise ValueError(
                f"exponential: expected gamma in (0, 1] and step_size above 0, got {self.gamma} "
                f"and {self.step_size}"
            )

    def __call__(self, step: int) -> float:
        return self.lr * self.gamma ** (step / self.step_size)


@dataclass(frozen=True)
class Polynomial:
    """From lr to 0 over `total` steps, as the remaining share of them to a power; 1 is a line."""

    lr: float
    total: int
    power: float = 1.0

    def __post_init__(self) -> None:
        _positive("polynomial", self.total)
        if not self.power >= 0:
            raise ValueError(f"polynomial: expected power of at least 0, got {self.power}")

    def __call__(self, step: int) -> float:
        return self.lr * (1 - min(step / self.total, 1.0)) ** self.power


@dataclass(frozen=True)
class Triangle:
    """A line from the share `start` of lr up to lr, after the share `rising` of `total` steps, and
    a line down to the share `end` of it (Jordan 2024)."""

    lr: float
    total: int
    start: float = 0.2
    rising: float = 0.23
    end: float = 0.07

    def __post_init__(self) -> None:
        _positive("triangle", self.total)
        if not 0 < self.rising < 1 or not min(self.start, self.end) >= 0:
            raise ValueError(
                "triangle: expected rising in (0, 1), and start and end of at least 0, got "
                f"{self.rising}, {self.start} and {self.end}"
            )

    def __call__(self, step: int) -> float:
        done = min(step / self.total, 1.0)
        if done <= self.rising:
            return self.lr * (self.start + (1 - self.start) * done / self.rising)
        return self.lr * (self.end + (1 - self.end) * (1 - done) / (1 - self.rising))


class ReduceLROnPlateau:
    """Multiply by `factor` after more than `patience` calls of `observe` without a better value, in
    torch's form. It has a state: `state_dict` and `load_state_dict`.

    A value is better if it is below the best one by a share `threshold` of it (`mode` "min"), or
    above ("max"); with `threshold_mode` "abs" by that much. After a cut, `cooldown` calls count
    nothing; the rate does not fall below `min_lr`, nor by less than `eps`. ValueError for settings
    out of range."""

    def __init__(
        self, lr: float, mode: str = "min", factor: float = 0.1, patience: int = 10,
        threshold: float = 1e-4, threshold_mode: str = "rel", cooldown: int = 0,
        min_lr: float = 0.0, eps: float = 1e-8,
    ) -> None:  # fmt: skip
        if mode not in ("min", "max") or threshold_mode not in ("rel", "abs"):
            raise ValueError(
                "plateau: expected mode min or max and threshold_mode rel or abs, got "
                f"{mode!r:.60} and {threshold_mode!r:.60}"
            )
        if not 0 <= factor < 1:
            raise ValueError(f"plateau: expected factor in [0, 1), got {factor}")
        if not min(patience, threshold, cooldown, min_lr, eps) >= 0:
            raise ValueError(
                "plateau: expected patience, threshold, cooldown, min_lr and eps of at least 0, "
                f"got {patience}, {threshold}, {cooldown}, {min_lr} and {eps}"
            )
        self.lr, self.factor, self.patience, self.cooldown = lr, factor, patience, cooldown
        self.sign = 1.0 if mode == "min" else -1.0
        self.threshold, self.is_relative = threshold, threshold_mode == "rel"
        self.min_lr, self.eps = min_lr, eps
        self.best, self.not_better, self.cooling = self.sign * inf, 0, 0

    def __call__(self, step: int) -> float:
        return self.lr

    def observe(self, value: float) -> None:
        """Take in a loss or a metric."""
        if self._is_better(value):
            self.best, self.not_better = value, 0
        else:
            self.not_better += 1
        if self.cooling:
            self.cooling, self.not_better = self.cooling - 1, 0
        if self.not_better > self.patience:
            lower = max(self.lr * self.factor, self.min_lr)
            self.lr = lower if self.lr - lower > self.eps else self.lr
            self.cooling, self.not_better = self.cooldown, 0

    def _is_better(self, value: float) -> bool:
        if not self.is_relative:
            return self.sign * (value - self.best) < -self.threshold
        return self.sign * (value - self.best * (1 - self.sign * self.threshold)) < 0

    def state_dict(self) -> dict[str, float]:
        """Return what it needs to continue."""
        return {name: getattr(self, name) for name in ("lr", "best", "not_better", "cooling")}

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        """Continue from what `state_dict` returned."""
        for name in self.state_dict():
            setattr(self, name, state[name])


@dataclass(frozen=True)
class Warmup:
    """Another schedule with a linear warm-up in the first `steps` steps (Goyal et al. 2017).

    Step t takes (t + 1) / (steps + 1) of the rate that the other schedule has for it."""

    after: Schedule
    steps: int

    def __post_init__(self) -> None:
        if self.steps < 0:
            raise ValueError(f"warm-up: expected steps of at least 0, got {self.steps}")

    def __call__(self, step: int) -> float:
        return self.after(step) * min((step + 1) / (self.steps + 1), 1.0)


@dataclass(frozen=True)
class OneCycle:
    """Up to lr over the first `rising` share of `total` steps, then down, both along half a cosine.

    It starts at lr / div_factor and ends at that / final_div_factor (Smith and Topin 2018, as in
    torch)."""

    lr: float
    total: int
    rising: float = 0.3
    div_factor: float = 25.0
    final_div_factor: float = 1e4

    def __post_init__(self) -> None:
        _positive("one-cycle", self.total)
        if not 0 <= self.rising <= 1:
            raise ValueError(f"one-cycle: expected rising in [0, 1], got {self.rising}")
        if not min(self.div_factor, self.final_div_factor) > 0:
            raise ValueError(
                "one-cycle: expected div_factor and final_div_factor above 0, got "
                f"{self.div_factor} and {self.final_div_factor}"
            )

    def __call__(self, step: int) -> float:
        start = self.lr / self.div_factor
        top, end = self.rising * self.total - 1, self.total - 1
        if step <= top:
            return _between(start, self.lr, step / top if top > 0 else 1.0)
        done = (step - top) / (end - top) if end > top else 1.0
        return _between(self.lr, start / self.final_div_factor, min(done, 1.0))


def _between(first: float, last: float, done: float) -> float:
    """Return the rate on half a cosine from `first` to `last`, `done` of the way in [0, 1]."""
    return last + (first - last) * (1.0 + cos(pi * done)) / 2.0


def _positive(kind: str, total: int) -> None:
    if total < 1:
        raise ValueError(f"{kind}: expected total above 0, got {total}")
    if total >= 1 << 63:  # far larger ones are no floats
        raise ValueError(
            f"{kind}: expected a total below 2^63, got one of {total.bit_length()} bits"
        )


_SCHEDULES: dict[str, Callable[..., Schedule]] = {
    "constant": Constant,
    "step": StepDecay,
    "cosine": Cosine,
    "one-cycle": OneCycle,
    "exponential": Exponential,
    "polynomial": Polynomial,
    "triangle": Triangle,
    "plateau": ReduceLROnPlateau,
}


def names() -> tuple[str, ...]:
    """Return the names that `by_name` knows."""
    return tuple(_SCHEDULES)


def by_name(name: str, lr: float, total: int, warmup: int = 0, **options: object) -> Schedule:
    """Return a schedule for `total` steps, the first `warmup` of them with a linear warm-up.

    Options are the fields of its class: step_size, milestones, gamma (step); minimum (cosine);
    rising, div_factor, final_div_factor (one-cycle); gamma, step_size (exponential); power
    (polynomial); start, rising, end (triangle); those of ReduceLROnPlateau (plateau). ValueError
    for an unknown name or option, with the nearest, or a number out of range."""
    if name not in _SCHEDULES:
        raise unknown("schedule", name, _SCHEDULES)
    if not lr >= 0:
        raise ValueError(f"schedule {name}: expected lr of at least 0, got {lr}")
    make = _SCHEDULES[name]
    fields = [field for field in signature(make).parameters if field not in ("lr", "total")]
    for option in options.keys() - {*fields}:
        raise unknown(f"option of schedule {name}", option, fields)
    if "total" in signature(make).parameters:
        options = {"total": total, **options}
    schedule = make(lr, **options)
    return Warmup(schedule, warmup) if warmup else schedule
