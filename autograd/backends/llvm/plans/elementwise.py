"""Activations, arithmetic and casts: plans for arrays of one shape, and for numbers per channel."""

from __future__ import annotations

from math import gcd

import numpy as np

from ....array import NDArray, Spec
from ....dtypes import FLOAT32, KERNEL_TYPES, computed_in, is_narrow
from ..compiler.isa.targets import Target
from ..compiler.jit import build
from ..kernels.elementwise import converted, periodic, pointwise
from ..registry import implements
from ..runtime.executable import Executable
from ..runtime.layout import Layouts, address, layout_stats

LEAST = 1 << 8  # elements below which NumPy is as fast
PERIOD = 1 << 11  # numbers to which those for each channel are repeated, at most


def _plan(
    target: Target, formula: str, specs: tuple[Spec, ...], constants: tuple[float, ...]
) -> Executable | None:
    """Plan a formula for arrays of one shape and type; None for others."""
    if specs[0].size < LEAST or any(s != specs[0] for s in specs):
        return None
    layouts, dtype = Layouts(specs[0]), specs[0].dtype
    function = build(pointwise, target, dtype.name, formula, len(specs), len(constants))
    numbers = np.array(constants or (0.0,), computed_in(dtype))
    fixed, size = address(numbers), layouts.size

    def run(*xs: NDArray) -> NDArray:
        parts, strides = layouts.agree(*xs)
        y = layouts.new(strides)
        function(*[address(x) for x in parts], fixed, address(y), size)
        return y

    return Executable(run, native=True, keeps=numbers)


def together(target: Target, formula: str, specs: tuple[Spec, ...]) -> Executable | None:
    """Plan a formula that stands for more than one primitive, on arrays of one shape; None for
    others."""
    return _plan(target, formula, specs, ())


def _register(name: str) -> None:
    @implements(name, narrow=True)
    def plan(target: Target, *specs: Spec, **attributes: float) -> Executable | None:
        return _plan(target, name, specs, tuple(attributes.values()))


for _name in (
    "relu", "relu_dx", "leaky_relu", "leaky_relu_dx", "elu", "elu_dx", "sigmoid", "sigmoid_dx",
    "tanh", "tanh_dx", "gelu", "gelu_dx", "gelu_tanh", "gelu_tanh_dx", "silu", "silu_dx", "mish",
    "mish_dx", "hardswish", "hardswish_dx", "hardtanh", "hardtanh_dx", "exp", "neg",
):  # fmt: skip
    _register(_name)


def axis_left(whole: tuple[int, ...], part: tuple[int, ...]) -> int | None:
    """Return the only axis of `whole` along which an array of shape `part` is not broadcast; the
    last one for a single number, None where there are more."""
    full = (1,) * (len(whole) - len(part)) + part
    if len(full) > len(whole) or any(a not in (1, b) for a, b in zip(full, whole, strict=True)):
        return None
    axes = [i for i, n in enumerate(full) if n > 1]
    return None if len(axes) > 1 else axes[0] if axes else len(whole) - 1


def repeats(columns: int, lanes: int) -> int:
    """Return how often to repeat numbers so that they fill whole vectors, within PERIOD numbers."""
    step = 4 * lanes
    whole = step // gcd(columns, step)
    return whole if columns * whole <= PERIOD else max(1, PERIOD // 2 // columns)


def _channels(
    target: Target, formula: str, x: Spec, w: Spec, swapped: bool = False
) -> Executable | None:
    """Plan a formula of x and one number for each channel, or a single one."""
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
        # Not native: a recording would not fill the repeated numbers again.
        many[...] = w.reshape(columns)
        function(address(x), numbers, address(y), layouts.size, period)
        return y

    return Executable(run)


def _arithmetic(name: str) -> None:
    @implements(name, narrow=True)
    def plan(target: Target, x: Spec, w: Spec) -> Executable | None:
        if x.dtype != w.dtype:
            return None
        if x.shape == w.shape:
            return _plan(target, name, (x, w), ())
        if x.size < w.size:
            return _channels(target, name, w, x, swapped=True)
        return _channels(target, name, x, w)


for _name in ("add", "sub", "mul", "div"):
    _arithmetic(_name)


@implements("scale", narrow=True)
def scale(target: Target, x: Spec, *, factor: float) -> Executable | None:
    """Plan x times a number."""
    return _plan(target, "scaled", (x,), (factor,))


@implements("cast", narrow=True)
def cast(target: Target, x: Spec, *, dtype: np.dtype[np.generic]) -> Executable | None:
    """Plan the conversion of x between float32 and float64, or bfloat16, for which NumPy is slower
    however few the numbers are."""
    fits = FLOAT32 in (x.dtype, dtype) and dtype in KERNEL_TYPES and dtype != x.dtype
    pays = x.size >= LEAST or is_narrow(x.dtype) or is_narrow(dtype)
    return conversion(target, x, dtype) if fits and pays else None


def conversion(target: Target, x: Spec, dtype: np.dtype[np.generic]) -> Executable:
    """Plan the conversion of x between float32 and another type, however small it is."""
    layouts, results = Layouts(x), Layouts(Spec(x.shape, dtype))
    function = build(converted, target, (x.dtype.name, dtype.name))

    def run(x: NDArray) -> NDArray:
        lie = layouts.of(x)
        if lie is None:
            layout_stats.fallbacks += 1
            return x.astype(dtype)
        y = results.new(tuple(s // x.itemsize * dtype.itemsize for s in lie[1]))
        function(address(x), address(y), layouts.size)
        return y

    return Executable(run, native=True)
