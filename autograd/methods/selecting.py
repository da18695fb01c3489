"""Methods of a tensor that choose, order and rearrange elements: each calls a few primitives."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias, cast

import numpy as np

from ..dtypes import BOOL, INT64, is_floating, is_integer, plain
from ..indexing import select
from ..ops import compare as cp
from ..ops import elementwise as el
from ..ops import gather as ga
from ..ops import reduce
from ..ops import shape as sh

if TYPE_CHECKING:
    from ..array import NDArray
    from ..tensor import Tensor

Size: TypeAlias = int | Sequence[int]


class Ordered(NamedTuple):
    """Elements in an order, and where they were (int64), along one axis."""

    values: Tensor
    indices: Tensor


class Selecting:
    """Mixed into Tensor. Axes count from the end where negative; positions do not."""

    __slots__ = ()

    if TYPE_CHECKING:

        @property
        def shape(self) -> tuple[int, ...]: ...
        @property
        def dtype(self) -> np.dtype[Any]: ...
        def numpy(self) -> NDArray: ...
        def wrap(self, numbers: NDArray) -> Tensor: ...

    @property
    def _me(self) -> Tensor:
        return cast("Tensor", self)

    def where(self, condition: Tensor, other: Tensor | float) -> Tensor:
        """Return the elements where a condition holds, those of another tensor elsewhere."""
        return cast("Tensor", el.where(condition, self, other))

    def gather(self, dim: int, index: Tensor) -> Tensor:
        """Return x[index[i, j, ..], j, ..] for dim 0, likewise for others.

        The result has the index's shape. ValueError for an index that is larger along another axis,
        IndexError for a position out of range."""
        return ga.gather(self, index, axis=sh.axis_of("gather", dim, len(self.shape)))

    def scatter(
        self,
        dim: int,
        index: Tensor,
        src: Tensor | float | None = None,
        *,
        value: float | None = None,
    ) -> Tensor:
        """Return the tensor with elements of `src`, or one number, also as `value`, at positions
        along an axis.

        Of several elements for one position the last one stays; the gradient of each is then that
        of the position, as in torch."""
        axis = sh.axis_of("scatter", dim, len(self.shape))
        numbers = src if value is None else value
        if numbers is None:
            raise TypeError("scatter: expected src or value, got neither")
        return ga.scatter(self, self._source(numbers, index), index, axis=axis)

    def scatter_add(self, dim: int, index: Tensor, src: Tensor) -> Tensor:
        """Return the tensor with elements of `src` added at positions along an axis."""
        axis = sh.axis_of("scatter_add", dim, len(self.shape))
        part = self._source(src, index)
        return el.add(self, ga.scatter_sum(part, index, axis=axis, shape=self.shape))

    def _source(self, src: Tensor | float, index: Tensor) -> Any:
        """Return a number as an array, or the part of a tensor that belongs to positions."""
        src = plain(src)
        if isinstance(src, bool | int | float):
            return self._number("scatter", src)
        if len(src.shape) != len(index.shape) or src.shape == index.shape:
            return src
        pairs = zip(src.shape, index.shape, strict=True)
        return sh.getslice(src, slices=tuple((0, min(n, m), 1) for n, m in pairs))

    def _number(self, name: str, value: Any) -> Any:
        """Return a number in the tensor's type. TypeError for a fraction among integers."""
        if isinstance(value, float) and not is_floating(self.dtype):
            raise TypeError(f"{name}: expected a value that {self.dtype} holds, got {value}")
        return sh.full(shape=(), dtype=self.dtype, value=value)

    def index_select(self, dim: int, index: Tensor) -> Tensor:
        """Return the parts at positions (one axis) along an axis. ValueError for more axes."""
        axis = sh.axis_of("index_select", dim, len(self.shape))
        return sh.index(self, _row("index_select", index), axis=axis)

    def index_add(self, dim: int, index: Tensor, source: Tensor, alpha: float = 1) -> Tensor:
        """Return the tensor with parts of `source`, times alpha, added at positions along an
        axis."""
        axis, places = sh.axis_of("index_add", dim, len(self.shape)), _row("index_add", index)
        expected = (*self.shape[:axis], *places.shape, *self.shape[axis + 1 :])
        if source.shape != expected:
            raise ValueError(f"index_add: expected a source of {expected}, got {source.shape}")
        parts = source if alpha == 1 else source * alpha
        return el.add(self, sh.index_add(parts, places, axis=axis, shape=self.shape))

    def masked_fill(self, mask: Tensor, value: Tensor | float) -> Tensor:
        """Return `value` where the mask holds, else the elements; both broadcast.

        TypeError for a mask that holds no truth values."""
        value = plain(value)
        number = isinstance(value, bool | int | float)
        return el.where(
            _truths("masked_fill", mask),
            self._number("masked_fill", value) if number else value,
            self,
        )

    def masked_select(self, mask: Tensor) -> Tensor:
        """Return the elements where the mask holds, in one row; both broadcast.

        The shape depends on numbers, so `trace` cannot record it."""
        shape = np.broadcast_shapes(self.shape, _truths("masked_select", mask).shape)
        x, chosen = (
            t if t.shape == shape else reduce.broadcast_to(t, shape=shape) for t in (self, mask)
        )
        return select(x, chosen)

    def _order(self, name: str, dim: int, descending: bool, count: int | None) -> Tensor:
        """Return the positions of the first elements in an order along an axis, all for None."""
        axis = sh.axis_of(name, dim, max(len(self.shape), 1))
        x = self if self.shape else sh.reshape(self, shape=(1,))
        many = x.shape[axis] if count is None else count
        y = ga.order(x, axis=axis, descending=bool(descending), count=many)
        return y if self.shape else sh.reshape(y, shape=())

    def argsort(self, dim: int = -1, descending: bool = False, stable: bool = False) -> Tensor:
        """Return the positions of the elements in order along an axis; see `sort`."""
        return self._order("argsort", dim, descending, None)

    def sort(self, dim: int = -1, descending: bool = False, stable: bool = False) -> Ordered:
        """Return the elements in order along an axis, and their positions.

        Equal ones keep their order; NaN counts as the largest."""
        return self._taken(dim, self._order("sort", dim, descending, None))

    def topk(self, k: int, dim: int = -1, largest: bool = True, sorted: bool = True) -> Ordered:
        """Return the k largest or smallest elements along an axis, in order, and their positions.

        Of equal ones the first count. ValueError for more than there are."""
        return self._taken(dim, self._order("topk", dim, largest, k))

    def _taken(self, dim: int, positions: Tensor) -> Ordered:
        if not self.shape:
            return Ordered(self._me, positions)
        return Ordered(ga.gather(self, positions, axis=dim % len(self.shape)), positions)

    def nonzero(self, as_tuple: bool = False) -> Tensor | tuple[Tensor, ...]:
        """Return the positions of elements that are not 0, (count, axes), row by row; with
        `as_tuple` a tensor for each axis."""
        truths = cp.ne(self, self._number("nonzero", 0)).numpy()
        found = np.nonzero(np.atleast_1d(truths))
        if as_tuple:
            return tuple(self.wrap(axis) for axis in found)
        return self.wrap(np.stack(found, -1)[:, : truths.ndim])

    def unique(
        self,
        sorted: bool = True,
        return_inverse: bool = False,
        return_counts: bool = False,
        dim: int | None = None,
    ) -> Any:
        """Return the values that occur, in ascending order, or the parts along an axis.

        With `return_inverse` also where each element's value, or each part, is in them, with
        `return_counts` how often each occurs."""
        axis = 0 if dim is None else sh.axis_of("unique", dim, len(self.shape))
        if dim is None:
            x = sh.reshape(self, shape=(prod(self.shape),))
            positions = x._order("unique", 0, False, None)
            ordered = ga.gather(x, positions, axis=0)
            fresh = cp.ne(ordered[1:], ordered[:-1]).numpy()
        else:
            x = self._me
            parts = np.moveaxis(self.numpy(), axis, 0)
            parts = parts.reshape(len(parts), prod(parts.shape[1:]))
            order = np.lexsort(parts.T[::-1]) if parts.size else np.arange(len(parts))
            positions = self.wrap(order)
            ordered = sh.index(x, positions, axis=axis)
            fresh = (parts[order[1:]] != parts[order[:-1]]).any(1)
        starts = np.flatnonzero(np.append(True, fresh)[: len(positions)])
        results = [sh.index(ordered, self.wrap(starts), axis=axis)]
        if return_inverse:
            inverse = np.empty(len(positions), np.int64)
            inverse[positions.numpy()] = np.append(0, np.cumsum(fresh))[: len(positions)]
            results.append(self.wrap(inverse.reshape(self.shape if dim is None else -1)))
        if return_counts:
            results.append(self.wrap(np.diff(starts, append=len(positions))))
        return results[0] if len(results) == 1 else tuple(results)

    def bincount(self, weights: Tensor | None = None, minlength: int = 0) -> Tensor:
        """Return how often each number from 0 on occurs in a row of integers, or the sum of its
        weights. ValueError for other shapes and for negative numbers."""
        if len(self.shape) != 1 or not is_integer(self.dtype):
            raise ValueError(
                f"bincount: expected a row of integers, got {self.dtype} of shape {self.shape}"
            )
        low, high = (int(f(self.numpy(), initial=i)) for f, i in ((np.min, 0), (np.max, -1)))
        if low < 0:
            raise ValueError(f"bincount: expected numbers of at least 0, got {low}")
        ones = sh.full(shape=self.shape, dtype=INT64, value=1) if weights is None else weights
        return ga.scatter_sum(ones, self, axis=0, shape=(max(high + 1, minlength),))

    def roll(self, shifts: Size, dims: Size | None = None) -> Tensor:
        """Return the elements moved along axes; those that leave at one end come in at the other.

        Without `dims`, the flattened tensor's elements are moved."""
        if dims is None:
            flat = sh.reshape(self, shape=(prod(self.shape),))
            return sh.reshape(flat.roll(shifts, 0), shape=self.shape)
        steps, axes = sh.integers((shifts,)), sh.integers((dims,))
        if len(steps) != len(axes):
            raise ValueError(f"roll: expected a shift for each of {axes}, got {steps}")
        y: Any = self
        for step, dim in zip(steps, axes, strict=True):
            axis = sh.axis_of("roll", dim, len(self.shape))
            cut = -step % max(self.shape[axis], 1)
            if cut:
                lead = (slice(None),) * axis
                y = sh.concatenate(y[*lead, cut:], y[*lead, :cut], axis=axis)
        return cast("Tensor", y)

    def repeat_interleave(
        self, repeats: int | Tensor, dim: int | None = None, *, output_size: int | None = None
    ) -> Tensor:
        """Return each part along an axis several times in a row, by default of the flattened
        tensor.

        `repeats` is one number for all parts or a tensor of one for each; their sum,
        `output_size`, need not be given."""
        x = sh.reshape(self, shape=(prod(self.shape),)) if dim is None else self._me
        axis = sh.axis_of("repeat_interleave", dim or 0, len(x.shape))
        repeats = plain(repeats)
        if isinstance(repeats, int):
            each = x.unsqueeze(axis + 1)
            wide = (*x.shape[: axis + 1], repeats, *x.shape[axis + 1 :])
            shape = (*x.shape[:axis], x.shape[axis] * repeats, *x.shape[axis + 1 :])
            return sh.reshape(reduce.broadcast_to(each, shape=wide), shape=shape)
        counts = repeats.numpy()
        if counts.shape not in ((), (1,), x.shape[axis : axis + 1]) or (counts < 0).any():
            raise ValueError(
                f"repeat_interleave: expected {x.shape[axis]} numbers of at least 0, got shape "
                f"{counts.shape} from {counts.min(initial=0)}"
            )
        places = np.repeat(np.arange(x.shape[axis]), counts)
        return sh.index(x, self.wrap(places), axis=axis)

    def repeat(self, *sizes: Size) -> Tensor:
        """Return the tensor several times along each axis, new ones in front. ValueError for fewer
        numbers than axes."""
        times = sh.integers(sizes)
        new = len(times) - len(self.shape)
        if new < 0 or min(times, default=0) < 0:
            raise ValueError(
                f"repeat: expected {len(self.shape)} or more numbers of at least 0, got {times}"
            )
        shape = (*[1] * new, *self.shape)
        apart = sh.reshape(self, shape=tuple(k for n in shape for k in (1, n)))
        pairs = [*zip(times, shape, strict=True)]
        wide = reduce.broadcast_to(apart, shape=tuple(k for pair in pairs for k in pair))
        return sh.reshape(wide, shape=tuple(r * n for r, n in pairs))

    def tile(self, *dims: Size) -> Tensor:
        """Return the tensor several times along its last axes; see `repeat`."""
        times = sh.integers(dims)
        return self.repeat(*[1] * (len(self.shape) - len(times)), *times)

    def unflatten(self, dim: int, sizes: Size) -> Tensor:
        """Return the tensor with one axis as several, of which one extent may be -1."""
        axis = sh.axis_of("unflatten", dim, len(self.shape))
        inner = sh.completed((self.shape[axis],), (sizes,))
        return sh.reshape(self, shape=(*self.shape[:axis], *inner, *self.shape[axis + 1 :]))

    def movedim(self, source: Size, destination: Size) -> Tensor:
        """Return the tensor with axes moved to other places; the others keep their order."""
        ndim = len(self.shape)
        froms, tos = (
            [sh.axis_of("movedim", a, ndim) for a in sh.integers((axes,))]
            for axes in (source, destination)
        )
        if len({*froms}) != len(froms) or len({*tos}) != len(tos) or len(froms) != len(tos):
            raise ValueError(
                f"movedim: expected as many places as distinct axes, got {source}, {destination}"
            )
        axes = [a for a in range(ndim) if a not in froms]
        for to, at in sorted(zip(tos, froms, strict=True)):
            axes.insert(to, at)
        return sh.permute(self, axes=tuple(axes))

    moveaxis = movedim

    def unfold(self, dimension: int, size: int, step: int) -> Tensor:
        """Return the windows of an axis, `step` apart, whose elements are along a new last axis.

        ValueError for a window that does not fit and a step below 1."""
        axis = sh.axis_of("unfold", dimension, len(self.shape))
        length = self.shape[axis]
        if not (0 < size <= length and step > 0):
            raise ValueError(
                f"unfold: expected a size in 1 to {length} and a step, got {size} and {step}"
            )
        starts = np.arange(0, length - size + 1, step)
        at = self.wrap((starts[:, None] + np.arange(size)).reshape(-1))
        return self.index_select(axis, at).unflatten(axis, (-1, size)).movedim(axis + 1, -1)

    def swapaxes(self, axis0: int, axis1: int) -> Tensor:
        """Return the tensor with two axes exchanged."""
        return self._me.transpose(axis0, axis1)

    swapdims = swapaxes


def _row(name: str, index: Tensor) -> Tensor:
    """Return positions on one axis. ValueError for more axes."""
    if len(index.shape) > 1:
        raise ValueError(f"{name}: expected an index of one axis, got shape {index.shape}")
    return index if index.shape else index.reshape(1)


def _truths(name: str, mask: Tensor) -> Tensor:
    """Return a mask. TypeError for one that holds no truth values."""
    if mask.dtype != BOOL:
        raise TypeError(f"{name}: expected a mask of truth values, got {mask.dtype}")
    return mask
