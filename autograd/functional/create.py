"""Tensors from nothing or from numbers.

`Options` are those that all have: `dtype`, by default float32 or that of the numbers;
`requires_grad`; and `device`, of which there is one, "cpu" (ValueError for another one). Where the
backend is meta, filled tensors have a shape and no numbers. While a function is traced, tensors
made here are marked: a trace cannot make them again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypedDict, TypeVar, Unpack

import numpy as np
import numpy.typing as npt

from .. import backends, context, random
from ..array import Array, Spec, array
from ..device import Device, check_device
from ..dtypes import BOOL, FLOAT32, FLOAT64, INT64, DType, as_dtype, is_floating
from ..ops.shape import integers
from ..tensor import Tensor

__all__ = [
    "arange",
    "as_tensor",
    "asarray",
    "empty",
    "empty_like",
    "eye",
    "from_numpy",
    "full",
    "full_like",
    "is_tensor",
    "linspace",
    "logspace",
    "meshgrid",
    "ones",
    "ones_like",
    "rand",
    "randn",
    "tensor",
    "zeros",
    "zeros_like",
]


class Options(TypedDict, total=False):
    """What a new tensor may be given."""

    dtype: npt.DTypeLike | None
    requires_grad: bool
    device: Device


class Drawing(Options, total=False):
    """What a random tensor may be given: besides, a generator of its own."""

    generator: random.Generator | None


Given = TypeVar("Given", bound=Options)


def _new(
    a: Array,
    dtype: npt.DTypeLike | None = None,
    requires_grad: bool = False,
    device: Device = None,
) -> Tensor:
    """Return a tensor on an array that comes from no call, with a type if one is given."""
    check_device(device)
    if a.dtype.kind in "OSUmM":
        raise TypeError(f"tensor: expected numbers of at most 64 bits, got values of {a.dtype}")
    if dtype is not None and a.dtype != as_dtype(dtype):
        a = array(a.value, as_dtype(dtype))
    return Tensor(context.created(a), requires_grad)


def tensor(
    data: npt.ArrayLike,
    dtype: npt.DTypeLike | None = None,
    requires_grad: bool = False,
    device: Device = None,
) -> Tensor:
    """Return a tensor with a copy of the data.

    Python floats become float32; arrays and tensors, those in lists too, keep their type unless
    `dtype` is given."""
    numbers = np.array(data, None if dtype is None else as_dtype(dtype))
    if dtype is None and numbers.dtype == FLOAT64 and _python(data):
        numbers = numbers.astype(FLOAT32)
    return _new(array(numbers), None, requires_grad, device)


def _python(data: Any) -> bool:
    """Tell whether all numbers are Python's own, in lists or not."""
    if isinstance(data, list | tuple):
        return all(map(_python, data))
    return type(data) in (bool, int, float)


def from_numpy(data: npt.NDArray[Any]) -> Tensor:
    """Return a tensor that shares the memory of an ndarray: writes to one are seen by the other."""
    return _new(array(data))


def as_tensor(data: Any, dtype: npt.DTypeLike | None = None, device: Device = None) -> Tensor:
    """Return a tensor itself, one on the memory of an ndarray, or one of other data; with another
    type, a copy."""
    check_device(device)
    if not isinstance(data, Tensor):
        data = from_numpy(data) if isinstance(data, np.ndarray) else tensor(data, dtype)
    return data if dtype is None else data.astype(dtype)


asarray = as_tensor


def is_tensor(obj: object) -> bool:
    """Tell whether something is a tensor."""
    return isinstance(obj, Tensor)


def full(
    size: int | Sequence[int],
    fill_value: float,
    dtype: npt.DTypeLike | None = None,
    requires_grad: bool = False,
    device: Device = None,
) -> Tensor:
    """Return a tensor of extents `size` with one value everywhere, by default in the type of the
    value: int64, float32 or truth values."""
    kind = {bool: BOOL, int: INT64}.get(type(fill_value), FLOAT32)  # as torch infers it
    spec = Spec(integers((size,)), kind if dtype is None else as_dtype(dtype))
    computes = backends.computes()
    numbers = np.full(spec.shape, fill_value, spec.dtype) if computes else None
    return _new(Array(spec, numbers), None, requires_grad, device)


def zeros(*size: int | Sequence[int], **options: Unpack[Options]) -> Tensor:
    """Return zeros; extents are listed one by one or as one sequence."""
    return full(integers(size), 0.0, **options)


def ones(*size: int | Sequence[int], **options: Unpack[Options]) -> Tensor:
    """Return ones; extents are listed one by one or as one sequence."""
    return full(integers(size), 1.0, **options)


def empty(*size: int | Sequence[int], **options: Unpack[Options]) -> Tensor:
    """Return zeros, for numbers to be written to; extents are listed as for `zeros`."""
    return zeros(*size, **options)


def typed(options: Given, dtype: DType) -> Given:
    """Return options with a type where none is given."""
    chosen = options.copy()
    if chosen.get("dtype") is None:
        chosen["dtype"] = dtype
    return chosen


def full_like(input: Tensor, fill_value: float, **options: Unpack[Options]) -> Tensor:
    """Return one value everywhere in another tensor's shape, and its type unless `dtype` is
    given."""
    return full(input.shape, fill_value, **typed(options, input.dtype))


def zeros_like(input: Tensor, **options: Unpack[Options]) -> Tensor:
    """Return zeros of another tensor's shape, and its type unless `dtype` is given."""
    return full_like(input, 0.0, **options)


empty_like = zeros_like


def ones_like(input: Tensor, **options: Unpack[Options]) -> Tensor:
    """Return ones of another tensor's shape, and its type unless `dtype` is given."""
    return full_like(input, 1.0, **options)


def _float32(numbers: npt.NDArray[Any], options: Options) -> Tensor:
    """Return numbers as a tensor, float32 unless `dtype` is given."""
    return _new(array(numbers), **typed(options, FLOAT32))


def eye(n: int, m: int | None = None, **options: Unpack[Options]) -> Tensor:
    """Return the matrix (n, m) with ones on its diagonal; m is n by default."""
    return _float32(np.eye(n, m), options)


def linspace(start: float, end: float, steps: int, **options: Unpack[Options]) -> Tensor:
    """Return `steps` numbers at equal distances from start to end, both included."""
    return _float32(np.linspace(start, end, steps), options)


def logspace(
    start: float, end: float, steps: int, base: float = 10.0, **options: Unpack[Options]
) -> Tensor:
    """Return powers of `base` whose exponents are `linspace(start, end, steps)`."""
    return _float32(np.logspace(start, end, steps, base=base), options)


def meshgrid(*tensors: Tensor | Sequence[Tensor], indexing: str = "ij") -> list[Tensor]:
    """Return the coordinates of a grid, from vectors of those along each axis.

    With indexing="xy" the first two axes are exchanged. ValueError for another word and for
    tensors that are no vectors."""
    vectors = [x for t in tensors for x in ([t] if isinstance(t, Tensor) else t)]
    if indexing not in ("ij", "xy"):
        raise ValueError(f"meshgrid: expected indexing 'ij' or 'xy', got {indexing!r}")
    if any(x.ndim > 1 for x in vectors):
        raise ValueError(f"meshgrid: expected vectors, got shapes {[x.shape for x in vectors]}")
    shape = [x.numel() for x in vectors]
    grids = [
        x.reshape([-1 if i == k else 1 for k in range(len(shape))]).expand(*shape)
        for i, x in enumerate(vectors)
    ]
    return [g.transpose(0, 1) for g in grids] if indexing == "xy" and len(shape) > 1 else grids


def arange(*bounds: float, **options: Unpack[Options]) -> Tensor:
    """Return start, start + step, .. below stop, as in numpy.arange: int64 for whole bounds, else
    float32."""
    numbers = np.arange(*bounds)
    default = FLOAT32 if is_floating(numbers.dtype) else numbers.dtype
    return _new(array(numbers), **typed(options, default))


def _drawn(kind: str, size: Sequence[Any], options: Drawing) -> Tensor:
    """Return numbers drawn uniformly from [0, 1), or normal ones."""
    check_device(options.get("device"))
    dtype, generator = options.get("dtype"), options.get("generator")
    numbers = random.draw(
        kind, integers(size), 0.0, 1.0, FLOAT32 if dtype is None else dtype, generator
    )
    return Tensor(numbers, options.get("requires_grad", False))


def rand(*size: int | Sequence[int], **options: Unpack[Drawing]) -> Tensor:
    """Return numbers drawn uniformly from [0, 1).

    They come from the generator that `manual_seed` restarts, in a step of training from the step's,
    or from `generator`."""
    return _drawn("uniform", size, options)


def randn(*size: int | Sequence[int], **options: Unpack[Drawing]) -> Tensor:
    """Return numbers drawn from the normal distribution of mean 0 and deviation 1.

    They come from the generator that `manual_seed` restarts, in a step of training from the step's,
    or from `generator`."""
    return _drawn("normal", size, options)
