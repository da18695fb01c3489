"""Functions element by element: activations with their slopes, and arithmetic of two arrays, the
second of which may be a number or numbers for each channel."""

from __future__ import annotations

from collections.abc import Callable
from math import gcd
from typing import TypeAlias

import numpy as np

from ...array import NDArray, Spec
from . import mathematics
from . import registry as plans
from .flat import Layouts, sweep
from .jit import build
from .language import Integer, Kernel, Vector
from .layout import Moves, address
from .targets import Target

# Gets the kernel, a vector of each array, and vectors of the constants.
Formula: TypeAlias = Callable[..., Vector]

LEAST = 1 << 8  # elements below which NumPy is as fast
PERIOD = 1 << 11  # numbers to which those for each channel are repeated, at most


def _relu(k: Kernel, x: Vector) -> Vector:
    return k.larger(k.vector(0.0), x)


def _relu_dx(k: Kernel, dy: Vector, y: Vector) -> Vector:
    return k.select(y <= 0.0, 0.0, dy)


def _leaky_relu(k: Kernel, x: Vector, slope: Vector) -> Vector:
    return k.select(x > 0.0, x, x * slope)


def _leaky_relu_dx(k: Kernel, dy: Vector, y: Vector, slope: Vector) -> Vector:
    return k.select(y > 0.0, dy, dy * slope)


def _elu(k: Kernel, x: Vector, alpha: Vector) -> Vector:
    return k.select(x > 0.0, x, alpha * mathematics.expm1(k, x))


def _elu_dx(k: Kernel, dy: Vector, x: Vector, alpha: Vector) -> Vector:
    return k.select(x > 0.0, dy, dy * (alpha * mathematics.exp(k, x)))


def _sigmoid(k: Kernel, x: Vector) -> Vector:
    return mathematics.sigmoid(k, x)


def _sigmoid_dx(k: Kernel, dy: Vector, y: Vector) -> Vector:
    return dy * (y * (1.0 - y))


def _tanh(k: Kernel, x: Vector) -> Vector:
    return mathematics.tanh(k, x)


def _tanh_dx(k: Kernel, dy: Vector, y: Vector) -> Vector:
    return dy * (1.0 - y * y)


def _exp(k: Kernel, x: Vector) -> Vector:
    return mathematics.exp(k, x)


def _neg(k: Kernel, x: Vector) -> Vector:
    return -0.0 - x


def _add(k: Kernel, x: Vector, w: Vector) -> Vector:
    return x + w


def _sub(k: Kernel, x: Vector, w: Vector) -> Vector:
    return x - w


def _mul(k: Kernel, x: Vector, w: Vector) -> Vector:
    return x * w


def _div(k: Kernel, x: Vector, w: Vector) -> Vector:
    return x / w


def _add_relu(k: Kernel, x: Vector, w: Vector) -> Vector:
    return _relu(k, x + w)


def _add_relu_dx(k: Kernel, x: Vector, w: Vector, y: Vector) -> Vector:
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
}


def pointwise(target: Target, dtype: str, formula: str, arrays: int, constants: int) -> Kernel:
    """Return the kernel of a formula: arrays, constants, result, number of elements."""
    names = [f"x{i}" for i in range(arrays)]
    k = Kernel(target, dtype, (*names, "constants", "y"), ("count",))
    *xs, given, y, count = k.arguments
    fixed = [k.broadcast(k.at(given, i)) for i in range(constants)]

    def body(place: Integer, some: Integer | None) -> None:
        parts = [k.load(k.at(x, place), some) for x in xs]
        k.store(FORMULAS[formula](k, *parts, *fixed), k.at(y, place), some)

    sweep(k, count, body)
    return k


def periodic(target: Target, dtype: str, formula: str, swapped: bool) -> Kernel:
    """Return the kernel of a formula of an array and `period` numbers over and over, `swapped` of
    these and the array: array, numbers, result, number of elements, period."""
    k = Kernel(target, dtype, ("x", "w", "y"), ("count", "period"))
    x, w, y, count, period = k.arguments
    with k.loop(parts_of(k, count, period)) as i:
        start = k.times(i, period)
        source, to = k.at(x, start), k.at(y, start)

        def body(place: Integer, some: Integer | None) -> None:
            pair = k.load(k.at(source, place), some), k.load(k.at(w, place), some)
            made = FORMULAS[formula](k, *(pair[::-1] if swapped else pair))
            k.store(made, k.at(to, place), some)

        sweep(k, k.least(period, k.builder.sub(count, start)), body)
    return k


def parts_of(k: Kernel, count: Integer, size: Integer) -> Integer:
    """Return how many parts of a size there are, the last one perhaps incomplete."""
    size = k.integer(size)
    return k.builder.udiv(k.builder.sub(k.sum(count, size), k.integer(1)), size)


def _plan(
    target: Target, formula: str, specs: tuple[Spec, ...], constants: tuple[float, ...]
) -> plans.Kernel | None:
    """Return the function of a formula for arrays of one shape and type; None for others."""
    if specs[0].size < LEAST or any(s != specs[0] for s in specs):
        return None
    layouts, dtype = Layouts(specs[0]), specs[0].dtype
    function = build(pointwise, target, dtype.name, formula, len(specs), len(constants))
    given = np.array(constants or (0.0,), dtype)
    fixed, size = address(given), layouts.size

    def run(*xs: NDArray) -> NDArray:
        parts, strides = layouts.agree(*xs)
        y = layouts.new(strides)
        function(*[address(x) for x in parts], fixed, address(y), size)
        return y

    run.given = given  # type: ignore[attr-defined]  # its address is used
    return plans.native(run)


def together(target: Target, formula: str, specs: tuple[Spec, ...]) -> plans.Kernel | None:
    """Plan a formula of more than one primitive, of arrays of one shape; None for others."""
    return _plan(target, formula, specs, ())


def _register(name: str) -> None:
    @plans.implements(name)
    def plan(target: Target, *specs: Spec, **attributes: float) -> plans.Kernel | None:
        return _plan(target, name, specs, tuple(attributes.values()))


for _name in (
    "relu", "relu_dx", "leaky_relu", "leaky_relu_dx", "elu", "elu_dx", "sigmoid", "sigmoid_dx",
    "tanh", "tanh_dx", "exp", "neg",
):  # fmt: skip
    _register(_name)


def axis_left(whole: tuple[int, ...], part: tuple[int, ...]) -> int | None:
    """Return the axis of `whole` along which an array of shape `part` is not repeated; the last one
    for a single number; None where there are more."""
    full = (1,) * (len(whole) - len(part)) + part
    if len(full) > len(whole) or any(a not in (1, b) for a, b in zip(full, whole, strict=True)):
        return None
    axes = [i for i, n in enumerate(full) if n > 1]
    return None if len(axes) > 1 else axes[0] if axes else len(whole) - 1


def repeats(columns: int, lanes: int) -> int:
    """Return how many times numbers are repeated so that they fill vectors, if that can be."""
    step = 4 * lanes
    whole = step // gcd(columns, step)
    return whole if columns * whole <= PERIOD else max(1, PERIOD // 2 // columns)


def _channels(
    target: Target, formula: str, x: Spec, w: Spec, swapped: bool = False
) -> plans.Kernel | None:
    """Return the function of a formula of x and numbers for each channel, or a single one."""
    axis = axis_left(x.shape, w.shape)
    if axis is None or x.size < LEAST:
        return None
    layouts, columns = Layouts(x), w.size
    times = repeats(columns, target.lanes(x.dtype))
    function = build(periodic, target, x.dtype.name, formula, swapped)
    many = np.zeros((times, columns), x.dtype)
    numbers, period = address(many), times * columns

    def run(*pair: NDArray) -> NDArray:
        x, w = pair[::-1] if swapped else pair
        lie = layouts.of(x)
        if lie is None or (columns > 1 and not layouts.inner(lie, axis)):
            lie = layouts.along(axis)
            x = layouts.moved(x, lie[1])
        y = layouts.new(lie[1])
        many[...] = w.reshape(columns)
        function(address(x), numbers, address(y), layouts.size, period)
        return y

    return run


def _arithmetic(name: str) -> None:
    @plans.implements(name)
    def plan(target: Target, x: Spec, w: Spec) -> plans.Kernel | None:
        if x.dtype != w.dtype:
            return None
        if x.shape == w.shape:
            return _plan(target, name, (x, w), ())
        if x.size < w.size:
            return _channels(target, name, w, x, swapped=True)
        return _channels(target, name, x, w)


for _name in ("add", "sub", "mul", "div"):
    _arithmetic(_name)


@plans.implements("scale")
def scale(target: Target, x: Spec, *, factor: float) -> plans.Kernel | None:
    """Plan x times a number."""
    return _plan(target, "scaled", (x,), (factor,))


FORMULAS["scaled"] = _mul


def converted(target: Target, narrow: bool) -> Kernel:
    """Return the kernel that writes numbers in another type, float32 for float64 if `narrow`, else
    the other way: from, to, how many."""
    k = Kernel(target, "float32", ("x", "y"), ("count",))
    x, y, count = k.arguments
    source, to = (k.doubles(), k) if narrow else (k, k.doubles())

    def body(place: Integer, some: Integer | None) -> None:
        to.store(to.convert(source.load(source.at(x, place), some)), to.at(y, place), some)

    sweep(k, count, body)
    return k


@plans.implements("cast")
def cast(target: Target, x: Spec, *, dtype: np.dtype[np.generic]) -> plans.Kernel | None:
    """Plan x in the other of the two types."""
    if {x.dtype.itemsize, dtype.itemsize} != {4, 8} or dtype.kind != "f" or x.size < LEAST:
        return None
    layouts, results = Layouts(x), Layouts(Spec(x.shape, dtype))
    function = build(converted, target, dtype.itemsize == 4)

    def run(x: NDArray) -> NDArray:
        lie = layouts.of(x)
        if lie is None:
            Moves.aside += 1
            return x.astype(dtype)
        y = results.new(tuple(s // x.itemsize * dtype.itemsize for s in lie[1]))
        function(address(x), address(y), layouts.size)
        return y

    return plans.native(run)
