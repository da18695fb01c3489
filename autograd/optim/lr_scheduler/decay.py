"""Rates that fall, or rise once."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from math import floor, prod
from typing import TypeAlias

from .base import LRScheduler, Rated, each, on_cosine, positive

__all__ = [
    "ConstantLR",
    "CosineAnnealingLR",
    "ExponentialLR",
    "LambdaLR",
    "LinearLR",
    "MultiStepLR",
    "MultiplicativeLR",
    "PolynomialLR",
    "StepLR",
]

Factor: TypeAlias = Callable[[int], float]


class LambdaLR(LRScheduler):
    """The initial rate times a function of the epoch; a list has one for each group."""

    absolute = True

    def __init__(
        self, optimizer: Rated, lr_lambda: Factor | Sequence[Factor], last_epoch: int = -1
    ) -> None:
        self.lr_lambdas: list[Factor] = each("LambdaLR: lr_lambda", lr_lambda, optimizer)
        super().__init__(optimizer, last_epoch)

    def rate(self, group: int, epoch: float) -> float:
        """Return the rate of a group."""
        return self.base_lrs[group] * self.lr_lambdas[group](floor(epoch))


class MultiplicativeLR(LambdaLR):
    """Multiply by a function of the epoch in each; a list has one for each group."""

    def rate(self, group: int, epoch: float) -> float:
        """Return the rate of a group."""
        return self.base_lrs[group] * prod(
            self.lr_lambdas[group](i) for i in range(1, floor(epoch) + 1)
        )

    def _next(self, group: int, now: float) -> float:
        return now * self.lr_lambdas[group](self.last_epoch) if self.last_epoch > 0 else now


class StepLR(LRScheduler):
    """Multiply by gamma every `step_size` epochs."""

    def __init__(
        self, optimizer: Rated, step_size: int, gamma: float = 0.1, last_epoch: int = -1
    ) -> None:
        positive("StepLR: step_size", step_size)
        self.step_size, self.gamma = step_size, gamma
        super().__init__(optimizer, last_epoch)

    def rate(self, group: int, epoch: float) -> float:
        """Return the rate of a group."""
        return float(self.base_lrs[group] * self.gamma ** (epoch // self.step_size))


class MultiStepLR(LRScheduler):
    """Multiply by gamma at each of the milestones, which are epochs."""

    def __init__(
        self, optimizer: Rated, milestones: Iterable[int], gamma: float = 0.1, last_epoch: int = -1
    ) -> None:
        self.milestones, self.gamma = sorted(milestones), gamma
        super().__init__(optimizer, last_epoch)

    def rate(self, group: int, epoch: float) -> float:
        """Return the rate of a group."""
        return self.base_lrs[group] * self.gamma ** bisect_right(self.milestones, epoch)


class ConstantLR(LRScheduler):
    """Multiply by a factor for `total_iters` epochs. ValueError for a factor outside [0, 1]."""

    def __init__(
        self,
        optimizer: Rated,
        factor: float = 1.0 / 3,
        total_iters: int = 5,
        last_epoch: int = -1,
    ) -> None:
        if not 0 <= factor <= 1:
            raise ValueError(f"ConstantLR: expected factor in [0, 1], got {factor}")
        self.factor, self.total_iters = factor, total_iters
        super().__init__(optimizer, last_epoch)

    def rate(self, group: int, epoch: float) -> float:
        """Return the rate of a group."""
        return self.base_lrs[group] * (self.factor if epoch < self.total_iters else 1.0)


class LinearLR(LRScheduler):
    """Multiply by a factor that goes in a line from `start_factor` to `end_factor` in `total_iters`
    epochs. ValueError for factors outside (0, 1] and [0, 1]."""

    def __init__(
        self,
        optimizer: Rated,
        start_factor: float = 1.0 / 3,
        end_factor: float = 1.0,
        total_iters: int = 5,
        last_epoch: int = -1,
    ) -> None:
        if not (0 < start_factor <= 1 and 0 <= end_factor <= 1):
            raise ValueError(
                "LinearLR: expected start_factor in (0, 1] and end_factor in [0, 1], got "
                f"{start_factor} and {end_factor}"
            )
        self.start_factor, self.end_factor = start_factor, end_factor
        self.total_iters = total_iters
        super().__init__(optimizer, last_epoch)

    def rate(self, group: int, epoch: float) -> float:
        """Return the rate of a group."""
        done = min(epoch, self.total_iters) / self.total_iters if self.total_iters else 1.0
        factor = self.start_factor + (self.end_factor - self.start_factor) * done
        return self.base_lrs[group] * factor


class ExponentialLR(LRScheduler):
    """Multiply by gamma in each epoch."""

    def __init__(self, optimizer: Rated, gamma: float, last_epoch: int = -1) -> None:
        self.gamma = gamma
        super().__init__(optimizer, last_epoch)

    def rate(self, group: int, epoch: float) -> float:
        """Return the rate of a group."""
        return float(self.base_lrs[group] * self.gamma**epoch)


class PolynomialLR(LRScheduler):
    """Down to 0 in `total_iters` epochs, as the remaining share of them to a power."""

    def __init__(
        self, optimizer: Rated, total_iters: int = 5, power: float = 1.0, last_epoch: int = -1
    ) -> None:
        positive("PolynomialLR: total_iters", total_iters)
        self.total_iters, self.power = total_iters, power
        super().__init__(optimizer, last_epoch)

    def rate(self, group: int, epoch: float) -> float:
        """Return the rate of a group."""
        left = 1 - min(epoch, self.total_iters) / self.total_iters
        return float(self.base_lrs[group] * left**self.power)


class CosineAnnealingLR(LRScheduler):
    """Down to `eta_min` in `T_max` epochs along half a cosine, and up again (Loshchilov and Hutter
    2017)."""

    def __init__(
        self, optimizer: Rated, T_max: int, eta_min: float = 0.0, last_epoch: int = -1
    ) -> None:
        positive("CosineAnnealingLR: T_max", T_max)
        self.T_max, self.eta_min = T_max, eta_min
        super().__init__(optimizer, last_epoch)

    def rate(self, group: int, epoch: float) -> float:
        """Return the rate of a group."""
        return on_cosine(self.base_lrs[group], self.eta_min, epoch / self.T_max)
