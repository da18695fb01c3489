"""How fast this host multiplies numbers of bfloat16 and 8-bit integers, in one thread, with the
kernels that compute in these precisions: by tiles, by products of pairs or fours, or in float32."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import prod
from time import perf_counter
from typing import NamedTuple

import numpy as np

from ...autograd import (
    Ledger,
    Tensor,
    context,
    from_numpy,
    get_num_threads,
    no_grad,
    set_num_threads,
)
from ...autograd.functional import conv2d, linear
from ...autograd.nn.quantized import channels_last
from ...autograd.ops.quantized import quantize, quantized_conv2d, quantized_linear
from ..cost.roofline import Roofs
from ..progress import compiling
from .kernels import default_backend

SIZES = (512, 1024)  # of square matrices
IMAGES = ((64, 256, 8), (64, 128, 16))  # images, channels, and height and width
TAPS = 3  # of a filter, in each direction
ONE, SUM = 2.0**-5, 2.0**-16  # what 1 stands for in integers, and in sums of their products
SECONDS, REPEATS = 0.1, 5  # of each measurement, at least


class Arithmetic(NamedTuple):
    """How numbers and weights are rounded to a precision, and what multiplies both: matrices, or
    images and filters, with a border that keeps the size of images."""

    rounded: Callable[[Tensor], Tensor]
    weights: Callable[[Tensor], Tensor]
    multiplied: Callable[[Tensor, Tensor], Tensor]


def narrow(precision: str, roofs: Roofs) -> Roofs | None:
    """Return the roofs of a precision, given those of float32: the most GFLOP/s of products and of
    convolutions without Winograd's method, but float32's at least, as numbers can be widened. None
    where the backend, or the type, is not installed."""
    backend = default_backend()
    if backend == "numpy" or precision not in ARITHMETIC:
        return None
    threads = get_num_threads()
    set_num_threads(1)
    try:
        with context.using(backend=f"{backend},direct", ledger=Ledger()), no_grad(), compiling():
            found = max(_rate(ARITHMETIC[precision], x, w) for x, w in _factors())
    except ImportError:
        return None
    finally:
        set_num_threads(threads)
    return roofs._replace(gflops=max(roofs.gflops, found), precision=precision)


def _factors() -> Iterator[tuple[Tensor, Tensor]]:
    draw = np.random.default_rng(0)
    for n in SIZES:
        x, w = draw.standard_normal((2, n, n), dtype=np.float32)
        yield from_numpy(x), from_numpy(w)
    for images, channels, side in IMAGES:
        x = draw.standard_normal((images, side, side, channels), dtype=np.float32)
        w = draw.standard_normal((channels, channels, TAPS, TAPS), dtype=np.float32)
        yield from_numpy(x.transpose(0, 3, 1, 2)), from_numpy(w)


def _rate(arithmetic: Arithmetic, x: Tensor, w: Tensor) -> float:
    """Return GFLOP/s, with multiplications by a border counted, as in the cost of layers. Images
    lie in memory as kernels leave them for one another."""
    rounded, weights, multiplied = arithmetic
    w = weights(w)
    x = rounded(multiplied(rounded(x), w))
    multiplied(x, w)  # is compiled now
    times: list[float] = []
    end = perf_counter() + SECONDS
    while len(times) < REPEATS or perf_counter() < end:
        begun = perf_counter()
        multiplied(x, w)
        times.append(perf_counter() - begun)
    return 2e-9 * x.size * w.shape[0] * prod(w.shape[2:]) / min(times)


def _bfloat16(x: Tensor, w: Tensor) -> Tensor:
    return linear(x, w) if x.ndim == 2 else conv2d(x, w, padding=TAPS // 2)


def _rounded(x: Tensor) -> Tensor:
    integers: Tensor = quantize(x, _number(ONE), _number(SUM))[0]
    return integers


def _integers(x: Tensor, w: Tensor) -> Tensor:
    scale = _number(SUM, len(w))
    if x.ndim == 2:
        y: Tensor = quantized_linear(x, w, scale)
        return y
    border = ((TAPS // 2, TAPS // 2),) * 2
    y = quantized_conv2d(x, w, scale, stride=(1, 1), padding=border, dilation=(1, 1), groups=1)
    return y


def _number(value: float, *shape: int) -> Tensor:
    return from_numpy(np.full(shape, value, np.float32))


ARITHMETIC = {
    "bf16": Arithmetic(Tensor.bfloat16, Tensor.bfloat16, _bfloat16),
    "int8": Arithmetic(_rounded, lambda w: _rounded(channels_last(w)), _integers),
}
