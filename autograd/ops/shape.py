"""Operations that move elements and compute nothing: no MACs, and no bytes where the result is a
view.

A basic index is an attribute: a tuple of (start, stop, step), one for each axis."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Sequence
from math import prod
from typing import Any, TypeAlias

import numpy as np

from ..array import NDArray, Spec
from ..dtypes import is_integer
from ..ledger import Cost
from ..primitive import Value, primitive
from .rules import common

Slices: TypeAlias = tuple[tuple[int, int, int], ...]


def free(y: Any, *specs: Spec, **attrs: Any) -> Cost:
    """Cost rule of operations without arithmetic."""
    return Cost()


def axis_of(name: str, axis: int, ndim: int) -> int:
    """Return an axis, counted from the end where it is negative, as a non-negative number.
    ValueError, which names the operation, for one out of range."""
    if not -ndim <= axis < ndim:
        raise ValueError(f"{name}: expected an axis in [{-ndim}, {ndim}), got {axis}")
    return operator.index(axis) % ndim


def integers(values: Sequence[Any]) -> tuple[int, ...]:
    """Return integers, listed one by one or as a single sequence, as Python's own."""
    alone = len(values) == 1 and isinstance(values[0], Iterable)
    return tuple(operator.index(n) for n in (values[0] if alone else values))


def _reshaped(x: Spec, *, shape: tuple[int, ...]) -> Spec:
    """Shape rule of reshape. ValueError for another number of elements."""
    if prod(shape) != x.size:
        raise ValueError(f"reshape: expected {x.size} elements as in {x.shape}, got {shape}")
    return Spec(shape, x.dtype)


@primitive(infer=_reshaped, cost=free, alias=0)
def reshape(x: NDArray, *, shape: tuple[int, ...]) -> NDArray:
    """Return the elements of x, in row-major order of their indices, in another shape.

    It is a view where the memory layout allows one."""
    return x.reshape(shape)


@reshape.vjp("x")
def _(dy: Value, specs: tuple[Spec, ...]) -> Value:
    return reshape(dy, shape=specs[0].shape)


@primitive(infer=lambda *, shape, dtype, value: Spec(shape, dtype), cost=lambda y, **a: Cost())
def full(*, shape: tuple[int, ...], dtype: np.dtype[Any], value: float) -> NDArray:
    """Return one value everywhere, in a shape and type."""
    return np.full(shape, value, dtype)


def zero(spec: Spec) -> Value:
    """Return zeros of a shape and type: the gradient of a function that is constant in pieces."""
    return full(shape=spec.shape, dtype=spec.dtype, value=0.0)


def constant(like: Value, value: float) -> Value:
    """Return a number in the type of another value."""
    return full(shape=(), dtype=like.dtype, value=value)


def completed(old: tuple[int, ...], new: Sequence[Any]) -> tuple[int, ...]:
    """Return the new shape of a reshape with its -1, if any, worked out. ValueError where none
    fits."""
    new = integers(new)
    known = prod(n for n in new if n != -1)
    if new.count(-1) > 1 or (-1 in new and (not known or prod(old) % known)):
        raise ValueError(f"reshape: expected {prod(old)} elements as in {old}, got {new}")
    return tuple(prod(old) // known if n == -1 else n for n in new)


def _permuted(x: Spec, *, axes: tuple[int, ...]) -> Spec:
    """Shape rule of permute. ValueError for what is no permutation of the axes."""
    if sorted(axes) != list(range(len(x.shape))):
        raise ValueError(
            f"permute: expected a permutation of the {len(x.shape)} axes of {x.shape}, got {axes}"
        )
    return Spec(tuple(x.shape[a] for a in axes), x.dtype)


@primitive(infer=_permuted, cost=free, alias=0)
def permute(x: NDArray, *, axes: tuple[int, ...]) -> NDArray:
    """Return x with its axes in another order, without a copy."""
    return x.transpose(axes)


@permute.vjp("x")
def _(dy: Value, axes: tuple[int, ...]) -> Value:
    return permute(dy, axes=tuple(int(i) for i in np.argsort(axes)))


def _slices(slices: Slices) -> tuple[slice, ...]:
    """Return NumPy's slices; a negative stop of a downward slice means: to the first element."""
    return tuple(slice(a, None if b < 0 else b, c) for a, b, c in slices)


def _part(x: Spec, *, slices: Slices) -> Spec:
    """Shape rule of getslice."""
    return Spec(tuple(len(range(*s)) for s in slices), x.dtype)


@primitive(infer=_part, cost=free, alias=0)
def getslice(x: NDArray, *, slices: Slices) -> NDArray:
    """Return a regular part of x, without a copy."""
    return x[_slices(slices)]


@getslice.vjp("x")
def _(dy: Value, specs: tuple[Spec, ...], slices: Slices) -> Value:
    return putslice(dy, slices=slices, shape=specs[0].shape)


@primitive(infer=lambda x, *, slices, shape: Spec(shape, x.dtype), cost=free)
def putslice(x: NDArray, *, slices: Slices, shape: tuple[int, ...]) -> NDArray:
    """Return zeros of a shape, with x as its part: getslice transposed."""
    y = np.zeros_like(x, shape=shape)  # in the layout of x
    y[_slices(slices)] = x
    return y


@putslice.vjp("x")
def _(dy: Value, slices: Slices) -> Value:
    return getslice(dy, slices=slices)


def indexed(x: Spec, *indices: Spec, axis: int) -> Spec:
    """Shape rule of `index`. TypeError for indices that are not integers, ValueError for too
    many."""
    if not all(is_integer(i.dtype) for i in indices):
        raise TypeError(f"index: expected integer arrays, got {indices[0].dtype}")
    if axis + len(indices) > len(x.shape):
        raise ValueError(
            f"index: expected up to {max(len(x.shape) - axis, 0)} arrays from axis {axis} on, "
            f"got {len(indices)}"
        )
    shape = np.broadcast_shapes(*[i.shape for i in indices])
    return Spec(x.shape[:axis] + shape + x.shape[axis + len(indices) :], x.dtype)


@primitive(infer=indexed, cost=lambda y, x, *i, **a: Cost(bytes_read=y.nbytes))
def index(x: NDArray, *indices: NDArray, axis: int) -> NDArray:
    """Return x at the positions that integer arrays give for neighbouring axes from `axis` on.

    The index arrays are broadcast together and replace those axes. IndexError for a position out of
    range."""
    return np.asarray(x[(slice(None),) * axis + indices])


@index.vjp("x")
def _(dy: Value, indices: tuple[Value, ...], specs: tuple[Spec, ...], axis: int) -> Value:
    return index_add(dy, *indices, axis=axis, shape=specs[0].shape)


@primitive(
    infer=lambda x, *indices, axis, shape: Spec(shape, x.dtype),
    cost=lambda y, x, *i, **a: Cost(add=x.size),
)
def index_add(x: NDArray, *indices: NDArray, axis: int, shape: tuple[int, ...]) -> NDArray:
    """Return zeros to which each element of x is added at its position: `index` transposed."""
    y = np.zeros(shape, x.dtype)
    key: Any = (slice(None),) * axis + indices
    np.add.at(y, key, x)
    return y


@index_add.vjp("x")
def _(dy: Value, indices: tuple[Value, ...], axis: int) -> Value:
    return index(dy, *indices, axis=axis)


def _fitted(gradient: Value, dtype: np.dtype[Any]) -> Value:
    """Return a gradient in the type of its operand."""
    return gradient if gradient.dtype == dtype else cast(gradient, dtype=dtype)


@primitive(infer=lambda x, *, dtype: Spec(x.shape, dtype), cost=free)
def cast(x: NDArray, *, dtype: np.dtype[Any]) -> NDArray:
    """Return x in another type."""
    return x.astype(dtype)


@cast.vjp("x")
def _(dy: Value, specs: tuple[Spec, ...]) -> Value:
    return converted(dy, specs[0].dtype)  # sums of a narrow type may come in a wider one


def converted(x: Value, dtype: np.dtype[Any]) -> Value:
    """Return x in a type, itself where it has it."""
    return x if x.dtype == dtype else cast(x, dtype=dtype)


def _joined(*xs: Spec, axis: int) -> Spec:
    """Shape rule of concatenate: all extents but one must be equal."""
    shapes = [x.shape[:axis] + x.shape[axis + 1 :] for x in xs]
    if len(set(shapes)) != 1 or any(axis >= len(x.shape) for x in xs):
        raise ValueError(
            f"cat: expected equal shapes but for axis {axis}, got {[x.shape for x in xs]}"
        )
    first = xs[0].shape
    shape = (*first[:axis], sum(x.shape[axis] for x in xs), *first[axis + 1 :])
    return Spec(shape, common(*xs))


@primitive(infer=_joined, cost=free)
def concatenate(*xs: NDArray, axis: int) -> NDArray:
    """Return arrays joined one after the other along an existing axis."""
    return np.concatenate(xs, axis, dtype=common(*xs))


@concatenate.vjp("xs")
def _(dy: Value, specs: tuple[Spec, ...], needs: tuple[bool, ...], axis: int) -> tuple[Value, ...]:
    parts, start = [], 0
    for spec, need in zip(specs, needs, strict=True):
        slices = [(0, n, 1) for n in dy.shape]
        slices[axis] = (start, start + spec.shape[axis], 1)
        start += spec.shape[axis]
        part = getslice(dy, slices=tuple(slices)) if need else None
        parts.append(None if part is None else _fitted(part, spec.dtype))
    return tuple(parts)


def _padded(x: Spec, *, widths: tuple[tuple[int, int], ...], value: float = 0.0) -> Spec:
    """Shape rule of pad. ValueError for negative widths."""
    shape = tuple(n + a + b for n, (a, b) in zip(x.shape, widths, strict=True))
    if min((0, *[n for pair in widths for n in pair])) < 0:
        raise ValueError(f"pad: expected widths of at least 0, got {widths}")
    return Spec(shape, x.dtype)


@primitive(infer=_padded, cost=free)
def pad(x: NDArray, *, widths: tuple[tuple[int, int], ...], value: float = 0.0) -> NDArray:
    """Return x with a border of a constant value, (before, after) for each axis."""
    pairs = [*zip(x.shape, widths, strict=True)]
    y = np.full_like(x, value, shape=[a + n + b for n, (a, b) in pairs])  # in the layout of x
    y[tuple(slice(a, a + n) for n, (a, _) in pairs)] = x
    return y


@pad.vjp("x")
def _(dy: Value, specs: tuple[Spec, ...], widths: tuple[tuple[int, int], ...]) -> Value:
    inner = tuple((a, a + n, 1) for n, (a, _) in zip(specs[0].shape, widths, strict=True))
    return getslice(dy, slices=inner)
