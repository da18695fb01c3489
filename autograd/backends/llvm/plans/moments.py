"""Steps of optimizers that keep numbers for each weight."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from ....array import NDArray, Spec
from ....dtypes import computed_in
from ....update_rules import RULES
from ..compiler.isa.targets import Target
from ..compiler.jit import build
from ..kernels.moments import stepped
from ..registry import implements
from ..runtime.executable import Executable
from ..runtime.layout import Layouts, address
from .update import alike, in_place, takes, update


def _step(
    name: str, target: Target, w: Spec, g: Spec, *rest: Spec, **attrs: Any
) -> Executable | None:
    """Plan a step by a rule on weights, gradient, slots and a narrow copy of the weights, which
    numbers follow."""
    rule = RULES[name]
    count = len(rule.slots)
    planned = rule.step(*[1.0] * (len(rest) - count - 1), **attrs)
    used = [i for i in range(count) if planned.slots[i]]
    if not alike(w, g, *(rest[i] for i in used)) or not takes(w, rest[count]):
        return None
    layouts, narrow = Layouts(w), rest[count]
    options = len(used), planned.flags, len(planned.numbers), narrow.shape != ()
    function = build(stepped, target, w.dtype.name, name, *options)

    def run(w: NDArray, g: NDArray, *rest: NDArray) -> None:
        # Not native: a recording would keep the numbers.
        step = rule.step(*map(float, rest[count + 1 :]), **attrs)
        numbers = np.array(step.numbers, computed_in(w.dtype))

        def go(*arrays: NDArray) -> None:
            w, *changed, g = arrays
            update(function, (w, g, *changed), rest[count], address(numbers))

        in_place(layouts, go, (w, *(rest[i] for i in used)), (g,))

    return Executable(run)


for _name in RULES:
    implements(_name, narrow=True)(partial(_step, _name))
