"""Kernels of LARS, LAMB and Muon: a sweep before what a parameter is looked at as a whole for, such
as its norm in float64, and one that updates weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ....update_rules import lamb_averages, lamb_step, lars, muon_step, muon_weights
from ..compiler.isa.targets import Target
from ..compiler.language import Integer, KernelBuilder
from ..compiler.vectors import Vector
from .sweep import sweep


class _Squares:
    """Sums of squares, in a vector of float64 for each of some arrays."""

    def __init__(self, k: KernelBuilder, count: int) -> None:
        self.wide = k.doubles()
        self.sums = [self.wide.variable() for _ in range(count)]

    def add(self, *values: Vector) -> None:
        for total, value in zip(self.sums, values, strict=True):
            x = self.wide.convert(value)
            total.set(total.get() + x * x)

    def store(self, pointer: Any) -> None:
        for i, total in enumerate(self.sums):
            self.wide.store(total.get(), self.wide.at(pointer, i * self.wide.lanes))


def _numbers(k: KernelBuilder, settings: Any, size: int) -> list[Vector]:
    return [k.broadcast(k.at(settings, i)) for i in range(size)]


def _loaded(
    k: KernelBuilder, arrays: Sequence[Any], index: Integer, some: Integer | None
) -> list[Vector]:
    return [k.load(k.at(array, index), some) for array in arrays]


def squares(target: Target, dtype: str) -> KernelBuilder:
    """Return the kernel of sums of squares of two arrays, which may be one, a vector of float64
    each: x, y, sums, number of elements."""
    k = KernelBuilder(target, dtype, ("x", "y", "sums"), ("count",), aliases=("x", "y"))
    x, y, sums, count = k.arguments
    found = _Squares(k, 2)
    sweep(k, count, lambda index, some: found.add(*_loaded(k, (x, y), index, some)))
    found.store(sums)
    return k


def lars_update(target: Target, dtype: str, flags: tuple[bool, bool]) -> KernelBuilder:
    """Return the kernel of a step of LARS: w, g, velocity, numbers, number of elements."""
    names = ("w", "g", "velocity")
    k = KernelBuilder(target, dtype, (*names, "settings"), ("count",), aliases=names)
    w, g, velocity, settings, count = k.arguments
    numbers = _numbers(k, settings, 4)

    def body(index: Integer, some: Integer | None) -> None:
        new = lars(numbers, flags, *_loaded(k, (w, g, velocity), index, some))
        for value, array in zip(new, (w, velocity), strict=True):
            k.store(value, k.at(array, index), some)

    sweep(k, count, body)
    return k


def lamb_first(target: Target, dtype: str, decays: bool) -> KernelBuilder:
    """Return the kernel of LAMB's averages, and of the sums of squares of weights and steps: w, g,
    mean, square, numbers, sums, number of elements."""
    names = ("w", "g", "mean", "square")
    k = KernelBuilder(target, dtype, (*names, "settings", "sums"), ("count",), aliases=names)
    w, g, mean, square, settings, sums, count = k.arguments
    numbers, found = _numbers(k, settings, 7), _Squares(k, 2)

    def body(index: Integer, some: Integer | None) -> None:
        weights, *old = _loaded(k, (w, g, mean, square), index, some)
        new = lamb_averages(numbers, *old)
        step = lamb_step(k, numbers, decays, weights, *new)
        if some is not None:  # without eps, 0 / 0 beyond the end
            step = k.select(k.mask(some), step, 0.0)
        found.add(weights, step)
        for value, array in zip(new, (mean, square), strict=True):
            k.store(value, k.at(array, index), some)

    sweep(k, count, body)
    found.store(sums)
    return k


def lamb_second(target: Target, dtype: str, decays: bool) -> KernelBuilder:
    """Return the kernel of LAMB's weights: w, mean, square, numbers, the last of which is the rate,
    number of elements."""
    names = ("w", "mean", "square")
    k = KernelBuilder(target, dtype, (*names, "settings"), ("count",), aliases=names)
    w, mean, square, settings, count = k.arguments
    *numbers, rate = _numbers(k, settings, 8)

    def body(index: Integer, some: Integer | None) -> None:
        weights, *averages = _loaded(k, (w, mean, square), index, some)
        step = lamb_step(k, numbers, decays, weights, *averages)
        k.store(weights - rate * step, k.at(w, index), some)

    sweep(k, count, body)
    return k


def muon_first(target: Target, dtype: str, nesterov: bool) -> KernelBuilder:
    """Return the kernel of Muon's average, and of what is to become orthogonal: g, mean, numbers,
    step, number of elements."""
    names = ("g", "mean")
    k = KernelBuilder(target, dtype, (*names, "settings", "step"), ("count",), aliases=names)
    g, mean, settings, step, count = k.arguments
    numbers = _numbers(k, settings, 2)

    def body(index: Integer, some: Integer | None) -> None:
        new = muon_step(numbers, nesterov, *_loaded(k, (g, mean), index, some))
        for value, array in zip(new, (mean, step), strict=True):
            k.store(value, k.at(array, index), some)

    sweep(k, count, body)
    return k


def muon_second(target: Target, dtype: str, decays: bool) -> KernelBuilder:
    """Return the kernel of Muon's weights: w, orthogonal step, numbers, number of elements."""
    k = KernelBuilder(target, dtype, ("w", "step", "settings"), ("count",))
    w, step, settings, count = k.arguments
    numbers = _numbers(k, settings, 2)

    def body(index: Integer, some: Integer | None) -> None:
        new = muon_weights(numbers, decays, *_loaded(k, (w, step), index, some))
        k.store(new, k.at(w, index), some)

    sweep(k, count, body)
    return k
