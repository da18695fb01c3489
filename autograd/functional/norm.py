"""Normalisation, with torch.nn.functional's names and argument order."""

from __future__ import annotations

from collections.abc import Callable
from math import prod

import numpy as np

from ..array import array
from ..ops import lrn, update
from ..ops import norm as ops
from ..ops.shape import full
from ..primitive import Value
from ..tensor import Tensor, lift
from .arrange import cat

__all__ = ["batch_norm", "local_response_norm"]


def batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
    total: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """Return weight (x - mean) / sqrt(var + eps) + bias per channel; input (N, C) or (N, C, ..).

    In training, mean and (biased) variance are the batch's, and the running ones, if there are any,
    move towards the batch's by `momentum`, with the variance's unbiased estimate, as in torch
    (Ioffe and Szegedy 2015). Otherwise the running ones are used. An empty batch moves nothing.
    Where the batch is spread over several inputs, `total` returns a sum over them, for example over
    ranks, and statistics are those of all.

    ValueError for a single value per channel in training, and for missing statistics otherwise."""
    y: Tensor
    check_momentum(momentum)
    w = _constant(input, 1.0) if weight is None else weight
    b = _constant(input, 0.0) if bias is None else bias
    # An empty batch has no statistics: normalise with mean 0 and variance 1, and move nothing.
    if training and 0 in input.shape:
        nothing = _constant(input, 0.0), _constant(input, 1.0)
        y = ops.batch_norm_eval(input, w, b, *nothing, eps=float(eps))
        return y
    if not training:
        if running_mean is None or running_var is None:
            raise ValueError("batch_norm: expected running statistics if training=False, got None")
        y = ops.batch_norm_eval(input, w, b, running_mean, running_var, eps=float(eps))
        return y
    if total is not None:
        y, mean, var, count = _spread(input, w, b, float(eps), total)
    else:
        y, mean, var = ops.batch_norm(input, w, b, eps=float(eps))
        count = prod(input.shape) // input.shape[1]
    _update_running(running_mean, running_var, mean, var, momentum, count)
    return y


def _spread(
    x: Tensor, w: Value, b: Value, eps: float, total: Callable[[Tensor], Tensor]
) -> tuple[Tensor, Tensor, Tensor, int]:
    """Return y, mean, variance and number of values per channel of a batch of which x is a part.
    Deviations are those from the mean of the whole batch, so the variance is as accurate as that of
    one input."""
    ops.per_channel(x.spec, "batch_norm")
    count = prod(x.shape) // x.shape[1]
    channels, axes = x.shape[1], (0, *range(2, x.ndim))
    each = (1, channels, *(1 for _ in x.shape[2:]))
    own = Tensor(full(shape=(1,), dtype=x.dtype, value=float(count)))
    sums = total(cat([x.sum(axes), own]))
    whole = round(sums[channels:].item())
    if whole < 2:
        raise ValueError("batch_norm: expected more than one value per channel in all, got 1")
    mean = sums[:channels] / whole
    off = x - mean.reshape(each)
    var = total((off * off).sum(axes)) / whole
    weight, bias = (v if isinstance(v, Tensor) else Tensor(v) for v in (w, b))
    slope = weight / (var + eps).sqrt()
    y = off * slope.reshape(each) + bias.reshape(each)
    return y, mean, var, whole


def _update_running(
    running_mean: Tensor | None, running_var: Tensor | None, mean: Tensor, var: Tensor,
    momentum: float, count: int,
) -> None:  # fmt: skip
    """Move running statistics towards those of a batch of `count` values per channel."""
    running = running_var if running_mean is None else running_mean
    if running is None:
        return
    dtype = running.dtype
    # The primitive moves both: one that is not wanted is a temporary array.
    both = [
        full(shape=mean.shape, dtype=dtype, value=0.0) if r is None else lift(r, dtype)
        for r in (running_mean, running_var)
    ]
    rate = array(np.asarray(momentum, dtype))
    update.running_average(*both, mean.data, var.data, rate, unbiased=count / (count - 1))


def check_momentum(momentum: float | None) -> None:
    """ValueError for a momentum that is None, torch's way to ask for plain averages."""
    if momentum is None:
        raise ValueError("batch_norm: expected momentum as a number such as 0.1, got None")


def _constant(input: Tensor, value: float) -> Value:
    return full(shape=input.shape[1:2], dtype=input.dtype, value=value)


def local_response_norm(
    input: Tensor, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0
) -> Tensor:
    """Return x (k + alpha / size S)^-beta, S the sum of squares over `size` neighbouring channels.

    This is torch's form. In Krizhevsky et al. (2012) alpha is not divided by the size: their
    alpha=1e-4, size=5 is alpha=5e-4 here. An even window reaches one channel further down.
    ValueError for a size below 1 and for an input of fewer than 3 axes."""
    y: Tensor
    y, _ = lrn.local_response_norm(
        input, size=int(size), alpha=float(alpha), beta=float(beta), k=float(k)
    )
    return y
