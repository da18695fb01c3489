"""Losses. Class labels are integers; axis 1 of x holds the classes; w, optional, is a weight for
each.

`reduction` is "mean", "sum" or "none". A mean divides by the sum of the weights of the labels that
count, as in torch. Labels equal to `ignore_index` count for nothing."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..array import NDArray, Spec
from ..dtypes import is_floating, is_integer
from ..ledger import Cost
from ..primitive import Value, primitive
from .activation import sigmoid, softmax_dx, softplus, sum_less_one
from .elementwise import add, clip, div, fit, log, maximum, mul, neg, sub
from .reduce import scale
from .reduce import sum as total
from .rules import agreed, broadcast, each, floating
from .shape import cast, constant, full


def _labelled(name: str, x: Spec, target: Spec, w: tuple[Spec, ...]) -> None:
    """Check logits, labels and class weights. ValueError or TypeError where they do not fit."""
    if not is_floating(x.dtype) or not is_integer(target.dtype):
        raise TypeError(
            f"{name}: expected floating-point inputs and integer labels, got {x.dtype} and "
            f"{target.dtype}"
        )
    if len(x.shape) < 2 or not x.shape[1]:
        raise ValueError(f"{name}: expected an input (N, C, ..) with C > 0, got shape {x.shape}")
    if target.shape != (x.shape[0], *x.shape[2:]):
        expected = (x.shape[0], *x.shape[2:])
        raise ValueError(
            f"{name}: expected target {expected} for input {x.shape}, got {target.shape}"
        )
    if w and w[0].shape != (x.shape[1],):
        raise ValueError(
            f"{name}: expected weight ({x.shape[1]},) for the classes, got {w[0].shape}"
        )


class _Labels:
    """Labels prepared for arithmetic, each with a class axis of extent 1, (N, 1, ..).

    `index`: the class, 0 where ignored; `counted`: False where ignored; `rate`: the weight of the
    label's class, 0 where ignored; `norm`: what the reduction divides by. IndexError for a label
    that is no class."""

    def __init__(
        self, name: str, target: NDArray, w: tuple[NDArray, ...], classes: int, dtype: Any,
        ignore_index: int, reduction: str,
    ) -> None:  # fmt: skip
        class_index = np.expand_dims(target, 1)
        counted = class_index != ignore_index
        wrong = counted & ((class_index < 0) | (class_index >= classes))
        if wrong.any():
            worst = class_index[wrong][0]
            raise IndexError(f"{name}: expected labels in [0, {classes}), got {worst}")
        self.index = np.where(counted, class_index, 0)
        self.counted = counted
        self.rate = (w[0][self.index] * counted if w else counted).astype(dtype)
        self.norm = self.rate.sum(dtype=dtype) if reduction == "mean" else dtype.type(1)

    def reduce(self, loss: NDArray, reduction: str) -> NDArray:
        """Return losses (N, 1, ..) as the reduction asks; a mean over nothing is not a number."""
        loss = np.where(self.counted, loss, loss.dtype.type(0))  # 0 times inf would be nan
        if reduction == "none":
            return np.asarray(loss[:, 0])
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.asarray(loss.sum(dtype=loss.dtype) / self.norm)

    def spread(self, dloss: NDArray, reduction: str) -> NDArray:
        """Return the gradient of each sample's loss, (N, 1, ..), 0 where ignored."""
        if reduction == "none":
            each = np.expand_dims(dloss, 1)
        else:
            each = dloss / self.norm if self.norm else np.zeros_like(dloss)
        return np.where(self.counted, each, dloss.dtype.type(0))


def _reduced(x: Spec, target: Spec, reduction: str) -> Spec:
    """Return the Spec of a loss: one for each sample without a reduction, else a single number."""
    return Spec(target.shape if reduction == "none" else (), x.dtype)


def _across(w: tuple[NDArray, ...], p: NDArray) -> NDArray:
    """Return class weights, all 1 if there are none, in a shape that broadcasts against p."""
    v = w[0].astype(p.dtype) if w else np.ones(p.shape[1], p.dtype)
    return v.reshape(-1, *[1] * (p.ndim - 2))


def _entropy(
    x: Spec, target: Spec, *w: Spec, ignore_index: int, label_smoothing: float, reduction: str
) -> tuple[Spec, Spec]:
    """Shape rule of cross_entropy: the loss and the probabilities."""
    _labelled("cross_entropy", x, target, w)
    return _reduced(x, target, reduction), x


def _entropy_cost(
    y: tuple[Spec, ...], x: Spec, target: Spec, *w: Spec, ignore_index: int,
    label_smoothing: float, reduction: str,
) -> Cost:  # fmt: skip
    """Cost rule of cross_entropy, see there for what is counted."""
    n = target.size
    soft = x.size if label_smoothing else 0
    return Cost(
        cmp=x.size + n,
        exp=x.size + n,
        add=2 * x.size + 2 * n + soft,
        div=x.size + 1,
        mul=n * len(w) + soft,
    )


@primitive(infer=_entropy, cost=_entropy_cost, outputs=("loss", "p"))
def cross_entropy(
    x: NDArray, target: NDArray, *w: NDArray, ignore_index: int, label_smoothing: float,
    reduction: str,
) -> tuple[NDArray, NDArray]:  # fmt: skip
    """Return the cross entropy of logits and labels, and p = softmax(x) along axis 1.

    The loss is - the sum over classes of q log p. Without smoothing q is the class weight at the
    label and 0 elsewhere; with it, (1 - s) of that plus s / C of every class's weight (Szegedy et
    al. 2016). Of ignored samples, loss and p are 0 whatever their logits. Counted per logit:
    maximum, difference, exp, sum, division; per sample: log and two additions."""
    labels = _Labels("cross_entropy", target, w, x.shape[1], x.dtype, ignore_index, reduction)
    smooth, v = label_smoothing / x.shape[1], _across(w, x)
    with np.errstate(invalid="ignore"):  # all of -inf, or one inf: not a number
        p = np.subtract(x, x.max(1, keepdims=True), out=np.empty_like(x))
        picked = np.take_along_axis(p, labels.index, 1)
        everywhere = (p * v).sum(1, keepdims=True) if smooth else 0
        np.exp(p, out=p)
        others = sum_less_one(p, 1)
        p /= others + 1
        whole = np.log1p(others, out=others)
        loss = (1 - label_smoothing) * labels.rate * (whole - picked)
        if smooth:
            loss += smooth * (whole * v.sum() - everywhere)
    if not labels.counted.all():
        np.copyto(p, 0, where=~labels.counted)
    return labels.reduce(loss, reduction), p


@cross_entropy.vjp("x")
def _(
    dloss: Value | None, dp: Value | None, p: Value, target: Value, w: tuple[Value, ...],
    **attrs: Any,
) -> Value:  # fmt: skip
    dx = None if dloss is None else cross_entropy_dx(dloss, p, target, *w, **attrs)
    if dp is None:
        return dx
    more = softmax_dx(dp, p, axis=1)
    return more if dx is None else add(dx, more)


@primitive(
    infer=lambda dloss, p, target, *w, **a: p,
    cost=lambda dx, dloss, p, target, *w, label_smoothing, **a: Cost(
        mul=p.size, add=target.size + (p.size if label_smoothing else 0)
    ),
    outputs=("dx",),
)
def cross_entropy_dx(
    dloss: NDArray, p: NDArray, target: NDArray, *w: NDArray, ignore_index: int,
    label_smoothing: float, reduction: str,
) -> NDArray:  # fmt: skip
    """Return dx = dloss (p (the sum of q) - q), divided by the sum of weights for a mean."""
    labels = _Labels("cross_entropy", target, w, p.shape[1], p.dtype, ignore_index, reduction)
    rate, v, smooth = labels.spread(dloss, reduction), _across(w, p), label_smoothing / p.shape[1]
    at_label = ((1 - label_smoothing) * labels.rate * rate).astype(p.dtype)
    dx = np.empty_like(p)
    dx[...] = p
    # p - 1 at the label, as what the others have: nothing is lost where p is nearly 1.
    np.put_along_axis(dx, labels.index, 0, 1)
    np.put_along_axis(dx, labels.index, -dx.sum(1, keepdims=True), 1)
    dx *= at_label
    if smooth:
        dx += (smooth * rate).astype(p.dtype) * (p * v.sum() - v)
    return dx


@cross_entropy_dx.vjp("dloss")
def _(
    ddx: Value, p: Value, target: Value, w: tuple[Value, ...], specs: tuple[Spec, ...],
    **attrs: Any,
) -> Value:  # fmt: skip
    one = full(shape=specs[0].shape, dtype=specs[0].dtype, value=1.0)
    slope = mul(ddx, cross_entropy_dx(one, p, target, *w, **attrs))
    axes = (1,) if attrs["reduction"] == "none" else tuple(range(len(p.shape)))
    return total(slope, axes=axes)


@cross_entropy_dx.vjp("p")
def _(
    ddx: Value, dloss: Value, p: Value, target: Value, w: tuple[Value, ...], **attrs: Any
) -> Value:
    return mul(ddx, cross_entropy_rate(dloss, target, *w, classes=p.shape[1], **attrs))


@primitive(
    infer=lambda dloss, target, *w, **a: Spec((target.shape[0], 1, *target.shape[1:]), dloss.dtype),
    cost=lambda y, *specs, **a: Cost(mul=y.size),
    outputs=("rate",),
)
def cross_entropy_rate(
    dloss: NDArray, target: NDArray, *w: NDArray, classes: int, ignore_index: int,
    label_smoothing: float, reduction: str,
) -> NDArray:  # fmt: skip
    """Return dloss (the sum of q) for each sample, (N, 1, ..): the derivative of cross_entropy_dx
    in p."""
    labels = _Labels("cross_entropy", target, w, classes, dloss.dtype, ignore_index, reduction)
    weights = w[0].sum() if w else classes
    q = (1 - label_smoothing) * labels.rate + label_smoothing / classes * weights
    return np.asarray(labels.spread(dloss, reduction) * q, dloss.dtype)


def _likelihood(x: Spec, target: Spec, *w: Spec, ignore_index: int, reduction: str) -> Spec:
    """Shape rule of nll_loss."""
    _labelled("nll_loss", x, target, w)
    return _reduced(x, target, reduction)


@primitive(
    infer=_likelihood,
    cost=lambda loss, x, target, *w, **a: Cost(
        add=max(target.size - loss.size, 0), mul=target.size * len(w)
    ),
    outputs=("loss",),
)
def nll_loss(
    x: NDArray, target: NDArray, *w: NDArray, ignore_index: int, reduction: str
) -> NDArray:
    """Return - the class weight of the label times x at the label, x being log-probabilities."""
    labels = _Labels("nll_loss", target, w, x.shape[1], x.dtype, ignore_index, reduction)
    with np.errstate(invalid="ignore"):
        loss = -labels.rate * np.take_along_axis(x, labels.index, 1)
    return labels.reduce(loss, reduction)


@nll_loss.vjp("x")
def _(
    dloss: Value, target: Value, w: tuple[Value, ...], specs: tuple[Spec, ...], **attrs: Any
) -> Value:
    return nll_loss_dx(dloss, target, *w, classes=specs[0].shape[1], **attrs)


@primitive(
    infer=lambda dloss, target, *w, classes, **a: Spec(
        (target.shape[0], classes, *target.shape[1:]), dloss.dtype
    ),
    cost=lambda dx, dloss, target, *w, **a: Cost(mul=target.size),
    outputs=("dx",),
)
def nll_loss_dx(
    dloss: NDArray, target: NDArray, *w: NDArray, classes: int, ignore_index: int, reduction: str
) -> NDArray:
    """Return dx: - dloss times the class weight at the label, 0 elsewhere; `nll_loss`
    transposed."""
    labels = _Labels("nll_loss", target, w, classes, dloss.dtype, ignore_index, reduction)
    dx = np.zeros((target.shape[0], classes, *target.shape[1:]), dloss.dtype)
    at_label = -labels.rate * labels.spread(dloss, reduction)
    np.put_along_axis(dx, labels.index, at_label, 1)
    return dx


@nll_loss_dx.vjp("dloss")
def _(ddx: Value, target: Value, w: tuple[Value, ...], classes: int, **attrs: Any) -> Value:
    return nll_loss(ddx, target, *w, **attrs)


FLOOR = -100.0  # below it logarithms are cut off, and so is the loss of a certain mistake


@primitive(infer=lambda x, target: floating(broadcast(x, target)), cost=each(exp=2, mul=2, add=3))
def binary_cross_entropy(x: NDArray, target: NDArray) -> NDArray:
    """Return - target log x - (1 - target) log(1 - x), x being probabilities.

    Each logarithm is at least -100, as in torch, so that a certain mistake costs a finite loss.
    ValueError for an x outside [0, 1]."""
    if not ((x >= 0) & (x <= 1)).all():
        worst = x[~((x >= 0) & (x <= 1))][0]
        raise ValueError(f"binary_cross_entropy: expected inputs in [0, 1], got {worst}")
    x, target = agreed(x, target)
    with np.errstate(divide="ignore"):
        yes, no = np.maximum(np.log(x), FLOOR), np.maximum(np.log1p(-x), FLOOR)
    return np.asarray(-(target * yes + (1 - target) * no))


@binary_cross_entropy.vjp("x")
def _(dy: Value, x: Value, target: Value, specs: tuple[Spec, ...]) -> Value:
    one = full(shape=(), dtype=x.dtype, value=1.0)
    # torch's bound: x (1 - x) is 0 where the loss has been cut off, and the slope must stay finite.
    least = full(shape=(), dtype=x.dtype, value=1e-12)
    slope = div(sub(x, target), maximum(mul(x, sub(one, x)), least))
    return fit(mul(dy, slope), specs[0])


@binary_cross_entropy.vjp("target")
def _(dy: Value, x: Value, specs: tuple[Spec, ...]) -> Value:
    x = x if x.dtype == dy.dtype else cast(x, dtype=dy.dtype)
    one = full(shape=(), dtype=x.dtype, value=1.0)
    floor = full(shape=(), dtype=x.dtype, value=FLOOR)
    slope = sub(maximum(log(sub(one, x)), floor), maximum(log(x), floor))
    return fit(mul(dy, slope), specs[1])


@primitive(
    infer=lambda x, yes, no: floating(broadcast(x, yes, no)),
    cost=each(exp=2, cmp=2, mul=2, add=3),
)
def logistic_loss(x: NDArray, yes: NDArray, no: NDArray) -> NDArray:
    """Return yes log(1 + e^-x) + no log(1 + e^x), x a logit, yes and no the weights of the two
    outcomes.

    It is finite for any x, and a sum of terms that are not negative, so that small losses keep
    their digits."""
    x, yes, no = agreed(x, yes, no)
    least = np.abs(x, out=np.empty_like(x))
    np.exp(np.negative(least, out=least), out=least)
    np.log1p(least, out=least)
    with np.errstate(invalid="ignore"):
        y = yes * (np.maximum(-x, 0) + least)
        return np.asarray(y + no * (np.maximum(x, 0) + least))


@logistic_loss.vjp("x")
def _(dy: Value, x: Value, yes: Value, no: Value, specs: tuple[Spec, ...]) -> Value:
    x = x if x.dtype == dy.dtype else cast(x, dtype=dy.dtype)
    slope = sub(mul(no, sigmoid(x)), mul(yes, sigmoid(neg(x))))
    return fit(mul(dy, slope), specs[0])


@logistic_loss.vjp("yes")
def _(dy: Value, x: Value, specs: tuple[Spec, ...]) -> Value:
    x = x if x.dtype == dy.dtype else cast(x, dtype=dy.dtype)
    return fit(mul(dy, softplus(neg(x))), specs[1])


@logistic_loss.vjp("no")
def _(dy: Value, x: Value, specs: tuple[Spec, ...]) -> Value:
    x = x if x.dtype == dy.dtype else cast(x, dtype=dy.dtype)
    return fit(mul(dy, softplus(x)), specs[2])


@primitive(infer=lambda x, *, delta: floating(x), cost=each(cmp=2, mul=2, add=1))
def huber(x: NDArray, *, delta: float) -> NDArray:
    """Return x^2 / 2 up to |x| = delta, and its tangent delta (|x| - delta / 2) beyond (Huber
    1964)."""
    far = np.abs(x)
    near = np.minimum(far, x.dtype.type(delta))
    return near * (far - near * x.dtype.type(0.5))


@huber.vjp("x")
def _(dy: Value, x: Value, delta: float) -> Value:
    return mul(dy, clip(x, low=-delta, high=delta))


@primitive(
    infer=lambda x, var, *, eps: floating(broadcast(x, var)),
    cost=each(cmp=1, exp=1, div=1, mul=2, add=1),
)
def gaussian_nll_loss(x: NDArray, var: NDArray, *, eps: float) -> NDArray:
    """Return (log v + x^2 / v) / 2 for a deviation x and the variance v, which is at least eps.

    The gradient of a smaller variance is that at eps, as in torch. ValueError for a negative
    one."""
    if (var < 0).any():
        raise ValueError(f"gaussian_nll_loss: expected var of at least 0, got {var.min()}")
    x, var = agreed(x, var)
    var = np.maximum(var, var.dtype.type(eps))
    return np.asarray((np.log(var) + x * x / var) * var.dtype.type(0.5))


@gaussian_nll_loss.vjp("x")
def _(dy: Value, x: Value, var: Value, specs: tuple[Spec, ...], eps: float) -> Value:
    return fit(mul(dy, div(x, clip(var, low=eps, high=None))), specs[0])


@gaussian_nll_loss.vjp("var")
def _(dy: Value, x: Value, var: Value, specs: tuple[Spec, ...], eps: float) -> Value:
    var = clip(var, low=eps, high=None)
    excess = sub(constant(var, 1.0), div(mul(x, x), var))
    return fit(mul(dy, scale(div(excess, var), factor=0.5)), specs[1])
