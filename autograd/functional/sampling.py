"""Random numbers of other distributions, from the generator that `manual_seed` restarts, in a step
of training from the step's.

Functions that draw cannot be replayed, so `trace` runs them anew. They have no gradient."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Unpack

import numpy as np
import numpy.typing as npt

from .. import backends, context, random
from ..array import Array, NDArray, Spec, array
from ..device import Device, check_device
from ..dtypes import FLOAT32, INT64, as_dtype
from ..ops.dropout import bernoulli as drawn_ones
from ..ops.shape import axis_of, integers
from ..tensor import Tensor
from .create import Drawing, rand, randn, typed

__all__ = [
    "bernoulli",
    "gumbel_softmax",
    "multinomial",
    "normal",
    "rand_like",
    "randint",
    "randn_like",
    "randperm",
]


def _drawn(
    shape: tuple[int, ...],
    draw: Callable[[np.random.Generator], NDArray],
    dtype: npt.DTypeLike | None = None,
    generator: random.Generator | None = None,
    requires_grad: bool = False,
    device: Device = None,
) -> Tensor:
    """Return what `draw` takes from a generator, int64 by default; only a shape where no numbers
    are computed."""
    context.not_replayable("draws random numbers")
    check_device(device)
    spec = Spec(shape, INT64 if dtype is None else as_dtype(dtype))
    if not backends.computes():
        return Tensor(Array(spec, None), requires_grad)
    numbers = draw(random.numbers_of(generator)).astype(spec.dtype, copy=False)
    return Tensor(array(numbers), requires_grad)


def rand_like(input: Tensor, **options: Unpack[Drawing]) -> Tensor:
    """Return `rand` of another tensor's shape, and its type unless `dtype` is given."""
    return rand(input.shape, **typed(options, input.dtype))


def randn_like(input: Tensor, **options: Unpack[Drawing]) -> Tensor:
    """Return `randn` of another tensor's shape, and its type unless `dtype` is given."""
    return randn(input.shape, **typed(options, input.dtype))


def normal(
    mean: Tensor | float,
    std: Tensor | float = 1.0,
    size: int | Sequence[int] | None = None,
    *,
    generator: random.Generator | None = None,
) -> Tensor:
    """Return normal numbers, of one mean and deviation, or of tensors that are broadcast.

    `size` has the extents where both are numbers. TypeError where it is missing, or not needed."""
    shapes = [x.shape for x in (mean, std) if isinstance(x, Tensor)]
    if (size is None) == (not shapes):
        given = "both" if shapes else "neither"
        raise TypeError(f"normal: expected tensors or a size, got {given}")
    shape = np.broadcast_shapes(*shapes) if size is None else integers((size,))
    dtype = next((x.dtype for x in (mean, std) if isinstance(x, Tensor)), FLOAT32)
    return randn(shape, dtype=dtype, generator=generator) * std + mean


def randint(low: int, *rest: int | Sequence[int], **options: Unpack[Drawing]) -> Tensor:
    """Return integers in [low, high): `randint(high, size)`, low being 0, or `randint(low, high,
    size)`. ValueError where there are none."""
    *bounds, size = (low, *rest)
    first, last = (0, *bounds) if len(bounds) == 1 else bounds
    if not first < last:
        raise ValueError(f"randint: expected low < high, got {first} and {last}")
    shape = integers((size,))
    return _drawn(shape, lambda numbers: numbers.integers(first, last, shape), **options)


def randperm(n: int, **options: Unpack[Drawing]) -> Tensor:
    """Return 0 to n - 1 in random order."""
    return _drawn((n,), lambda numbers: numbers.permutation(n), **options)


def bernoulli(input: Tensor, *, generator: random.Generator | None = None) -> Tensor:
    """Return 1 with the probability that each element is, else 0, in the input's type.

    Draws are keyed by the first axis, as those of `dropout`, or come from `generator`.
    ValueError for what is no probability, TypeError for other types than floating-point."""
    if backends.computes():
        p = input.numpy()
        wrong = p[~((p >= 0) & (p <= 1))]
        if wrong.size:
            raise ValueError(f"bernoulli: expected probabilities in [0, 1], got {wrong[0]}")
    x = input.detach() if input.ndim else input.detach().reshape(1)
    keys, use = random.sample_keys(x.shape[0], generator)
    y: Tensor = drawn_ones(x, keys, use=use)
    return y if input.ndim else y.reshape(())


def multinomial(
    input: Tensor,
    num_samples: int,
    replacement: bool = False,
    *,
    generator: random.Generator | None = None,
) -> Tensor:
    """Return positions (N, num_samples) drawn with the weights of each row (N, C), or of one (C,).

    Without `replacement` no position is drawn twice in a row. ValueError for weights that are
    negative or not finite, and rows with too few that are not 0."""
    if input.ndim not in (1, 2):
        raise ValueError(f"multinomial: expected weights (N, C) or (C,), got {input.shape}")

    def draw(numbers: np.random.Generator) -> NDArray:
        w = np.asarray(input.numpy(), np.float64)
        if not (np.isfinite(w) & (w >= 0)).all():
            raise ValueError("multinomial: expected finite weights of at least 0, got others")
        least = 1 if replacement else num_samples
        if (np.count_nonzero(w, -1) < least).any():
            few = np.count_nonzero(w, -1).min()
            raise ValueError(f"multinomial: expected {least} weights above 0, got {few}")
        if replacement:
            ends = np.cumsum(w, -1)
            at = numbers.random((*w.shape[:-1], num_samples, 1)) * ends[..., None, -1:]
            return np.asarray((ends[..., None, :] <= at).sum(-1))
        # The order of exponential waiting times, whose rates are the weights.
        with np.errstate(divide="ignore"):
            waits = numbers.exponential(size=w.shape) / w
        return np.argsort(waits, -1)[..., :num_samples]

    return _drawn((*input.shape[:-1], num_samples), draw, generator=generator)


def gumbel_softmax(logits: Tensor, tau: float = 1.0, hard: bool = False, dim: int = -1) -> Tensor:
    """Return the softmax of (logits + noise) / tau, a differentiable draw of a class (Jang et al.
    2017).

    With `hard`, 1 for the class that has most, else 0, with the gradient of the softmax."""
    axis = axis_of("gumbel_softmax", dim, logits.ndim)
    noise = _drawn(logits.shape, lambda numbers: numbers.gumbel(size=logits.shape), logits.dtype)
    soft = ((logits + noise) / tau).softmax(axis)
    if not hard:
        return soft
    chosen = soft.detach().argmax(axis).unsqueeze(axis)
    ones = (soft.detach() * 0.0).scatter(axis, chosen, 1.0)
    return ones - soft.detach() + soft
