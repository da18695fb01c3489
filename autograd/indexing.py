"""What stands between the brackets of x[...]: an index is split into views and gathers.

Integers, slices, None and `...` make a view. Integer arrays, on neighbouring axes, gather; truth
masks stand for the positions where they are true."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from . import context
from .array import Array, NDArray, array
from .dtypes import is_integer
from .ops.reduce import broadcast_to
from .ops.shape import getslice, index, indexed, reshape
from .ops.update import put, store
from .primitive import Value


def select(x: Value, key: Any) -> Value:
    """Return x[key] for integers, slices, None, `...`, and integer arrays and truth masks on
    neighbouring axes.

    IndexError for a position out of range and for a mask of another shape. What a mask selects has
    a shape that depends on numbers, so it cannot be traced."""
    y, gathers = _viewed(x, _without_masks(x, key, "reads"))
    return _gather(y, gathers) if gathers else y


def assign(x: Array, key: Any, value: Array) -> None:
    """Write x[key] = value, broadcast, for the keys that `select` knows.

    Of several values for one position, the last one stays."""
    y, gathers = _viewed(x, _without_masks(x, key, "writes"))
    positions = [item for _, item in gathers]
    axis = _first_axis(gathers)
    shape = indexed(y.spec, *[p.spec for p in positions], axis=axis).shape if gathers else y.shape
    if value.shape not in ((), shape):
        extra = max(len(value.shape) - len(shape), 0)
        if not any(n != 1 for n in value.shape[:extra]):
            value = reshape(value, shape=value.shape[extra:])
        value = broadcast_to(value, shape=shape)
    if gathers:
        put(y, value, *positions, axis=axis)
    else:
        store(y, value)


def _without_masks(x: Value, key: Any, does: str) -> tuple[Any, ...]:
    """Return the items of a key, truth masks replaced by the positions where they are true."""
    items = [_mask(item) for item in (key if isinstance(key, tuple) else (key,))]
    if not any(isinstance(item, _Mask) for item in items):
        return tuple(items)
    context.not_replayable(f"{does} where numbers tell it to")
    replaced: list[Any] = []
    axis = 0
    for item in _without_ellipsis(items, len(x.shape)):
        if isinstance(item, _Mask):
            replaced += item.positions(x.shape[axis:])
        else:
            replaced.append(item)
        axis += _axes(item)
    return tuple(replaced)


class _Mask(NamedTuple):
    """A truth mask in a key."""

    truths: NDArray

    def positions(self, shape: tuple[int, ...]) -> tuple[NDArray, ...]:
        """Return the positions where it is true. IndexError for another shape than that of the
        axes."""
        if shape[: self.truths.ndim] != self.truths.shape:
            raise IndexError(
                f"index: expected a mask of shape {shape[: self.truths.ndim]}, got "
                f"{self.truths.shape}"
            )
        return np.nonzero(self.truths)


def _mask(item: Any) -> Any:
    """Return an item of a key, as a mask where it is one."""
    numbers = np.asarray(item) if isinstance(item, list) else item
    is_mask = getattr(numbers, "dtype", None) == np.bool_ and numbers.shape
    return _Mask(np.asarray(numbers)) if is_mask else item


def _axes(item: Any) -> int:
    """Return how many axes an item of a key stands for."""
    if isinstance(item, _Mask):
        return item.truths.ndim
    return int(item is not None and item is not Ellipsis)


def _viewed(x: Value, key: Any) -> tuple[Value, list[tuple[int, Value]]]:
    """Return the view that the integers and slices of a key leave, and the positions to gather from
    it.

    Positions are pairs of an axis of the view and integers."""
    items = list(key) if isinstance(key, tuple) else [key]
    items = [np.asarray(k, None if k else np.int64) if isinstance(k, list) else k for k in items]
    items = _without_ellipsis(items, len(x.shape))
    slices: list[tuple[int, int, int]] = []
    shape: list[int] = []
    gathers: list[tuple[int, Any]] = []
    for item in items:
        if item is None:
            shape.append(1)
            continue
        length = x.shape[len(slices)]
        if isinstance(item, slice):
            bounds = item.indices(length)
            # A start of -1 in an empty slice would wrap around.
            slices.append(bounds if range(*bounds) else (0, 0, 1))
            shape.append(len(range(*slices[-1])))
        elif isinstance(item, int | np.integer) and not isinstance(item, bool):
            at = _position(int(item), length, len(slices))
            slices.append((at, at + 1, 1))
        else:
            gathers.append((len(shape), _positions(item)))
            slices.append((0, length, 1))
            shape.append(length)
    whole = all(s == (0, n, 1) for s, n in zip(slices, x.shape, strict=True))
    y = x if whole else getslice(x, slices=tuple(slices))
    y = y if tuple(shape) == y.shape else reshape(y, shape=tuple(shape))
    return y, gathers


def _without_ellipsis(items: list[Any], ndim: int) -> list[Any]:
    """Return the items of a key with `...` replaced by slices, one for each axis that is not
    indexed."""
    ellipses = [i for i, k in enumerate(items) if k is Ellipsis]
    named = sum(map(_axes, items))
    if named > ndim or len(ellipses) > 1:
        raise IndexError(
            f"index: expected up to {ndim} indices and one '...', got {named} and {len(ellipses)}"
        )
    at = ellipses[0] if ellipses else len(items)
    return [*items[:at], *[slice(None)] * (ndim - named), *items[at + 1 :]]


def _position(item: int, length: int, axis: int) -> int:
    """Return an index counted from the start. IndexError for one out of range."""
    if not -length <= item < length:
        raise IndexError(f"index: expected [{-length}, {length}) for axis {axis}, got {item}")
    return item + length if item < 0 else item


def _positions(item: Any) -> Value:
    """Return integers to gather. TypeError for anything else."""
    if isinstance(item, np.ndarray):
        item = array(item)
    if not hasattr(item, "dtype"):
        raise TypeError(
            "index: expected integers, slices, None, ... or integer arrays, got "
            f"{type(item).__name__}"
        )
    if not is_integer(item.dtype):
        raise TypeError(f"index: expected integers or truth values, got {item.dtype}")
    return item


def _gather(y: Value, gathers: list[tuple[int, Any]]) -> Value:
    return index(y, *[item for _, item in gathers], axis=_first_axis(gathers))


def _first_axis(gathers: list[tuple[int, Any]]) -> int:
    """Return the first of the neighbouring axes that are gathered. IndexError where they are
    apart."""
    axes = [axis for axis, _ in gathers] or [0]
    if axes != list(range(axes[0], axes[0] + len(axes))):
        raise IndexError(f"index: expected index arrays on neighbouring axes, got axes {axes}")
    return axes[0]
