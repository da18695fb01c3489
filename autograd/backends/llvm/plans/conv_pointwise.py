"""Convolution 1 x 1 of bfloat16 images that are channels-last, by tiles: pixels take the place of
images, and are multiplied as they lie."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from math import prod
from typing import Any

from ....array import NDArray, Spec
from ..compiler.isa.targets import Target
from ..compiler.tiles import ROWS
from ..kernels.border import Pair
from ..kernels.conv_tiles import depth
from ..kernels.conv_tiles_weights import BATCH
from ..kernels.epilogue import IMAGES, Epilogue
from ..runtime.executable import Executable
from ..runtime.layout import channels_last
from ..runtime.parallel import ByImages, Work
from .pixels import BACK

ALONE: dict[str, Any] = {
    "stride": (1, 1), "padding": ((0, 0), (0, 0)), "dilation": (1, 1), "groups": 1,
}  # fmt: skip


def is_pointwise(x: Spec, w: Spec, stride: Pair, padding: Any) -> bool:
    """Tell whether a filter sees single pixels, enough of them, whose channels fill tiles."""
    alone = (w.shape[2:], stride, padding) == ((1, 1), ALONE["stride"], ALONE["padding"])
    return alone and prod(x.shape[2:]) >= ROWS // 2 and depth(x.shape[1]) >= ROWS


def _side_by_side(shape: tuple[int, ...], images: int) -> tuple[int, ...]:
    """Return the shape of pixels of (N, C, H, W) as so many images of a column of pixels."""
    return images, shape[1], shape[0] * prod(shape[2:]) // images, 1


def _pixels(x: NDArray, images: int) -> NDArray:
    """Return an array, channels-last as it lies, of that shape."""
    _, c, rows, _ = _side_by_side(x.shape, images)
    return channels_last(x).reshape(rows, 1, images, c).transpose(BACK)


def pointwise(
    plan: Callable[..., ByImages | None], target: Target, specs: tuple[Spec, ...],
    epilogue: Epilogue, attrs: dict[str, Any],
) -> ByImages | None:  # fmt: skip
    """Plan a convolution 1 x 1 of images that are channels-last, or its gradient of x: the pixels
    of an image take the place of images, and images that of rows."""
    x, w, *bias = specs
    n, _, *size = x.shape
    seen = x._replace(shape=_side_by_side(x.shape, prod(size)))
    direct = replace(target, convolution="direct")
    call = plan(direct, seen, w, *bias, **ALONE, **attrs, epilogue=epilogue, by_rows=True)
    if call is None:
        return None
    are_images = True, *(name in IMAGES for name in ("w", *"b" * len(bias), *epilogue.pointers))

    def begin(*arrays: NDArray) -> tuple[NDArray, Work]:
        pairs = zip(arrays, are_images, strict=True)
        y, work = call.begin(*[_pixels(a, prod(size)) if image else a for a, image in pairs])
        return y.transpose(BACK).reshape(n, *size, -1).transpose(0, 3, 1, 2), work

    return ByImages(call.images, call.macs, begin)


def pointwise_dw(
    plan: Callable[..., Executable | None], target: Target, x: Spec, dy: Spec
) -> Executable | None:
    """Plan the gradient of the weights of such a convolution, for whole groups of pixels if all of
    them make such."""
    pixels = prod(x.shape) // x.shape[1]
    images = BATCH if pixels % BATCH == 0 else prod(x.shape[2:])
    seen = (a._replace(shape=_side_by_side(a.shape, images)) for a in (x, dy))
    call = plan(replace(target, convolution="direct"), *seen, size=(1, 1), **ALONE)
    if call is None:
        return None

    def run(x: NDArray, dy: NDArray) -> NDArray:
        dw: NDArray = call.run(_pixels(x, images), _pixels(dy, images))
        return dw

    return Executable(run, native=True, keeps=call)
