"""Connectionist temporal classification (Graves et al. 2006), in logarithms.

A path emits one class a step. It spells the target where repeated classes are merged and blanks
removed, so it walks through the extended target (blank, first label, blank, .., last label,
blank): in each step it stays, moves on by one, or passes over a blank between labels that differ.
`alpha` (T, N, L) sums the probabilities of the paths up to a step, `beta` of those from it on."""

from __future__ import annotations

from typing import Any, NamedTuple, TypeAlias

import numpy as np

from ..array import NDArray, Spec
from ..dtypes import is_floating, is_integer
from ..ledger import Cost
from ..primitive import Value, primitive

Lengths: TypeAlias = tuple[NDArray, NDArray]  # of inputs and targets


class _Paths(NamedTuple):
    """Extended targets (N, L): their classes, and where a path may pass over a blank.

    `at` and `end` are the number of steps and of the last state of each sample."""

    labels: NDArray
    skips: NDArray
    steps: NDArray
    end: NDArray


def _paths(shape: tuple[int, ...], target: NDArray, lengths: Lengths, blank: int) -> _Paths:
    """Return what paths may be. ValueError for lengths, IndexError for labels out of range."""
    for name, length, most in (
        ("input", lengths[0], shape[0]),
        ("target", lengths[1], target.shape[1]),
    ):
        wrong = length[(length < 0) | (length > most)]
        if wrong.size:
            raise ValueError(f"ctc_loss: expected {name}_lengths in [0, {most}], got {wrong[0]}")
    real = np.arange(target.shape[1]) < lengths[1][:, None]
    wrong = target[real & ((target < 0) | (target >= shape[2]))]
    if wrong.size:
        raise IndexError(f"ctc_loss: expected labels in [0, {shape[2]}), got {wrong[0]}")
    labels = np.full((shape[1], 2 * target.shape[1] + 1), blank)
    labels[:, 1::2] = np.where(real, target, blank)
    skips = np.zeros(labels.shape, bool)
    skips[:, 2:] = labels[:, 2:] != labels[:, :-2]  # blanks are equal
    return _Paths(labels, skips, lengths[0], 2 * lengths[1])


def _sum_of_moves(state: NDArray, skips: NDArray) -> NDArray:
    """Return for each state the sum over those from which a path gets there in a step."""
    y = state.copy()
    y[:, 1:] = np.logaddexp(y[:, 1:], state[:, :-1])
    passed = np.where(skips[:, 2:], state[:, :-2], -np.inf)
    y[:, 2:] = np.logaddexp(y[:, 2:], passed)
    return y


def _emitted(x: NDArray, paths: _Paths) -> NDArray:
    """Return the log-probabilities of the classes of all states, (T, N, L)."""
    return np.take_along_axis(x, np.broadcast_to(paths.labels, (len(x), *paths.labels.shape)), 2)


def _forward(emitted: NDArray, paths: _Paths) -> NDArray:
    """Return alpha; from a sample's last step on, it stays as it is."""
    alpha = np.empty_like(emitted)
    before = np.full_like(emitted[0], -np.inf)
    before[:, 0] = 0  # from which a path moves to one of the first two states
    for t in range(len(emitted)):
        moved = _sum_of_moves(before, paths.skips) + emitted[t]
        alpha[t] = before = np.where((t < paths.steps)[:, None], moved, before)
    return alpha


def _ends(paths: _Paths, dtype: Any) -> NDArray:
    """Return 0 for the states in which a path may end, -inf for others: the last label and the
    blank behind it."""
    state = np.arange(paths.labels.shape[1])
    last = (state == paths.end[:, None]) | (state == paths.end[:, None] - 1)
    return np.where(last, dtype.type(0), dtype.type(-np.inf))


def _backward(emitted: NDArray, paths: _Paths) -> NDArray:
    """Return beta: alpha of the reversed paths; -inf behind a sample's last step."""
    beta = np.full_like(emitted, -np.inf)
    ends = _ends(paths, emitted.dtype)
    # A path passes over the same blank in either direction, between the same two labels.
    skips = np.zeros_like(paths.skips)
    skips[:, 2:] = paths.skips[:, :1:-1]
    for t in reversed(range(len(emitted))):
        after = beta[(t + 1) % len(beta)]  # of the last step, any: it is not used
        moved = _sum_of_moves(after[:, ::-1], skips)[:, ::-1]
        moved = np.where((paths.steps == t + 1)[:, None], ends, moved) + emitted[t]
        beta[t] = np.where((paths.steps > t)[:, None], moved, -np.inf)
    return beta


def _shapes(
    x: Spec, target: Spec, input_lengths: Spec, target_lengths: Spec, *, blank: int, finite: bool
) -> tuple[Spec, Spec]:
    """Shape rule of ctc_loss: the loss of each sample, and alpha."""
    integers = (target, input_lengths, target_lengths)
    if not is_floating(x.dtype) or not all(is_integer(s.dtype) for s in integers):
        kinds = ", ".join(str(s.dtype) for s in (x, *integers))
        raise TypeError(f"expected log-probabilities and three of integers, got {kinds}")
    if len(x.shape) != 3 or not x.shape[0]:
        raise ValueError(f"expected log_probs (T, N, C) with T > 0, got {x.shape}")
    n = x.shape[1]
    shapes = [s.shape for s in integers]
    if len(target.shape) != 2 or shapes != [(n, target.shape[1]), (n,), (n,)]:
        raise ValueError(f"expected targets ({n}, S) and lengths ({n},), got {shapes}")
    if not 0 <= blank < x.shape[2]:
        raise ValueError(f"expected blank in [0, {x.shape[2]}), got {blank}")
    return Spec((n,), x.dtype), Spec((*x.shape[:2], 2 * target.shape[1] + 1), x.dtype)


def _cost(y: tuple[Spec, ...], *specs: Spec, **attrs: Any) -> Cost:
    """Cost rule of one direction: two sums of logarithms in each state of each step."""
    return Cost(exp=4 * y[1].size, add=5 * y[1].size, cmp=2 * y[1].size)


@primitive(infer=_shapes, cost=_cost, outputs=("loss", "alpha"))
def ctc_loss(
    x: NDArray, target: NDArray, input_lengths: NDArray, target_lengths: NDArray, *, blank: int,
    finite: bool,
) -> tuple[NDArray, NDArray]:  # fmt: skip
    """Return - the logarithm of the probability of each target (N,), and alpha (T, N, L).

    x (T, N, C) are log-probabilities, target (N, S). A loss of a target that no path spells is
    infinite, or 0 if `finite`."""
    paths = _paths(x.shape, target, (input_lengths, target_lengths), blank)
    alpha = _forward(_emitted(x, paths), paths)
    loss = -np.logaddexp.reduce(alpha[-1] + _ends(paths, x.dtype), 1)
    if finite:
        loss = np.where(np.isinf(loss), x.dtype.type(0), loss)
    return np.asarray(loss), alpha


@ctc_loss.vjp("x")
def _(
    dloss: Value, x: Value, target: Value, input_lengths: Value, target_lengths: Value,
    alpha: Value, blank: int, finite: bool,
) -> Value:  # fmt: skip
    rest = (target, input_lengths, target_lengths, alpha)
    return ctc_loss_dx(dloss, x, *rest, blank=blank, finite=finite)


@primitive(
    infer=lambda dloss, x, *specs, blank, finite: x,
    cost=lambda dx, dloss, x, target, i, t, alpha, **a: Cost(
        exp=5 * alpha.size, add=8 * alpha.size, cmp=2 * alpha.size, mul=alpha.size
    ),
    outputs=("dx",),
)
def ctc_loss_dx(
    dloss: NDArray, x: NDArray, target: NDArray, input_lengths: NDArray, target_lengths: NDArray,
    alpha: NDArray, *, blank: int, finite: bool,
) -> NDArray:  # fmt: skip
    """Return dx: - dloss times the probability, given the target, that a path is in the class."""
    paths = _paths(x.shape, target, (input_lengths, target_lengths), blank)
    emitted = _emitted(x, paths)
    whole = np.logaddexp.reduce(alpha[-1] + _ends(paths, x.dtype), 1)[:, None]
    joint = alpha + _backward(emitted, paths)  # which both count what is emitted
    np.subtract(joint, emitted, out=joint, where=joint > -np.inf)
    with np.errstate(invalid="ignore"):  # of a target that no path spells: not a number
        share = np.exp(joint - whole) * -dloss[:, None]
    if finite:
        share = np.where(np.isinf(whole), x.dtype.type(0), share)
    share = np.where((np.arange(len(x))[:, None] < paths.steps)[..., None], share, 0)
    dx = np.zeros_like(x)
    steps, samples = np.ogrid[: x.shape[0], : x.shape[1]]
    np.add.at(dx, (steps[..., None], samples[..., None], paths.labels), share)
    return dx
