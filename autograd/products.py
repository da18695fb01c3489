"""NumPy's matrix products in blocks that follow from shapes alone.

BLAS does the work. Threads share the blocks, and long inner axes are summed block by block, so that
results are the same bits for any number of threads and rounding errors stay small."""

from __future__ import annotations

import numpy as np

from .array import NDArray
from .summation import sum_over
from .threads import WORTHWHILE, share

BLOCK, BLOCKS = 256, 16  # rows or columns that a thread takes at least; how many blocks at most
LONG = 1024  # numbers of an inner axis that are added up in blocks,
NARROW = 4096  # if the result has so few


def multiply(x: NDArray, w: NDArray) -> NDArray:
    """Return x @ w, both of one floating-point type.

    A large product of two matrices is cut into blocks of rows or columns, which threads share; a
    long inner axis goes to `_long`."""
    if x.shape[-1] >= LONG and x.shape[-2] * w.shape[-1] <= NARROW:
        return _long(x, w)
    # Waking other threads does not pay for small products, nor for stacks of them.
    if x.ndim != 2 or w.ndim != 2 or x.size * w.shape[1] < WORTHWHILE:
        return np.matmul(x, w)
    y = np.empty((x.shape[0], w.shape[1]), x.dtype)
    by_rows = y.shape[0] >= y.shape[1]
    size = max(y.shape)
    count = max(1, min(BLOCKS, size // BLOCK))
    # Multiples of 16 rows or columns, whole registers of BLAS's kernels.
    step = -(-size // count // 16) * 16
    borders = [min(size, step * i) for i in range(count + 1)]

    def work(first: int, last: int, worker: int) -> None:
        for i in range(first, last):
            part = slice(borders[i], borders[i + 1])
            if by_rows:
                np.matmul(x[part], w, out=y[part])
            else:
                np.matmul(x, w[:, part], out=y[:, part])

    share(count, work)
    return y


def _long(x: NDArray, w: NDArray) -> NDArray:
    """Return x @ w with the inner axis in blocks, whose products are added pairwise.

    BLAS adds the products of small or narrow matrices one after the other, however many there are,
    which loses digits in float32."""
    inner, step = x.shape[-1], BLOCK * (1 if x.shape[-2] * w.shape[-1] > 1 else BLOCKS)
    whole = inner - inner % step
    left = x[..., :whole].reshape(*x.shape[:-1], -1, step).swapaxes(-3, -2)
    right = w[..., :whole, :].reshape(*w.shape[:-2], -1, step, w.shape[-1])
    products = np.matmul(left, right)
    y = sum_over(products, (products.ndim - 3,))
    return y + np.matmul(x[..., whole:], w[..., whole:, :]) if whole < inner else y
