"""Functions element by element: activations with their derivatives, and arithmetic of two arrays,
of which the second may be a single number or one for each channel.

All are one sweep over flat memory, four vectors a turn (`sweep.py`). Arrays must lie alike: no axis
matters. Numbers for each channel are repeated by the plan until they fill vectors.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from ..compiler import mathematics
from ..compiler.isa.targets import Target
from ..compiler.language import Integer, KernelBuilder
from ..compiler.vectors import Vector
from .sweep import parts_of, sweep

# Gets the kernel, a vector of each array, and vectors of the constants.
Formula: TypeAlias = Callable[..., Vector]


def _relu(k: KernelBuilder, x: Vector) -> Vector:
    return k.larger(k.vector(0.0), x)


def _relu_dx(k: KernelBuilder, dy: Vector, y: Vector) -> Vector:
    return k.select(y <= 0.0, 0.0, dy)


def _leaky_relu(k: KernelBuilder, x: Vector, slope: Vector) -> Vector:
    return k.select(x > 0.0, x, x * slope)


def _leaky_relu_dx(k: KernelBuilder, dy: Vector, y: Vector, slope: Vector) -> Vector:
    return k.select(y > 0.0, dy, dy * slope)


def _elu(k: KernelBuilder, x: Vector, alpha: Vector) -> Vector:
    return k.select(x > 0.0, x, alpha * mathematics.expm1(k, x))


def _elu_dx(k: KernelBuilder, dy: Vector, x: Vector, alpha: Vector) -> Vector:
    return k.select(x > 0.0, dy, dy * (alpha * mathematics.exp(k, x)))


def _sigmoid(k: KernelBuilder, x: Vector) -> Vector:
    return mathematics.sigmoid(k, x)


def _sigmoid_dx(k: KernelBuilder, dy: Vector, y: Vector) -> Vector:
    return dy * (y * (1.0 - y))


def _tanh(k: KernelBuilder, x: Vector) -> Vector:
    return mathematics.tanh(k, x)


def _tanh_dx(k: KernelBuilder, dy: Vector, y: Vector) -> Vector:
    return dy * (1.0 - y * y)


def _exp(k: KernelBuilder, x: Vector) -> Vector:
    return mathematics.exp(k, x)


def _neg(k: KernelBuilder, x: Vector) -> Vector:
    return -0.0 - x


def _add(k: KernelBuilder, x: Vector, w: Vector) -> Vector:
    return x + w


def _sub(k: KernelBuilder, x: Vector, w: Vector) -> Vector:
    return x - w


def _mul(k: KernelBuilder, x: Vector, w: Vector) -> Vector:
    return x * w


def _div(k: KernelBuilder, x: Vector, w: Vector) -> Vector:
    return x / w


def _add_relu(k: KernelBuilder, x: Vector, w: Vector) -> Vector:
    return _relu(k, x + w)


def _add_relu_dx(k: KernelBuilder, x: Vector, w: Vector, y: Vector) -> Vector:
    return _relu_dx(k, x + w, y)


FORMULAS: dict[str, Formula] = {
    "relu": _relu,
    "relu_dx": _relu_dx,
    "leaky_relu": _leaky_relu,
    "leaky_relu_dx": _leaky_relu_dx,
    "elu": _elu,
    "elu_dx": _elu_dx,
    "sigmoid": _sigmoid,
    "sigmoid_dx": _sigmoid_dx,
    "tanh": _tanh,
    "tanh_dx": _tanh_dx,
    "exp": _exp,
    "neg": _neg,
    "add": _add,
    "add_relu": _add_relu,
    "add_relu_dx": _add_relu_dx,
    "sub": _sub,
    "mul": _mul,
    "div": _div,
    "scaled": _mul,
}


def pointwise(
    target: Target, dtype: str, formula: str, arrays: int, constants: int
) -> KernelBuilder:
    """Return the kernel of a formula: arrays, constants, result, number of elements."""
    names = [f"x{i}" for i in range(arrays)]
    k = KernelBuilder(target, dtype, (*names, "constants", "y"), ("count",))
    *xs, fixed_values, y, count = k.arguments
    c = k.computed()
    fixed = [c.broadcast(c.at(fixed_values, i)) for i in range(constants)]

    def body(index: Integer, some: Integer | None) -> None:
        parts = [k.load(k.at(x, index), some) for x in xs]
        k.store(FORMULAS[formula](k, *parts, *fixed), k.at(y, index), some)

    sweep(k, count, body)
    return k


def periodic(target: Target, dtype: str, formula: str, swapped: bool) -> KernelBuilder:
    """Return the kernel of a formula of an array and `period` numbers over and over, `swapped` of
    these and the array: array, numbers, result, number of elements, period."""
    k = KernelBuilder(target, dtype, ("x", "w", "y"), ("count", "period"))
    x, w, y, count, period = k.arguments
    with k.loop(parts_of(k, count, period)) as i:
        start = k.times(i, period)
        source, to = k.at(x, start), k.at(y, start)

        def body(index: Integer, some: Integer | None) -> None:
            pair = k.load(k.at(source, index), some), k.load(k.at(w, index), some)
            result = FORMULAS[formula](k, *(pair[::-1] if swapped else pair))
            k.store(result, k.at(to, index), some)

        sweep(k, k.least(period, k.builder.sub(count, start)), body)
    return k


def converted(target: Target, types: tuple[str, str]) -> KernelBuilder:
    """Return the kernel that writes numbers of one type in another: float32, and float64 or
    bfloat16. From, to, how many."""
    kind = "bfloat16" if "bfloat16" in types else "float32"
    k = KernelBuilder(target, kind, ("x", "y"), ("count",))
    x, y, count = k.arguments
    views = {"float32": k.computed(), "bfloat16": k, "float64": k.doubles()}
    source, to = (views[name] for name in types)

    def body(index: Integer, some: Integer | None) -> None:
        to.store(to.convert(source.load(source.at(x, index), some)), to.at(y, index), some)

    sweep(k, count, body)
    return k
