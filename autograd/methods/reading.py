"""How numbers leave a tensor for Python. What is read here, later calls may depend on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from .. import context
from ..array import Array, NDArray, NoNumbers, Spec


class Reading:
    """Mixed into Tensor.

    A trace refuses functions that read numbers, since the calls that it records would not be those
    for other numbers."""

    __slots__ = ()

    if TYPE_CHECKING:
        array: Array
        requires_grad: bool

        @property
        def shape(self) -> tuple[int, ...]: ...
        @property
        def dtype(self) -> np.dtype[Any]: ...
        @property
        def spec(self) -> Spec: ...

    def _read(self, how: str) -> Array:
        """Return the array, whose numbers are read. NoNumbers where it has none."""
        context.reads_numbers()
        if not self.array.has_numbers:
            raise NoNumbers(
                f"{how}: expected a tensor with numbers, got one of shape {self.shape} of the meta "
                "backend, which computes shapes alone"
            )
        return self.array

    def numpy(self) -> NDArray:
        """Return the numbers without a copy, as a view of the tensor's memory: do not write to
        them."""
        return self._read("numpy()").shown()

    def item(self) -> float | int | bool:
        """Return the number of a tensor that holds a single one. ValueError otherwise."""
        return self._single("item()")

    def _single(self, how: str) -> float | int | bool:
        if self.spec.size != 1:
            name = how.removesuffix("()")
            raise ValueError(f"{name}: expected a tensor of one element, got shape {self.shape}")
        return self._read(how).value.item()

    def tolist(self) -> Any:
        """Return nested lists of Python numbers."""
        return self._read("tolist()").value.tolist()

    def __repr__(self) -> str:
        numbers = np.array2string(self.array.value) if self.array.has_numbers else "meta"
        grad = ", requires_grad=True" if self.requires_grad else ""
        return f"tensor({numbers}, shape={self.shape}, dtype={self.dtype}{grad})"

    def __format__(self, spec: str) -> str:
        """Format the number of a tensor that holds a single one. TypeError for others."""
        if not spec:
            return str(self)
        if self.spec.size != 1:
            raise TypeError(f"format {spec!r}: expected a single number, got shape {self.shape}")
        return format(self.item(), spec)

    def __array__(self, dtype: npt.DTypeLike | None = None, copy: bool | None = None) -> NDArray:
        a = self._read("ndarray or mask")
        return np.array(a.value if copy else a.shown(), dtype, copy=copy)

    def __bool__(self) -> bool:
        return bool(self._single("bool()"))

    def __float__(self) -> float:
        return float(self._single("float()"))

    def __int__(self) -> int:
        return int(self._single("int()"))
