"""Functions element by element: activations with their derivatives, and arithmetic of two arrays,
of which the second may be a single number or one for each channel.

All are one sweep over flat memory, four vectors a turn (`sweep.py`). Arrays must lie alike: no axis
matters. Numbers for each channel are repeated by the plan until they fill vectors.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from ....gaussian import BEND, DENSITY, STEEP
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


def _gelu(k: KernelBuilder, x: Vector) -> Vector:
    return x * mathematics.normal(k, x)[0]


def _gelu_dx(k: KernelBuilder, dy: Vector, x: Vector) -> Vector:
    below, bell = mathematics.normal(k, x)
    return dy * k.fma(x * DENSITY, bell, below)


def _silu(k: KernelBuilder, x: Vector) -> Vector:
    return x * mathematics.sigmoid(k, x)


def _silu_dx(k: KernelBuilder, dy: Vector, x: Vector) -> Vector:
    gate = mathematics.sigmoid(k, x)
    return dy * k.fma(x, gate * (1.0 - gate), gate)


def _gelu_tanh_gate(k: KernelBuilder, x: Vector) -> Vector:
    return mathematics.sigmoid(k, STEEP * k.fma(BEND, x * x * x, x))


def _gelu_tanh(k: KernelBuilder, x: Vector) -> Vector:
    return x * _gelu_tanh_gate(k, x)


def _gelu_tanh_dx(k: KernelBuilder, dy: Vector, x: Vector) -> Vector:
    gate = _gelu_tanh_gate(k, x)
    rise = k.fma(3 * BEND * STEEP, x * x, STEEP)
    return dy * k.fma(x * (gate * (1.0 - gate)), rise, gate)


def _mish_gate(k: KernelBuilder, x: Vector) -> tuple[Vector, Vector]:
    grown = mathematics.exp(k, x)
    return grown, grown * (grown + 2.0)


CALM = 20.0  # x from which the gate rounds to 1


def _mish(k: KernelBuilder, x: Vector) -> Vector:
    _, n = _mish_gate(k, k.select(x > CALM, CALM, x))
    return x * (n / (n + 2.0))


def _mish_dx(k: KernelBuilder, dy: Vector, x: Vector) -> Vector:
    x = k.select(x > CALM, CALM, x)
    grown, n = _mish_gate(k, x)
    inverse = 1.0 / (n + 2.0)
    rate = 4.0 * (grown * (grown + 1.0)) * (inverse * inverse)
    return dy * k.fma(x, rate, n * inverse)


def _hardswish(k: KernelBuilder, x: Vector) -> Vector:
    return x * (mathematics.within(k, x + 3.0, 0.0, 6.0) * (1 / 6))


def _hardswish_dx(k: KernelBuilder, dy: Vector, x: Vector) -> Vector:
    inner = k.fma(x, 1 / 3, 0.5)
    return dy * k.select(x <= -3.0, 0.0, k.select(x >= 3.0, 1.0, inner))


def _hardtanh(k: KernelBuilder, x: Vector, low: Vector, high: Vector) -> Vector:
    return k.larger(low, k.select(x > high, high, x))


def _hardtanh_dx(k: KernelBuilder, dy: Vector, y: Vector, low: Vector, high: Vector) -> Vector:
    return k.select(y <= low, 0.0, k.select(y >= high, 0.0, dy))


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
    "gelu": _gelu,
    "gelu_dx": _gelu_dx,
    "gelu_tanh": _gelu_tanh,
    "gelu_tanh_dx": _gelu_tanh_dx,
    "silu": _silu,
    "silu_dx": _silu_dx,
    "mish": _mish,
    "mish_dx": _mish_dx,
    "hardswish": _hardswish,
    "hardswish_dx": _hardswish_dx,
    "hardtanh": _hardtanh,
    "hardtanh_dx": _hardtanh_dx,
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
