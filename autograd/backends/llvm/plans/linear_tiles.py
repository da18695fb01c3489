"""Products of bfloat16 by tiles: those of a convolution whose images are single pixels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from math import prod

from ....array import NDArray, Spec
from ..compiler.isa.targets import Target
from ..compiler.tiles import ROWS
from ..kernels.conv_tiles_weights import BATCH
from ..registry import tiled
from ..runtime.executable import Executable
from ..runtime.layout import plain
from .conv_pointwise import ALONE
from .conv_tiles import conv2d, conv2d_dx
from .conv_tiles_weights import conv2d_dw
from .pixels import BACK

LEAST = 1 << 16  # multiply-accumulates from which layouts of their own pay
Product = Callable[..., NDArray]


def _product(
    target: Target, rows: int, x: Spec, w: Spec, results: int, turned: bool, biased: bool
) -> Product:
    """Return a function of x (rows, channels), w (results, channels) or `turned`, and a bias."""
    channels = x.shape[-1]
    pixels, weights = Spec((rows, channels, 1, 1), x.dtype), Spec((*w.shape, 1, 1), w.dtype)
    bias, target = [Spec((results,), x.dtype)] * biased, replace(target, convolution="direct")
    if turned:
        call = conv2d_dx(target, pixels, weights, size=(1, 1), **ALONE)
    else:
        call = conv2d(target, pixels, weights, *bias, **ALONE)
    assert call is not None

    def run(x: NDArray, w: NDArray, *bias: NDArray) -> NDArray:
        y = call.run(plain(x).reshape(pixels.shape), w.reshape(weights.shape), *bias)
        return y.reshape(rows, results)

    return run


def pays(rows: int, channels: int, results: int) -> bool:
    """Tell whether tiles pay for a product: its rows fill half of one, and it is not small."""
    return rows >= ROWS // 2 and rows * channels * results >= LEAST


@tiled("linear")
def linear(target: Target, x: Spec, w: Spec, *b: Spec) -> Executable | None:
    """Plan a fully connected layer; None for few numbers."""
    (m, c), n = w.shape, prod(x.shape[:-1])
    if not pays(n, c, m):
        return None
    function, shape = _product(target, n, x, w, m, False, bool(b)), (*x.shape[:-1], m)

    def run(x: NDArray, w: NDArray, *bias: NDArray) -> NDArray:
        return function(x, plain(w), *bias).reshape(shape)

    return Executable(run, native=True)


@tiled("matmul")
def matmul(target: Target, x: Spec, w: Spec, *, wide: bool = False) -> Executable | None:
    """Plan a product with one matrix, or `wide`, with float32 results; None for few numbers."""
    n, c, m = prod(x.shape[:-1]), x.shape[-1], w.shape[-1]
    if len(w.shape) != 2 or not pays(c if wide else n, n if wide else c, m):
        return None
    if wide:
        return _sums(target, x, w) if len(x.shape) == 2 else None
    ways: dict[bool, Product] = {}
    shape = (*x.shape[:-1], m)

    def run(x: NDArray, w: NDArray) -> NDArray:
        turned = not w.flags.f_contiguous  # else it is a view of (results, channels)
        if turned not in ways:
            ways[turned] = _product(target, n, Spec((n, c), x.dtype), Spec(
                w.shape if turned else w.shape[::-1], x.dtype), m, turned, False)  # fmt: skip
        return ways[turned](x, plain(w) if turned else w.T).reshape(shape)

    return Executable(run, native=True)


def _sums(target: Target, x: Spec, w: Spec) -> Executable | None:
    """Plan the product of a matrix (results, rows), such as a gradient turned round, with rows: a
    sum over these in float32."""
    (m, n), c = x.shape, w.shape[1]
    # Whole groups of images are rows of pixels, over which sums stay in tiles.
    height, images = (n // BATCH, BATCH) if n % BATCH == 0 else (1, n)
    factors = [Spec((images, k, height, 1), a.dtype) for k, a in ((c, w), (m, x))]
    direct = replace(target, convolution="direct")
    plan = conv2d_dw(direct, *factors, size=(1, 1), **ALONE)
    if plan is None:
        return None

    def run(x: NDArray, w: NDArray) -> NDArray:
        parts = [plain(a).reshape(height, 1, images, -1).transpose(BACK) for a in (w, x.T)]
        y: NDArray = plan.run(*parts)
        return y.reshape(m, c)

    return Executable(run, native=True, keeps=plan)
