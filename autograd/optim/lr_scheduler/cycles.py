"""Rates that rise and fall."""

from __future__ import annotations

from collections.abc import Callable
from math import floor
from typing import Any, NamedTuple

from ...suggest import unknown
from .base import Each, LRScheduler, Rated, each, on_cosine, positive

__all__ = ["CosineAnnealingWarmRestarts", "CyclicLR", "OneCycleLR"]


class CosineAnnealingWarmRestarts(LRScheduler):
    """Down to `eta_min` along half a cosine again and again, first in `T_0` epochs, then each time
    in `T_mult` times as many (Loshchilov and Hutter 2017)."""

    absolute = True

    def __init__(
        self,
        optimizer: Rated,
        T_0: int,
        T_mult: int = 1,
        eta_min: float = 0.0,
        last_epoch: int = -1,
    ) -> None:
        positive("CosineAnnealingWarmRestarts: T_0", T_0)
        positive("CosineAnnealingWarmRestarts: T_mult", T_mult)
        self.T_0, self.T_mult, self.eta_min = T_0, T_mult, eta_min
        super().__init__(optimizer, last_epoch)

    def rate(self, group: int, epoch: float) -> float:
        """Return the rate of a group."""
        if self.T_mult == 1:
            return on_cosine(self.base_lrs[group], self.eta_min, epoch % self.T_0 / self.T_0)
        length = self.T_0
        while epoch >= length:
            epoch, length = epoch - length, length * self.T_mult
        return on_cosine(self.base_lrs[group], self.eta_min, epoch / length)


class _Cycling(LRScheduler):
    """Sets the momentum of the groups, too, the beta of the mean for Adam's kind."""

    absolute = True
    cycle_momentum: bool

    def momentum(self, group: int, epoch: float) -> float:
        """Return the momentum of a group, by number, in an epoch."""
        raise NotImplementedError(f"{type(self).__name__} has no momentum")

    def _check_momentum(self) -> None:
        for group in self.optimizer.groups:
            if not (hasattr(group, "betas") or getattr(group, "momentum", False)):
                raise ValueError(
                    f"{type(self).__name__}: expected cycle_momentum=False for an optimizer without"
                    f" momentum, got True and {group.kind()}; or begin it with a momentum"
                )

    def _set(self, rates: list[float]) -> None:
        super()._set(rates)
        if self.cycle_momentum:
            for i, group in enumerate(self.optimizer.groups):
                _set_momentum(group, self.momentum(i, self.last_epoch))


def _set_momentum(group: Any, value: float) -> None:
    if hasattr(group, "betas"):
        group.betas = (value, *group.betas[1:])
    else:
        group.momentum = value


MODES: dict[str, Callable[[float, float, float], float]] = {
    "triangular": lambda gamma, cycle, epoch: 1.0,
    "triangular2": lambda gamma, cycle, epoch: 0.5 ** (cycle - 1),
    "exp_range": lambda gamma, cycle, epoch: gamma**epoch,
}


class CyclicLR(_Cycling):
    """Up and down in lines between `base_lr` and `max_lr` (Smith 2017).

    The upper end stays (`mode` "triangular"), falls by half in each cycle ("triangular2") or by
    gamma in each epoch ("exp_range"); or is scaled by `scale_fn` of the cycle, from 1, or of the
    epoch (`scale_mode` "iterations"). The momentum goes the other way. ValueError for an unknown
    mode, and for an optimizer without momentum unless `cycle_momentum` is False."""

    def __init__(
        self,
        optimizer: Rated,
        base_lr: Each,
        max_lr: Each,
        step_size_up: int = 2000,
        step_size_down: int | None = None,
        mode: str = "triangular",
        gamma: float = 1.0,
        scale_fn: Callable[[float], float] | None = None,
        scale_mode: str = "cycle",
        cycle_momentum: bool = True,
        base_momentum: Each = 0.8,
        max_momentum: Each = 0.9,
        last_epoch: int = -1,
    ) -> None:
        if mode not in MODES:
            raise unknown("mode of CyclicLR", mode, MODES)
        if scale_mode not in ("cycle", "iterations"):
            raise unknown("scale_mode of CyclicLR", scale_mode, ("cycle", "iterations"))
        positive("CyclicLR: step_size_up", step_size_up)
        down = step_size_up if step_size_down is None else step_size_down
        self.total_size, self.step_ratio = step_size_up + down, step_size_up / (step_size_up + down)
        self.mode, self.gamma = mode, gamma
        self.scale_fn, self.scale_mode = scale_fn, scale_mode
        self.lows: list[float] = each("CyclicLR: base_lr", base_lr, optimizer)
        self.max_lrs: list[float] = each("CyclicLR: max_lr", max_lr, optimizer)
        self.base_momentums = each("CyclicLR: base_momentum", base_momentum, optimizer)
        self.max_momentums = each("CyclicLR: max_momentum", max_momentum, optimizer)
        self.optimizer, self.cycle_momentum = optimizer, cycle_momentum
        if cycle_momentum:
            self._check_momentum()
        super().__init__(optimizer, last_epoch)

    def rate(self, group: int, epoch: float) -> float:
        """Return the rate of a group."""
        low, high = self.lows[group], self.max_lrs[group]
        return low + (high - low) * self._height(epoch)

    def momentum(self, group: int, epoch: float) -> float:
        """Return the momentum of a group."""
        low, high = self.base_momentums[group], self.max_momentums[group]
        return float(high - (high - low) * self._height(epoch))

    def _height(self, epoch: float) -> float:
        """Return where an epoch is between the lower end, 0, and the upper one, 1 if not scaled."""
        cycle = floor(1 + epoch / self.total_size)
        done = 1 + epoch / self.total_size - cycle
        up = done <= self.step_ratio
        height = done / self.step_ratio if up else (done - 1) / (self.step_ratio - 1)
        if self.scale_fn is not None:
            return height * self.scale_fn(cycle if self.scale_mode == "cycle" else epoch)
        return height * MODES[self.mode](self.gamma, cycle, epoch)


class Leg(NamedTuple):
    """A part of one cycle, up to the epoch `end`; its names are of rates and of momenta."""

    end: float
    rates: tuple[str, str]
    momenta: tuple[str, str]


class OneCycleLR(_Cycling):
    """Once up to `max_lr`, in the share `pct_start` of the steps, and down (Smith and Topin 2018).

    The rate begins at max_lr / div_factor and ends at that / final_div_factor; with `three_phase`
    it is at the initial one in between. `anneal_strategy` is "cos" or "linear". The momentum goes
    the other way. `total_steps` may be given as `epochs` and `steps_per_epoch`. ValueError for a
    step too many, settings out of range, and for an optimizer without momentum unless
    `cycle_momentum` is False."""

    def __init__(
        self,
        optimizer: Rated,
        max_lr: Each,
        total_steps: int | None = None,
        epochs: int | None = None,
        steps_per_epoch: int | None = None,
        pct_start: float = 0.3,
        anneal_strategy: str = "cos",
        cycle_momentum: bool = True,
        base_momentum: Each = 0.85,
        max_momentum: Each = 0.95,
        div_factor: float = 25.0,
        final_div_factor: float = 1e4,
        three_phase: bool = False,
        last_epoch: int = -1,
    ) -> None:
        if total_steps is None:
            if epochs is None or steps_per_epoch is None:
                raise ValueError("OneCycleLR: expected total_steps or epochs and steps_per_epoch")
            total_steps = epochs * steps_per_epoch
        positive("OneCycleLR: total_steps", total_steps)
        if not 0 <= pct_start <= 1:
            raise ValueError(f"OneCycleLR: expected pct_start in [0, 1], got {pct_start}")
        if anneal_strategy not in ("cos", "linear"):
            raise unknown("anneal_strategy of OneCycleLR", anneal_strategy, ("cos", "linear"))
        self.total_steps, self.anneal_strategy = total_steps, anneal_strategy
        self.legs = _legs(pct_start, total_steps, three_phase)
        tops = each("OneCycleLR: max_lr", max_lr, optimizer)
        self._rates = [
            {"top": top, "start": top / div_factor, "end": top / div_factor / final_div_factor}
            for top in tops
        ]
        lows, highs = (
            each("OneCycleLR: momentum", m, optimizer) for m in (base_momentum, max_momentum)
        )
        self._momenta = [{"low": a, "high": b} for a, b in zip(lows, highs, strict=True)]
        self.optimizer, self.cycle_momentum = optimizer, cycle_momentum
        if cycle_momentum:
            self._check_momentum()
        super().__init__(optimizer, last_epoch)

    def rate(self, group: int, epoch: float) -> float:
        """Return the rate of a group."""
        leg, done = self._place(epoch)
        return self._between(self._rates[group], leg.rates, done)

    def momentum(self, group: int, epoch: float) -> float:
        """Return the momentum of a group."""
        leg, done = self._place(epoch)
        return self._between(self._momenta[group], leg.momenta, done)

    def _between(self, values: dict[str, float], ends: tuple[str, str], done: float) -> float:
        first, last = (values[name] for name in ends)
        if self.anneal_strategy == "linear":
            return first + (last - first) * done
        return on_cosine(first, last, done)

    def _place(self, epoch: float) -> tuple[Leg, float]:
        """Return the leg in which an epoch is, and which share of it is over."""
        if epoch > self.total_steps:
            raise ValueError(f"OneCycleLR: expected {self.total_steps} steps, got another one")
        begin = 0.0
        for leg in self.legs[:-1]:
            if epoch <= leg.end:
                return leg, _share(epoch, begin, leg.end)
            begin = leg.end
        return self.legs[-1], _share(epoch, begin, self.legs[-1].end)


def _share(epoch: float, begin: float, end: float) -> float:
    return (epoch - begin) / (end - begin) if end != begin else 1.0


def _legs(rising: float, total: int, three: bool) -> list[Leg]:
    top = rising * total - 1
    up = Leg(top, ("start", "top"), ("high", "low"))
    if not three:
        return [up, Leg(total - 1, ("top", "end"), ("low", "high"))]
    down = Leg(2 * top, ("top", "start"), ("low", "high"))
    return [up, down, Leg(total - 1, ("start", "end"), ("high", "high"))]
