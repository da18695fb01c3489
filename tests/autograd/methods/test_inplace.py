"""Operators and methods that change tensors in place: what they do is what torch does, or an
error, with and without a tape, on leaves, computed tensors, parameters and views."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tallygrad.autograd as ag
from tallygrad.autograd import context, nn

T = ag.tensor


pytestmark = pytest.mark.usefixtures("backend")


def augmented(x: Any, sign: str, y: Any) -> Any:
    names: dict[str, Any] = {"x": x, "y": y}
    exec(f"x {sign} y", names)
    return names["x"]


SIGNS: dict[str, tuple[list[Any], Any, list[Any]]] = {
    "+=": ([1.0, 2.0], 1, [2, 3]),
    "-=": ([1.0, 2.0], T([3.0, 5.0]), [-2, -3]),
    "*=": ([1.0, 2.0], np.float32(3), [3, 6]),
    "/=": ([1.0, 2.0], T([2.0, 4.0]), [0.5, 0.5]),
    "**=": ([2.0, 3.0], 2, [4, 9]),
    "&=": ([True, False], T([False, False]), [False, False]),
    "|=": ([True, False], T([False, False]), [True, False]),
    "^=": ([True, False], T([True, True]), [False, True]),
}


@pytest.mark.parametrize("sign", SIGNS)
def test_operators_write_to_the_memory(sign: str) -> None:
    numbers, other, expected = SIGNS[sign]
    memory = np.array(numbers, None if isinstance(numbers[0], bool) else np.float32)
    x = ag.from_numpy(memory)
    assert augmented(x, sign, other) is x
    assert memory.tolist() == expected


@pytest.mark.parametrize("sign", ["+=", "-=", "*=", "/=", "**="])
def test_parameters_are_changed_without_a_tape_only(sign: str) -> None:
    p = nn.Parameter(T([1.0, 2.0]))
    home, alias = p.array, p.detach()
    with pytest.raises(RuntimeError, match="in place on a leaf with a gradient"):
        augmented(p, sign, 2)
    assert p.tolist() == [1, 2]
    with ag.no_grad():
        assert augmented(p, sign, 2) is p
    assert p.array is home and p.requires_grad and p.is_leaf
    expected = {"+=": [3, 4], "-=": [-1, 0], "*=": [2, 4], "/=": [0.5, 1], "**=": [1, 4]}[sign]
    assert p.tolist() == alias.tolist() == expected


def test_methods() -> None:
    p = nn.Parameter(T([1.0, 2.0, 3.0]))
    with ag.no_grad():
        for call, expected in (
            (lambda: p.add_(1), [2, 3, 4]),
            (lambda: p.add_(T([1.0, 2.0, 3.0]), alpha=2), [4, 7, 10]),
            (lambda: p.sub_(T([1.0, 1.0, 2.0]), alpha=0.5), [3.5, 6.5, 9]),
            (lambda: p.mul_(2), [7, 13, 18]),
            (lambda: p.div_(T([7.0, 13.0, 6.0])), [1, 1, 3]),
            (lambda: p.clamp_(max=2), [1, 1, 2]),
            (lambda: p.copy_(T([5.0])), [5, 5, 5]),
            (lambda: p.fill_(4), [4, 4, 4]),
            (lambda: p.zero_(), [0, 0, 0]),
        ):
            assert call() is p  # type: ignore[no-untyped-call]
            assert p.tolist() == expected
    for call in (lambda: p.add_(1), lambda: p.fill_(1), lambda: p.copy_(T([1.0]))):
        with pytest.raises(RuntimeError, match="in place on a "):
            call()


def test_a_history_goes_on() -> None:
    p = nn.Parameter(T([1.0, 2.0]))
    y = alias = p * 2
    y += p
    y *= p
    assert alias is y and y.tolist() == [3, 12]
    y.sum().backward()
    assert p.grad is not None and p.grad.tolist() == [6, 12]


def test_a_leaf_without_a_gradient_gets_a_history() -> None:
    p, total = nn.Parameter(T([1.0, 2.0])), ag.zeros(())
    for _ in range(3):
        total += (p * p).sum()
    total.backward()
    assert total.item() == 15 and p.grad is not None and p.grad.tolist() == [6, 12]


def test_a_gradient_that_needs_the_old_numbers_is_an_error() -> None:
    p = nn.Parameter(T([1.0, 2.0]))
    y = (p * p).sum()
    with ag.no_grad():
        p -= 1
    with pytest.raises(RuntimeError, match="changed in place"):
        y.backward()


def test_views_share_what_is_written_and_refuse_a_history() -> None:
    x = T([1.0, 2.0, 3.0])
    x[:2] += 5
    x[::2] *= 2
    assert x.tolist() == [12, 7, 6]
    view = x[:2]
    with pytest.raises(RuntimeError, match="in place on a view while gradients are recorded"):
        view += nn.Parameter(T([1.0, 1.0]))
    frozen = nn.Parameter(T([1.0]), requires_grad=False)
    with pytest.raises(RuntimeError, match="in place on a leaf"):
        frozen += nn.Parameter(T([1.0]))


def test_gradients_are_changed_in_their_slots() -> None:
    p = nn.Parameter(T([1.0, 2.0]))
    flat = nn.flatten([p])
    (p * p).sum().backward()
    assert p.grad is not None
    p.grad *= 0.5
    flat.zero_missing()
    assert flat.grad.value.tolist() == [1, 2]


@pytest.mark.parametrize(
    ("numbers", "other", "error", "piece"),
    [
        ([1, 2], 1.5, TypeError, r"\+=: expected what int64 can hold, got float32"),
        ([True], 1, TypeError, "expected what bool can hold, got int64"),
        ([1.0, 2.0], T([[1.0], [2.0]]), ValueError, r"expected shape \(2,\), got \(2, 2\)"),
        ([1.0, 2.0], [1.0, 2.0], TypeError, "expected a tensor, an array or a number, got list"),
    ],
)
def test_what_does_not_fit(numbers: list[Any], other: Any, error: type, piece: str) -> None:
    x = T(numbers)
    with pytest.raises(error, match=piece):
        x += other
    assert x.tolist() == numbers


def test_float32_stays_float32() -> None:
    x = T([1.0])
    x += T(np.array([0.5]))
    assert x.dtype == np.float32 and x.tolist() == [1.5]
    p = nn.Parameter(T([1.0]))
    y = p * 1
    y *= T(np.array([0.5]))
    y.backward()
    assert y.dtype == np.float32 and p.grad is not None and p.grad.tolist() == [0.5]


GRID = np.arange(12.0, dtype=np.float32).reshape(3, 4)
KEYS: list[tuple[Any, Any]] = [
    (1, 7),
    ((0, -1), 7),
    (slice(None, None, -1), np.float32([1, 2, 3, 4])),
    (..., 5),
    ((slice(1), None, 2), 7),
    ((slice(None), 1), np.float32([1, 2, 3])),
    ((slice(None), [0, 2]), np.float32([[1, 2]])),
    (([0, 1], [1, 0]), np.float32([8, 9])),
    (GRID > 4, -1),
    (GRID[:, 0] > 3, np.float32([1, 2, 3, 4])),
    ((0, GRID[0] > 1), np.float32([1, 2])),
    (slice(0, 0), 7),
    ([], 7),
    (0, np.float32([[1, 2, 3, 4]])),
    (2, np.float64([1, 2, 3, 4])),
]


@pytest.mark.parametrize(("key", "value"), KEYS)
@pytest.mark.parametrize("lift", [np.asarray, T], ids=["numpy", "tensor"])
def test_elements_are_set(key: Any, value: Any, lift: Callable[[Any], Any]) -> None:
    expected, x = GRID.copy(), T(GRID)
    expected[key] = value
    if isinstance(value, np.ndarray):
        value = lift(value)
    if lift is T:
        items = key if isinstance(key, tuple) else (key,)
        key = tuple(T(k) if isinstance(k, np.ndarray) else k for k in items)
    x[key] = value
    np.testing.assert_array_equal(x.numpy(), expected)


def test_elements_that_cannot_be_set() -> None:
    x, p = T(GRID), nn.Parameter(T([1.0]))
    for key, value, error, piece in (
        (3, 1, IndexError, r"^index: expected \[-3, 3\) for axis 0, got 3"),
        ([0, 3], 1, IndexError, "out of bounds"),
        (0, np.ones(3), ValueError, r"expected a shape that broadcasts to \(4,\), got \(3,\)"),
        ((0, 0), np.ones(2), ValueError, r"expected a shape that broadcasts to \(\), got \(2,\)"),
        ((0, 0), p, RuntimeError, "in place on a tensor with a gradient"),
        (0, [1, 2, 3, 4], TypeError, "got list"),
        ("a", 1, TypeError, r"^index: expected integers, slices, .* got str"),
    ):
        with pytest.raises(error, match=piece):
            x[key] = value
    with pytest.raises(RuntimeError, match="in place on a tensor with a gradient"):
        p[0] = 1
    np.testing.assert_array_equal(x.numpy(), GRID)
    with ag.no_grad():
        p[0] = 3
        x[0, 0] = p
    assert p.tolist() == [3] and x[0, 0].item() == 3


def test_what_is_set_as_gradient_or_data_must_fit() -> None:
    p = nn.Parameter(T([1.0, 2.0]))
    for wrong, error, piece in (
        (np.ones(2), TypeError, "grad: expected a Tensor or None, got ndarray"),
        (T(1.0), ValueError, r"grad: expected shape \(2,\) of float32, got \(\) of float32"),
        (T(np.ones(2)), ValueError, "got .2,. of float64"),
    ):
        with pytest.raises(error, match=piece):
            p.grad = wrong
        assert p.grad is None
    p.grad = T([1.0, 1.0])
    for wrong, error, piece in (
        (np.ones(2), TypeError, "data: expected a Tensor, got ndarray"),
        (T(1.0), ValueError, r"data: expected shape \(2,\) of float32, got \(\) of float32"),
        (T(np.ones(2)), ValueError, "data: expected .*got .2,. of float64"),
    ):
        with pytest.raises(error, match=piece):
            p.data = wrong
    assert p.tolist() == [1, 2]


@pytest.mark.usefixtures("backend")
def test_data_are_the_memory_without_history() -> None:
    p, other = nn.Parameter(T([1.0, 2.0])), T([3.0, 4.0])
    home = p.array
    p.data = other
    p.data.mul_(2)
    p.data -= 1
    p.data[0] = 9
    p.data = (2 * p).data  # of a tensor with a history, and while gradients are recorded
    assert p.tolist() == p.data.tolist() == [18, 14] and p.array is home
    assert other.tolist() == [3, 4] and isinstance(p.data, ag.Tensor)
    assert p.requires_grad and p.is_leaf and not p.data.requires_grad
    loss = (p * p).sum()
    p.data.zero_()
    with pytest.raises(RuntimeError, match="changed"):
        loss.backward()


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("flat", [False, True])
def test_data_that_were_set_aside_are_put_back(flat: bool) -> None:
    """As scripts do that evaluate with averages of the weights."""
    layer = nn.Linear(2, 2)
    if flat:
        nn.flatten([*layer.parameters()])
    before = layer.state_dict()
    aside = {name: p.data for name, p in layer.named_parameters()}
    aside["bias"].mul_(2)
    assert layer.bias.tolist() == (before["bias"] * 2).tolist()
    for p in layer.parameters():
        p.data = ag.zeros(*p.shape)
    aside["bias"].mul_(0.5)  # which the layer has no longer
    assert not any(p.numpy().any() for p in layer.parameters())
    for name, p in layer.named_parameters():
        p.data = aside[name]
    np.testing.assert_equal(layer.state_dict(), before)


def test_data_are_put_back_in_captured_steps(backend: str) -> None:
    layer, x, runs = nn.Linear(2, 2), ag.ones(3, 2), []
    averages = ag.rand(2, 2)

    def step(x: ag.Tensor) -> ag.Tensor:
        runs.append(1)
        aside = layer.weight.data
        layer.weight.data = averages
        y = layer(x)
        layer.weight.data = aside
        return y + layer(x)

    replayed = ag.trace(step)
    with ag.no_grad():
        for weight in (ag.ones(2, 2), ag.rand(2, 2)) * 3:
            layer.weight.data = weight
            expected = step(x).tolist()
            assert layer.weight.tolist() == weight.tolist()
            assert replayed(x).tolist() == expected
            assert layer.weight.tolist() == weight.tolist()
    assert len(runs) < 10


@pytest.mark.parametrize("training", [False, True])
def test_data_are_written_in_captured_steps_and_between_them(backend: str, training: bool) -> None:
    """A step that writes to its weights, which others write to as well. NumPy captures no
    training."""
    layer, x, runs = nn.Linear(2, 2), ag.ones(3, 2), []
    nn.flatten([*layer.parameters()])

    def step(x: ag.Tensor) -> ag.Tensor:
        runs.append(1)
        layer.weight.data.clamp_(-2, 2)
        layer.bias.data = layer.bias.data * 0.5
        loss = layer(x).square().sum()
        if training:
            loss.backward()
        return loss

    results, counts = [], []
    for run in (step, ag.trace(step, training=training)):
        layer.weight.data = T([[1.0, 3.0], [-3.0, 0.25]])
        layer.bias.data.fill_(4)
        seen = []
        for turn in range(8):
            if turn == 4:
                layer.weight.data = ag.ones(2, 2)
                layer.bias.data.fill_(2)
            layer.zero_grad()
            seen.append(run(x).item())
            if training:
                seen += layer.weight.grad.tolist()
        results.append(seen)
        counts.append(len(runs))
    assert results[0] == results[1]
    assert (counts[1] - counts[0] < counts[0]) == (backend == "llvm" or not training)


def test_meta_counts_the_same(backend: str) -> None:
    def ledger(backend: str) -> ag.Ledger:
        with context.using(backend=backend, ledger=ag.Ledger()) as state:
            x = ag.ones(3, 4)
            x *= 2
            x[1] = 5
            x[:, ag.zeros(2, dtype=np.int64)] = 1
        return state.ledger

    assert ledger("meta") == ledger(backend)


def test_traced_calls_write_again() -> None:
    x, state = T([1.0]), T([0.0])

    def count(y: ag.Tensor) -> ag.Tensor:
        nonlocal state
        state += y
        return state * 2

    traced = ag.trace(count)
    assert [traced(x).item() for _ in range(4)] == [2, 4, 6, 8] and state.item() == 4


NAMES = "abs sqrt exp log neg square sigmoid tanh relu reciprocal sign floor"
STEPS: list[Callable[..., Any]] = [
    *(
        lambda x, y, name=name: getattr(x, f"{name}_")()
        for name in [
            "abs",
            "sqrt",
            "exp",
            "log",
            "neg",
            "square",
            "sigmoid",
            "tanh",
            "relu",
            "reciprocal",
            "sign",
            "floor",
        ]
    ),
    lambda x, y: x.ceil_().round_(),
    lambda x, y: x.add_(y).pow_(-2.0),
    lambda x, y: x.lerp_(y, 0.1),
    lambda x, y: x.addcmul_(y, y, value=0.5),
    lambda x, y: x.addcdiv_(y, y * y, value=-0.1),
]


@pytest.mark.parity
@pytest.mark.parametrize("recorded", [False, True])
def test_steps_in_place_are_torchs(recorded: bool) -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    numbers = np.random.default_rng(0).uniform(0.5, 2, (2, 6))
    results = []
    for t in (ag, torch):
        w, y = (t.tensor(n, requires_grad=recorded) for n in numbers)
        found = []
        for step in STEPS:
            x = w * 1.0
            assert step(x, y) is x
            found.append(x)
            if recorded:
                (x * x).sum().backward()
        results.append([*found, *([w.grad, y.grad] if recorded else [])])
    for mine, theirs in zip(*results, strict=True):
        np.testing.assert_allclose(mine.detach().numpy(), theirs.detach().numpy(), 1e-10, 1e-12)


def test_numbers_are_drawn_into_a_tensor() -> None:
    for method, function in (("normal_", ag.randn), ("uniform_", ag.rand)):
        x, own = ag.zeros(3, 2), ag.Generator().manual_seed(4)
        assert getattr(x, method)(generator=own) is x
        expected = function(3, 2, generator=ag.Generator().manual_seed(4))
        np.testing.assert_array_equal(x.numpy(), expected.numpy())
    assert 5 <= ag.zeros(100).uniform_(5, 6).numpy().min() < 5.2
    with pytest.raises(RuntimeError, match="normal_: in place on a tensor with a gradient"):
        ag.zeros(2, requires_grad=True).normal_()
