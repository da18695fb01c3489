"""Rules of optimizers: one formula for NumPy, for kernels and for the count of operations.

A formula takes what computes (`Algebra`), the numbers and flags that follow from the settings, and
weights, gradient and slots; it returns new weights and slots. Its operations and their order are
torch's; every backend keeps them, so an element has the same bits whatever it is updated together
with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol, TypeAlias

Numbers: TypeAlias = Any  # an array, or a vector of a kernel


class Algebra(Protocol):
    """What formulae need besides operators and comparisons."""

    def sqrt(self, a: Numbers) -> Numbers:
        """Return square roots."""

    def larger(self, a: Numbers, b: Numbers) -> Numbers:
        """Return a where it is larger than b, else b, also where that is a NaN."""

    def select(self, mask: Any, a: Numbers, b: Numbers) -> Numbers:
        """Return a where the mask is set, else b."""


class Step(NamedTuple):
    """One step by a rule: flags that decide which operations a formula has, numbers that it takes,
    and which slots are in use."""

    flags: tuple[bool, ...]
    numbers: tuple[float, ...]
    slots: tuple[bool, ...]


# (algebra, numbers, flags, weights, gradient, *slots in use): new weights and slots.
Formula: TypeAlias = Callable[..., Sequence[Numbers]]


class Rule(NamedTuple):
    """A rule: its formula, the names of its slots, and `step`, which makes a Step of the numbers
    that change from step to step and, by keyword, of the settings."""

    formula: Formula
    slots: tuple[str, ...]
    step: Callable[..., Step]


RULES: dict[str, Rule] = {}


def _rule(formula: Formula, *slots: str) -> Callable[[Callable[..., Step]], Callable[..., Step]]:
    def register(step: Callable[..., Step]) -> Callable[..., Step]:
        RULES[step.__name__] = Rule(formula, slots, step)
        return step

    return register


def _decayed(w: Numbers, g: Numbers, decay: Numbers, flags: Sequence[bool]) -> Any:
    """Return weights and gradient after decay of the gradient, the first flag, or of the weights,
    the second one."""
    return w * decay if flags[1] else w, g + decay * w if flags[0] else g


def _averages(c: Sequence[Numbers], g: Numbers, mean: Numbers, square: Numbers) -> Any:
    """Return averages of gradients and squares, with 1 - beta1, beta2, 1 - beta2."""
    first, keep, gain, *_ = c
    return mean + first * (g - mean), square * keep + gain * (g * g)


def _adam(
    m: Algebra, c: Sequence[Numbers], flags: Sequence[bool], w: Numbers, g: Numbers, mean: Numbers,
    square: Numbers, *largest: Numbers,
) -> Sequence[Numbers]:  # fmt: skip
    *_, scale, eps, rate, decay = c
    w, g = _decayed(w, g, decay, flags)
    mean, square = _averages(c, g, mean, square)
    largest = tuple(m.larger(old, square) for old in largest)
    root = m.sqrt(largest[0] if largest else square) * scale + eps
    return w - rate * (mean / root), mean, square, *largest


@_rule(_adam, "mean", "square", "largest")
def adam(
    lr: float, bias1: float, bias2: float, *, betas: tuple[float, float], eps: float,
    weight_decay: float = 0.0, decoupled: bool = False, amsgrad: bool = False,
) -> Step:  # fmt: skip
    """Take one step of Adam (Kingma and Ba 2015) or, with `decoupled`, of AdamW (Loshchilov and
    Hutter 2019).

        w = w (1 - lr weight_decay)  if decoupled, else g = g + weight_decay w
        mean = mean + (1 - beta1) (g - mean)
        square = beta2 square + (1 - beta2) g^2
        w = w - lr / bias1 mean / (sqrt(square) / sqrt(bias2) + eps)

    with bias1 = 1 - beta1^t and bias2 = 1 - beta2^t in step t = 1, 2, ..; `amsgrad` divides by the
    largest square so far (Reddi et al. 2018)."""
    numbers = (*_rates(betas), bias2**-0.5, eps, lr / bias1, _decay(lr, weight_decay, decoupled))
    return Step(_decays(weight_decay, decoupled), numbers, (True, True, amsgrad))


def _rates(betas: tuple[float, float]) -> tuple[float, float, float]:
    return 1 - betas[0], betas[1], 1 - betas[1]


def _decays(weight_decay: float, decoupled: bool) -> tuple[bool, bool]:
    return weight_decay != 0 and not decoupled, weight_decay != 0 and decoupled


def _decay(lr: float, weight_decay: float, decoupled: bool) -> float:
    return 1 - lr * weight_decay if decoupled else weight_decay


def _nadam(
    m: Algebra, c: Sequence[Numbers], flags: Sequence[bool], w: Numbers, g: Numbers, mean: Numbers,
    square: Numbers,
) -> Sequence[Numbers]:  # fmt: skip
    *_, scale, eps, rate, ahead, decay = c
    w, g = _decayed(w, g, decay, flags)
    mean, square = _averages(c, g, mean, square)
    root = m.sqrt(square) * scale + eps
    return w - rate * (g / root) - ahead * (mean / root), mean, square


@_rule(_nadam, "mean", "square")
def nadam(
    lr: float, rate: float, ahead: float, bias2: float, *, betas: tuple[float, float], eps: float,
    weight_decay: float = 0.0, decoupled: bool = False,
) -> Step:  # fmt: skip
    """Take one step of Adam with Nesterov's momentum (Dozat 2016): averages and decay of adam, and

    w = w - lr (rate g + ahead mean) / (sqrt(square) / sqrt(bias2) + eps)"""
    decay = _decay(lr, weight_decay, decoupled)
    numbers = (*_rates(betas), bias2**-0.5, eps, lr * rate, lr * ahead, decay)
    return Step(_decays(weight_decay, decoupled), numbers, (True, True))


def _adamax(
    m: Algebra, c: Sequence[Numbers], flags: Sequence[bool], w: Numbers, g: Numbers, mean: Numbers,
    largest: Numbers,
) -> Sequence[Numbers]:  # fmt: skip
    first, keep, eps, rate, decay = c
    w, g = _decayed(w, g, decay, flags)
    mean = mean + first * (g - mean)
    largest = m.larger(largest * keep, m.select(g > 0.0, g, 0.0 - g) + eps)
    return w - rate * (mean / largest), mean, largest


@_rule(_adamax, "mean", "largest")
def adamax(
    lr: float, bias1: float, *, betas: tuple[float, float], eps: float, weight_decay: float = 0.0
) -> Step:
    """Take one step of Adamax (Kingma and Ba 2015); `mean` and `bias1` are those of adam.

    g = g + weight_decay w
    largest = max(beta2 largest, |g| + eps)
    w = w - lr / bias1 mean / largest"""
    numbers = (1 - betas[0], betas[1], eps, lr / bias1, weight_decay)
    return Step((weight_decay != 0, False), numbers, (True, True))


def _rmsprop(
    m: Algebra, c: Sequence[Numbers], flags: Sequence[bool], w: Numbers, g: Numbers,
    square: Numbers, *others: Numbers,
) -> Sequence[Numbers]:  # fmt: skip
    keep, gain, eps, rate, momentum, decay = c
    *_, centered, moves = flags
    w, g = _decayed(w, g, decay, flags)
    variance = square = square * keep + gain * (g * g)
    new = [square]
    if centered:
        mean = others[0] + gain * (g - others[0])
        variance = m.larger(0.0, square - mean * mean)  # rounding may bring it below
        new.append(mean)
    g = g / (m.sqrt(variance) + eps)
    if moves:
        g = others[-1] * momentum + g
        new.append(g)
    return w - rate * g, *new


@_rule(_rmsprop, "square", "mean", "velocity")
def rmsprop(
    lr: float, *, alpha: float, eps: float, weight_decay: float = 0.0, momentum: float = 0.0,
    centered: bool = False,
) -> Step:  # fmt: skip
    """Take one step of RMSprop (Tieleman and Hinton 2012), `centered` after Graves (2013).

    g = g + weight_decay w
    square = alpha square + (1 - alpha) g^2
    mean = mean + (1 - alpha) (g - mean)  if centered, else 0
    g = g / (sqrt(max(square - mean^2, 0)) + eps)
    velocity = momentum velocity + g  with momentum, else g
    w = w - lr velocity"""
    moves = momentum != 0
    flags = weight_decay != 0, False, centered, moves
    return Step(flags, (alpha, 1 - alpha, eps, lr, momentum, weight_decay), (True, centered, moves))


def _adagrad(
    m: Algebra, c: Sequence[Numbers], flags: Sequence[bool], w: Numbers, g: Numbers, total: Numbers
) -> Sequence[Numbers]:
    eps, rate, decay = c
    w, g = _decayed(w, g, decay, flags)
    total = total + g * g
    return w - rate * (g / (m.sqrt(total) + eps)), total


@_rule(_adagrad, "total")
def adagrad(lr: float, *, eps: float, weight_decay: float = 0.0) -> Step:
    """Take one step of Adagrad (Duchi et al. 2011).

    g = g + weight_decay w
    total = total + g^2
    w = w - lr g / (sqrt(total) + eps)"""
    return Step((weight_decay != 0, False), (eps, lr, weight_decay), (True,))


def _adadelta(
    m: Algebra, c: Sequence[Numbers], flags: Sequence[bool], w: Numbers, g: Numbers,
    square: Numbers, change: Numbers,
) -> Sequence[Numbers]:  # fmt: skip
    keep, gain, eps, rate, decay = c
    w, g = _decayed(w, g, decay, flags)
    square = square * keep + gain * (g * g)
    step = m.sqrt(change + eps) / m.sqrt(square + eps) * g
    return w - rate * step, square, change * keep + gain * (step * step)


@_rule(_adadelta, "square", "change")
def adadelta(lr: float, *, rho: float, eps: float, weight_decay: float = 0.0) -> Step:
    """Take one step of Adadelta (Zeiler 2012).

    g = g + weight_decay w
    square = rho square + (1 - rho) g^2
    step = sqrt(change + eps) / sqrt(square + eps) g
    change = rho change + (1 - rho) step^2
    w = w - lr step"""
    return Step((weight_decay != 0, False), (rho, 1 - rho, eps, lr, weight_decay), (True, True))


def _asgd(
    m: Algebra, c: Sequence[Numbers], flags: Sequence[bool], w: Numbers, g: Numbers, mean: Numbers
) -> Sequence[Numbers]:
    keep, rate, share, decay = c
    w, g = _decayed(w, g, decay, flags)
    w = w * keep - rate * g
    return w, mean + share * (w - mean) if flags[-1] else w


@_rule(_asgd, "mean")
def asgd(
    lr: float, share: float, *, lambd: float, weight_decay: float = 0.0, averages: bool = False
) -> Step:
    """Take one step of averaged gradient descent (Polyak and Juditsky 1992).

    g = g + weight_decay w
    w = w (1 - lambd lr) - lr g
    mean = mean + share (w - mean)  if it averages, else w"""
    numbers = (1 - lambd * lr, lr, share, weight_decay)
    return Step((weight_decay != 0, False, averages), numbers, (True,))


def _rprop(
    m: Algebra, c: Sequence[Numbers], flags: Sequence[bool], w: Numbers, g: Numbers,
    before: Numbers, size: Numbers,
) -> Sequence[Numbers]:  # fmt: skip
    less, more, least, most, start = c
    turn = g * before
    turns = turn < 0.0
    factor = m.select(turn > 0.0, more, m.select(turns, less, 1.0))
    size = m.larger((start if flags[0] else size) * factor, least)
    size = m.select(size > most, most, size)
    g = m.select(turns, 0.0, g)
    return w - m.select(g > 0.0, size, m.select(g < 0.0, 0.0 - size, 0.0)), g, size


@_rule(_rprop, "before", "size")
def rprop(
    lr: float, *, etas: tuple[float, float], step_sizes: tuple[float, float], first: bool = False
) -> Step:
    """Take one step of Rprop (Riedmiller and Braun 1993): each weight has a step size, which is
    `lr` at first, grows where the gradient keeps its sign and falls where it turns.

    g = 0 where g before < 0
    size = size etas[1] where g before > 0, size etas[0] where it is < 0, within `step_sizes`
    w = w - size sign(g)
    before = g"""
    return Step((first,), (*etas, *step_sizes, lr), (True, True))


def lars(
    c: Sequence[Numbers], flags: Sequence[bool], w: Numbers, g: Numbers, velocity: Numbers
) -> tuple[Numbers, Numbers]:
    """Return weights and velocity after a step of LARS. Numbers: momentum, the rate by norms, lr,
    decay; flags: decay, rate."""
    keep, rate, lr, decay = c
    decays, adapts = flags
    d = g + decay * w if decays else g
    velocity = velocity * keep + (rate * d if adapts else d)
    return w - lr * velocity, velocity


def lars_rate(
    weight: float, gradient: float, weight_decay: float, trust_coefficient: float, eps: float
) -> float:
    """Return the rate of LARS by the norms of weights and gradient, 1 where one is 0."""
    if not (weight and gradient):
        return 1.0
    return trust_coefficient * weight / (gradient + weight_decay * weight + eps)


def lamb_numbers(
    bias1: float, bias2: float, betas: tuple[float, float], eps: float, weight_decay: float
) -> tuple[float, ...]:
    """Return the numbers that `lamb_averages` and `lamb_step` take."""
    return (*_rates(betas), bias2**-0.5, eps, 1 / bias1, weight_decay)


lamb_averages = _averages


def lamb_step(
    m: Algebra, c: Sequence[Numbers], decays: bool, w: Numbers, mean: Numbers, square: Numbers
) -> Numbers:
    """Return the step of LAMB before it is scaled."""
    *_, scale, eps, unbiased, decay = c
    step = unbiased * mean / (m.sqrt(square) * scale + eps)
    return step + decay * w if decays else step


def lamb_rate(weight: float, step: float) -> float:
    """Return the rate of LAMB by the norms of weights and step, 1 where one is 0."""
    return weight / step if weight and step else 1.0


def muon_step(
    c: Sequence[Numbers], nesterov: bool, g: Numbers, mean: Numbers
) -> tuple[Numbers, Numbers]:
    """Return Muon's average, and what is to become orthogonal, by 1 - momentum and momentum."""
    gain, momentum = c
    mean = mean + gain * (g - mean)
    return mean, g + momentum * (mean - g) if nesterov else mean


def muon_weights(c: Sequence[Numbers], decays: bool, w: Numbers, step: Numbers) -> Numbers:
    """Return Muon's weights after an orthogonal step, by what decay keeps of them and the rate."""
    keep, rate = c
    return (w * keep if decays else w) - rate * step
