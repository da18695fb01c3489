"""Normalisation, with torch.nn.functional's names and argument order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod

import numpy as np

from .. import context
from ..array import array
from ..autocast import wide
from ..dtypes import computed_in
from ..methods.reducing import norm
from ..ops import lrn, update
from ..ops import norm as ops
from ..ops.shape import full, integers
from ..ops.standardize import standardize
from ..primitive import Value
from ..tensor import Tensor, lift
from .arrange import cat

__all__ = [
    "batch_norm",
    "group_norm",
    "instance_norm",
    "layer_norm",
    "local_response_norm",
    "normalize",
    "rms_norm",
]


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
    update.running_average(*both, mean.array, var.array, rate, unbiased=count / (count - 1))


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


def layer_norm(
    input: Tensor,
    normalized_shape: int | Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """Return weight (x - mean) / sqrt(var + eps) + bias over the last axes (Ba et al. 2016).

    Mean and biased variance are those of the axes that `normalized_shape` names, which is the shape
    of weight and bias too. ValueError where shapes do not fit."""
    return _over_last("layer_norm", input, normalized_shape, weight, bias, eps, True)


def rms_norm(
    input: Tensor,
    normalized_shape: int | Sequence[int],
    weight: Tensor | None = None,
    eps: float | None = None,
) -> Tensor:
    """Return weight x / sqrt(mean of x^2 + eps) over the last axes (Zhang and Sennrich 2019).

    `eps` is by default the machine epsilon of the type. ValueError where shapes do not fit."""
    small = float(np.finfo(computed_in(input.dtype)).eps) if eps is None else eps
    return _over_last("rms_norm", input, normalized_shape, weight, None, small, False)


def _over_last(
    name: str, input: Tensor, normalized_shape: int | Sequence[int], weight: Tensor | None,
    bias: Tensor | None, eps: float, centered: bool,
) -> Tensor:  # fmt: skip
    """Return the input standardized over its last axes, times a weight, plus a bias."""
    last = integers((normalized_shape,))
    if not last or input.shape[-len(last) :] != last:
        raise ValueError(f"{name}: expected an input of shape (.., {last}), got {input.shape}")
    for what, v in (("weight", weight), ("bias", bias)):
        if v is not None and v.shape != last:
            raise ValueError(f"{name}: expected a {what} of shape {last}, got {v.shape}")
    x = wide(input).reshape(prod(input.shape[: input.ndim - len(last)]), prod(last))
    y: Tensor
    y, _ = standardize(x, groups=1, eps=float(eps), centered=centered)
    return _affine(y.reshape(input.shape), weight, bias)


def _affine(y: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    y = y if weight is None else y * weight
    return y if bias is None else y + bias


def group_norm(
    input: Tensor,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """Return weight (x - mean) / sqrt(var + eps) + bias, input (N, C, ..), weight and bias (C,).

    Mean and biased variance are those of each sample's groups of channels (Wu and He 2018), so that
    they do not depend on the batch. ValueError where shapes do not fit."""
    return _per_sample("group_norm", input, num_groups, weight, bias, eps)


def _per_sample(
    name: str, input: Tensor, groups: int, weight: Tensor | None, bias: Tensor | None, eps: float
) -> Tensor:
    """Return the groups of each sample standardized, times a weight, plus a bias per channel."""
    if input.ndim < 2 or groups < 1 or input.shape[1] % groups:
        raise ValueError(
            f"{name}: expected an input (N, C, ..) with C divided by {groups}, got {input.shape}"
        )
    given = {k: v.spec for k, v in (("weight", weight), ("bias", bias)) if v is not None}
    ops.per_channel(input.spec, name, **given)
    y: Tensor
    y, _ = standardize(wide(input), groups=int(groups), eps=float(eps), centered=True)
    each = (input.shape[1], *[1] * (input.ndim - 2))
    w, b = (None if v is None else v.reshape(each) for v in (weight, bias))
    return _affine(y, w, b)


def instance_norm(
    input: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """Return weight (x - mean) / sqrt(var + eps) + bias, input (N, C, ..) with one or more axes
    after C.

    Mean and biased variance are those of each channel of each sample (Ulyanov et al. 2016), and the
    running ones, if there are any, move towards their means over the samples. Without
    `use_input_stats` the running ones are used. ValueError for a single value per channel of a
    sample, and for missing statistics."""
    if not use_input_stats:
        return batch_norm(input, running_mean, running_var, weight, bias, eps=eps)
    count = prod(input.shape[2:])
    if input.ndim < 3 or count == 1:
        raise ValueError(
            "instance_norm: expected an input (N, C, ..) of more than one value per channel, got "
            f"{input.shape}"
        )
    if input.size and (running_mean is not None or running_var is not None):
        with context.using(tape=None):
            axes = tuple(range(2, input.ndim))
            mean, var = input.mean(axes).mean(0), input.var(axes, correction=0).mean(0)
            _update_running(running_mean, running_var, mean, var, momentum, count)
    return _per_sample("instance_norm", input, max(input.shape[1], 1), weight, bias, eps)


def normalize(input: Tensor, p: float = 2.0, dim: int = 1, eps: float = 1e-12) -> Tensor:
    """Return the input divided by its p-norm along an axis, or by eps where that is larger."""
    return input / norm(input, p, dim, keepdim=True).clamp(min=float(eps))
