"""Steps of optimizers that keep moments of the gradient: Adam and AdamW, RMSprop, Adagrad.

Formulae are torch's, whose order of operations every backend keeps: an element has the same bits
whatever it is updated together with. Numbers that change from step to step are 0-d arrays; a slot
that the options do not use may be one, too, and is left alone."""

from __future__ import annotations

import numpy as np

from ..array import NDArray, Spec
from ..ledger import Cost
from ..primitive import primitive
from .update import fits


def _cost(w: Spec, slots: int, add: int, mul: int, cmp: int = 0, div: int = 1) -> Cost:
    """Return the cost of a step that does so many operations, and a square root, for an element."""
    return Cost(
        add=add * w.size,
        mul=mul * w.size,
        div=div * w.size,
        cmp=cmp * w.size,
        exp=w.size,
        bytes_read=(2 + slots) * w.nbytes,
        bytes_written=(1 + slots) * w.nbytes,
    )


def _adam_cost(
    y: None, w: Spec, g: Spec, mean: Spec, square: Spec, largest: Spec, lr: Spec, bias1: Spec,
    bias2: Spec, *, betas: tuple[float, float], eps: float, weight_decay: float, decoupled: bool,
    amsgrad: bool,
) -> Cost:  # fmt: skip
    """Cost rule of adam: decoupled decay is one multiplication, the other kind an addition too."""
    decays = weight_decay != 0
    return _cost(w, 2 + amsgrad, 5 + (decays and not decoupled), 6 + decays, cmp=amsgrad)


@primitive(infer=fits, cost=_adam_cost, writes=(0, 2, 3, 4))
def adam(
    w: NDArray, g: NDArray, mean: NDArray, square: NDArray, largest: NDArray, lr: NDArray,
    bias1: NDArray, bias2: NDArray, *, betas: tuple[float, float], eps: float,
    weight_decay: float = 0.0, decoupled: bool = False, amsgrad: bool = False,
) -> None:  # fmt: skip
    """Take one step of Adam (Kingma and Ba 2015) or, with `decoupled`, of AdamW (Loshchilov and
    Hutter 2019).

        w = w (1 - lr weight_decay)  if decoupled, else g = g + weight_decay w
        mean = mean + (1 - beta1) (g - mean)
        square = beta2 square + (1 - beta2) g^2
        w = w - lr / bias1 mean / (sqrt(square) / sqrt(bias2) + eps)

    with bias1 = 1 - beta1^t and bias2 = 1 - beta2^t in step t = 1, 2, ..; `amsgrad` divides by the
    largest square so far (Reddi et al. 2018)."""
    real, (beta1, beta2) = w.dtype.type, betas
    if weight_decay and decoupled:
        w *= real(1 - float(lr) * weight_decay)
    elif weight_decay:
        g = g + real(weight_decay) * w
    mean += real(1 - beta1) * (g - mean)
    square *= real(beta2)
    square += real(1 - beta2) * (g * g)
    if amsgrad:
        np.maximum(largest, square, out=largest)
        square = largest
    root = np.sqrt(square) * real(float(bias2) ** -0.5) + real(eps)
    w -= real(float(lr) / float(bias1)) * (mean / root)


def _rmsprop_cost(
    y: None, w: Spec, g: Spec, square: Spec, mean: Spec, velocity: Spec, lr: Spec, *, alpha: float,
    eps: float, weight_decay: float, momentum: float, centered: bool,
) -> Cost:  # fmt: skip
    """Cost rule of rmsprop: each option that is in use adds its operations."""
    decays, moves = weight_decay != 0, momentum != 0
    add, mul = 3 + decays + 3 * centered + moves, 4 + decays + 2 * centered + moves
    return _cost(w, 1 + centered + moves, add, mul, cmp=centered)


@primitive(infer=fits, cost=_rmsprop_cost, writes=(0, 2, 3, 4))
def rmsprop(
    w: NDArray, g: NDArray, square: NDArray, mean: NDArray, velocity: NDArray, lr: NDArray, *,
    alpha: float, eps: float, weight_decay: float = 0.0, momentum: float = 0.0,
    centered: bool = False,
) -> None:  # fmt: skip
    """Take one step of RMSprop (Tieleman and Hinton 2012), `centered` after Graves (2013).

    g = g + weight_decay w
    square = alpha square + (1 - alpha) g^2
    mean = mean + (1 - alpha) (g - mean)  if centered, else 0
    g = g / (sqrt(max(square - mean^2, 0)) + eps)
    velocity = momentum velocity + g  with momentum, else g
    w = w - lr velocity"""
    real = w.dtype.type
    if weight_decay:
        g = g + real(weight_decay) * w
    square *= real(alpha)
    square += real(1 - alpha) * (g * g)
    variance = square
    if centered:
        mean += real(1 - alpha) * (g - mean)
        variance = np.maximum(square - mean * mean, real(0))  # rounding may bring it below
    g = g / (np.sqrt(variance) + real(eps))
    if momentum:
        velocity *= real(momentum)
        velocity += g
        g = velocity
    w -= real(lr) * g


def _adagrad_cost(
    y: None, w: Spec, g: Spec, total: Spec, lr: Spec, *, eps: float, weight_decay: float
) -> Cost:
    """Cost rule of adagrad."""
    return _cost(w, 1, 3 + (weight_decay != 0), 2 + (weight_decay != 0))


@primitive(infer=fits, cost=_adagrad_cost, writes=(0, 2))
def adagrad(
    w: NDArray, g: NDArray, total: NDArray, lr: NDArray, *, eps: float, weight_decay: float = 0.0
) -> None:
    """Take one step of Adagrad (Duchi et al. 2011).

    g = g + weight_decay w
    total = total + g^2
    w = w - lr g / (sqrt(total) + eps)"""
    real = w.dtype.type
    if weight_decay:
        g = g + real(weight_decay) * w
    total += g * g
    w -= real(lr) * (g / (np.sqrt(total) + real(eps)))
