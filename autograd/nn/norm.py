"""Normalisation layers, with torch's arguments and names."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar

import numpy.typing as npt

from ..device import Device, layer_type
from ..functional.create import ones, zeros
from ..functional.norm import (
    batch_norm,
    check_momentum,
    group_norm,
    instance_norm,
    layer_norm,
    local_response_norm,
    rms_norm,
)
from ..ops.shape import integers
from ..tensor import Parameter, Tensor
from .module import Module

__all__ = [
    "BatchNorm1d",
    "BatchNorm2d",
    "BatchNorm3d",
    "GroupNorm",
    "InstanceNorm1d",
    "InstanceNorm2d",
    "InstanceNorm3d",
    "LayerNorm",
    "LocalResponseNorm",
    "RMSNorm",
    "SyncBatchNorm",
]


class _Affine(Module):
    """Holds a weight of ones and a bias of zeros, or None in the place of either."""

    weight: Parameter | None
    bias: Parameter | None

    def _hold(
        self, shape: int | Sequence[int], dtype: npt.DTypeLike, weight: bool, bias: bool
    ) -> None:
        one, zero = (make(shape, dtype=dtype).array.own() for make in (ones, zeros))
        self.register_parameter("weight", Parameter(one) if weight else None)
        self.register_parameter("bias", Parameter(zero) if bias else None)


def norm_parameters(model: Module) -> list[Parameter]:
    """Return the weights and biases of a model's norms."""
    norms = [m for m in model.modules() if isinstance(m, _Affine)]
    return [p for norm in norms for p in norm.parameters()]


class _Tracking(_Affine):
    """Holds running statistics per channel, and takes inputs with any of the numbers of `axes`."""

    shown = ("num_features", "eps", "momentum")
    ignored = ("num_batches_tracked",)
    axes: ClassVar[tuple[int, ...]]

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        device: Device = None,
        dtype: npt.DTypeLike | None = None,
    ) -> None:
        dtype = layer_type(device, dtype)
        check_momentum(momentum)
        self.num_features, self.eps, self.momentum = num_features, eps, momentum
        self.affine, self.track_running_stats = affine, track_running_stats
        self._hold(num_features, dtype, affine, affine)
        self.running_mean: Tensor | None = None
        self.running_var: Tensor | None = None
        if track_running_stats:
            self.register_buffer("running_mean", zeros(num_features, dtype=dtype))
            self.register_buffer("running_var", ones(num_features, dtype=dtype))

    def _check_axes(self, x: Tensor) -> None:
        """ValueError for another number of axes."""
        if x.ndim not in self.axes:
            allowed = " or ".join(map(str, self.axes))
            raise ValueError(
                f"{type(self).__name__}: expected an input of {allowed} axes, got shape {x.shape}"
            )


class BatchNorm(_Tracking):
    """What the layers of batch normalisation share, see `BatchNorm2d`."""

    # Returns a sum over the parts of a batch of which each input is one; None: it is the batch.
    total: Callable[[Tensor], Tensor] | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Return x's shape. ValueError for another number of axes."""
        self._check_axes(x)
        return batch_norm(
            x,
            self.running_mean,
            self.running_var,
            self.weight,
            self.bias,
            self.training or not self.track_running_stats,
            self.momentum,
            self.eps,
            self.total if self.training else None,
        )


class BatchNorm1d(BatchNorm):
    """Batch normalisation of rows x (N, C) or signals (N, C, L); all as in `BatchNorm2d`."""

    axes = (2, 3)


class BatchNorm2d(BatchNorm):
    """Batch normalisation of images x (N, C, H, W) (Ioffe and Szegedy 2015).

        y = weight (x - mean) / sqrt(var + eps) + bias, for each channel

    In training, mean and variance are the batch's, and the buffers running_mean and running_var
    (C,) move towards them by `momentum`. In evaluation the running ones are used, or still the
    batch's where `track_running_stats` is False. Without `affine` there are no weight and bias
    (C,). A state may hold torch's num_batches_tracked, which has no use here. ValueError for an
    input of another number of axes."""

    axes = (4,)


class BatchNorm3d(BatchNorm):
    """Batch normalisation of volumes x (N, C, D, H, W); all as in `BatchNorm2d`."""

    axes = (5,)


class SyncBatchNorm(BatchNorm):
    """Batch normalisation of x (N, C, ..) by the statistics of the whole batch, over all ranks: in
    a loop of `trainer.distribute`, and with `train --sync-batch-norm`.

    Elsewhere it is `BatchNorm2d` for inputs of any number of axes from 2 on."""

    axes = (2, 3, 4, 5)

    @classmethod
    def convert_sync_batchnorm(cls, module: Module) -> Module:
        """Put such a layer in the place of every batch norm of a module, with its parameters and
        statistics. Return the module, or the new layer for a batch norm."""
        if isinstance(module, BatchNorm):
            layer = cls.__new__(cls)
            vars(layer).update(vars(module))
            return layer
        for name, child in [*module.named_children()]:
            converted = cls.convert_sync_batchnorm(child)
            if converted is not child:
                setattr(module, name, converted)
        return module


class LocalResponseNorm(Module):
    """x / (k + alpha / size S)^beta, S the sum of squares over `size` neighbouring channels.

    In Krizhevsky et al. (2012, section 3.3) alpha is not divided by the size."""

    shown = ("size", "alpha", "beta", "k")

    def __init__(self, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0) -> None:
        self.size, self.alpha, self.beta, self.k = size, alpha, beta, k

    def forward(self, x: Tensor) -> Tensor:
        """Return x's shape; x (N, C, ..)."""
        return local_response_norm(x, self.size, self.alpha, self.beta, self.k)


class InstanceNorm2d(_Tracking):
    """Normalisation of each channel of each sample (Ulyanov et al. 2016), x (N, C, H, W) or
    (C, H, W).

    Without `affine` there are no weight and bias (C,). With `track_running_stats`, evaluation uses
    the running statistics. ValueError for an input of another number of axes."""

    axes = (3, 4)

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float = 0.1,
        affine: bool = False,
        track_running_stats: bool = False,
        device: Device = None,
        dtype: npt.DTypeLike | None = None,
    ) -> None:
        dtype = layer_type(device, dtype)
        super().__init__(num_features, eps, momentum, affine, track_running_stats, dtype=dtype)

    def forward(self, x: Tensor) -> Tensor:
        """Return x's shape. ValueError for another number of axes or of channels."""
        self._check_axes(x)
        batch = x if x.ndim == self.axes[1] else x.unsqueeze(0)
        if batch.shape[1] != self.num_features:
            raise ValueError(
                f"{type(self).__name__}: expected {self.num_features} channels, got shape {x.shape}"
            )
        y = instance_norm(
            batch,
            self.running_mean,
            self.running_var,
            self.weight,
            self.bias,
            self.training or not self.track_running_stats,
            self.momentum,
            self.eps,
        )
        return y if batch is x else y.squeeze(0)


class InstanceNorm1d(InstanceNorm2d):
    """`InstanceNorm2d` of signals x (N, C, L) or (C, L)."""

    axes = (2, 3)


class InstanceNorm3d(InstanceNorm2d):
    """`InstanceNorm2d` of volumes x (N, C, D, H, W) or (C, D, H, W)."""

    axes = (4, 5)


class GroupNorm(_Affine):
    """Normalisation of groups of channels of each sample, x (N, C, ..) (Wu and He 2018).

    Weight and bias are (num_channels,), None without `affine`. It does not depend on the batch, so
    that micro-batches and ranks change nothing. ValueError for groups that do not divide the
    channels."""

    shown = ("num_groups", "num_channels", "eps")

    def __init__(
        self,
        num_groups: int,
        num_channels: int,
        eps: float = 1e-5,
        affine: bool = True,
        device: Device = None,
        dtype: npt.DTypeLike | None = None,
    ) -> None:
        dtype = layer_type(device, dtype)
        if num_groups < 1 or num_channels % num_groups:
            raise ValueError(
                f"GroupNorm: expected groups that divide {num_channels} channels, got {num_groups}"
            )
        self.num_groups, self.num_channels, self.eps = num_groups, num_channels, eps
        self.affine = affine
        self._hold(num_channels, dtype, affine, affine)

    def forward(self, x: Tensor) -> Tensor:
        """Return x's shape."""
        return group_norm(x, self.num_groups, self.weight, self.bias, self.eps)


class LayerNorm(_Affine):
    """Normalisation over the last axes, those of `normalized_shape` (Ba et al. 2016).

    Weight and bias have that shape; without `elementwise_affine` there are none, without `bias` no
    bias."""

    shown = ("normalized_shape", "eps")

    def __init__(
        self,
        normalized_shape: int | Sequence[int],
        eps: float = 1e-5,
        elementwise_affine: bool = True,
        bias: bool = True,
        device: Device = None,
        dtype: npt.DTypeLike | None = None,
    ) -> None:
        dtype = layer_type(device, dtype)
        self.normalized_shape, self.eps = integers((normalized_shape,)), eps
        self.elementwise_affine = elementwise_affine
        self._hold(
            self.normalized_shape, dtype, elementwise_affine, elementwise_affine and bool(bias)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return x's shape; x (.., *normalized_shape)."""
        return layer_norm(x, self.normalized_shape, self.weight, self.bias, self.eps)


class RMSNorm(_Affine):
    """x / sqrt(mean of x^2 + eps) over the last axes, times a weight (Zhang and Sennrich 2019).

    The weight has the shape `normalized_shape`, None without `elementwise_affine`. `eps` is by
    default the machine epsilon of x's type."""

    shown = ("normalized_shape", "eps")

    def __init__(
        self,
        normalized_shape: int | Sequence[int],
        eps: float | None = None,
        elementwise_affine: bool = True,
        device: Device = None,
        dtype: npt.DTypeLike | None = None,
    ) -> None:
        dtype = layer_type(device, dtype)
        self.normalized_shape, self.eps = integers((normalized_shape,)), eps
        self.elementwise_affine = elementwise_affine
        self._hold(self.normalized_shape, dtype, elementwise_affine, False)

    def forward(self, x: Tensor) -> Tensor:
        """Return x's shape; x (.., *normalized_shape)."""
        return rms_norm(x, self.normalized_shape, self.weight, self.eps)
