"""LARS, LAMB and Muon: one sweep over a parameter before it is looked at as a whole, its update in
another one. Sums depend on shapes and the target alone."""

from __future__ import annotations

from math import sqrt

import numpy as np

from ....array import NDArray, Spec
from ....orthogonal import Coefficients, matrix_of, orthogonalize
from ....update_rules import lamb_numbers, lamb_rate, lars_rate
from ..compiler.isa.targets import Target
from ..compiler.jit import build
from ..kernels.layerwise import (
    lamb_first,
    lamb_second,
    lars_update,
    muon_first,
    muon_second,
    squares,
)
from ..registry import implements
from ..runtime.executable import Executable
from ..runtime.layout import Layouts, address
from .update import alike, in_place


@implements("lars")
def lars(
    target: Target, w: Spec, g: Spec, velocity: Spec, lr: Spec, *, momentum: float,
    weight_decay: float, trust_coefficient: float, eps: float, adapts: bool,
) -> Executable | None:  # fmt: skip
    """Plan a step of LARS."""
    if not alike(w, g, velocity):
        return None
    layouts, dtype = Layouts(w), w.dtype.name
    add = build(squares, target, dtype)
    update = build(lars_update, target, dtype, (weight_decay != 0, adapts))

    def run(w: NDArray, g: NDArray, velocity: NDArray, lr: NDArray) -> None:
        def go(w: NDArray, velocity: NDArray, g: NDArray) -> None:
            rate = 1.0
            if adapts:
                sums = np.empty((2, target.lanes(w.dtype)))
                add(address(w), address(g), address(sums), layouts.size)
                rate = lars_rate(*_norms(sums), weight_decay, trust_coefficient, eps)
            numbers = np.array([momentum, rate, float(lr), weight_decay], w.dtype)
            update(*map(address, (w, g, velocity, numbers)), layouts.size)

        in_place(layouts, go, (w, velocity), (g,))

    return Executable(run)


@implements("lamb")
def lamb(
    target: Target, w: Spec, g: Spec, mean: Spec, square: Spec, lr: Spec, bias1: Spec, bias2: Spec,
    *, betas: tuple[float, float], eps: float, weight_decay: float, adapts: bool,
) -> Executable | None:  # fmt: skip
    """Plan a step of LAMB."""
    if not alike(w, g, mean, square):
        return None
    layouts, flags = Layouts(w), (w.dtype.name, weight_decay != 0)
    average, update = build(lamb_first, target, *flags), build(lamb_second, target, *flags)

    def run(
        w: NDArray, g: NDArray, mean: NDArray, square: NDArray, lr: NDArray, bias1: NDArray,
        bias2: NDArray,
    ) -> None:  # fmt: skip
        known = lamb_numbers(float(bias1), float(bias2), betas, eps, weight_decay)

        def go(w: NDArray, mean: NDArray, square: NDArray, g: NDArray) -> None:
            numbers = np.array([*known, 0], w.dtype)
            sums = np.empty((2, target.lanes(w.dtype)))
            average(*map(address, (w, g, mean, square, numbers, sums)), layouts.size)
            numbers[-1] = float(lr) * (lamb_rate(*_norms(sums)) if adapts else 1.0)
            update(*map(address, (w, mean, square, numbers)), layouts.size)

        in_place(layouts, go, (w, mean, square), (g,))

    return Executable(run)


@implements("muon")
def muon(
    target: Target, w: Spec, g: Spec, mean: Spec, lr: Spec, *, momentum: float, nesterov: bool,
    weight_decay: float, ns_coefficients: Coefficients, ns_steps: int, eps: float, scale: float,
) -> Executable | None:  # fmt: skip
    """Plan a step of Muon. Its products are the reference's, by BLAS."""
    if not alike(w, g, mean):
        return None
    layouts, dtype = Layouts(w), w.dtype.name
    first = build(muon_first, target, dtype, bool(nesterov))
    second = build(muon_second, target, dtype, weight_decay != 0)
    averaging = np.array([1 - momentum, momentum], w.dtype)

    def run(w: NDArray, g: NDArray, mean: NDArray, lr: NDArray) -> None:
        def go(w: NDArray, mean: NDArray, g: NDArray) -> None:
            step = np.empty_like(w)  # in the layout of w
            first(*map(address, (g, mean, averaging, step)), layouts.size)
            matrix = step.reshape(matrix_of(w.shape))
            found = orthogonalize(matrix, ns_steps, eps, ns_coefficients)
            step[...] = found.reshape(w.shape)
            numbers = np.array([1 - float(lr) * weight_decay, float(lr) * scale], w.dtype)
            second(*map(address, (w, step, numbers)), layouts.size)

        in_place(layouts, go, (w, mean), (g,))

    return Executable(run)


def _norms(sums: NDArray) -> tuple[float, float]:
    """Return the norms of two arrays from their sums of squares, (2, lanes)."""
    first, second = sums.sum(1)
    return sqrt(first), sqrt(second)
