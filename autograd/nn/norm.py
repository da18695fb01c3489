"""Normalisation layers, with torch's arguments and names."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import numpy.typing as npt

from ..dtypes import FLOAT32
from ..functional.create import ones, zeros
from ..functional.norm import batch_norm, check_momentum, local_response_norm
from ..tensor import Parameter, Tensor
from .module import Module

__all__ = ["BatchNorm1d", "BatchNorm2d", "LocalResponseNorm"]


class _BatchNorm(Module):
    """Batch normalisation of inputs with any of the numbers of `axes`, see `BatchNorm2d`."""

    shown = ("num_features", "eps", "momentum")
    ignored = ("num_batches_tracked",)
    axes: ClassVar[tuple[int, ...]]
    # Returns a sum over the parts of a batch of which each input is one; None: it is the batch.
    total: Callable[[Tensor], Tensor] | None = None
    weight: Parameter | None
    bias: Parameter | None

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        dtype: npt.DTypeLike = FLOAT32,
    ) -> None:
        check_momentum(momentum)
        self.num_features, self.eps, self.momentum = num_features, eps, momentum
        self.track_running_stats = track_running_stats
        one, zero = ones(num_features, dtype=dtype), zeros(num_features, dtype=dtype)
        self.register_parameter("weight", Parameter(one) if affine else None)
        self.register_parameter("bias", Parameter(zero) if affine else None)
        self.running_mean: Tensor | None = None
        self.running_var: Tensor | None = None
        if track_running_stats:
            self.register_buffer("running_mean", zeros(num_features, dtype=dtype))
            self.register_buffer("running_var", ones(num_features, dtype=dtype))

    def forward(self, x: Tensor) -> Tensor:
        """Return x's shape. ValueError for another number of axes."""
        if x.ndim not in self.axes:
            allowed = " or ".join(map(str, self.axes))
            raise ValueError(
                f"{type(self).__name__}: expected an input of {allowed} axes, got shape {x.shape}"
            )
        return batch_norm(
            x,
            self.running_mean,
            self.running_var,
            self.weight,
            self.bias,
            self.training or not self.track_running_stats,
            self.momentum,
            self.eps,
            self.total,
        )


class BatchNorm1d(_BatchNorm):
    """Batch normalisation of rows x (N, C) or signals (N, C, L); all as in `BatchNorm2d`."""

    axes = (2, 3)


class BatchNorm2d(_BatchNorm):
    """Batch normalisation of images x (N, C, H, W) (Ioffe and Szegedy 2015).

        y = weight (x - mean) / sqrt(var + eps) + bias, for each channel

    In training, mean and variance are the batch's, and the buffers running_mean and running_var
    (C,) move towards them by `momentum`. In evaluation the running ones are used, or still the
    batch's where `track_running_stats` is False. Without `affine` there are no weight and bias
    (C,). A state may hold torch's num_batches_tracked, which has no use here. ValueError for an
    input of another number of axes."""

    axes = (4,)


class LocalResponseNorm(Module):
    """x / (k + alpha / size S)^beta, S the sum of squares over `size` neighbouring channels.

    In Krizhevsky et al. (2012, section 3.3) alpha is not divided by the size."""

    shown = ("size", "alpha", "beta", "k")

    def __init__(self, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0) -> None:
        self.size, self.alpha, self.beta, self.k = size, alpha, beta, k

    def forward(self, x: Tensor) -> Tensor:
        """Return x's shape; x (N, C, ..)."""
        return local_response_norm(x, self.size, self.alpha, self.beta, self.k)
