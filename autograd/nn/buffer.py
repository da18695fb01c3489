"""Tensors that are state of a module but not trained."""

from __future__ import annotations

from ..array import Array
from ..tensor import Tensor

__all__ = ["Buffer"]


class Buffer(Tensor):
    """A tensor that a module registers as a buffer where it is an attribute of it: `state_dict` has
    it if `persistent`."""

    __slots__ = ("persistent",)

    def __init__(
        self, data: Array | Tensor, requires_grad: bool = False, *, persistent: bool = True
    ) -> None:
        super().__init__(data.array if isinstance(data, Tensor) else data, requires_grad)
        self.persistent = persistent
