"""L-BFGS on a flat buffer. It evaluates the loss as often as it needs to: `step(closure)`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from math import fabs
from typing import Any

from .. import context
from ..array import Array, array
from ..ops import clipping
from ..ops.elementwise import abs, add, copy, mul, neg, sub
from ..ops.reduce import sum as total
from ..ops.update import store
from ..tensor import Parameter, Tensor
from .group import ParameterGroup
from .line_search import Point, strong_wolfe
from .optimizer import Optimizer, Parameters
from .schedules import Schedule

CURVED = 1e-10  # least product of a change of weights and that of gradients


@dataclass
class LBFGSGroup(ParameterGroup):
    """Parameters, the gradient and the change of the last iteration, and pairs of changes of
    weights and of gradients."""

    max_iter: int
    max_eval: int | None
    tolerance_grad: float
    tolerance_change: float
    history_size: int
    line_search_fn: str | None

    def __post_init__(self) -> None:
        super().__post_init__()
        self.last: dict[str, Array] = {}  # "gradient" and "change"
        self.pairs: list[tuple[Array, Array]] = []
        self.evaluate: Callable[[], float] = lambda: 0.0

    def check(self) -> None:
        """ValueError for settings out of range."""
        self.check_least("lr", "tolerance_grad", "tolerance_change")
        for name in (
            "max_iter",
            "history_size",
            *(["max_eval"] if self.max_eval is not None else []),
        ):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"LBFGS: expected a whole {name} above 0, got {value!r:.60}")
        if self.line_search_fn not in (None, "strong_wolfe"):
            known = "None or 'strong_wolfe'"
            raise ValueError(f"LBFGS: expected line_search_fn {known}, got {self.line_search_fn!r}")

    def own_slots(self) -> dict[str, Array]:
        """Return the last iteration, and the pairs."""
        each = enumerate(self.pairs)
        named = {f"pair{i}.{kind}": a for i, pair in each
                 for kind, a in zip(("change", "difference"), pair, strict=True)}  # fmt: skip
        return {**self.last, **named}

    def prepare(self, names: Iterable[str]) -> None:
        """Make zeros for the slots of a state that is about to be loaded."""
        names = {*names}
        self.last = {name: self.slot() for name in ("gradient", "change") if name in names}
        count = len([name for name in names if name.startswith("pair")]) // 2
        self.pairs = [(self.slot(), self.slot()) for _ in range(count)]

    def step(self, rate: float) -> None:
        """Iterate until the gradient, the change of weights or that of the loss is small, or
        evaluations run out."""
        self.counts = [count + 1 for count in self.counts]
        point = Point(0.0, self.evaluate(), self._gradient(), 0.0)
        most, done = self.max_eval or self.max_iter * 5 // 4, 1
        for left in reversed(range(self.max_iter)):
            if _largest(point.gradient) <= self.tolerance_grad:
                return
            t = rate if self.last else rate * min(1.0, 1 / _sum(abs(point.gradient)))
            direction = self._direction(point.gradient)
            start = point._replace(t=0.0, slope=_dot(point.gradient, direction))
            self.last = {"gradient": start.gradient, "change": self.slot()}
            if start.slope >= -self.tolerance_change:
                return
            point, count = self._searched(start, direction, t, left > 0, most - done)
            done += count
            moved = _largest(self.last["change"])
            same = fabs(point.value - start.value) < self.tolerance_change
            if done >= most or moved <= self.tolerance_change or same:
                return

    def _searched(
        self, start: Point, direction: Array, t: float, evaluates: bool, most: int
    ) -> tuple[Point, int]:
        """Move along a direction; return where that ends, and how often the loss was evaluated. The
        last move of a step is not evaluated, unless there is a line search."""
        origin = copy(self.flat.data)

        def move(t: float) -> Array:
            change = mul(direction, array(t, self.flat.dtype))
            store(self.flat.data, add(origin, change))
            return change

        def probe(t: float) -> Point:
            move(t)
            value, gradient = self.evaluate(), self._gradient()
            return Point(t, value, gradient, _dot(gradient, direction))

        point, count = start._replace(t=t), 0
        if self.line_search_fn:
            shortest = self.tolerance_change / _largest(direction)
            point, count = strong_wolfe(probe, start, t, shortest, most)
        elif evaluates:
            point, count = probe(t), 1
        self.last["change"] = move(point.t)
        return point, count

    def _gradient(self) -> Array:
        self.flat.zero_missing()
        return copy(self.flat.grad)

    def _direction(self, gradient: Array) -> Array:
        """Return minus the gradient times the estimate of the inverse Hessian by the pairs (Nocedal
        and Wright 2006, algorithm 7.4), 0 for frozen parameters."""
        if self.last:
            pair = self.last["change"], sub(gradient, self.last["gradient"])
            if _dot(*pair) > CURVED:
                self.pairs = [*self.pairs, pair][-self.history_size :]
        products, shares = [_dot(*pair) for pair in self.pairs], []
        d = neg(gradient)
        for (change, difference), product in zip(self.pairs[::-1], products[::-1], strict=True):
            shares.append(_dot(change, d) / product)
            d = sub(d, self._scaled(difference, shares[-1]))
        if self.pairs:
            last = self.pairs[-1][1]
            d = self._scaled(d, products[-1] / _dot(last, last))
        for (change, difference), product in zip(self.pairs, products, strict=True):
            d = add(d, self._scaled(change, shares.pop() - _dot(difference, d) / product))
        for i, p in enumerate(self.flat.parameters):
            if p.grad is None:
                store(self.flat.part(d, i, i), array(0, self.flat.dtype))
        return d

    def _scaled(self, x: Array, factor: float) -> Array:
        return mul(x, array(factor, self.flat.dtype))


def _sum(x: Array) -> float:
    return float(total(x, axes=(0,)).value)


def _dot(x: Array, y: Array) -> float:
    return _sum(mul(x, y))


def _largest(x: Array) -> float:
    return float(clipping.magnitude(x).value)


class LBFGS(Optimizer):
    """L-BFGS (Liu and Nocedal 1989), in torch's form, for losses of all data. A step takes up to
    `max_iter` iterations, each of which evaluates the loss at least once:

        def closure():
            optimizer.zero_grad()
            loss = loss_of(model(x))
            loss.backward()
            return loss

        optimizer.step(closure)

    It ends where no element of the gradient is above `tolerance_grad`, weights or loss change by
    less than `tolerance_change`, or the loss was evaluated `max_eval` times (default: 1.25
    max_iter). `history_size` pairs of flat arrays are kept. `line_search_fn` is None, for steps of
    `lr`, or "strong_wolfe". ValueError for more than one group, else as of `Optimizer`."""

    group = LBFGSGroup
    groups: list[LBFGSGroup]  # type: ignore[assignment]
    elementwise = False

    def __init__(
        self,
        params: Parameters | Iterable[Mapping[str, Any]],
        lr: float | Schedule = 1.0,
        max_iter: int = 20,
        max_eval: int | None = None,
        tolerance_grad: float = 1e-7,
        tolerance_change: float = 1e-9,
        history_size: int = 100,
        line_search_fn: str | None = None,
        named_parameters: Iterable[tuple[str, Parameter]] | None = None,
    ) -> None:
        defaults = {
            "lr": lr, "max_iter": max_iter, "max_eval": max_eval,
            "tolerance_grad": tolerance_grad, "tolerance_change": tolerance_change,
            "history_size": history_size, "line_search_fn": line_search_fn,
        }  # fmt: skip
        super().__init__(params, defaults, named_parameters)
        if len(self.groups) != 1:
            raise ValueError(f"LBFGS: expected one group of parameters, got {len(self.groups)}")

    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor:
        """Take a step; return the loss before it. `closure` computes the loss and its gradients.
        TypeError where there is none."""
        if closure is None:
            raise TypeError("LBFGS: expected step(closure), which returns the loss, got no closure")
        outer, (group,) = context.current(), self.groups
        losses: list[Tensor] = []

        def evaluate() -> float:
            with context.using(phase=outer.phase, scope=outer.scope, tape=outer.tape):
                loss = closure()
            losses[1:] = [loss]
            return float(loss.item())

        group.evaluate = evaluate
        super().step()
        self.slots = (*group.slots(),)
        return losses[0]

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from what `state_dict` returned, as of `Optimizer`."""
        (group,) = self.groups
        before = group.last, group.pairs, self.slots
        group.prepare(state)
        self.slots = (*group.slots(),)
        try:
            super().load_state_dict(state)
        except ValueError:
            group.last, group.pairs, self.slots = before
            raise
