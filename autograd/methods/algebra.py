"""Products and parts of matrices, which are both functions of the package and methods of a tensor.

Names and arguments are torch's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import numpy as np

from .. import context
from ..array import array
from ..dtypes import FLOAT32
from ..ops import elementwise as el
from ..ops import linear, reduce
from ..ops import shape as sh
from .operators import Size

if TYPE_CHECKING:
    from ..tensor import Tensor

__all__ = [
    "addmm",
    "baddbmm",
    "bmm",
    "broadcast_to",
    "cross",
    "diag",
    "diagonal",
    "dot",
    "mm",
    "mv",
    "outer",
    "t",
    "tril",
    "triu",
]


def _product(name: str, x: Tensor, w: Tensor, *axes: int) -> Tensor:
    """Return x @ w. ValueError for another number of axes than is expected of each, and for stacks
    that differ."""
    apart = axes[0] == 3 and x.shape[:1] != w.shape[:1]
    if (len(x.shape), len(w.shape)) != axes or apart or x.shape[-1] != w.shape[-2:][0]:
        expected = {1: "(b,)", 2: "(b, c)", 3: "(n, b, c)"}[axes[1]]
        first = {1: "(b,)", 2: "(a, b)", 3: "(n, a, b)"}[axes[0]]
        raise ValueError(f"{name}: expected {first} and {expected}, got {x.shape} and {w.shape}")
    y: Tensor = linear.product(x, w)
    return y


def mm(input: Tensor, mat2: Tensor) -> Tensor:
    """Return the product of two matrices. ValueError for other shapes."""
    return _product("mm", input, mat2, 2, 2)


def bmm(input: Tensor, mat2: Tensor) -> Tensor:
    """Return the products (n, a, c) of stacks of matrices (n, a, b) and (n, b, c). ValueError for
    other shapes."""
    return _product("bmm", input, mat2, 3, 3)


def mv(input: Tensor, vec: Tensor) -> Tensor:
    """Return the product of a matrix and a vector. ValueError for other shapes."""
    return _product("mv", input, vec, 2, 1)


def dot(input: Tensor, tensor: Tensor) -> Tensor:
    """Return the sum of the products of two vectors' elements. ValueError for other shapes."""
    return _product("dot", input, tensor, 1, 1)


def t(input: Tensor) -> Tensor:
    """Return a matrix transposed; vectors and numbers as they are. ValueError for more axes."""
    if len(input.shape) > 2:
        raise ValueError(f"t: expected up to two axes, got shape {input.shape}")
    return input.T


def outer(input: Tensor, vec2: Tensor) -> Tensor:
    """Return all products (a, b) of elements of two vectors. ValueError for other shapes."""
    if len(input.shape) != 1 or len(vec2.shape) != 1:
        raise ValueError(f"outer: expected (a,) and (b,), got {input.shape} and {vec2.shape}")
    y: Tensor = el.mul(input.unsqueeze(1), vec2)
    return y


def _plus(input: Tensor, product: Tensor, beta: float, alpha: float) -> Tensor:
    """Return beta input + alpha product; beta 0 ignores the input, whatever it holds."""
    scaled = product if alpha == 1 else product * alpha
    if not beta:
        return scaled
    if input.dtype == FLOAT32 and product.dtype == context.current().autocast:
        input = sh.converted(input, product.dtype)
    y: Tensor = el.add(input if beta == 1 else input * beta, scaled)
    return y


def addmm(
    input: Tensor, mat1: Tensor, mat2: Tensor, *, beta: float = 1, alpha: float = 1
) -> Tensor:
    """Return beta input + alpha mat1 @ mat2; input is broadcast. ValueError as for `mm`."""
    return _plus(input, _product("addmm", mat1, mat2, 2, 2), beta, alpha)


def baddbmm(
    input: Tensor, batch1: Tensor, batch2: Tensor, *, beta: float = 1, alpha: float = 1
) -> Tensor:
    """Return beta input + alpha times stacks of products, see `bmm`."""
    return _plus(input, _product("baddbmm", batch1, batch2, 3, 3), beta, alpha)


def _triangle(name: str, x: Tensor, diagonal: int, lower: bool) -> Tensor:
    if len(x.shape) < 2:
        raise ValueError(f"{name}: expected matrices (.., a, b), got shape {x.shape}")
    rows, columns = x.shape[-2:]
    below = np.tri(rows, columns, diagonal if lower else diagonal - 1, dtype=bool)
    nothing = sh.full(shape=(), dtype=x.dtype, value=0)
    y: Tensor = el.where(array(below if lower else ~below), x, nothing)
    return y


def tril(input: Tensor, diagonal: int = 0) -> Tensor:
    """Return matrices (.., a, b) with 0 above a diagonal; those above the main one are positive.

    ValueError for fewer than two axes."""
    return _triangle("tril", input, diagonal, True)


def triu(input: Tensor, diagonal: int = 0) -> Tensor:
    """Return matrices (.., a, b) with 0 below a diagonal; those above the main one are positive.

    ValueError for fewer than two axes."""
    return _triangle("triu", input, diagonal, False)


def _step(rows: int, columns: int, offset: int) -> tuple[int, int, int]:
    """Return where the elements of a diagonal lie in a flat matrix: start, stop, step."""
    count = max(min(rows + min(offset, 0), columns - max(offset, 0)), 0)
    start = offset if offset >= 0 else -offset * columns
    return (start, start + (count - 1) * (columns + 1) + 1, columns + 1) if count else (0, 0, 1)


def diagonal(input: Tensor, offset: int = 0, dim1: int = 0, dim2: int = 1) -> Tensor:
    """Return the diagonals of matrices that two axes make up, as the last axis.

    A positive offset is that of a diagonal above the main one. ValueError for axes that do not
    exist or are one."""
    ndim = len(input.shape)
    axes = tuple(sh.axis_of("diagonal", dim, ndim) for dim in (dim1, dim2))
    if axes[0] == axes[1]:
        raise ValueError(f"diagonal: expected two axes, got {dim1} and {dim2}")
    others = [a for a in range(ndim) if a not in axes]
    x = input.permute(*others, *axes)
    flat = x.reshape(*x.shape[:-2], x.shape[-2] * x.shape[-1])
    whole = tuple((0, n, 1) for n in flat.shape[:-1])
    y: Tensor = sh.getslice(flat, slices=(*whole, _step(x.shape[-2], x.shape[-1], offset)))
    return y


def diag(input: Tensor, diagonal: int = 0) -> Tensor:
    """Return the matrix whose diagonal a vector is, or the diagonal of a matrix.

    ValueError for more than two axes."""
    if len(input.shape) == 2:
        return _diagonal(input, diagonal)
    if len(input.shape) != 1:
        raise ValueError(f"diag: expected a vector or a matrix, got shape {input.shape}")
    size = input.shape[0] + max(diagonal, -diagonal)
    places = _step(size, size, diagonal)
    y: Any = sh.putslice(input, slices=(places,), shape=(size * size,))
    return cast("Tensor", y).reshape(size, size)


_diagonal = diagonal


def broadcast_to(input: Tensor, size: Size) -> Tensor:
    """Return the tensor repeated to a larger shape, without a copy; see `Tensor.expand`."""
    y: Tensor = reduce.broadcast_to(input, shape=sh.integers((size,)))
    return y


def cross(input: Tensor, other: Tensor, dim: int | None = None) -> Tensor:
    """Return the cross products of vectors along an axis of extent 3, the first such for None; both
    are broadcast. ValueError where there is none."""
    shape = np.broadcast_shapes(input.shape, other.shape)
    axis = next((a for a, n in enumerate(shape) if n == 3), 0) if dim is None else dim
    if not shape or shape[sh.axis_of("cross", axis, len(shape))] != 3:
        raise ValueError(
            f"cross: expected an axis of extent 3, got {input.shape}, {other.shape}, dim={dim}"
        )
    x, w = (v.expand(*shape) for v in (input, other))
    return x.roll(-1, axis) * w.roll(1, axis) - x.roll(1, axis) * w.roll(-1, axis)
