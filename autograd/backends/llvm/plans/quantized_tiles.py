"""Convolutions and products of 8-bit integers by tiles: plans."""

from __future__ import annotations

from math import prod

from ....array import NDArray, Spec
from ....dtypes import FLOAT32
from ..compiler.isa.targets import Target
from ..compiler.jit import build
from ..compiler.tiles import ROWS
from ..kernels.border import Pair
from ..kernels.conv_tiles import HALF
from ..kernels.octets import TERMS, pack
from ..runtime.executable import Executable
from ..runtime.layout import channels_last, plain
from ..runtime.parallel import ByImages
from .conv_pointwise import ALONE
from .conv_tiles import MOST, PackedWeights, TileConvolution, forward
from .linear_tiles import pays
from .pixels import Gathered

Padding = tuple[Pair, Pair]


def convolution(
    target: Target, x: Spec, w: Spec, biased: bool, stride: Pair, padding: Padding, dilation: Pair
) -> ByImages | None:
    """Plan a convolution without groups; None where images fill less than half of a tile, and for
    results of one tile, for which the instruction of vectors is faster where there is one."""
    if not target.multiplies_octets or x.shape[0] < ROWS // 2:
        return None
    if w.shape[0] <= HALF and target.adds_four_bytes:
        return None
    c, prepare = forward(target, x, w, stride, padding, dilation)
    if c.length > MOST:
        return None
    results, channels, *size = w.shape
    taps = prod(size)
    inner = (channels * taps, 1) if isinstance(prepare, Gathered) else (channels, taps)
    function = build(pack, target, results, *inner, c.channels // TERMS)
    weights = PackedWeights(function, c.weights, "int8", channels_last)
    names = ("scale", "bias")[: 1 + biased]
    return TileConvolution(target, [c], prepare, weights, FLOAT32, names).planned()


def product(target: Target, x: Spec, w: Spec, biased: bool) -> Executable | None:
    """Plan a fully connected layer, a convolution of single pixels; None for few numbers."""
    rows, (results, channels) = prod(x.shape[:-1]), w.shape
    if not pays(rows, channels, results):
        return None
    pixels, filters = x._replace(shape=(rows, channels, 1, 1)), w._replace(shape=(*w.shape, 1, 1))
    call = convolution(target, pixels, filters, biased, (1, 1), ALONE["padding"], (1, 1))
    if call is None:
        return None

    def run(x: NDArray, w: NDArray, *vectors: NDArray) -> NDArray:
        factors = plain(x).reshape(pixels.shape), plain(w).reshape(filters.shape)
        y: NDArray = call.run(*factors, *vectors)
        return y.reshape(*x.shape[:-1], results)

    return Executable(run, native=True)
