"""Kernels of the steps of optimizers that keep numbers for each weight, each in one sweep.

The bits are those of the references, as the formulae are: those of `autograd/update_rules.py`."""

from __future__ import annotations

from ....update_rules import RULES
from ..compiler.isa.targets import Target
from ..compiler.language import Integer, KernelBuilder
from .sweep import sweep


def stepped(
    target: Target, dtype: str, name: str, slots: int, flags: tuple[bool, ...], size: int
) -> KernelBuilder:
    """Return the kernel of a step by a rule: w, g, the slots, `size` numbers of the rule, number of
    elements."""
    names = ("w", "g", *(f"slot{i}" for i in range(slots)))
    # One array may be passed twice: each vector is read before it is written.
    k = KernelBuilder(target, dtype, (*names, "settings"), ("count",), aliases=names)
    *arrays, settings, count = k.arguments
    numbers = [k.broadcast(k.at(settings, i)) for i in range(size)]

    def body(index: Integer, some: Integer | None) -> None:
        old = [k.load(k.at(array, index), some) for array in arrays]
        new = RULES[name].formula(k, numbers, flags, *old)
        for value, array in zip(new, (arrays[0], *arrays[2:]), strict=True):
            k.store(value, k.at(array, index), some)

    sweep(k, count, body)
    return k
