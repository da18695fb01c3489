"""Methods that make other tensors of a tensor's type."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from .. import context
from ..array import array
from ..device import Device, check_device
from ..dtypes import as_dtype
from ..ops.shape import full, integers

if TYPE_CHECKING:
    from ..array import Array
    from ..tensor import Tensor

Size: TypeAlias = int | Sequence[int]


class Creating:
    """Mixed into Tensor. ValueError for another device than the CPU."""

    __slots__ = ()

    if TYPE_CHECKING:

        @property
        def dtype(self) -> np.dtype[Any]: ...
        def wrap(self, numbers: npt.NDArray[Any] | Array) -> Tensor: ...

    def new_full(
        self,
        size: Size,
        fill_value: float,
        dtype: npt.DTypeLike | None = None,
        device: Device = None,
        requires_grad: bool = False,
    ) -> Tensor:
        """Return one value everywhere, of extents `size`, in this tensor's type by default."""
        check_device(device)
        kind = self.dtype if dtype is None else as_dtype(dtype)
        y = self.wrap(full(shape=integers((size,)), dtype=kind, value=fill_value))
        return y.requires_grad_(requires_grad)

    def new_zeros(
        self,
        *size: Size,
        dtype: npt.DTypeLike | None = None,
        device: Device = None,
        requires_grad: bool = False,
    ) -> Tensor:
        """Return zeros, in this tensor's type by default."""
        return self.new_full(integers(size), 0, dtype, device, requires_grad)

    def new_ones(
        self,
        *size: Size,
        dtype: npt.DTypeLike | None = None,
        device: Device = None,
        requires_grad: bool = False,
    ) -> Tensor:
        """Return ones, in this tensor's type by default."""
        return self.new_full(integers(size), 1, dtype, device, requires_grad)

    new_empty = new_zeros

    def new_tensor(
        self,
        data: npt.ArrayLike,
        dtype: npt.DTypeLike | None = None,
        device: Device = None,
        requires_grad: bool = False,
    ) -> Tensor:
        """Return a copy of data, in this tensor's type by default."""
        check_device(device)
        numbers = np.array(data, self.dtype if dtype is None else as_dtype(dtype))
        return self.wrap(context.created(array(numbers))).requires_grad_(requires_grad)
