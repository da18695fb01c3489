"""Layers that take the number of their inputs from the first data, with torch's arguments.

They are as their namesakes without "Lazy", but for the first argument, which a first call adds;
from then on they are their namesakes."""

from __future__ import annotations

from collections.abc import Iterator
from inspect import signature
from typing import Any, ClassVar

from .. import context
from ..tensor import Tensor
from .layers import (
    Conv1d,
    Conv2d,
    Conv3d,
    ConvTranspose1d,
    ConvTranspose2d,
    ConvTranspose3d,
    Linear,
)
from .module import Module
from .norm import (
    BatchNorm1d,
    BatchNorm2d,
    BatchNorm3d,
    InstanceNorm1d,
    InstanceNorm2d,
    InstanceNorm3d,
)

__all__ = [
    "LazyBatchNorm1d",
    "LazyBatchNorm2d",
    "LazyBatchNorm3d",
    "LazyConv1d",
    "LazyConv2d",
    "LazyConv3d",
    "LazyConvTranspose1d",
    "LazyConvTranspose2d",
    "LazyConvTranspose3d",
    "LazyInstanceNorm1d",
    "LazyInstanceNorm2d",
    "LazyInstanceNorm3d",
    "LazyLinear",
]


class _Lazy(Module):
    """A layer before its first call. `axis` is that of the inputs' number in the data.

    Until then, it has no parameters: to ask for them, or for a state, raises ValueError, so that no
    optimizer misses them."""

    axis: ClassVar[int] = 1

    def __init__(self, *args: Any, **options: Any) -> None:
        signature(self._full()).bind(0, *args, **options)
        self._arguments = args, options

    @classmethod
    def _full(cls) -> Any:
        """Return the class of the layer after its first call."""
        return cls.__bases__[-1]

    def forward(self, x: Tensor, *args: Any, **named: Any) -> Any:
        """Become the layer for this data, and return its result."""
        context.not_replayable("calls a lazy layer for the first time")
        if not -x.ndim <= self.axis < x.ndim:
            least = -self.axis if self.axis < 0 else self.axis + 1
            raise ValueError(
                f"{type(self).__name__}: expected an input of at least {least} axes, got shape "
                f"{x.shape}"
            )
        given, options = self._arguments
        full = self._full()
        full.__init__(self, x.shape[self.axis], *given, **options)
        del self._arguments
        self.__class__ = full
        return self.forward(x, *args, **named)

    def _own(self, what: type[Tensor]) -> Iterator[tuple[str, Tensor]]:
        raise ValueError(
            f"{type(self).__name__}: expected a first call on data, which gives it parameters, got "
            "none yet"
        )

    def extra_repr(self) -> str:
        """Return the arguments that were given."""
        args, options = self._arguments
        return ", ".join([*map(repr, args), *(f"{k}={v!r}" for k, v in options.items())])


class LazyLinear(_Lazy, Linear):
    """`Linear` of as many features as its first data have."""

    axis = -1


class LazyConv1d(_Lazy, Conv1d):
    """`Conv1d` of as many channels as its first data have."""

    axis = -2


class LazyConv2d(_Lazy, Conv2d):
    """`Conv2d` of as many channels as its first data have."""

    axis = -3


class LazyConv3d(_Lazy, Conv3d):
    """`Conv3d` of as many channels as its first data have."""

    axis = -4


class LazyConvTranspose1d(_Lazy, ConvTranspose1d):
    """`ConvTranspose1d` of as many channels as its first data have."""

    axis = -2


class LazyConvTranspose2d(_Lazy, ConvTranspose2d):
    """`ConvTranspose2d` of as many channels as its first data have."""

    axis = -3


class LazyConvTranspose3d(_Lazy, ConvTranspose3d):
    """`ConvTranspose3d` of as many channels as its first data have."""

    axis = -4


class LazyBatchNorm1d(_Lazy, BatchNorm1d):
    """`BatchNorm1d` of as many channels as its first data have."""


class LazyBatchNorm2d(_Lazy, BatchNorm2d):
    """`BatchNorm2d` of as many channels as its first data have."""


class LazyBatchNorm3d(_Lazy, BatchNorm3d):
    """`BatchNorm3d` of as many channels as its first data have."""


class LazyInstanceNorm1d(_Lazy, InstanceNorm1d):
    """`InstanceNorm1d` of as many channels as its first data have."""

    axis = -2


class LazyInstanceNorm2d(_Lazy, InstanceNorm2d):
    """`InstanceNorm2d` of as many channels as its first data have."""

    axis = -3


class LazyInstanceNorm3d(_Lazy, InstanceNorm3d):
    """`InstanceNorm3d` of as many channels as its first data have."""

    axis = -4
