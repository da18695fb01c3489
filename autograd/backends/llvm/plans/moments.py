"""Steps of optimizers that keep numbers for each weight."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from ....array import NDArray, Spec
from ....update_rules import RULES
from ..compiler.isa.targets import Target
from ..compiler.jit import build
from ..kernels.moments import stepped
from ..registry import implements
from ..runtime.executable import Executable
from ..runtime.layout import Layouts, address
from .update import alike, in_place


def _step(
    name: str, target: Target, w: Spec, g: Spec, *rest: Spec, **attrs: Any
) -> Executable | None:
    """Plan a step by a rule on weights, gradient and slots, which numbers follow."""
    rule = RULES[name]
    count = len(rule.slots)
    planned = rule.step(*[1.0] * (len(rest) - count), **attrs)
    used = [i for i in range(count) if planned.slots[i]]
    if not alike(w, g, *(rest[i] for i in used)):
        return None
    layouts, size = Layouts(w), len(planned.numbers)
    function = build(stepped, target, w.dtype.name, name, len(used), planned.flags, size)

    def run(w: NDArray, g: NDArray, *rest: NDArray) -> None:
        # Not native: a recording would keep the numbers.
        step = rule.step(*map(float, rest[count:]), **attrs)
        numbers = np.array(step.numbers, w.dtype)

        def go(*arrays: NDArray) -> None:
            w, *changed, g = map(address, arrays)
            function(w, g, *changed, address(numbers), layouts.size)

        in_place(layouts, go, (w, *(rest[i] for i in used)), (g,))

    return Executable(run)


for _name in RULES:
    implements(_name)(partial(_step, _name))
