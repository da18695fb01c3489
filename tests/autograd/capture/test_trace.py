"""Traced functions: the same bits and an equal ledger, and what tracing refuses."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from copy import deepcopy
from importlib import import_module
from typing import Any

import numpy as np
import pytest

import tallygrad.autograd as ag
from tallygrad.autograd import context, models, nn
from tallygrad.autograd.optim import SGD
from tallygrad.autograd.tensor import Tensor

SHAPES = {"lenet": (1, 28, 28), "mlp": (1, 28, 28), "lstm": (1, 28, 28), "resnet20": (3, 32, 32)}


def images(model: str, count: int, seed: int) -> Tensor:
    draw = np.random.default_rng(seed)
    return ag.from_numpy(draw.standard_normal((count, *SHAPES[model]), dtype=np.float32))


def outcome(function: Callable[..., Any], *inputs: Tensor) -> tuple[np.ndarray, ag.Ledger]:
    """Return the numbers, and the ledger of one call."""
    ledger = ag.Ledger()
    with context.using(ledger=ledger), ag.no_grad():
        return function(*inputs).numpy(), ledger


@pytest.fixture(params=["numpy", "llvm", "llvm:eager"])
def backend(request: pytest.FixtureRequest) -> Any:
    if request.param != "numpy":
        pytest.importorskip("llvmlite", reason="llvmlite is not installed")
    with context.using(backend=request.param):
        yield request.param


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("name", SHAPES)
def test_models_give_the_same_bits_and_ledger(name: str) -> None:
    ag.manual_seed(0)
    model = models.create(name, input_shape=SHAPES[name], classes=10).eval()
    traced = ag.trace(model)
    for seed, count in enumerate((5, 5, 2, 5, 2)):  # images of resnet20 wait from 5 on
        x = images(name, count, seed)
        expected, ledger = outcome(model, x)
        found, counted = outcome(traced, x)
        np.testing.assert_array_equal(found, expected)
        assert counted == ledger
        assert [row._replace(peak=0) for row in counted] == ledger.rows()


@pytest.mark.usefixtures("backend")
def test_weights_are_read_in_each_call() -> None:
    layer = nn.Linear(4, 3)
    traced, x = ag.trace(layer), ag.ones(2, 4)
    before = traced(x).numpy().copy()
    layer.weight.array.write(np.zeros((3, 4)))
    assert not np.array_equal(traced(x).numpy(), before)
    np.testing.assert_array_equal(traced(x).numpy(), np.tile(layer.bias.numpy(), (2, 1)))


@pytest.mark.usefixtures("backend")
def test_running_statistics_move_in_each_call() -> None:
    draw = np.random.default_rng(0)
    twins = [nn.BatchNorm2d(5).train() for _ in range(2)]
    traced = ag.trace(twins[1])
    for _ in range(3):
        x = ag.from_numpy(draw.standard_normal((4, 5, 6, 6)).astype("f"))
        expected, found = outcome(twins[0], x)[0], outcome(traced, x)[0]
        np.testing.assert_array_equal(found, expected)
        for name in ("running_mean", "running_var"):
            moved = [getattr(m, name).numpy() for m in twins]
            np.testing.assert_array_equal(*moved)
    assert np.abs(twins[1].running_mean.numpy()).max() > 0


def test_the_python_runs_once_for_each_shape_and_backend_and_phase() -> None:
    seen: list[tuple[int, ...]] = []

    def double(x: Tensor) -> Tensor:
        seen.append(x.shape)
        return x + x

    traced = ag.trace(double)
    for shape in ((2,), (3,), (2,), (3,)):
        assert traced(ag.ones(*shape)).tolist() == [2.0] * shape[0]
    assert seen == [(2,), (3,)]
    with context.using(phase="evaluate"):
        traced(ag.ones(2))
    with context.using(backend="meta"):
        assert traced(ag.ones(2)).shape == (2,)
    traced(ag.ones(2, dtype=np.float64))
    assert len(seen) == 5
    outer = ag.trace(lambda x: traced(x) * 3.0)
    assert outer(ag.ones(2)).tolist() == outer(ag.ones(2)).tolist() == [6.0, 6.0]
    assert len(seen) == 6


def test_several_tensors_in_and_out() -> None:
    weight = ag.ones(3)

    def both(x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
        return x - y, x, weight, (x * y).reshape(3, 1)[1:]

    ones, twos = ag.ones(3), ag.full((3,), 2.0)
    pairs = [(ones, twos), (twos, ones), (ones, ones), (twos, twos), (ones, twos)]
    for order in (pairs, pairs[::-1], pairs[2:]):
        traced = ag.trace(both)
        for x, y in order:
            result = traced(x, y)
            assert isinstance(result, tuple)
            for found, expected in zip(result, both(x, y), strict=True):
                np.testing.assert_array_equal(found.numpy(), expected.numpy())
    traced = ag.trace(lambda x: [x])
    assert [type(traced(ones)) for _ in range(2)] == [list, list]


def test_results_have_no_history_and_nothing_is_kept() -> None:
    layer = nn.Linear(4, 4)
    kept: list[weakref.ref[Any]] = []
    traced = ag.trace(lambda x: ag.relu(layer(x)))
    for _ in range(3):
        x = ag.ones(2, 4, requires_grad=True)
        y = traced(x)
        assert y.is_leaf and not y.requires_grad
        kept += weakref.ref(x.array), weakref.ref(y.array)
        del x, y
    assert not any(r() for r in kept)


@pytest.mark.parametrize("bare", [True, False])
def test_memory_of_a_step_goes_to_later_ones(bare: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    module = import_module("tallygrad.autograd.capture.program")
    made: list[weakref.ref[Any]] = []
    alive: list[int] = []

    def spied(function: Callable[..., Any]) -> Callable[..., Any]:
        def spy(*call: Any) -> Any:
            results = function(*call)
            made.extend(map(weakref.ref, [results] if bare else results))
            alive.append(sum(r() is not None for r in made))
            return results

        return spy

    def many(x: Tensor) -> Tensor:
        for _ in range(20):
            x = x + x
        return x

    traced = ag.trace(many)
    traced(ag.ones(2))
    [[program]] = traced.programs.values()
    assert program.kernel_calls is not None
    if bare:
        for call in {call for call, *_ in program.kernel_calls}:
            monkeypatch.setattr(call, "kernel", spied(call.kernel))
    else:
        program.kernel_calls = None
        monkeypatch.setattr(module, "perform", spied(module.perform))
    assert traced(ag.ones(2)).tolist() == [2.0**20] * 2
    assert len(alive) == 20 and max(alive) == 2


def with_gradients(x: Tensor) -> Tensor:
    with ag.enable_grad():
        return ag.relu(ag.Parameter(x))


def counted_elsewhere(x: Tensor) -> Tensor:
    with context.using(ledger=ag.Ledger()):
        return x + x


@pytest.mark.parametrize(
    ("function", "error", "said"),
    [
        (lambda x: x if x.sum().item() > 0 else -x, RuntimeError, "reads a tensor's numbers"),
        (lambda x: ag.from_numpy(x.numpy() + 1), RuntimeError, "reads a tensor's numbers"),
        (lambda x: ag.tensor(x.tolist()), RuntimeError, "reads a tensor's numbers"),
        (lambda x: ag.dropout(x, 0.5), RuntimeError, "draws random numbers"),
        (lambda x: x + ag.randn(2), RuntimeError, "draws random numbers"),
        (lambda x: ag.from_numpy(np.asarray(x) + 1), RuntimeError, "reads a tensor's numbers"),
        (lambda x: deepcopy(x) + 1, RuntimeError, "reads a tensor's numbers"),
        (lambda x: with_gradients(x), RuntimeError, "records gradients"),
        (lambda x: counted_elsewhere(x), RuntimeError, "changes the ledger"),
        (lambda x: ag.zeros(2).copy_(x), RuntimeError, "writes to a tensor that it makes of"),
        (lambda x: ag.zeros(3)[1:], RuntimeError, "returns a tensor that it makes of numbers"),
        (lambda x: 3, TypeError, "expected tensors as results, got int"),
        (lambda x: (x, 3), TypeError, "expected a tensor as result 1, got int"),
    ],
)
def test_what_calls_cannot_repeat_is_refused(
    function: Callable[..., Any], error: type[Exception], said: str
) -> None:
    traced = ag.trace(function)
    for _ in range(2):
        with pytest.raises(error, match=said):
            traced(ag.ones(2))
    assert ag.ones(2).tolist() == [1.0, 1.0]  # outside of it numbers are read as ever


@pytest.mark.parametrize("given", [3, np.ones(2), [1.0]])
def test_inputs_are_tensors(given: Any) -> None:
    with pytest.raises(
        TypeError, match=f"expected a tensor as input 1, got {type(given).__name__}"
    ):
        ag.trace(lambda x, y: x + y)(ag.ones(2), given)


@pytest.mark.usefixtures("backend")
def test_parameters_may_be_laid_elsewhere() -> None:
    layer = nn.Linear(4, 3)
    traced, x = ag.trace(layer), ag.ones(2, 4)
    traced(x)
    sgd = SGD(layer.parameters(), lr=0.5)  # which lays them in a flat buffer
    for _ in range(2):
        layer(x).sum().backward()
        sgd.step()
        np.testing.assert_array_equal(traced(x).numpy(), outcome(layer, x)[0])


def test_what_the_function_holds_is_no_input() -> None:
    held, other = ag.ones(2), ag.full((2,), 5.0)
    traced = ag.trace(lambda x: (x - held) * 2.0)
    assert traced(held).tolist() == [0.0, 0.0]
    assert traced(other).tolist() == [8.0, 8.0]


def test_one_result_given_twice_is_one() -> None:
    def twice(x: Tensor) -> tuple[Tensor, Tensor]:
        y = x * 2.0
        return y, y

    traced, x = ag.trace(twice), ag.ones(2)
    for _ in range(2):
        a, b = traced(x)
        assert a.array is b.array


def test_results_of_the_first_call_have_no_history_either() -> None:
    weight = ag.Parameter(ag.ones(2))
    traced = ag.trace(lambda x: (weight, x))
    for _ in range(2):
        y, x = traced(ag.ones(2, requires_grad=True))
        assert type(y) is Tensor and not y.requires_grad and not x.requires_grad


def test_the_ledger_keeps_its_order_and_leaves_out_what_failed() -> None:
    traced, index = ag.trace(lambda x, i: (x * x + x)[i]), ag.tensor(np.array([1]))
    traced(ag.ones(4), index)
    with context.using(ledger=ag.Ledger()) as state:
        traced(ag.ones(4), index)
        ag.ones(2) - 1.0
        names = [row.key.primitive for row in state.ledger.rows()]
        assert names[:2] == ["mul", "add"] and names[-1] == "sub"
        before = state.ledger.copy()
        with pytest.raises(IndexError):
            traced(ag.ones(4), ag.tensor(np.array([9])))
        assert state.ledger == before


def test_an_error_leaves_nothing_behind() -> None:
    layer = nn.Linear(4, 4)
    traced = ag.trace(layer)
    with pytest.raises(ValueError, match=r"^linear: expected .* got \(2, 5\) and \(4, 4\)$"):
        traced(ag.ones(2, 5))
    assert traced(ag.ones(2, 4)).shape == (2, 4)
    assert context.current().observer is None
