"""Loss functions, with torch.nn.functional's names and argument order.

`reduction` is "mean", "sum" or "none"; a mean over nothing is not a number."""

from __future__ import annotations

from collections.abc import Sequence
from math import log, pi
from typing import Any

import numpy as np

from ..array import array
from ..autocast import wide
from ..dtypes import INT64, is_floating
from ..ops import ctc
from ..ops import elementwise as el
from ..ops import loss as ops
from ..tensor import Tensor
from .activation import log_softmax, softplus
from .arrange import where

__all__ = [
    "binary_cross_entropy",
    "binary_cross_entropy_with_logits",
    "cross_entropy",
    "ctc_loss",
    "gaussian_nll_loss",
    "huber_loss",
    "kl_div",
    "l1_loss",
    "mse_loss",
    "multilabel_soft_margin_loss",
    "nll_loss",
    "poisson_nll_loss",
    "smooth_l1_loss",
    "soft_margin_loss",
]

REDUCTIONS = ("mean", "sum", "none")


def tensors(name: str, **arguments: object) -> None:
    """TypeError for an argument that is neither a tensor nor an ndarray."""
    for argument, value in arguments.items():
        if not isinstance(value, Tensor | np.ndarray):
            got = type(value).__name__
            raise TypeError(f"{name}: expected {argument} to be a tensor, got {got}")


def check(name: str, reduction: str, input: Tensor, *targets: Tensor) -> None:
    """ValueError for an unknown reduction, and for a target of another shape than the input;
    TypeError for what is no tensor."""
    tensors(name, input=input)
    if reduction not in REDUCTIONS:
        raise ValueError(f"{name}: expected reduction in {REDUCTIONS}, got {reduction!r}")
    for target in targets:
        tensors(name, target=target)
        if target.shape != input.shape:
            raise ValueError(
                f"{name}: expected a target of shape {input.shape}, got {target.shape}"
            )


def _classified(name: str, reduction: str, input: Tensor, target: Tensor) -> None:
    """Check a loss of logits, or log-probabilities, with labels."""
    check(name, reduction, input)
    tensors(name, target=target)
    if not is_floating(input.dtype):
        raise TypeError(
            f"{name}: expected floating-point input (N, C, ..), such as logits, got {input.dtype} "
            f"{input.shape}"
        )


def reduced(loss: Tensor, reduction: str) -> Tensor:
    """Return the mean or the sum of losses, or them as they are."""
    return {"mean": loss.mean, "sum": loss.sum, "none": lambda: loss}[reduction]()


def cross_entropy(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Tensor:
    """Return the cross entropy of logits with labels, or with class probabilities.

    Logits are (N, C), (N, C, ..) or (C,); integer labels (N,), (N, ..) or (); probabilities have
    the logits' shape. `weight` (C,) weighs the classes, and the mean is divided by the labels'
    weights, as in torch; samples labelled `ignore_index` do not count; `label_smoothing` s in [0,
    1] mixes s / C into every class (Szegedy et al. 2016). IndexError for a label that is no class;
    ValueError for shapes or options that do not fit."""
    _classified("cross_entropy", reduction, input, target)
    if not 0 <= label_smoothing <= 1:
        raise ValueError(
            f"cross_entropy: expected label_smoothing in [0, 1], got {label_smoothing}"
        )
    label_smoothing = float(label_smoothing)
    # Labels are integers, class probabilities floating-point: the type tells which is meant.
    if is_floating(target.dtype):
        return _soft(input, target, weight, reduction, label_smoothing)
    options = weight, ignore_index, reduction, label_smoothing
    if input.ndim == 1:
        return cross_entropy(input.unsqueeze(0), target.reshape(1), *options).reshape(())
    loss, _ = ops.cross_entropy(
        input,
        target,
        *_optional(weight),
        ignore_index=int(ignore_index),
        label_smoothing=label_smoothing,
        reduction=reduction,
    )
    return loss


def _optional(weight: Tensor | None) -> tuple[Tensor, ...]:
    return () if weight is None else (weight,)


def _soft(
    input: Tensor, target: Tensor, weight: Tensor | None, reduction: str, smoothing: float
) -> Tensor:
    """Return the cross entropy of logits with class probabilities."""
    if target.shape != input.shape:
        raise ValueError(
            f"cross_entropy: expected integer labels or class probabilities {input.shape} as "
            f"target, got {target.dtype} {target.shape}"
        )
    axis = 0 if input.ndim == 1 else 1
    classes = input.shape[axis]
    q = target * (1.0 - smoothing) + smoothing / classes if smoothing else target
    if weight is not None:
        q = q * weight.reshape((classes, *[1] * (input.ndim - axis - 1)))
    return reduced(-(log_softmax(input, axis) * q).sum(axis), reduction)


def nll_loss(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
) -> Tensor:
    """Return the negative log-likelihood of integer labels (N, ..) under log-probabilities (N, C,
    ..).

    Options and errors are those of `cross_entropy`, of which this is the second half."""
    _classified("nll_loss", reduction, input, target)
    if input.ndim == 1:
        alone = input.unsqueeze(0), target.reshape(1)
        return nll_loss(*alone, weight, ignore_index, reduction).reshape(())
    loss: Tensor = ops.nll_loss(
        input, target, *_optional(weight), ignore_index=int(ignore_index), reduction=reduction
    )
    return loss


def mse_loss(input: Tensor, target: Tensor, reduction: str = "mean") -> Tensor:
    """Return squared differences, (input - target)^2; within `autocast`, in float32.

    ValueError for shapes that differ, where torch only warns."""
    off = _difference("mse_loss", input, target, reduction)
    return reduced(off * off, reduction)


def _difference(name: str, input: Tensor, target: Tensor, reduction: str) -> Tensor:
    """Return input - target, checked; within `autocast`, in float32."""
    check(name, reduction, input, target)
    off: Tensor = wide(input) - wide(target)
    return off


def l1_loss(input: Tensor, target: Tensor, reduction: str = "mean") -> Tensor:
    """Return |input - target|; shapes as for `mse_loss`."""
    return reduced(_difference("l1_loss", input, target, reduction).abs(), reduction)


def huber_loss(
    input: Tensor, target: Tensor, reduction: str = "mean", delta: float = 1.0
) -> Tensor:
    """Return (input - target)^2 / 2 up to a difference of delta, and delta (|input - target| -
    delta / 2) beyond (Huber 1964).

    Shapes as for `mse_loss`. ValueError for a delta that is not positive."""
    if not delta > 0:
        raise ValueError(f"huber_loss: expected delta > 0, got {delta}")
    off = _difference("huber_loss", input, target, reduction)
    return reduced(ops.huber(off, delta=float(delta)), reduction)


def smooth_l1_loss(
    input: Tensor, target: Tensor, reduction: str = "mean", beta: float = 1.0
) -> Tensor:
    """Return `huber_loss` with delta beta, divided by beta (Girshick 2015): `l1_loss` for 0.

    ValueError for a negative beta."""
    if not beta >= 0:
        raise ValueError(f"smooth_l1_loss: expected beta >= 0, got {beta}")
    off = _difference("smooth_l1_loss", input, target, reduction)
    loss = ops.huber(off, delta=float(beta)) / beta if beta else off.abs()
    return reduced(loss, reduction)


def kl_div(
    input: Tensor, target: Tensor, reduction: str = "mean", log_target: bool = False
) -> Tensor:
    """Return target (log target - input), the divergence of log-probabilities from probabilities
    (Kullback and Leibler 1951).

    It is 0 where the target is. With `log_target` the target is logarithms too. The reduction
    "batchmean" divides the sum by the first extent, which makes it the mean divergence; "mean"
    divides by the number of elements. ValueError for shapes that differ."""
    total = reduction == "batchmean"
    check("kl_div", "sum" if total else reduction, input, target)
    x, t = wide(input), wide(target)
    weight, log_t = (t.exp(), t) if log_target else (t, where(t > 0, t, 1.0).log())
    loss = weight * (log_t - x)
    return loss.sum() / max(input.shape[0], 1) if total else reduced(loss, reduction)


def gaussian_nll_loss(
    input: Tensor,
    target: Tensor,
    var: Tensor | float,
    full: bool = False,
    eps: float = 1e-6,
    reduction: str = "mean",
) -> Tensor:
    """Return (log var + (input - target)^2 / var) / 2, the negative log-likelihood of normal
    distributions.

    `var` has input's shape, possibly without the last axis or with extents of 1; it counts as
    eps where it is smaller. `full` adds log(2 pi) / 2. ValueError for shapes that do not fit, an
    eps that is not positive or a negative variance."""
    if not eps > 0:
        raise ValueError(f"gaussian_nll_loss: expected eps > 0, got {eps}")
    off = _difference("gaussian_nll_loss", input, target, reduction)
    v = var if isinstance(var, Tensor) else Tensor(off.lifted(float(var)))
    if v.shape == input.shape[:-1] != input.shape:
        v = v.unsqueeze(-1)
    loss = ops.gaussian_nll_loss(off, v, eps=float(eps))
    if loss.shape != input.shape:
        raise ValueError(
            f"gaussian_nll_loss: expected var to fit input {input.shape}, got {v.shape}"
        )
    return reduced(loss + log(2 * pi) / 2 if full else loss, reduction)


def poisson_nll_loss(
    input: Tensor,
    target: Tensor,
    log_input: bool = True,
    full: bool = False,
    eps: float = 1e-8,
    reduction: str = "mean",
) -> Tensor:
    """Return e^input - target input, the negative log-likelihood of counts whose expectation has
    the logarithm `input`.

    Without `log_input`, input is the expectation itself: input - target log(input + eps). `full`
    adds Stirling's approximation of log(target!) where the target is above 1. ValueError for
    shapes that differ."""
    check("poisson_nll_loss", reduction, input, target)
    x, t = wide(input), wide(target)
    loss = x.exp() - t * x if log_input else x - t * (x + eps).log()
    if full:
        large = where(t > 1, t, 1.0)
        stirling = large * large.log() - large + (large * (2 * pi)).log() * 0.5
        loss = loss + where(t > 1, stirling, 0.0)
    return reduced(loss, reduction)


def soft_margin_loss(input: Tensor, target: Tensor, reduction: str = "mean") -> Tensor:
    """Return log(1 + e^(- target input)), targets being 1 or -1. ValueError for shapes that
    differ."""
    check("soft_margin_loss", reduction, input, target)
    return reduced(softplus(-(wide(input) * target)), reduction)


def ctc_loss(
    log_probs: Tensor,
    targets: Tensor,
    input_lengths: Tensor | Sequence[int],
    target_lengths: Tensor | Sequence[int],
    blank: int = 0,
    reduction: str = "mean",
    zero_infinity: bool = False,
) -> Tensor:
    """Return the negative log-likelihood of label sequences whose alignment is not known (Graves
    et al. 2006).

    `log_probs` (T, N, C), or (T, C) of one sample, are results of `log_softmax`; `targets` (N, S),
    or all labels in a row; lengths (N,). "mean" divides by the targets' lengths first. The loss of
    a target that is too long is infinite, or 0 with `zero_infinity`. ValueError for
    shapes and lengths that do not fit, IndexError for a label that is no class. Its gradient has no
    derivative."""
    tensors("ctc_loss", log_probs=log_probs, targets=targets)
    check("ctc_loss", reduction, log_probs)
    if log_probs.ndim == 2:
        lengths = [_lengths(n).reshape(1) for n in (input_lengths, target_lengths)]
        whole = log_probs.unsqueeze(1), targets.reshape(1, -1)
        loss = ctc_loss(*whole, lengths[0], lengths[1], blank, reduction, zero_infinity)
        return loss.reshape(()) if reduction == "none" else loss
    steps, sizes = _lengths(input_lengths), _lengths(target_lengths)
    rows = targets if targets.ndim == 2 else _rows(targets, target_lengths)
    loss, _ = ctc.ctc_loss(
        log_probs, rows, steps, sizes, blank=int(blank), finite=bool(zero_infinity)
    )
    if reduction == "mean":
        loss = loss / sizes.clamp(min=1)
    return reduced(loss, reduction)


def _lengths(lengths: Any) -> Tensor:
    return lengths if isinstance(lengths, Tensor) else Tensor(array(np.asarray(lengths, INT64)))


def _rows(targets: Tensor, sizes: Tensor | Sequence[int]) -> Tensor:
    """Return targets that follow one another as rows of one length; what fills them is not read.

    ValueError where the lengths do not add up to the number of labels."""
    counts = sizes.numpy() if isinstance(sizes, Tensor) else np.asarray(sizes)
    if counts.sum() != targets.size:
        raise ValueError(
            f"ctc_loss: expected target_lengths that add up to {targets.size}, got {counts.sum()}"
        )
    at = (counts.cumsum() - counts)[:, None] + np.arange(counts.max(initial=0))
    return targets[Tensor(array(at.clip(0, max(targets.size - 1, 0)).astype(INT64)))]


def binary_cross_entropy(
    input: Tensor, target: Tensor, weight: Tensor | None = None, reduction: str = "mean"
) -> Tensor:
    """Return - target log(input) - (1 - target) log(1 - input), times `weight`, which is broadcast.

    input and target are probabilities of one shape. Logarithms end at -100, as in torch. ValueError
    for an input outside [0, 1]; for logits see `binary_cross_entropy_with_logits`."""
    check("binary_cross_entropy", reduction, input, target)
    loss = ops.binary_cross_entropy(input, target)
    return reduced(loss if weight is None else loss * weight, reduction)


def binary_cross_entropy_with_logits(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    reduction: str = "mean",
    pos_weight: Tensor | None = None,
) -> Tensor:
    """Return the binary cross entropy of sigmoid(input) with targets in [0, 1], finite for any
    logits.

    `weight` multiplies the losses, `pos_weight` the part of the positive targets; both are
    broadcast. ValueError for shapes that differ."""
    check("binary_cross_entropy_with_logits", reduction, input, target)
    # Weights of the two outcomes: the loss is linear in both.
    share = target if pos_weight is None else el.mul(target, pos_weight)
    loss = ops.logistic_loss(input, share, 1.0 - target)
    return reduced(loss if weight is None else loss * weight, reduction)


def multilabel_soft_margin_loss(
    input: Tensor, target: Tensor, weight: Tensor | None = None, reduction: str = "mean"
) -> Tensor:
    """Return the mean over classes, the last axis, of `binary_cross_entropy_with_logits`."""
    check("multilabel_soft_margin_loss", reduction, input, target)
    losses = binary_cross_entropy_with_logits(input, target, weight, "none")
    return reduced(losses.mean(-1), reduction)
