"""Non-zero work: counted exactly, from real numbers, and without a trace in the training."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from itertools import product
from typing import Any

import numpy as np
import pytest

import tallygrad.autograd as ag
from tallygrad.autograd import context, nn
from tallygrad.autograd.capture.sparsity import Sparsity
from tallygrad.autograd.ledger import Cost, Ledger, SparsitySample
from tallygrad.autograd.nn.flat import flatten
from tallygrad.autograd.ops.conv import conv2d
from tallygrad.autograd.ops.linear import linear, matmul
from tallygrad.autograd.primitive import primitive

PASSES = ("forward", "backward_data", "backward_weights")
BACKENDS = ["numpy", "llvm"]


def backend(name: str) -> str:
    if name == "llvm":
        pytest.importorskip("llvmlite", reason="llvmlite is not installed")
    return name


def sparse(*shape: int, seed: int, zeros: float = 0.4) -> np.ndarray[Any, Any]:
    """Return numbers of which a share is zero, some of them negative zeros."""
    draw = np.random.default_rng(seed)
    numbers = draw.standard_normal(shape).astype(np.float32)
    numbers[draw.random(shape) < zeros] = draw.choice([0.0, -0.0])
    return numbers


def swept(
    name: str, x: np.ndarray[Any, Any], w: np.ndarray[Any, Any], f: Any, seed: int = 9
) -> tuple[dict[str, SparsitySample], Any]:
    """Return what a sweep through f(x, w) finds by phase, and the gradient that comes in."""
    ledger = Ledger()
    with context.using(backend=name, ledger=ledger):
        a, b = ag.tensor(x, requires_grad=True), nn.Parameter(ag.tensor(w))
        with context.using(observer=Sparsity(ledger, [b.array])):
            y = f(a, b)
            dy = sparse(*y.shape, seed=seed, zeros=0.6)
            (y * ag.tensor(dy)).sum().backward()
    return {phase: found for (_, phase, *_), found in ledger.sampled.items()}, dy


def macs_of_conv(
    x: Any, w: Any, dy: Any, stride: Any, padding: Any, dilation: Any, groups: int
) -> Iterator[tuple[float, float, float]]:
    """Yield the number of the image, of the filter and of the gradient that each MAC meets."""
    (n, m, e, f), (_, c, r, s) = dy.shape, w.shape
    for image, out, channel in product(range(n), range(m), range(c)):
        plane = x[image, out // (m // groups) * c + channel]
        for a, b, i, j in product(range(e), range(f), range(r), range(s)):
            h = a * stride[0] + i * dilation[0] - padding[0][0]
            v = b * stride[1] + j * dilation[1] - padding[1][0]
            if 0 <= h < plane.shape[0] and 0 <= v < plane.shape[1]:
                yield plane[h, v], w[out, channel, i, j], dy[image, out, a, b]


CONVS = {
    "plain": ((3, 4, 6, 5), (5, 4, 3, 2), (1, 1), ((0, 0), (0, 0)), (1, 1), 1),
    "padded": ((2, 3, 5, 6), (4, 3, 3, 3), (1, 1), ((1, 1), (2, 1)), (1, 1), 1),
    "far padding": ((1, 1, 2, 2), (1, 1, 2, 2), (1, 1), ((3, 3), (4, 0)), (1, 1), 1),
    "stride": ((2, 3, 8, 7), (4, 3, 3, 3), (2, 3), ((1, 0), (0, 2)), (1, 1), 1),
    "stride beyond the taps": ((2, 2, 9, 9), (3, 2, 2, 1), (3, 2), ((1, 1), (1, 1)), (1, 1), 1),
    "dilation": ((2, 2, 9, 8), (3, 2, 3, 2), (1, 1), ((2, 2), (1, 1)), (2, 3), 1),
    "groups": ((2, 6, 5, 5), (4, 3, 3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1), 2),
    "depthwise": ((2, 4, 6, 6), (4, 1, 3, 3), (2, 2), ((1, 1), (1, 1)), (1, 1), 4),
    "all": ((2, 6, 9, 8), (6, 2, 3, 2), (2, 3), ((1, 2), (3, 0)), (2, 2), 3),
    "cut off": ((2, 2, 7, 7), (3, 2, 3, 3), (1, 1), ((-1, -2), (1, -1)), (1, 1), 1),
    "1x1": ((2, 8, 4, 4), (8, 8, 1, 1), (2, 2), ((0, 0), (0, 0)), (1, 1), 1),
}


@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize("case", CONVS)
def test_convolutions_are_those_of_a_loop(name: str, case: str) -> None:
    xs, ws, stride, padding, dilation, groups = CONVS[case]
    x, w = sparse(*xs, seed=1), sparse(*ws, seed=2, zeros=0.3)
    how: dict[str, Any] = {"stride": stride, "padding": padding, "dilation": dilation}
    how["groups"] = groups
    found, dy = swept(backend(name), x, w, lambda a, b: conv2d(a, b, **how))
    met = np.array([*macs_of_conv(x, w, dy, **how)]) != 0
    expected = [(met[:, i] & met[:, j]).sum() for i, j in ((0, 1), (2, 1), (0, 2))]
    assert [found[phase].nonzero for phase in PASSES] == expected and min(expected) > 0
    nominal = dy.size * w[0].size
    assert [found[phase].macs for phase in PASSES] == [nominal] * 3
    zeros = [int((a == 0).sum()) for a in (x, w, dy)]
    forward, data, weights = (found[phase] for phase in PASSES)
    kinds = SparsitySample(calls=1, macs=nominal)
    a = {"activations": x.size, "activation_zeros": zeros[0]}
    b = {"weights": w.size, "weight_zeros": zeros[1]}
    g = {"gradients": dy.size, "gradient_zeros": zeros[2]}
    assert forward == kinds._replace(nonzero=expected[0], **a, **b)
    assert data == kinds._replace(nonzero=expected[1], **g, **b)
    assert weights == kinds._replace(nonzero=expected[2], **a, **g)


@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize("shape", [(5,), (3, 5), (2, 3, 5), (2, 1, 3, 5)])
def test_linear_layers_are_those_of_a_loop(name: str, shape: tuple[int, ...]) -> None:
    x, w = sparse(*shape, seed=1), sparse(4, 5, seed=2)
    found, dy = swept(backend(name), x, w, linear, seed=3)
    rows, tops = x.reshape(-1, 5) != 0, dy.reshape(-1, 4) != 0
    each = [*product(range(len(rows)), range(4), range(5))]
    assert found["forward"].nonzero == sum(rows[n, c] and w[m, c] != 0 for n, m, c in each)
    assert found["backward_data"].nonzero == sum(tops[n, m] and w[m, c] != 0 for n, m, c in each)
    assert found["backward_weights"].nonzero == sum(rows[n, c] and tops[n, m] for n, m, c in each)
    assert found["backward_data"].gradients == dy.size and found["backward_data"].weights == 20
    assert found["backward_weights"].activation_zeros == (x == 0).sum()


@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize(
    ("left", "right"), [((3, 4), (4, 2)), ((2, 3, 4), (4, 2)), ((2, 1, 3, 4), (3, 4, 2))]
)
def test_matrix_products_are_those_of_a_loop(
    name: str, left: tuple[int, ...], right: tuple[int, ...]
) -> None:
    """The indicators' own product, in integers."""
    x, w = sparse(*left, seed=1), sparse(*right, seed=2)
    found, dy = swept(backend(name), x, w, matmul)
    ix, iw, ig = ((a != 0).astype(int) for a in (x, w, dy))
    assert found["forward"].nonzero == (ix @ iw).sum()
    assert found["backward_data"].nonzero == (ig @ iw.swapaxes(-1, -2)).sum()
    assert found["backward_weights"].nonzero == (ix.swapaxes(-1, -2) @ ig).sum()
    assert found["forward"].weights == w.size and found["backward_weights"].gradients == dy.size


@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize("kind", ["lstm", "gru", "relu"])
@pytest.mark.parametrize("both", [False, True])
def test_recurrent_layers_are_those_of_single_products(name: str, kind: str, both: bool) -> None:
    """Of a sequence in one call, against its steps as calls of cells and of `linear`."""
    ag.manual_seed(3)
    kinds: dict[str, Any] = {"lstm": nn.LSTM, "gru": nn.GRU}
    relu = partial(nn.RNN, nonlinearity="relu")
    layer = kinds.get(kind, relu)(3, 4, bidirectional=both)
    draw = np.random.default_rng(5)
    weights = {n: p.numpy().copy() for n, p in layer.named_parameters()}
    for key, value in weights.items():
        if value.ndim > 1:
            value[draw.random(value.shape) < 0.3] = 0
            dict(layer.named_parameters())[key].array.write(value)
    x = sparse(5, 2, 3, seed=1)
    ledger = Ledger()
    with context.using(backend=backend(name), ledger=ledger):
        a = ag.tensor(x, requires_grad=True)
        weights_of = [p.array for p in layer.parameters()]
        with context.using(observer=Sparsity(ledger, weights_of)):
            y, _ = layer(a)
            dy = sparse(*y.shape, seed=6, zeros=0.6)
            (y * ag.tensor(dy)).sum().backward()
    total: dict[str, SparsitySample] = {}
    for (_, phase, *_), one in ledger.sampled.items():
        total[phase] = total.get(phase, SparsitySample()).plus(one)
    steps = 5 * 2 * (2 if both else 1)
    gates = 4 * {"lstm": 4, "gru": 3, "relu": 1}[kind]
    hs = y.numpy().reshape(5, 2, -1, 4).transpose(2, 0, 1, 3)
    nonzero = 0
    for way, states in enumerate(hs):
        suffix = "_reverse" if way else ""
        w_ih, w_hh = (weights[f"weight_{k}_l0{suffix}"] != 0 for k in ("ih", "hh"))
        nothing = np.zeros_like(states[:1])
        old = np.concatenate((states[1:], nothing) if way else (nothing, states[:-1])) != 0
        nonzero += ((x != 0).astype(int) @ w_ih.T.astype(int)).sum()
        nonzero += (old.astype(int) @ w_hh.T.astype(int)).sum()
    assert total["forward"].nonzero == nonzero
    assert total["forward"].macs == steps * gates * (3 + 4)
    assert total["forward"].activations == steps * (3 + 4)
    assert total["backward_weights"].macs == total["forward"].macs
    data, ways = total["backward_data"], 2 if both else 1
    # Of the way back: the gradients of the inputs, of all steps, and of the states, of all but one.
    assert data.macs == steps * gates * 3 + (steps - 2 * ways) * gates * 4
    assert data.gradients == steps * gates + (steps - 2 * ways) * gates
    assert 0 < data.nonzero < data.macs and not data.uncounted
    assert 0 < total["backward_weights"].nonzero < total["backward_weights"].macs


@pytest.mark.parametrize("name", BACKENDS)
def test_narrow_copies_of_weights_are_weights(name: str) -> None:
    pytest.importorskip("ml_dtypes", reason="ml_dtypes is not installed")
    layer, ledger = nn.Linear(6, 4), Ledger()
    flat = nn.flatten([*layer.parameters()])
    with context.using(backend=backend(name), ledger=ledger):
        x = ag.tensor(sparse(3, 6, seed=1), requires_grad=True)
        with context.using(observer=Sparsity(ledger, [flat.data])), ag.autocast():
            layer(x).sum().backward()
    found = {phase: one for (_, phase, *_), one in ledger.sampled.items()}
    assert found["forward"].weights == found["backward_data"].weights == 24
    assert found["forward"].activations == 18 and found["backward_data"].gradients == 12


def test_those_who_wait_for_a_gradient_are_told_at_its_place() -> None:
    ledger, told = Ledger(), list[str]()
    layers = [nn.Linear(2, 2), nn.Linear(2, 2)]
    flatten([p for layer in layers for p in layer.parameters()])
    for i, layer in enumerate(layers):
        layer.weight.post_grad_hooks.append(lambda p, i=i: told.append(f"{i} {p.grad is not None}"))
    with context.using(ledger=ledger, observer=Sparsity(ledger)):
        y = layers[1](layers[0](ag.ones(1, 2))).sum()
        y.backward()
    assert told == ["1 True", "0 True"]


@primitive(infer=lambda x: x, cost=lambda y, x: Cost(macs=7))
def strange(x: Any) -> Any:
    """y = 2 x, at a price of its own."""
    return 2 * x


def test_what_cannot_be_looked_into_is_told_apart() -> None:
    ledger = Ledger()
    with context.using(ledger=ledger, observer=Sparsity(ledger)):
        strange(ag.ones(3))
    assert [*ledger.sampled.values()] == [SparsitySample(calls=1, uncounted=7)]


def test_samples_are_kept_with_the_counts_and_are_no_part_of_their_comparison() -> None:
    key = ("conv1", "forward", "conv2d", "numpy")
    ledger, other = Ledger(), Ledger()
    for one in (ledger, other):
        one.count((*key, Cost(macs=9)))
    ledger.sample(key, SparsitySample(calls=1, macs=9, nonzero=4, weights=3, weight_zeros=1))
    ledger.sampled_steps = 2
    assert ledger == other
    again = Ledger.from_json(ledger.to_json())
    assert again.sampled == ledger.sampled and again.sampled_steps == 2 and again == ledger
    assert sum(entry.get("macs", 0) for entry in ledger.to_json()) == 9
    twin = ledger.copy()
    twin.merge(ledger)
    assert twin.sampled[key] == SparsitySample(2, 18, 8, weights=6, weight_zeros=2)
    assert twin.sampled_steps == 4 and ledger.sampled[key].calls == 1
    twin.clear()
    assert not twin.sampled and not twin.sampled_steps
