"""Kernels of the steps of optimizers that keep numbers for each weight, each in one sweep.

The bits are those of the references, as the formulae are: those of `autograd/update_rules.py`."""

from __future__ import annotations

from ....update_rules import RULES
from ..compiler.isa.targets import Target
from ..compiler.language import Integer, KernelBuilder
from .sweep import sweep
from .update import UpdateBuilder


def stepped(
    target: Target, dtype: str, name: str, slots: int, flags: tuple[bool, ...], size: int,
    has_narrow: bool,
) -> KernelBuilder:  # fmt: skip
    """Return the kernel of a step by a rule: w, g, the slots, a narrow copy of w if it
    `has_narrow`, `size` numbers of the rule, number of elements."""
    names = ("w", "g", *(f"slot{i}" for i in range(slots)))
    update = UpdateBuilder(target, dtype, names, has_narrow)
    k, arrays, numbers = update.k, update.arrays, update.numbers(size)

    def body(index: Integer, some: Integer | None) -> None:
        old = [k.load(k.at(array, index), some) for array in arrays]
        weights, *new = RULES[name].formula(k, numbers, flags, *old)
        update.store(weights, index, some)
        for value, array in zip(new, arrays[2:], strict=True):
            k.store(value, k.at(array, index), some)

    sweep(k, update.count, body)
    return update.kernel
