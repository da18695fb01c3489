"""Dropout (Srivastava et al. 2014), inverted: what is kept is scaled up in training."""

from __future__ import annotations

from ..ops import dropout as ops
from ..random import sample_keys
from ..tensor import Tensor

__all__ = ["dropout", "dropout2d"]


def dropout(input: Tensor, p: float = 0.5, training: bool = True) -> Tensor:
    """Return the input (N, ..) with each element set to 0 with probability p, the others divided by
    1 - p.

    Outside training the input itself is returned. Within `random.keyed` the first axis holds the
    step's samples, and what is dropped does not depend on how they are spread over ranks.
    ValueError for a p outside [0, 1]."""
    _check("dropout", p)
    if not training or p == 0:
        return input
    x = input if input.ndim else input.reshape(1)
    keys, use = sample_keys(x.shape[0])
    y: Tensor
    y, _ = ops.dropout(x, keys, p=float(p), use=use, channels=False)
    return y if input.ndim else y.reshape(())


def dropout2d(input: Tensor, p: float = 0.5, training: bool = True) -> Tensor:
    """Return the input (N, C, ..) with each channel of a sample dropped as a whole with probability
    p.

    The others are divided by 1 - p (Tompson et al. 2015). Outside training the input itself is
    returned. ValueError for a p outside [0, 1] and for fewer than 3 axes."""
    _check("dropout2d", p)
    if input.ndim < 3:
        raise ValueError(f"dropout2d: expected an input (N, C, ..), got shape {input.shape}")
    if not training or p == 0:
        return input
    keys, use = sample_keys(input.shape[0])
    y: Tensor
    y, _ = ops.dropout(input, keys, p=float(p), use=use, channels=True)
    return y


def _check(name: str, p: float) -> None:
    if not 0 <= p <= 1:
        raise ValueError(f"{name}: expected p in [0, 1], got {p}")
