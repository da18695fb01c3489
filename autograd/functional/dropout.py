"""Dropout (Srivastava et al. 2014), inverted: what is kept is scaled up in training."""

from __future__ import annotations

from math import sqrt

from ..methods.arguments import may_be_in_place
from ..ops import dropout as ops
from ..random import sample_keys
from ..tensor import Tensor
from .arrange import where

__all__ = [
    "alpha_dropout",
    "dropout",
    "dropout1d",
    "dropout2d",
    "dropout3d",
    "feature_alpha_dropout",
]


@may_be_in_place
def dropout(input: Tensor, p: float = 0.5, training: bool = True) -> Tensor:
    """Return the input (N, ..) with each element set to 0 with probability p, the others divided by
    1 - p.

    Outside training the input itself is returned. In a training step, what is dropped depends on
    the sample where the first axis is as long as the micro-batch, else on the micro-batch, and in
    no case on ranks.
    ValueError for a p outside [0, 1]."""
    _check("dropout", p)
    if not training or p == 0:
        return input
    x = input if input.ndim else input.reshape(1)
    keys, use = sample_keys(x.shape[0])
    y: Tensor
    y, _ = ops.dropout(x, keys, p=float(p), use=use, channels=False)
    return y if input.ndim else y.reshape(())


@may_be_in_place
def dropout2d(input: Tensor, p: float = 0.5, training: bool = True) -> Tensor:
    """Return the input (N, C, ..) with each channel of a sample dropped as a whole with probability
    p.

    The others are divided by 1 - p (Tompson et al. 2015). Outside training the input itself is
    returned. ValueError for a p outside [0, 1] and for fewer than 3 axes."""
    return _of_channels("dropout2d", 0, input, p, training)


@may_be_in_place
def dropout1d(input: Tensor, p: float = 0.5, training: bool = True) -> Tensor:
    """Return `dropout2d` of signals (N, C, L)."""
    return _of_channels("dropout1d", 3, input, p, training)


@may_be_in_place
def dropout3d(input: Tensor, p: float = 0.5, training: bool = True) -> Tensor:
    """Return `dropout2d` of volumes (N, C, D, H, W)."""
    return _of_channels("dropout3d", 5, input, p, training)


def _of_channels(name: str, axes: int, input: Tensor, p: float, training: bool) -> Tensor:
    """Return the input with whole channels dropped; `axes` 0: any number from 3 on."""
    _check(name, p)
    if input.ndim < 3 or axes not in (0, input.ndim):
        expected = f"of {axes} axes" if axes else "(N, C, ..)"
        raise ValueError(f"{name}: expected an input {expected}, got shape {input.shape}")
    if not training or p == 0:
        return input
    keys, use = sample_keys(input.shape[0])
    y: Tensor
    y, _ = ops.dropout(input, keys, p=float(p), use=use, channels=True)
    return y


# What selu tends to where x falls, -scale alpha (Klambauer et al. 2017).
LOWEST = -1.0507009873554805 * 1.6732632423543772


@may_be_in_place
def alpha_dropout(input: Tensor, p: float = 0.5, training: bool = False) -> Tensor:
    """Return the input (N, ..) with each element set to the lowest value of selu with probability
    p, and all scaled and shifted so that mean 0 and variance 1 stay (Klambauer et al. 2017).

    Outside training the input itself is returned. ValueError for a p outside [0, 1]."""
    return _alpha("alpha_dropout", input, p, training, False)


@may_be_in_place
def feature_alpha_dropout(input: Tensor, p: float = 0.5, training: bool = False) -> Tensor:
    """Return `alpha_dropout` of whole channels of (N, C, ..)."""
    return _alpha("feature_alpha_dropout", input, p, training, True)


def _alpha(name: str, input: Tensor, p: float, training: bool, channels: bool) -> Tensor:
    _check(name, p)
    if not input.ndim or (channels and input.ndim < 3):
        expected = "(N, C, ..)" if channels else "(N, ..)"
        raise ValueError(f"{name}: expected an input {expected}, got shape {input.shape}")
    if not training or p == 0:
        return input
    keys, use = sample_keys(input.shape[0])
    kept, keep = ops.dropout(input, keys, p=float(p), use=use, channels=channels)
    if p == 1:  # nothing is left whose variance could stay
        return kept * 0.0
    scale = 1 / sqrt((1 - p) * (1 + p * LOWEST**2))
    shift = -scale * LOWEST * p
    return kept * (scale * (1 - p)) + where(keep, shift, scale * LOWEST + shift)


def _check(name: str, p: float) -> None:
    if not 0 <= p <= 1:
        raise ValueError(f"{name}: expected p in [0, 1], got {p}")
