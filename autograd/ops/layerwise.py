"""Steps of optimizers that look at a whole parameter: LARS and LAMB at its norm, Muon at it as a
matrix.

Norms are formed in float64. Numbers that change from step to step are 0-d arrays."""

from __future__ import annotations

from .. import update_rules as rules
from ..array import NDArray, Spec
from ..ledger import Cost
from ..orthogonal import Coefficients, matrix_of, norm, orthogonalize
from ..primitive import primitive
from .moments import Arrays, blocks
from .update import fits


def _lars_cost(
    y: None, w: Spec, g: Spec, velocity: Spec, lr: Spec, *, momentum: float, weight_decay: float,
    trust_coefficient: float, eps: float, adapts: bool,
) -> Cost:  # fmt: skip
    """Cost rule of lars: two norms, the rate, decay, momentum and the step."""
    pairs = 2 + (weight_decay != 0) + 2 * adapts
    return Cost(add=pairs * w.size, mul=(pairs + adapts) * w.size)


@primitive(infer=fits, cost=_lars_cost, writes=(0, 2))
def lars(
    w: NDArray, g: NDArray, velocity: NDArray, lr: NDArray, *, momentum: float,
    weight_decay: float, trust_coefficient: float, eps: float, adapts: bool,
) -> None:  # fmt: skip
    """Take one step of LARS (You et al. 2017) on a parameter.

    rate = trust_coefficient |w| / (|g| + weight_decay |w| + eps), 1 where it does not adapt or
           a norm is 0
    velocity = momentum velocity + rate (g + weight_decay w)
    w = w - lr velocity"""
    rate = 1.0
    if adapts:
        rate = rules.lars_rate(norm(w), norm(g), weight_decay, trust_coefficient, eps)
    numbers = [w.dtype.type(x) for x in (momentum, rate, lr, weight_decay)]
    flags = weight_decay != 0, adapts
    for some, gradient, old in blocks([w, g, velocity]):
        some[...], old[...] = rules.lars(numbers, flags, some, gradient, old)


def _lamb_cost(
    y: None, w: Spec, g: Spec, mean: Spec, square: Spec, lr: Spec, bias1: Spec, bias2: Spec, *,
    betas: tuple[float, float], eps: float, weight_decay: float, adapts: bool,
) -> Cost:  # fmt: skip
    """Cost rule of lamb: the averages of Adam, decay, two norms and the step."""
    more = (weight_decay != 0) + 2 * adapts
    return Cost(add=(5 + more) * w.size, mul=(7 + more) * w.size, div=w.size, exp=w.size)


@primitive(infer=fits, cost=_lamb_cost, writes=(0, 2, 3))
def lamb(
    w: NDArray, g: NDArray, mean: NDArray, square: NDArray, lr: NDArray, bias1: NDArray,
    bias2: NDArray, *, betas: tuple[float, float], eps: float, weight_decay: float, adapts: bool,
) -> None:  # fmt: skip
    """Take one step of LAMB (You et al. 2020) on a parameter; `mean`, `square` and the biases are
    those of adam.

        r = mean / bias1 / (sqrt(square / bias2) + eps) + weight_decay w
        rate = |w| / |r|, 1 where it does not adapt or a norm is 0
        w = w - lr rate r"""
    real, algebra = w.dtype.type, Arrays(w.dtype)
    known = rules.lamb_numbers(float(bias1), float(bias2), betas, eps, weight_decay)
    numbers = [real(number) for number in known]
    mean[...], square[...] = rules.lamb_averages(numbers, g, mean, square)
    r = rules.lamb_step(algebra, numbers, weight_decay != 0, w, mean, square)
    rate = rules.lamb_rate(norm(w), norm(r)) if adapts else 1.0
    w -= real(float(lr) * rate) * r


def _muon_cost(
    y: None, w: Spec, g: Spec, mean: Spec, lr: Spec, *, momentum: float, nesterov: bool,
    weight_decay: float, ns_coefficients: Coefficients, ns_steps: int, eps: float, scale: float,
) -> Cost:  # fmt: skip
    """Cost rule of muon: products are counted as multiplications and additions, as MACs are those
    of the model."""
    low, high = sorted(matrix_of(w.shape))
    products = ns_steps * (2 * low * low * high + low**3)
    squares, decays, looks = ns_steps * low * low, weight_decay != 0, bool(nesterov)
    return Cost(
        add=products + squares + (3 + 2 * looks + ns_steps + 1) * w.size,
        mul=products + 2 * squares + (3 + looks + ns_steps + 1 + decays) * w.size,
        div=w.size,
    )


@primitive(infer=fits, cost=_muon_cost, writes=(0, 2))
def muon(
    w: NDArray, g: NDArray, mean: NDArray, lr: NDArray, *, momentum: float, nesterov: bool,
    weight_decay: float, ns_coefficients: Coefficients, ns_steps: int, eps: float, scale: float,
) -> None:  # fmt: skip
    """Take one step of Muon (Jordan et al. 2024) on a matrix or a bank of filters.

        mean = mean + (1 - momentum) (g - mean)
        d = g + momentum (mean - g)  with nesterov, else d = mean
        w = w (1 - lr weight_decay) - lr scale orthogonal(d)

    where the singular values of `orthogonal(d)` are near 1 (`orthogonalize`)."""
    real, matrix = w.dtype.type, matrix_of(w.shape)
    mean[...], step = rules.muon_step((real(1 - momentum), real(momentum)), nesterov, g, mean)
    step = orthogonalize(step.reshape(matrix), ns_steps, eps, ns_coefficients).reshape(w.shape)
    numbers = real(1 - float(lr) * weight_decay), real(float(lr) * scale)
    w[...] = rules.muon_weights(numbers, weight_decay != 0, w, step)
