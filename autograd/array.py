"""Array: a handle on numbers. Its shape and type are always known, its numbers perhaps not yet."""

from __future__ import annotations

import copy
from math import prod
from typing import Any, NamedTuple, overload

import numpy as np
import numpy.typing as npt

from .deferred import lock, realize_readers
from .storage import Storage

NDArray = npt.NDArray[Any]


class Spec(NamedTuple):
    """Shape and type of an array: all that shape rules and cost rules may look at."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @property
    def size(self) -> int:
        """Number of elements."""
        return prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes that the elements take."""
        return self.size * self.dtype.itemsize


class Size(int):
    """The number of elements of a shape; called, the shape itself, as torch's `x.size()`."""

    shape: tuple[int, ...]

    def __new__(cls, shape: tuple[int, ...]) -> Size:
        size = super().__new__(cls, prod(shape))
        size.shape = shape
        return size

    def __getnewargs__(self) -> tuple[Any, ...]:
        return (self.shape,)

    @overload
    def __call__(self) -> tuple[int, ...]: ...
    @overload
    def __call__(self, dim: int) -> int: ...
    def __call__(self, dim: int | None = None) -> tuple[int, ...] | int:
        """Return the extents, or that of one axis. IndexError for an axis that does not exist."""
        if dim is not None and not -len(self.shape) <= dim < len(self.shape):
            raise IndexError(f"size: expected one of {len(self.shape)} axes, got {dim}")
        return self.shape if dim is None else self.shape[dim]


class NoNumbers(RuntimeError):
    """The numbers of an array of the meta backend were asked for: it has a shape alone."""


class Array:
    """Handle on an n-dimensional array.

    `storage` is the memory, `base` the array that owns it (None: this one), `offset` the first
    element within a flat base, -1 for another kind of view."""

    __slots__ = ("__weakref__", "_value", "base", "offset", "spec", "storage")

    def __init__(
        self, spec: Spec, value: NDArray | None, base: Array | None = None, offset: int = 0
    ) -> None:
        self.spec = spec
        self.base = base
        self.offset = offset
        self.storage: Storage = Storage(spec) if base is None else base.storage
        self._value = value

    @property
    def shape(self) -> tuple[int, ...]:
        """Extents."""
        return self.spec.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """Element type."""
        return self.spec.dtype

    @property
    def owner(self) -> Array:
        """The array that owns the memory: this one, or the one that it is a view of."""
        return self if self.base is None else self.base

    def check_writable(self, what: str) -> None:
        """ValueError where `what` must not write: read-only memory, or elements that share memory.

        Numbers that are still pending get memory of their own."""
        value = self._value
        if value is None:
            return
        flags = value.flags
        if not flags.c_contiguous and _overlaps(value):
            raise ValueError(
                f"{what}: expected an element to write to in each place, got a view of shape "
                f"{self.shape} whose elements share memory; clone() it first"
            )
        if not flags.writeable:
            raise ValueError(
                f"{what}: expected writable memory, got a read-only array of shape {self.shape}; "
                "copy it first, tensor(x) does"
            )

    @property
    def value(self) -> NDArray:
        """The numbers, computed now if they are pending.

        NoNumbers for an array of the meta backend, which has none."""
        if self._value is None:
            self.realize()
            if self._value is None:
                raise NoNumbers(
                    f"an array of shape {self.shape} was computed on the meta backend: no numbers"
                )
        return self._value

    def realize(self) -> None:
        """Compute the numbers now if they are pending."""
        with lock:  # another thread may have computed them since, or do so now
            if self.storage.pending is not None:
                self.receive(self.storage.pending.run())

    def receive(self, value: NDArray) -> None:
        """Take the numbers that were pending. AssertionError where they contradict the shape
        rule."""
        if (value.shape, value.dtype) != self.spec:
            raise AssertionError(f"kernel: expected {self.spec}, got {value.shape} {value.dtype}")
        self._value = value
        self.storage.pending = None

    def own(self) -> Array:
        """Declare memory that was just made to be the engine's alone, and return the array: calls
        may read it later than they are made."""
        self.storage.owned = self.has_numbers
        return self

    def shown(self) -> NDArray:
        """Return the numbers for code outside the engine, which may write to them.

        Pending calls that read the memory are computed first, and it no longer counts as owned."""
        realize_readers(self.storage)
        self.storage.owned = False
        return self.value

    def detach(self) -> None:
        """Move the numbers to memory of their own."""
        self._value = self.value.copy("K")

    def write(self, value: npt.ArrayLike) -> None:
        """Write numbers to the memory. ValueError where it must not be written to."""
        self.check_writable("write")
        realize_readers(self.storage)
        self.value[...] = value
        self.storage.version += 1

    @property
    def has_numbers(self) -> bool:
        """True but for an array of the meta backend."""
        return self._value is not None or self.storage.pending is not None

    def view(self, offset: int, shape: tuple[int, ...]) -> Array:
        """Return `shape` elements from `offset` on of this flat array, sharing its memory."""
        size = prod(shape)
        part = None
        if self.has_numbers:
            part = self.value[offset : offset + size].reshape(shape)
        return Array(Spec(shape, self.dtype), part, self.owner, self.offset + offset)

    def __deepcopy__(self, memo: dict[int, Any]) -> Array:
        """Copy the numbers; flat views of one array become flat views of its copy."""
        if self.base is not None and self.offset >= 0:
            twin = copy.deepcopy(self.base, memo).view(self.offset, self.shape)
        else:
            value = np.array(self.value, order="K") if self.has_numbers else None
            twin = Array(self.spec, value).own()
            if self.storage.narrow:
                twin.storage.narrow = type(self.storage.narrow)()
        memo[id(self)] = twin
        return twin

    def __repr__(self) -> str:
        return f"Array({self.shape}, {self.dtype}, {self._state()})"

    def _state(self) -> str:
        if self._value is not None:
            return "ready"
        return "meta" if self.storage.pending is None else "pending"


def _overlaps(value: NDArray) -> bool:
    """Tell whether elements of an array share memory, as in a broadcast view."""
    # With the strides in ascending order, axes that each step over all that the ones before can
    # reach cannot meet; only other arrays need their places listed one by one.
    axes = sorted((abs(s), n) for s, n in zip(value.strides, value.shape, strict=True) if n > 1)
    reach = value.itemsize
    for stride, extent in axes:
        if stride < reach:
            break  # a slice of an ordinary array never comes here
        reach += stride * (extent - 1)
    else:
        return False
    offsets = np.zeros((), np.int64)
    for stride, extent in axes:
        offsets = np.unique(np.add.outer(offsets, np.arange(extent) * stride))
    return bool(offsets.size < value.size or (np.diff(offsets) < value.itemsize).any())


def array(value: npt.ArrayLike, dtype: npt.DTypeLike | None = None) -> Array:
    """Return a handle on the numbers of `value`, without a copy where it is an ndarray already."""
    numbers = np.asarray(value, dtype)
    return Array(Spec(numbers.shape, numbers.dtype), numbers)
