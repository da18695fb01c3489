"""Arrays, primitives, the ledger, and what tensors make of numbers and indices."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest

import tallygrad.autograd as ag
from tallygrad.autograd import context
from tallygrad.autograd.array import Array, Spec, array
from tallygrad.autograd.ledger import Cost, Key, SparsitySample
from tallygrad.autograd.primitive import Primitive, primitive


def leaf(*numbers: float) -> ag.Tensor:
    return ag.tensor(np.array(numbers), requires_grad=True)


def test_stash_of_an_input_that_is_used_again_is_counted_again() -> None:
    x, w = ag.tensor(np.ones((2, 3))), leaf(1.0, 2.0, 3.0)
    held = []
    for _ in range(2):
        with context.using(ledger=ag.Ledger()) as state:
            (x * w * w).sum().backward()
        held.append(sum(state.ledger.stashed.values()))
    assert held == [2 * 48, 2 * 48]


def test_stash_counts_memory_once_and_no_parameters() -> None:
    w = ag.Parameter(ag.randn(100, 100))
    for _ in range(2):
        with context.using(ledger=ag.Ledger()) as state:
            x = ag.randn(2, 100)
            ag.linear(ag.linear(x, w), w) + (x[0:1] * x[1:2]).sum()
        assert sum(state.ledger.stashed.values()) == 2 * 800


def test_deepcopy_keeps_parameters_in_their_copied_buffer() -> None:
    p, q = ag.Parameter(array(np.ones(2))), ag.Parameter(array(np.ones(3)))
    flat = array(np.arange(5.0))
    p.array, q.array = flat.view(0, (2,)), flat.view(2, (3,))
    buffer, a, b = copy.deepcopy((flat, p, q))
    buffer.value[:] = 7
    assert a.tolist() == [7, 7] and b.tolist() == [7, 7, 7] and p.tolist() == [0, 1]
    with pytest.raises(RuntimeError, match=r"^deepcopy: expected a leaf, got a computed"):
        copy.deepcopy(p * 1.0)


def test_wrong_arguments_are_named() -> None:
    x = leaf(1.0)
    with pytest.raises(TypeError, match=r"^Tensor: expected an Array, got ndarray; see tensor\(\)"):
        ag.Parameter(np.ones(2))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="gradient must be a tensor"):
        (x * 1.0).backward(np.ones(1))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"^grad: expected 2 grad_outputs, got 1"):
        ag.grad([x * 1.0, x * 2.0], x, [ag.ones_like(x)])
    with pytest.raises(TypeError, match="must return a tensor or a tuple, got list"):
        ag.checkpoint(lambda t: [t], x)
    x.register_hook(lambda g: ag.zeros(3))
    with pytest.raises(ValueError, match=r"^hook: expected a gradient of shape \(1,\), got \(3,\)"):
        (x * 1.0).backward()
    with pytest.raises(RuntimeError, match="copy_: in place on a tensor with a gradient"):
        ag.zeros(1).copy_(leaf(1.0))


def test_a_failed_call_is_not_counted() -> None:
    with context.using(ledger=ag.Ledger()) as state:
        with pytest.raises(IndexError):
            ag.arange(3)[ag.tensor([7])]
        assert not state.ledger.rows() or "index" not in state.ledger.by("primitive")


def test_phases_follow_the_argument() -> None:
    x, w = ag.tensor(np.ones((4, 3))), ag.Parameter(ag.randn(2, 3, dtype="f8"))
    v = ag.Parameter(ag.randn(5, 2, dtype="f8"))
    with context.using(ledger=ag.Ledger()) as state:
        ag.linear(ag.linear(x, w), v).sum().backward()
    macs = {phase: cost.macs for phase, cost in state.ledger.by("phase").items()}
    assert macs == {"forward": 24 + 40, "backward_data": 40, "backward_weights": 24 + 40}


def test_meta_arrays_hold_no_numbers() -> None:
    with context.using(backend="meta"):
        y = ag.zeros(2, 3) + 1.0
    assert y.shape == (2, 3)
    with pytest.raises(RuntimeError, match="expected a tensor with numbers"):
        y.numpy()


def test_a_primitive_needs_a_cost_and_clear_names() -> None:
    with pytest.raises(TypeError):
        primitive(infer=lambda x: x)(lambda x: x)  # type: ignore[call-arg]

    def twice(x: np.ndarray) -> np.ndarray:
        return x * 2

    made = Primitive(twice, lambda x: x, lambda y, x: Cost(mul=x.size))
    with pytest.raises(TypeError, match="its derivative names"):
        made.vjp("x")(lambda dz: dz)
    clash = Primitive(twice, lambda x: x, lambda y, x: Cost(), outputs=("x",))
    with pytest.raises(TypeError, match="ambiguous names"):
        clash.vjp("x")(lambda dx: dx)
    with pytest.raises(TypeError, match=r"unknown attributes \{.size.\}"):
        made(array(np.ones(2)), size=3)


def test_a_derivative_may_list_what_it_reads() -> None:
    received: list[str] = []

    def halves(x: np.ndarray) -> tuple[np.ndarray, ...]:
        return x / 2, x / 2

    def derivative(**values: ag.Tensor) -> ag.Tensor:
        received.extend(values)
        return values["da"] + values["db"] if values["db"] is not None else values["da"]

    split = Primitive(halves, lambda x: (x, x), lambda y, x: Cost(), outputs=("a", "b"))
    split.vjp("x", reads=("da", "db"))(derivative)
    x = leaf(1.0, 2.0)
    split(x)[0].sum().backward()
    assert x.grad is not None and x.grad.tolist() == [1, 1] and received == ["da", "db"]
    with pytest.raises(TypeError, match="its derivative names"):
        split.vjp("x", reads=("dc",))(derivative)


def test_the_rules_errors_name_the_primitive() -> None:
    def refuse(x: Spec) -> Spec:
        raise ValueError(f"expected shape (2,), got {x.shape}")

    def same(x: np.ndarray) -> np.ndarray:
        return x

    with pytest.raises(ValueError, match=r"^same: expected shape \(2,\), got \(3,\)$"):
        Primitive(same, refuse, lambda y, x: Cost())(array(np.ones(3)))


def test_a_kernel_that_drifts_from_its_rule_is_caught() -> None:
    def half(x: np.ndarray) -> np.ndarray:
        return x[::2]

    lying = Primitive(half, lambda x: x, lambda y, x: Cost())
    with pytest.raises(AssertionError, match=r"^half: expected .* by its shape rule, got "):
        lying(array(np.ones(4)))


@pytest.mark.parametrize("values", ["a", None, 2**70, [object()], np.array(["a"])])
def test_what_are_no_numbers_becomes_no_tensor(values: Any) -> None:
    for make in (ag.tensor, ag.as_tensor):
        with pytest.raises(TypeError, match="expected numbers of at most 64 bits, got values of "):
            make(values)


def test_python_numbers_and_ndarrays_mix_without_widening() -> None:
    x = ag.tensor([1.0, 2.0])
    assert (x * 2.5 + 1).dtype == np.float32
    assert (3 - x).tolist() == [2.0, 1.0] and (2.0**x).tolist() == [2.0, 4.0]
    assert (np.array([1.0, 1.0]) + x).dtype == np.float64
    assert (ag.arange(3) * 0.5).tolist() == [0.0, 0.5, 1.0]
    narrow = ag.tensor(np.array([1, 200], np.uint8))
    assert (narrow > 300).tolist() == [False, False] and (narrow * -1).tolist() == [-1, -200]
    with pytest.raises(TypeError, match="got str"):
        x + "1"  # type: ignore[operator]


def test_index_errors_name_index_and_extent() -> None:
    x = ag.arange(12).reshape(3, 4)
    with pytest.raises(IndexError, match=r"^index: expected \[-3, 3\) for axis 0, got 3"):
        x[3]
    with pytest.raises(
        IndexError, match=r"^index: expected up to 2 indices and one .* got 3 and 0"
    ):
        x[0, 0, 0]
    with pytest.raises(IndexError, match=r"^index: expected a mask of shape \(3,\), got \(4,\)"):
        x[x[0] > 3]
    with pytest.raises(IndexError, match="index 9 is out of bounds for axis 0 with size 3"):
        x[ag.tensor([0, 9])]
    assert x[-1, 1:3].tolist() == [9, 10] and x[..., -1].tolist() == [3, 7, 11]
    with pytest.raises(TypeError, match=r"^index: expected integers, slices, .* got bool"):
        x[True]
    assert x[[]].shape == (0, 4)
    assert x[[0, 2], [1, 3]].tolist() == [1, 11] and x[:, None, ::2].shape == (3, 1, 2)


def test_ledger_round_trip_and_sum() -> None:
    with context.using(ledger=ag.Ledger(), scope="a") as state:
        x = leaf(1.0, 2.0)
        (x * x).sum().backward()
    ledger = ag.Ledger.from_json(state.ledger.to_json())
    assert ledger == state.ledger and ledger.rows() == state.ledger.rows()
    double = ledger.copy()
    double.merge(ledger)
    assert double.total() == ledger.total().times(2) and double != ledger


def test_a_ledger_sums_by_any_part_of_the_key() -> None:
    ledger = ag.Ledger()
    for scope, phase, macs in (("b", "forward", 3), ("a", "forward", 5), ("b", "evaluate", 7)):
        ledger.count((scope, phase, "linear", "numpy", Cost(macs=macs)), 2)
        ledger.sample(Key(scope, phase, "linear", "numpy"), SparsitySample(macs=macs))
    assert ledger.by("scope") == {"b": Cost(macs=20), "a": Cost(macs=10)}
    by_first = ledger.sums(lambda key: key.phase[0])
    assert [*by_first.items()] == [("f", Cost(macs=16)), ("e", Cost(macs=14))]
    assert [*ledger.sums(lambda key: key.scope_and_phase)] == [
        ("b", "forward"), ("a", "forward"), ("b", "evaluate")
    ]  # fmt: skip
    assert ledger.sample_sums(lambda key: key.scope) == {
        "b": SparsitySample(macs=10), "a": SparsitySample(macs=5)
    }  # fmt: skip


def test_spec_of_views() -> None:
    flat = array(np.arange(6.0))
    part = flat.view(2, (2, 2))
    part.value[...] = 0
    assert part.spec == Spec((2, 2), np.dtype(float)) and part.owner is flat
    np.testing.assert_array_equal(flat.value, [0, 1, 0, 0, 0, 0])
    part.storage.version += 1
    assert flat.storage.version == 1 and isinstance(part, Array)
