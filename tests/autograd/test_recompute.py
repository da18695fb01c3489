"""Recomputation: `checkpoint` gives what the function gives, and keeps less."""

from __future__ import annotations

import numpy as np
import pytest

import tallygrad.autograd as ag
from tallygrad.autograd import context


def leaf(*numbers: float) -> ag.Tensor:
    return ag.tensor(np.array(numbers), requires_grad=True)


def segment(x: ag.Tensor, w: ag.Tensor) -> ag.Tensor:
    return (x * w).exp() * w


def test_checkpoint_gives_the_same_gradients_and_the_ledger_shows_both_runs() -> None:
    found, phases = [], []
    for wrap in (lambda f, *a: f(*a), ag.checkpoint):
        x, w = leaf(0.5, 1.0), leaf(2.0, 3.0)
        ready: list[int] = []
        w.post_grad_hooks.append(lambda t, ready=ready: ready.append(1))
        with context.using(ledger=ag.Ledger()) as state:
            y = wrap(segment, x * 1.0, w) + wrap(lambda h, w=w: h * w, x)
            y.sum().backward()
        exps = sum(r.calls for r in state.ledger if r.key.primitive == "exp")
        found.append((x.grad.numpy(), w.grad.numpy(), exps, ready))
        phases.append({p: cost.exp for p, cost in state.ledger.by("phase").items() if cost.exp})
    (dx, dw, once, ready), (cx, cw, twice, again) = found
    np.testing.assert_allclose(cx, dx, rtol=1e-15)
    np.testing.assert_allclose(cw, dw, rtol=1e-15)
    assert (once, twice, ready, again) == (1, 2, [1], [1])
    assert phases == [{"forward": 2}, {"forward": 2, "recompute": 2}]


def test_checkpoint_stashes_only_its_inputs() -> None:
    def deep(x: ag.Tensor) -> ag.Tensor:
        for _ in range(10):
            x = x.exp()
        return x

    def stashed(call: object) -> int:
        x = ag.tensor(np.full(8, -3.0), requires_grad=True)
        with context.using(ledger=ag.Ledger()) as state:
            y = call(x * 1.0)  # type: ignore[operator]
            held = sum(state.ledger.stashed.values())
            y.sum().backward()
        return held

    assert stashed(deep) == 8 + 10 * 64
    assert stashed(lambda x: ag.checkpoint(deep, x)) == 8 + 64


def test_checkpoint_may_read_tensors_besides_its_arguments() -> None:
    def through(call: object) -> tuple[object, ...]:
        w, x = leaf(2.0), leaf(3.0)
        h = w * w
        y = call(lambda t: t * h, x) + call(lambda pair: pair[0] * pair[1], (h, x))  # type: ignore
        y = y + call(lambda t: t * h * w, x)  # type: ignore[operator]
        y = y + call(lambda t: (t, h * t), x)[1]  # type: ignore[operator]
        y.backward()
        return w.grad.item(), x.grad.item()

    expected = through(lambda f, *a: f(*a))
    assert through(ag.checkpoint) == expected == (3 * 12.0 + 36.0, 3 * 4.0 + 8.0)


def test_options_and_results_without_a_gradient() -> None:
    x = leaf(1.0, -2.0)
    y, positive = ag.checkpoint(lambda t, by: (t * by, t > 0), x, by=3.0)
    assert positive.is_leaf and positive.tolist() == [True, False]
    y.sum().backward()
    assert x.grad.tolist() == [3.0, 3.0]


def test_checkpoints_within_checkpoints() -> None:
    w, x = leaf(2.0), leaf(3.0)

    def inner(t: ag.Tensor) -> ag.Tensor:
        return ag.checkpoint(lambda u: u * w * u, t) * w

    ag.checkpoint(inner, x).backward()
    assert (x.grad.item(), w.grad.item()) == (2 * 3.0 * 4.0, 9.0 * 4.0)


def test_a_long_chain_of_checkpoints_is_swept_once_each() -> None:
    x = leaf(1.0)
    y = x
    for _ in range(2000):
        y = ag.checkpoint(lambda h: h * 1.0, y)
    assert len(y.source[0].sources) == 1
    y.backward()
    assert x.grad.item() == 1.0


def test_checkpoint_draws_the_same_dropout_again() -> None:
    x = ag.ones(4000, 1, requires_grad=True)
    y = ag.checkpoint(lambda t: ag.dropout(ag.dropout(t, 0.5), 0.5), x)
    after = ag.rand(3).tolist()
    y.sum().backward()
    np.testing.assert_array_equal(y.numpy(), x.grad.numpy())
    assert 0 < (y.numpy() == 0).mean() < 1 and after != ag.rand(3).tolist()
    with ag.random.keyed(np.arange(4000), seed=1, step=2):
        x.grad = None
        y = ag.checkpoint(lambda t: ag.dropout(t, 0.5), x)
    y.sum().backward()
    np.testing.assert_array_equal(y.numpy(), x.grad.numpy())


def test_checkpoint_refuses_gradients_of_gradients() -> None:
    x = leaf(1.0)
    with pytest.raises(RuntimeError, match="checkpoint: gradients of gradients"):
        ag.grad(ag.checkpoint(lambda t: t * t, x), x, create_graph=True)
