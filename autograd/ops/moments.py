"""Steps of optimizers that keep numbers for each weight, such as moments of the gradient.

Each is a primitive made of a rule in `update_rules.py`, which has its formula. Behind the slots is
a narrow copy of the weights, which gets the new ones, rounded. Numbers that change from step to
step are 0-d arrays; slots that the options do not use, and the copy, may be, too, and are left
alone."""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Iterable
from typing import Any

import numpy as np

from ..array import NDArray, Spec
from ..ledger import Cost
from ..primitive import Primitive
from ..update_rules import RULES, Rule, Step
from .update import copied_bytes, fits

BLOCK = 1 << 15  # elements at a time


class Arrays:
    """The algebra of NumPy's arrays of a type."""

    sqrt, larger = staticmethod(np.sqrt), staticmethod(np.maximum)

    def __init__(self, dtype: np.dtype[Any]) -> None:
        self.real = dtype.type

    def select(self, mask: NDArray, a: Any, b: Any) -> NDArray:
        return np.where(mask, self.real(a), self.real(b))


class _Counted:
    """A number of which nothing is known but what is done with it, and the algebra of such."""

    def __init__(self, counts: Counter[str]) -> None:
        self.counts = counts

    def _done(self, kind: str) -> _Counted:
        self.counts[kind] += 1
        return self

    def __add__(self, other: object) -> _Counted:
        return self._done("add")

    def __mul__(self, other: object) -> _Counted:
        return self._done("mul")

    def __truediv__(self, other: object) -> _Counted:
        return self._done("div")

    def __gt__(self, other: object) -> _Counted:
        return self._done("cmp")

    __sub__ = __rsub__ = __add__
    __lt__ = __gt__

    def sqrt(self, a: object) -> _Counted:
        return self._done("exp")

    def larger(self, a: object, b: object) -> _Counted:
        return self._done("cmp")

    def select(self, mask: object, a: object, b: object) -> _Counted:
        return self


def blocks(arrays: list[NDArray]) -> Iterable[list[NDArray]]:
    """Return parts of arrays of one shape, so that temporaries stay in the cache."""
    if not all(x.flags.c_contiguous for x in arrays):
        return [arrays]
    flat = [x.reshape(-1) for x in arrays]
    return ([x[i : i + BLOCK] for x in flat] for i in range(0, arrays[0].size, BLOCK))


def _made(rule: Rule) -> Primitive:
    """Return the primitive of a rule: weights, gradient, slots, the narrow copy of the weights,
    numbers; settings by keyword."""
    own = inspect.signature(rule.step).parameters.values()
    numbers = sum(p.kind is p.POSITIONAL_OR_KEYWORD for p in own)
    first, count = 2 + len(rule.slots), len(rule.slots)

    def reference(w: NDArray, g: NDArray, *rest: NDArray, **attrs: Any) -> None:
        narrow = rest[count]
        step: Step = rule.step(*map(float, rest[count + 1 :]), **attrs)
        slots = [x for x, used in zip(rest[:count], step.slots, strict=True) if used]
        settings = [w.dtype.type(number) for number in step.numbers]
        for weights, gradient, *some in blocks([w, g, *slots]):
            algebra = Arrays(w.dtype)
            new = rule.formula(algebra, settings, step.flags, weights, gradient, *some)
            for old, value in zip((weights, *some), new, strict=True):
                old[...] = value
        if narrow.shape:
            narrow[...] = w

    def cost(y: None, w: Spec, g: Spec, *rest: Spec, **attrs: Any) -> Cost:
        step: Step = rule.step(*[1.0] * numbers, **attrs)
        used, counts = sum(step.slots), Counter[str]()
        one = _Counted(counts)
        rule.formula(one, [one] * len(step.numbers), step.flags, *[one] * (2 + used))
        return Cost(
            **{kind: times * w.size for kind, times in counts.items()},
            bytes_read=(2 + used) * w.nbytes,
            bytes_written=(1 + used) * w.nbytes + copied_bytes(rest[count]),
        )

    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    arrays = [inspect.Parameter(name, kind) for name in ("w", "g", *rule.slots, "narrow")]
    reference.__name__, reference.__doc__ = rule.step.__name__, rule.step.__doc__
    reference.__dict__["__signature__"] = inspect.Signature([*arrays, *own])
    return Primitive(reference, fits, cost, writes=(0, *range(2, first + 1)))


adam, nadam, adamax, rmsprop, adagrad, adadelta, asgd, rprop = map(_made, RULES.values())
