"""Errors of convolutions in float32 if tiles multiplied float32 as sums of bfloat16 parts.

A number is the sum of 2 or 3 parts, each the rest rounded to bfloat16. Products of parts are exact
in float32 and summed up there, place by place of the inner axis, in blocks: those of the first
parts and, apart, those of smaller ones. Beside them are the errors of convolution in float32 as it
is. All are differences from float64 as shares of the largest number, for the 3 x 3 convolutions of
ResNet-18 and ResNet-20 on normally distributed inputs: the least and the greatest of the layers.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from tallygrad.autograd import Ledger, context, conv2d, from_numpy
from tallygrad.autograd.dtypes import bfloat16

from .options import BenchParser
from .ours import choose_backend

Numbers: TypeAlias = npt.NDArray[Any]
LAYERS = ((64, 32), (128, 16), (256, 8), (512, 4), (16, 32), (32, 16), (64, 8))  # channels, extent
IMAGES = 32  # of a batch, over which gradients of weights are sums
BLOCK = 512  # places of the inner axis that are summed up before they are added to the others
FEW = 16  # channels and filters of a gradient that is emulated
# How many parts, and which are multiplied: the i-th of one factor with the j-th of the other.
WAYS = {
    (2, 3): [(0, 0), (0, 1), (1, 0)],
    (3, 5): [(0, 0), (0, 1), (1, 0), (0, 2), (2, 0)],
    (3, 6): [(0, 0), (0, 1), (1, 0), (1, 1), (0, 2), (2, 0)],
}


def run(arguments: Sequence[str]) -> int:
    """Compute, and print a table."""
    options = parse(arguments)
    notes: list[str] = []
    backend = choose_backend(options.backend, notes)
    for note in notes:
        print(note)
    found: dict[str, list[tuple[float, float]]] = {}
    for channels, extent in LAYERS:
        for name, errors in layer(channels, extent, backend):
            found.setdefault(name, []).append(errors)
    print("| parts, products | error of y | of dw |\n|---|---|---|")
    for name, pairs in found.items():
        columns = [f"{min(c):.1e} to {max(c):.1e}" for c in zip(*pairs, strict=True)]
        print(f"| {name} | {' | '.join(columns)} |")
    return 0


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Parse the command line. Errors end the process with status 2 and one line."""
    parser = BenchParser("python -m bench parts", description=__doc__, allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument("--backend", help="Tallygrad's (default: llvm if it loads, else numpy)")
    return parser.parse_args(arguments)


def layer(channels: int, extent: int, backend: str) -> Iterable[tuple[str, tuple[float, float]]]:
    """Yield the ways to compute a layer, and their errors of y and of dw."""
    rng = np.random.default_rng(0)
    x, dy = (
        rng.standard_normal((IMAGES, channels, extent, extent), dtype=np.float32) for _ in range(2)
    )
    w = rng.standard_normal((channels, channels, 3, 3), dtype=np.float32)
    windows = windows_of(x)  # (images, places, channels, 3, 3)
    rows = windows[0].reshape(extent * extent, -1), w.reshape(channels, -1).T
    few = windows[:, :, :FEW].reshape(-1, FEW * 9).T, by_places(dy[:, :FEW])
    for (parts, products), pairs in WAYS.items():
        y, dw = (error(summed(a, b, parts, pairs), a, b) for a, b in (rows, few))
        yield f"{parts}, {products}", (y, dw)
    with context.using(backend=backend, ledger=Ledger()):
        weights = from_numpy(w.copy()).requires_grad_()
        result = conv2d(from_numpy(x), weights, padding=1)
        result.backward(from_numpy(dy))
        assert weights.grad is not None
        gradient = weights.grad.numpy()[:FEW, :FEW].reshape(FEW, -1).T
        y = error(by_places(result.numpy()[:1]), *rows)
        yield f"none: {backend} in float32", (y, error(gradient, *few))


def windows_of(x: Numbers) -> Numbers:
    """Return what a 3 x 3 filter sees of images (n, c, h, w), zeros beyond: (n, h w, c, 3, 3)."""
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    views = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), (2, 3))
    return views.transpose(0, 2, 3, 1, 4, 5).reshape(len(x), -1, x.shape[1], 3, 3)


def by_places(x: Numbers) -> Numbers:
    """Return images (n, c, h, w) as rows of channels (n h w, c)."""
    return x.transpose(0, 2, 3, 1).reshape(-1, x.shape[1])


def split(x: Numbers, parts: int) -> list[Numbers]:
    """Return numbers of bfloat16, in float32, that add up to x but for the rest of the last."""
    found = []
    for _ in range(parts):
        found.append(x.astype(bfloat16()).astype(np.float32))
        x = x - found[-1]
    return found


def summed(a: Numbers, b: Numbers, parts: int, pairs: Sequence[tuple[int, int]]) -> Numbers:
    """Return a b (rows, columns) of products of parts, summed up in float32."""
    left, right = split(a.T, parts), split(b, parts)
    y = np.zeros((a.shape[0], b.shape[1]), np.float32)
    for start in range(0, len(b), BLOCK):
        large, small = np.zeros_like(y), np.zeros_like(y)
        for k in range(start, min(start + BLOCK, len(b))):
            for i, j in pairs:
                total = small if i + j else large
                total += left[i][k, :, None] * right[j][k]
        y += large + small
    return y


def error(y: Numbers, a: Numbers, b: Numbers) -> float:
    """Return the largest difference of y from a b in float64, as a share of its largest number."""
    exact = a.astype(np.float64) @ b.astype(np.float64)
    return float(np.abs(y - exact).max() / np.abs(exact).max())
