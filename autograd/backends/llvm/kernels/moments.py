"""Kernels of the steps of optimizers that keep moments of the gradient, each in one sweep.

A formula maps vectors of the weights, the gradient and the slots to new ones. Its operations and
their order are those of the reference, so that the bits are, too."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

from ..compiler.isa.targets import Target
from ..compiler.language import Integer, KernelBuilder
from ..compiler.vectors import Vector
from .sweep import sweep

# From settings, weights, gradient, slots and flags to the new weights and slots.
Formula: TypeAlias = Callable[
    [KernelBuilder, Sequence[Vector], Vector, Vector, Sequence[Vector], tuple[bool, ...]],
    Sequence[Vector],
]


def adam(
    k: KernelBuilder, settings: Sequence[Vector], w: Vector, g: Vector, slots: Sequence[Vector],
    flags: tuple[bool, ...],
) -> Sequence[Vector]:  # fmt: skip
    """Settings: 1 - beta1, beta2, 1 - beta2, 1 / sqrt(bias2), eps, lr / bias1, decay. Flags: decay,
    decoupled decay, amsgrad."""
    first, keep, gain, scale, eps, rate, decay = settings
    coupled, decoupled, amsgrad = flags
    mean, square, *largest = slots
    if decoupled:
        w = w * decay
    if coupled:
        g = g + decay * w
    mean = mean + first * (g - mean)
    square = square * keep + gain * (g * g)
    greatest = [k.larger(old, square) for old in largest] if amsgrad else []
    root = k.sqrt(greatest[0] if amsgrad else square) * scale + eps
    return w - rate * (mean / root), mean, square, *greatest


def rmsprop(
    k: KernelBuilder, settings: Sequence[Vector], w: Vector, g: Vector, slots: Sequence[Vector],
    flags: tuple[bool, ...],
) -> Sequence[Vector]:  # fmt: skip
    """Settings: alpha, 1 - alpha, eps, lr, momentum, decay. Flags: decay, centered, momentum."""
    keep, gain, eps, rate, momentum, decay = settings
    decays, centered, moves = flags
    if decays:
        g = g + decay * w
    square, *others = slots
    variance = square = square * keep + gain * (g * g)
    new = [square]
    if centered:
        mean = others[0] + gain * (g - others[0])
        variance = square - mean * mean
        variance = k.select(variance < 0.0, 0.0, variance)  # which keeps a NaN
        new.append(mean)
    g = g / (k.sqrt(variance) + eps)
    if moves:
        g = others[-1] * momentum + g
        new.append(g)
    return w - rate * g, *new


def adagrad(
    k: KernelBuilder, settings: Sequence[Vector], w: Vector, g: Vector, slots: Sequence[Vector],
    flags: tuple[bool, ...],
) -> Sequence[Vector]:  # fmt: skip
    """Settings: eps, lr, decay. Flags: decay."""
    eps, rate, decay = settings
    if flags[0]:
        g = g + decay * w
    total = slots[0] + g * g
    return w - rate * (g / (k.sqrt(total) + eps)), total


FORMULAS: dict[str, tuple[Formula, int]] = {  # and how many settings it has
    "adam": (adam, 7),
    "rmsprop": (rmsprop, 6),
    "adagrad": (adagrad, 3),
}


def stepped(
    target: Target, dtype: str, name: str, slots: int, flags: tuple[bool, ...]
) -> KernelBuilder:
    """Return the kernel of a step by a formula: w, g, the slots, the settings, number of
    elements."""
    formula, size = FORMULAS[name]
    names = ("w", "g", *(f"slot{i}" for i in range(slots)))
    # One array may be passed twice: each vector is read before it is written.
    k = KernelBuilder(target, dtype, (*names, "settings"), ("count",), aliases=names)
    *arrays, settings, count = k.arguments
    numbers = [k.broadcast(k.at(settings, i)) for i in range(size)]

    def body(index: Integer, some: Integer | None) -> None:
        w, g, *old = [k.load(k.at(array, index), some) for array in arrays]
        new = formula(k, numbers, w, g, old, flags)
        for value, array in zip(new, (arrays[0], *arrays[2:]), strict=True):
            k.store(value, k.at(array, index), some)

    sweep(k, count, body)
    return k
