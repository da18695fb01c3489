"""Kernels of recurrent layers over whole sequences: equal to the NumPy references on every target,
for sizes that fill no tile or vector, nowhere outside of their arrays, with any number of
threads."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

pytest.importorskip("llvmlite")

import tallygrad.autograd as ag
from tallygrad.autograd import context, get_num_threads, set_num_threads
from tallygrad.autograd.array import Spec
from tallygrad.autograd.backends.llvm import registry
from tallygrad.autograd.backends.llvm.compiler.isa import targets
from tallygrad.autograd.backends.llvm.plans import recurrent as recurrent_sequence
from tallygrad.autograd.backends.llvm.runtime import layout, memory
from tallygrad.autograd.ops import recurrent
from tallygrad.autograd.ops import recurrent_sequence as ops
from tallygrad.autograd.ops.gru import gru_dw, gru_sequence, gru_sequence_dx, gru_states
from tallygrad.autograd.ops.sequence_weights import sequence_dw
from tallygrad.autograd.primitive import Primitive

# Steps, rows and units: single ones, tiles and vectors and what is left over, and panels of weights
# that are cut.
SIZES = [(1, 1, 1), (3, 7, 5), (4, 13, 70), (3, 2, 130)]


@pytest.fixture(params=targets.available())
def target(request: pytest.FixtureRequest) -> targets.Target:
    return targets.target(request.param)


@pytest.fixture
def guards(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[np.ndarray]]:
    """Let results lie between canaries, and hold that they are alive in the end."""
    made: list[np.ndarray] = []

    def empty(shape: tuple[int, ...], dtype: np.dtype[Any], lasting: bool = False) -> np.ndarray:
        size = int(np.prod(shape))
        made.append(np.full(size + 64, 7.25, dtype))
        return made[-1][32 : 32 + size].reshape(shape)

    monkeypatch.setattr(memory, "empty", empty)
    yield made
    assert made
    for x in made:
        assert (x[:32] == 7.25).all() and (x[-32:] == 7.25).all()


def numbers(dtype: str, *shape: int, seed: int = 0) -> np.ndarray:
    drawn = np.random.default_rng((seed, *shape)).standard_normal(shape)
    return np.asarray(drawn * 0.5, dtype)


def inputs(dtype: str, t: int, n: int, i: int) -> np.ndarray:
    """Return inputs (T, N, I) which, for some sizes, lie as (N, T, I)."""
    return numbers(dtype, n, t, i).transpose(1, 0, 2) if t == 3 else numbers(dtype, t, n, i)


def check(target: targets.Target, p: Primitive, *xs: np.ndarray, **attrs: Any) -> Any:
    """Hold a kernel against its reference; return the results."""
    run = registry.find(target, p.name, tuple(Spec(x.shape, x.dtype) for x in xs), attrs)
    assert run is not None
    before = [x.copy() for x in xs]
    wanted, got = p.reference(*xs, **attrs), run(*xs)
    for a, b in zip(*[y if isinstance(y, tuple) else (y,) for y in (got, wanted)], strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        bound = 64 * np.finfo(b.dtype).eps * max(1.0, np.abs(b).max())
        np.testing.assert_allclose(a, b, rtol=0, atol=bound)
    for x, old in zip(xs, before, strict=True):
        np.testing.assert_array_equal(x, old)
    return wanted


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("size", SIZES)
def test_lstm(
    size: tuple[int, int, int], dtype: str, target: targets.Target, guards: list[np.ndarray]
) -> None:
    t, n, h = size
    backwards = h % 2 == 0
    state, cell, w = (numbers(dtype, *s) for s in ((n, h), (n, h), (4 * h, h)))
    i = h // 2 + 1
    given = inputs(dtype, t, n, i), numbers(dtype, 4 * h, i), numbers(dtype, 4 * h), state, cell, w
    hs, _, _, cells, acts = check(target, ops.lstm_sequence, *given, backwards=backwards)
    check(target, ops.lstm_states, *given, backwards=backwards)
    dys = numbers(dtype, t, n, h), numbers(dtype, n, h, seed=1), numbers(dtype, n, h, seed=2)
    for there in ((True, True, True), (False, True, False), (True, False, True)):
        some = [dy for dy, flag in zip(dys, there, strict=True) if flag]
        kept = acts, cells, cell, w, *some
        dgates, _ = check(target, ops.lstm_sequence_dx, *kept, present=there, backwards=backwards)
    check(target, sequence_dw, dgates, given[0], hs, state, backwards=backwards)


@pytest.mark.parametrize(("size", "dtype"), [(SIZES[0], "float64"), (SIZES[2], "float32")])
def test_gru(
    size: tuple[int, int, int], dtype: str, target: targets.Target, guards: list[np.ndarray]
) -> None:
    t, n, h = size
    way = {"backwards": h % 2 == 0}
    i, state, w = h // 2 + 1, numbers(dtype, n, h), numbers(dtype, 3 * h, h)
    given = inputs(dtype, t, n, i), numbers(dtype, 3 * h, i), numbers(dtype, 3 * h), state, w
    given += (numbers(dtype, 3 * h, seed=1),)
    hs, _, acts = check(target, gru_sequence, *given, **way)
    check(target, gru_states, *given, **way)
    dys = numbers(dtype, t, n, h, seed=1), numbers(dtype, n, h, seed=2)
    for there in ((True, True), (False, True), (True, False)):
        some = [dy for dy, flag in zip(dys, there, strict=True) if flag]
        kept = acts, hs, state, w, *some
        back = check(target, gru_sequence_dx, *kept, present=there, **way)
    check(target, gru_dw, *back[:2], given[0], hs, state, **way)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("nonlinearity", ["tanh", "relu"])
@pytest.mark.parametrize("size", SIZES)
def test_rnn(
    size: tuple[int, int, int], nonlinearity: str, dtype: str, target: targets.Target,
    guards: list[np.ndarray],
) -> None:  # fmt: skip
    t, n, h = size
    options = {"nonlinearity": nonlinearity, "backwards": nonlinearity == "tanh"}
    state, w = numbers(dtype, n, h), numbers(dtype, h, h) / max(1, h / 20)
    given = inputs(dtype, t, n, 3), numbers(dtype, h, 3), numbers(dtype, h), state, w
    hs, _ = check(target, ops.rnn_sequence, *given, **options)
    dys = numbers(dtype, t, n, h, seed=1), numbers(dtype, n, h, seed=2)
    for there in ((True, True), (False, True), (True, False)):
        some = [dy for dy, flag in zip(dys, there, strict=True) if flag]
        check(target, ops.rnn_sequence_dx, hs, w, *some, present=there, **options)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("nonlinearity", ["tanh", "relu"])
def test_rnn_cell(
    nonlinearity: str, dtype: str, target: targets.Target, guards: list[np.ndarray]
) -> None:
    for shape in ((1,), (3, 5), (9, 37)):
        x, h = numbers(dtype, *shape), numbers(dtype, *shape, seed=1)
        check(target, recurrent.rnn_cell, x, h, nonlinearity=nonlinearity)


def step(*kinds: tuple[Any, int]) -> list[np.ndarray]:
    """Return results and gradients of networks, by default an LSTM and an Elman network, given by
    function and gates; inputs lie both ways."""
    x = ag.tensor(numbers("float32", 4, 50, 9), requires_grad=True)
    found = []
    with context.using(backend="llvm"):
        for run, gates in kinds or ((ag.lstm, 4), (ag.rnn_tanh, 1)):
            shapes = (gates * 40, 9), (gates * 40, 40), (gates * 40,), (gates * 40,)
            params = [ag.tensor(numbers("float32", *s), requires_grad=True) for s in shapes]
            for first in (False, True):
                y, _ = run(x, None, params, batch_first=first)
                square = y * y  # whose gradient lies as y does
                found += [y, *ag.grad(square, [x, *params], square.detach())]
    return [t.numpy() for t in found]


def test_threads_give_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    before, kinds = get_num_threads(), ((ag.lstm, 4), (ag.gru, 3), (ag.rnn_tanh, 1))
    expected = step(*kinds)
    monkeypatch.setattr(recurrent_sequence, "WORTHWHILE", 0)
    try:
        for count in (1, 2, 3, 7):
            set_num_threads(count)
            for a, b in zip(step(*kinds), expected, strict=True):
                np.testing.assert_array_equal(a, b)
    finally:
        set_num_threads(before)


def test_a_steady_step_moves_nothing_and_takes_no_memory() -> None:
    for _ in range(3):
        step()
    before = memory.pool.held, layout.layout_stats.copies
    for _ in range(3):
        step()
    assert (memory.pool.held, layout.layout_stats.copies) == before


def test_panels_begin_with_a_cache_line() -> None:
    """A vector that lies in two lines costs two loads: a seventh of the time of a layer's pass."""
    states = Spec((2, 3, 40), np.dtype("f"))
    plans = [
        recurrent_sequence._SequencePlan(targets.target(), "lstm", states, False, 0)
        for _ in range(9)
    ]
    for plan in plans:  # of which memory from anywhere would hardly all begin so
        w_ih, w = numbers("float32", 160, 5), numbers("float32", 160, 40)
        for panels in (plan.panels(5)(w_ih, w), plan.panels_back()(w)):
            assert layout.address(panels) % memory.ALIGNED == 0


def test_without_a_tape_the_same_bits_come_out() -> None:
    x = ag.tensor(numbers("float32", 5, 7, 4))
    params = [ag.tensor(numbers("float32", *s), requires_grad=True) for s in ((36, 4), (36, 9))]
    with context.using(backend="llvm", ledger=ag.Ledger()) as state:
        y, (h, c) = ag.lstm(x, None, params)
        with ag.no_grad():
            z, (g, d) = ag.lstm(x, None, params)
    for a, b in ((y, z), (h, g), (c, d)):
        np.testing.assert_array_equal(a.numpy(), b.numpy())
    booked = {(key[2], key[3]) for key in state.ledger.calls}
    assert {("lstm_sequence", "llvm"), ("lstm_states", "llvm")} <= booked
