"""Recurrent layers of bfloat16 by tiles, beside NumPy: a state is rounded in each step before it is
multiplied."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("llvmlite", reason="llvmlite is not installed")
pytest.importorskip("ml_dtypes", reason="ml_dtypes is not installed")

import tallygrad.autograd as ag
from tallygrad.autograd import context, get_num_threads, nn, set_num_threads
from tallygrad.autograd.array import Array, Spec, array
from tallygrad.autograd.backends.llvm.compiler.isa import amx, targets
from tallygrad.autograd.backends.llvm.plans import recurrent_tiles
from tallygrad.autograd.backends.llvm.registry import find_tiled
from tallygrad.autograd.dtypes import FLOAT32, bfloat16
from tallygrad.autograd.ops.gru import gru_dw, gru_sequence, gru_sequence_dx, gru_states
from tallygrad.autograd.ops.recurrent_sequence import (
    lstm_sequence,
    lstm_sequence_dx,
    lstm_states,
    rnn_sequence,
    rnn_sequence_dx,
)
from tallygrad.autograd.ops.sequence_weights import sequence_dw

if "avx512" not in targets.available():
    pytest.skip("tiles are emulated with AVX-512", allow_module_level=True)

BF16 = bfloat16()
BACKENDS = ["llvm:tiles=emulated"]
if "+avx512bf16" in targets.target().features.split(","):
    BACKENDS.append("llvm:tiles=dot")
if amx.permitted():
    BACKENDS.append("llvm:tiles=amx")
# Steps, rows, inputs, units, back to front: whole tiles, and rows and inputs that fill none.
CASES = [
    (3, 32, 32, 32, False), (4, 45, 5, 64, True), (1, 9, 40, 32, False), (2, 70, 1, 32, True),
    (2, 45, 5, 256, False),
]  # fmt: skip
# Of GRUs alone: units, or rows, of which tiles take the products of all steps, but no steps.
OUTSIDE = [(4, 45, 33, 100, True), (2, 45, 40, 100, False), (16, 4, 40, 64, False)]

TOGETHER = [
    *((BACKENDS[0], case) for case in CASES),
    *(pytest.param(name, CASES[1], marks=pytest.mark.slow) for name in BACKENDS[1:]),
]


def draw(rng: np.random.Generator, *shape: int, scale: float = 1.0) -> Array:
    return array((scale * rng.normal(size=shape)).astype(BF16))


def lstm(name: str, case: tuple[Any, ...]) -> list[Any]:
    """Return what an LSTM gives forward, in training and in inference, back, and for its weights,
    back from what NumPy gives forward."""
    steps, rows, inputs, units, backwards = case
    rng = np.random.default_rng(0)
    x = array(np.swapaxes(draw(rng, rows, steps, inputs).value, 0, 1))
    w_ih, w = (draw(rng, 4 * units, k, scale=units**-0.5) for k in (inputs, units))
    bias, h, c = draw(rng, 4 * units), draw(rng, rows, units, scale=0.5), draw(rng, rows, units)
    dhs, dlast, dcell = (
        draw(rng, steps, rows, units),
        draw(rng, rows, units),
        draw(rng, rows, units),
    )
    with context.using(backend="numpy"):
        hs, _, _, cells, acts = lstm_sequence(x, w_ih, bias, h, c, w, backwards=backwards)
    found: list[Array] = []
    with context.using(backend=name):
        found += lstm_sequence(x, w_ih, bias, h, c, w, backwards=backwards)
        found += lstm_states(x, w_ih, bias, h, c, w, backwards=backwards)
        for grads in ((dhs, dlast, dcell), (None, dlast, None), (dhs, None, None)):
            known = [g for g in grads if g is not None]
            present = tuple(g is not None for g in grads)
            found += lstm_sequence_dx(
                acts, cells, c, w, *known, present=present, backwards=backwards
            )
        found += sequence_dw(acts, x, hs, h, backwards=backwards)
        return [a.value for a in found]


def gru(name: str, case: tuple[Any, ...]) -> list[Any]:
    """Return what a GRU gives forward, in training and in inference, back, and for its weights,
    back from what NumPy gives forward."""
    steps, rows, inputs, units, backwards = case
    rng = np.random.default_rng(3)
    x = array(np.swapaxes(draw(rng, rows, steps, inputs).value, 0, 1))
    w_ih, w = (draw(rng, 3 * units, k, scale=units**-0.5) for k in (inputs, units))
    b_ih, b_hh, h = draw(rng, 3 * units), draw(rng, 3 * units), draw(rng, rows, units, scale=0.5)
    dhs, dlast = draw(rng, steps, rows, units), draw(rng, rows, units)
    given = x, w_ih, b_ih, h, w, b_hh
    with context.using(backend="numpy"):
        hs, _, acts = gru_sequence(*given, backwards=backwards)
        both = gru_sequence_dx(acts, hs, h, w, dhs, present=(True, False), backwards=backwards)
    found: list[Array] = []
    with context.using(backend=name):
        found += gru_sequence(*given, backwards=backwards)
        found += gru_states(*given, backwards=backwards)
        for grads in ((dhs, dlast), (None, dlast), (dhs, None)):
            known = [g for g in grads if g is not None]
            present = tuple(g is not None for g in grads)
            found += gru_sequence_dx(acts, hs, h, w, *known, present=present, backwards=backwards)
        found += gru_dw(*both[:2], x, hs, h, backwards=backwards)
        return [a.value for a in found]


def rnn(name: str, case: tuple[Any, ...], nonlinearity: str) -> list[Any]:
    """Return what an Elman network gives forward and back."""
    steps, rows, inputs, units, backwards = case
    rng = np.random.default_rng(1)
    x, h = draw(rng, steps, rows, inputs), draw(rng, rows, units, scale=0.5)
    w_ih, w = (draw(rng, units, k, scale=units**-0.5) for k in (inputs, units))
    bias, dhs = draw(rng, units), draw(rng, steps, rows, units)
    kind: dict[str, Any] = {"nonlinearity": nonlinearity, "backwards": backwards}
    with context.using(backend="numpy"):
        hs = rnn_sequence(x, w_ih, bias, h, w, **kind)[0]
    with context.using(backend=name):
        found = [*rnn_sequence(x, w_ih, bias, h, w, **kind)]
        found.append(rnn_sequence_dx(hs, w, dhs, present=(True, False), **kind))
        return [a.value for a in found]


def network(kind: str, units: int, pure: bool, how: str = "") -> list[Any]:
    """Return what two layers both ways give from a first state on: states in training and in
    inference, and gradients; for "packed" sequences of several lengths, or "replayed"."""
    ag.manual_seed(0)
    layers = getattr(nn, kind)(5, units, 2, bidirectional=True)
    if pure:
        layers.to("bfloat16")
    rng, rows = np.random.default_rng(0), 37
    lengths = [4] * 20 + [3] * 10 + [1] * 7
    x, h = (
        ag.tensor(rng.normal(size=shape).astype(BF16 if pure else FLOAT32))
        for shape in ((4, rows, 5), (4, rows, units))
    )

    def states(x: Any, h: Any) -> tuple[Any, Any]:
        with ag.autocast("bfloat16", enabled=not pure):
            read = nn.utils.rnn.pack_padded_sequence(x, lengths) if how == "packed" else x
            y, last = layers(read, (h, h) if kind == "LSTM" else h)
        y = y.data if how == "packed" else y
        return y, last[0] if kind == "LSTM" else last

    def step(x: Any, h: Any) -> tuple[Any, Any]:
        y, last = states(x, h)
        ((y * y).sum() + (last * last * 2.0).sum()).backward()
        return y, last

    replayed, times = how == "replayed", 3 if how == "replayed" else 1
    run = ag.trace(step, training=True) if replayed else step
    for factor in range(times, 0, -1):  # other inputs in the calls before
        layers.zero_grad()
        y, last = run(x * factor, h * factor)
    with ag.no_grad():
        infer = ag.trace(states) if replayed else states
        for factor in range(times, 0, -1):
            found = infer(x * factor, h * factor)
    grads = [p.grad for p in layers.parameters()]
    return [t.numpy() for t in (y, last, *found, *grads)]


@pytest.mark.parametrize("pure", [False, True], ids=["autocast", "pure"])
@pytest.mark.parametrize(
    ("kind", "units"), [("GRU", 32), ("GRU", 20), ("LSTM", 32), ("RNN", 32)], ids=str
)
def test_networks_are_those_of_numpy_also_replayed(kind: str, units: int, pure: bool) -> None:
    for how in ("", "packed"):
        with context.using(backend="numpy"):
            expected = network(kind, units, pure, how)
        with context.using(backend=BACKENDS[0]):
            assert_near(network(kind, units, pure, how), expected)
    with context.using(backend=BACKENDS[0]):
        found, again = (network(kind, units, pure, how) for how in ("", "replayed"))
    assert [y.tobytes() for y in found] == [y.tobytes() for y in again]


def assert_near(found: list[Any], expected: list[Any]) -> None:
    for y, right in zip(found, expected, strict=True):
        assert y.dtype == right.dtype
        assert y.shape == right.shape
        error = np.linalg.norm(y.astype(np.float64) - right.astype(np.float64))
        # Roundings to 8 bits, which add up over the steps.
        assert error <= 0.01 * np.linalg.norm(right.astype(np.float64))


@pytest.mark.parametrize(("name", "case"), TOGETHER, ids=str)
def test_an_lstm_is_that_of_numpy(name: str, case: tuple[Any, ...]) -> None:
    assert_near(lstm(name, case), lstm("numpy", case))


@pytest.mark.parametrize(
    ("name", "case"), [*TOGETHER, *((BACKENDS[0], case) for case in OUTSIDE)], ids=str
)
def test_a_gru_is_that_of_numpy(name: str, case: tuple[Any, ...]) -> None:
    assert_near(gru(name, case), gru("numpy", case))


def test_a_gru_carries_states_that_are_not_rounded() -> None:
    """Steps below half a unit of a state's last place add up: with z = 0.9997 and n = -1, the first
    is 2 (1 - z) = 0.0007, half a unit below 1 is 0.002. Rounded states would stay 1."""
    units, steps = 32, 200
    x, h = array(np.zeros((steps, 8, 1), BF16)), array(np.ones((8, units), BF16))
    w_ih, w = (array(np.zeros((3 * units, k), BF16)) for k in (1, units))
    b_ih, b_hh = np.zeros((2, 3 * units), BF16)
    b_ih[units : 2 * units], b_ih[2 * units :] = 8.0, -9.0
    given = x, w_ih, array(b_ih), h, w, array(b_hh)
    with context.using(backend=BACKENDS[0]):
        last = gru_states(*given, backwards=False)[1].value.astype(np.float64)
    wanted = 2 * (1 / (1 + np.exp(-8.0))) ** steps - 1
    np.testing.assert_allclose(last, wanted, atol=2**-8)


@pytest.mark.parametrize(("nonlinearity", "case"), [("tanh", CASES[1]), ("relu", CASES[0])])
def test_an_elman_network_is_that_of_numpy(nonlinearity: str, case: tuple[Any, ...]) -> None:
    assert_near(rnn(BACKENDS[0], case, nonlinearity), rnn("numpy", case, nonlinearity))


@pytest.mark.parametrize(
    "case",
    [
        (3, 40, 31, 64, False), (5, 64, 32, 32, True), (2, 33, 47, 32, False),
        (2, 33, 63, 32, False), *OUTSIDE,
    ],
    ids=str,
)  # fmt: skip
@pytest.mark.parametrize("room", [None, (1 << 14, 1 << 14)], ids=str)
def test_gradients_of_weights_are_sums_in_float32(
    case: tuple[Any, ...], room: tuple[int, int] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where few rows and gates are packed at a time, of an LSTM (whole tiles alone) and of a
    GRU."""
    for name, size in zip(("PACKED", "SUMMED"), room or (), strict=False):
        monkeypatch.setattr(recurrent_tiles, name, size)
    steps, rows, inputs, units, backwards = case
    rng = np.random.default_rng(2)
    dgates, dstates = (draw(rng, steps, rows, 3 * units) for _ in range(2))
    # As a GRU has it: gates of inputs and of states differ in their last third.
    dstates.value[..., : 2 * units] = dgates.value[..., : 2 * units]
    hs, h = draw(rng, steps, rows, units), draw(rng, rows, units)
    x = array(np.swapaxes(draw(rng, rows, steps, inputs).value, 0, 1))
    target, found = targets.target(tiles="emulated"), []
    kinds = ("sequence_dw", [dgates]), ("gru_dw", [dgates, dstates])
    for name, top in kinds[case in OUTSIDE :]:
        arrays = [*top, x, hs, h]
        specs = tuple(Spec(a.shape, a.dtype) for a in arrays)
        plan = find_tiled(target, name, specs, {"backwards": backwards})
        assert plan is not None
        found += plan.run(*(a.value for a in arrays))
    seen, states, first = (a.value.astype(np.float64) for a in (x, hs, h))
    before = np.array([*states[1:], first] if backwards else [first, *states[:-1]])
    tops = [a.value.astype(np.float64) for a in (dgates, dgates, dgates, dstates)]
    products = [
        np.einsum("tng,tnk->gk", y, read)
        for y, read in zip(tops, (seen, before, seen, before), strict=True)
    ]
    db, *_, db_hh = (y.sum((0, 1)) for y in tops)
    exact = *products[:2], db, products[2], db, products[3], db_hh
    assert len(found) == (4 if case in OUTSIDE else 7)
    for y, right in zip(found, exact[-len(found) :], strict=True):
        assert y.dtype == FLOAT32
        assert np.linalg.norm(y - right) <= 1e-6 * np.linalg.norm(right)


@pytest.mark.slow
def test_threads_do_not_change_a_bit() -> None:
    """Of so many products that it is worth while to start threads."""
    case, before, found = (9, 133, 96, 96, False), get_num_threads(), []
    try:
        for threads in (1, 2):
            set_num_threads(threads)
            both = [*lstm(BACKENDS[-1], case), *gru(BACKENDS[-1], case)]
            found.append([y.tobytes() for y in both])
    finally:
        set_num_threads(before)
    assert found[0] == found[1]


def test_tiles_take_states_of_whole_tiles_alone() -> None:
    target = targets.target(tiles="emulated")
    for units, dtype, taken in ((32, BF16, True), (33, BF16, False), (32, FLOAT32, False)):
        states = (8, units)
        lstm_shapes = [(2, 8, 5), (4 * units, 5), (4 * units,), states, states, (4 * units, units)]
        gru_shapes = [(2, 8, 5), (3 * units, 5), (3 * units,), states, (3 * units, units)]
        kinds = ("lstm_sequence", lstm_shapes), ("gru_sequence", [*gru_shapes, (3 * units,)])
        for name, shapes in kinds:
            specs = tuple(Spec(s, dtype) for s in shapes)
            found = find_tiled(target, name, specs, {"backwards": False})
            assert (found is not None) == taken


@pytest.mark.parametrize("name", ["gru_sequence", "gru_states"])
def test_tiles_take_the_inputs_of_any_gru(name: str) -> None:
    target = targets.target(tiles="emulated")
    for steps, rows, inputs, units, backwards in OUTSIDE:
        many, h = 3 * units, (rows, units)
        shapes = (steps, rows, inputs), (many, inputs), (many,), h, (many, units), (many,)
        specs = tuple(Spec(s, BF16) for s in shapes)
        assert find_tiled(target, name, specs, {"backwards": backwards}) is not None
