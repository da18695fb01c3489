"""The tape: what is recorded, swept, freed, computed twice and refused."""

from __future__ import annotations

import copy
import gc
import threading
import weakref
from collections.abc import Iterator

import numpy as np
import pytest

import tallygrad.autograd as ag
from tallygrad.autograd import context
from tallygrad.autograd.array import Array, Spec, array
from tallygrad.autograd.ledger import Cost
from tallygrad.autograd.ops import update
from tallygrad.autograd.primitive import Primitive, primitive


def leaf(*numbers: float) -> ag.Tensor:
    return ag.tensor(np.array(numbers), requires_grad=True)


def test_chain_of_twenty_thousand_operations_does_not_recurse() -> None:
    x = leaf(1.0)
    y = x
    for _ in range(20_000):
        y = y + x
    y.backward()
    assert x.grad is not None and x.grad.item() == 20_001


def test_dropped_chain_is_freed_without_recursion() -> None:
    x = leaf(1.0)
    y = x
    for _ in range(50_000):
        y = y * 1.0
    alive = weakref.ref(y.source[0])
    del y
    assert alive() is None


def test_shared_leaf_gathers_every_use() -> None:
    w = leaf(3.0)
    (w * w + w * 2.0 + w).backward()
    assert w.grad is not None and w.grad.item() == 2 * 3 + 2 + 1


def test_gradients_add_up_over_sweeps_and_zero_grad_starts_anew() -> None:
    x = leaf(2.0)
    for _ in range(2):
        (x * 5.0).backward()
    assert x.grad is not None and x.grad.item() == 10.0


def test_gradient_lands_in_its_slot() -> None:
    p = ag.Parameter(array(np.array([1.0, 2.0])))
    flat = array(np.full(3, 7.0))
    p.slot = flat.view(1, (2,))
    (p * p).sum().backward()
    np.testing.assert_array_equal(flat.value, [7.0, 2.0, 4.0])
    (p * 1.0).sum().backward()
    np.testing.assert_array_equal(flat.value, [7.0, 3.0, 5.0])


def test_leaf_is_ready_when_its_earliest_reader_was_swept() -> None:
    first, last = leaf(2.0), leaf(3.0)
    order: list[str] = []
    first.ready.append(lambda t: order.append(f"first {t.grad.item()}"))
    last.ready.append(lambda t: order.append(f"last {t.grad.item()}"))
    h = first * 1.0
    h.register_hook(lambda g: order.append("h"))
    (h * last * first).backward()
    assert order == ["last 4.0", "h", "first 12.0"]


def test_hooks_change_gradients_and_can_be_removed() -> None:
    x = leaf(1.0, 2.0)
    y = x * 3.0
    y.register_hook(lambda g: g * 10.0)
    remove = x.register_hook(lambda g: g + 1.0)
    y.sum().backward()
    np.testing.assert_array_equal(x.grad.numpy(), [31.0, 31.0])
    remove()
    x.grad = None
    (x * 3.0).sum().backward()
    np.testing.assert_array_equal(x.grad.numpy(), [3.0, 3.0])


def test_hooks_of_leaves_run_in_grad_too() -> None:
    x = leaf(3.0)
    calls: list[float] = []
    x.register_hook(lambda g: calls.append(g.item()) or g * 2.0)
    assert ag.grad((x * x).sum(), x)[0].item() == 12.0 and calls == [6.0]
    ag.checkpoint(lambda t: t * x, x * 1.0).backward()
    assert x.grad.item() == 12.0 and calls == [6.0, 6.0]


def test_retain_grad_keeps_an_inner_gradient() -> None:
    x = leaf(1.0, 2.0)
    y = x * x
    y.retain_grad()
    (y * 2.0).sum().backward()
    np.testing.assert_array_equal(y.grad.numpy(), [2.0, 2.0])


def test_second_sweep_needs_retain_graph() -> None:
    x = leaf(2.0)
    y = x * x
    y.backward(retain_graph=True)
    y.backward()
    assert x.grad.item() == 8.0
    with pytest.raises(RuntimeError, match="swept already"):
        y.backward()


def test_sweep_frees_what_it_passed() -> None:
    gc.disable()
    try:
        x = leaf(1.0, 2.0)
        h = x * x
        kept = weakref.ref(h.data)
        y = (h * h).sum()
        del h
        assert kept() is not None
        y.backward()
        assert kept() is None
    finally:
        gc.enable()


def test_no_cycles_between_tape_and_tensors() -> None:
    gc.collect()
    gc.disable()
    try:
        x = leaf(1.0, 2.0)
        y = ag.cat([x * x, x]).exp().sum()
        refs = [weakref.ref(y.source[0]), weakref.ref(y.data)]
        del y
        assert [r() for r in refs] == [None, None]
    finally:
        gc.enable()


def test_in_place_change_of_a_saved_array_is_an_error() -> None:
    x = leaf(1.0, 2.0)
    h = x * 2.0
    y = (h * h).sum()
    update.store(h.data, array(np.zeros(2)))
    with pytest.raises(RuntimeError, match=r"input 1 of mul was changed in place \(version 1"):
        y.backward()


def test_in_place_change_through_a_view_is_seen_too() -> None:
    x = leaf(1.0, 2.0)
    h = x * 2.0
    part = h.detach()[0:1]
    y = (h * h).sum()
    update.store(part.data, array(np.zeros(1)))
    with pytest.raises(RuntimeError, match="changed in place"):
        y.backward()


def test_copy_is_refused_on_a_recorded_leaf() -> None:
    x = leaf(1.0)
    with pytest.raises(RuntimeError, match="use no_grad"):
        x.copy_(2.0)
    with ag.no_grad():
        x.copy_(2.0)
    assert x.item() == 2.0


def test_no_grad_records_nothing() -> None:
    x = leaf(1.0)
    with ag.no_grad():
        y = x * x
        with ag.enable_grad():
            z = x * x
    assert y.source is None and not y.requires_grad
    assert z.requires_grad

    def numbers() -> Iterator[int]:
        yield 1

    with pytest.raises(TypeError, match="numbers is a generator"):
        ag.no_grad()(numbers)

    @ag.no_grad()
    def square(t: ag.Tensor) -> ag.Tensor:
        return t * t

    assert not square(x).requires_grad and ag.is_grad_enabled()


def test_backward_without_history_or_seed() -> None:
    with pytest.raises(RuntimeError, match="does not depend on anything"):
        ag.tensor([1.0]).backward()
    with pytest.raises(RuntimeError, match=r"shape \(2,\) is no single number"):
        (leaf(1.0, 2.0) * 2.0).backward()
    with pytest.raises(ValueError, match="gradient is"):
        (leaf(1.0, 2.0) * 2.0).backward(ag.tensor([1.0]))


def test_grad_of_inner_tensors_leaves_grad_alone() -> None:
    x = leaf(2.0)
    h = x * x
    y = h * h * h
    by_h, by_x = ag.grad(y, [h, x])
    assert (by_h.item(), by_x.item()) == (3 * 4.0**2, 6 * 2.0**5)
    assert x.grad is None
    with pytest.raises(RuntimeError, match="do not depend on input 0"):
        ag.grad(x * 2.0, leaf(1.0))
    assert ag.grad(x * 2.0, leaf(1.0), allow_unused=True) == (None,)


def test_grad_skips_what_its_inputs_do_not_need() -> None:
    x, w = leaf(1.0, 2.0), leaf(3.0, 4.0)
    y = (x * w).sum()
    with context.using(ledger=ag.Ledger()) as state:
        ag.grad(y, x)
    assert sum(r.calls for r in state.ledger if r.key.primitive == "mul") == 1


def test_third_derivative() -> None:
    x = leaf(2.0)
    y = x**5.0
    for expected in (5 * 16.0, 20 * 8.0, 60 * 4.0):
        (y,) = ag.grad(y, x, create_graph=True)
        assert y.item() == pytest.approx(expected)


def test_missing_derivative_is_named() -> None:
    def floor(x: np.ndarray) -> np.ndarray:
        return np.floor(x)

    y = Primitive(floor, lambda x: x, lambda y, x: Cost(cmp=x.size))(leaf(2.5))
    with pytest.raises(RuntimeError, match="floor has no derivative with respect to x"):
        y.backward()


def test_stash_of_an_input_that_is_used_again_is_counted_again() -> None:
    x, w = ag.tensor(np.ones((2, 3))), leaf(1.0, 2.0, 3.0)
    held = []
    for _ in range(2):
        with context.using(ledger=ag.Ledger()) as state:
            (x * w * w).sum().backward()
        held.append(sum(state.ledger.stashed.values()))
    assert held == [2 * 48, 2 * 48]


def test_a_graph_may_span_tapes() -> None:
    x = leaf(3.0)
    early = x * 2.0 * 1.0
    with ag.no_grad(), ag.enable_grad():
        late = early * 5.0
    (late * early).backward()
    assert x.grad.item() == 2 * 20 * 3.0


def test_a_gradient_set_by_hand_is_what_the_next_one_is_added_to() -> None:
    p = ag.Parameter(array(np.ones(1)))
    flat = array(np.zeros(1))
    p.slot = flat.view(0, (1,))
    (p * 5.0).sum().backward()
    p.grad = p.grad * 0.1
    (p * 1.0).sum().backward()
    assert p.grad.item() == flat.value[0] == 1.5


def test_gradients_are_nobody_elses_memory() -> None:
    x, y = leaf(1.0, 2.0), leaf(1.0, 2.0)
    seed = ag.tensor(np.ones(2))
    (x + y).backward(seed)
    x.grad.zero_()
    assert y.grad.tolist() == seed.tolist() == [1.0, 1.0]
    y.grad = None
    y.sum().backward()
    y.grad.zero_()
    assert y.grad.tolist() == [0.0, 0.0]


def test_grad_leaves_what_it_did_not_sweep() -> None:
    x = leaf(2.0)
    h = x * 2.0
    y = h * h
    (g,) = ag.grad(y, h)
    h.backward(g)
    assert x.grad.item() == 2 * 8.0


def test_create_graph_keeps_history_in_a_slot_and_without_a_tape() -> None:
    p = ag.Parameter(array(np.array([2.0])))
    p.slot = array(np.zeros(1))
    (p * p * p).sum().backward(create_graph=True)
    (bend,) = ag.grad(p.grad.sum(), p, retain_graph=True)
    assert p.grad.item() == p.slot.value[0] == 12.0 and bend.item() == 12.0
    (p * p).sum().backward(create_graph=True)
    (bend,) = ag.grad(p.grad.sum(), p)
    assert p.grad.item() == p.slot.value[0] == 16.0 and bend.item() == 14.0
    x = leaf(2.0)
    y = x * x * x
    with ag.no_grad():
        (slope,) = ag.grad(y, x, create_graph=True)
    assert ag.grad(slope, x)[0].item() == 12.0


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
    p.data, q.data = flat.view(0, (2,)), flat.view(2, (3,))
    buffer, a, b = copy.deepcopy((flat, p, q))
    buffer.value[:] = 7
    assert a.tolist() == [7, 7] and b.tolist() == [7, 7, 7] and p.tolist() == [0, 1]
    with pytest.raises(RuntimeError, match="only of leaves"):
        copy.deepcopy(p * 1.0)


def test_wrong_arguments_are_named() -> None:
    x = leaf(1.0)
    with pytest.raises(TypeError, match=r"Tensor takes an Array, not ndarray; see tensor\(\)"):
        ag.Parameter(np.ones(2))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="gradient must be a tensor"):
        (x * 1.0).backward(np.ones(1))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="2 outputs, 1 grad_outputs"):
        ag.grad([x * 1.0, x * 2.0], x, [ag.ones_like(x)])
    with pytest.raises(TypeError, match="must return a tensor or a tuple, got list"):
        ag.checkpoint(lambda t: [t], x)
    x.register_hook(lambda g: ag.zeros(3))
    with pytest.raises(ValueError, match=r"a hook made a gradient of \(3,\) for \(1,\)"):
        (x * 1.0).backward()
    with pytest.raises(RuntimeError, match="copy_ from"):
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


def test_context_of_another_thread_is_its_own() -> None:
    seen: list[str] = []
    with context.using(scope="mine"):
        thread = threading.Thread(target=lambda: seen.append(context.current().scope))
        thread.start()
        thread.join()
    assert seen == [""]


def test_meta_arrays_hold_no_numbers() -> None:
    with context.using(backend="meta"):
        y = ag.zeros(2, 3) + 1.0
    assert y.shape == (2, 3)
    with pytest.raises(RuntimeError, match="no numbers"):
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


def test_a_kernel_that_drifts_from_its_rule_is_caught() -> None:
    def half(x: np.ndarray) -> np.ndarray:
        return x[::2]

    lying = Primitive(half, lambda x: x, lambda y, x: Cost())
    with pytest.raises(AssertionError, match="rule says"):
        lying(array(np.ones(4)))


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
    with pytest.raises(IndexError, match="index 3 is out of range for axis 0 of 3"):
        x[3]
    with pytest.raises(IndexError, match="3 indices"):
        x[0, 0, 0]
    with pytest.raises(TypeError, match="see where"):
        x[x > 3]
    with pytest.raises(IndexError, match="index 9 is out of bounds for axis 0 with size 3"):
        x[ag.tensor([0, 9])]
    assert x[-1, 1:3].tolist() == [9, 10] and x[..., -1].tolist() == [3, 7, 11]
    with pytest.raises(TypeError, match="cannot index with bool"):
        x[True]
    assert x[[]].shape == (0, 4)
    assert x[[0, 2], [1, 3]].tolist() == [1, 11] and x[:, None, ::2].shape == (3, 1, 2)


def test_ledger_round_trip_and_sum() -> None:
    with context.using(ledger=ag.Ledger(), scope="a") as state:
        x = leaf(1.0, 2.0)
        (x * x).sum().backward()
    books = ag.Ledger.from_json(state.ledger.to_json())
    assert books == state.ledger and books.rows() == state.ledger.rows()
    double = books.copy()
    double.merge(books)
    assert double.total() == books.total().times(2) and double != books


def test_spec_of_views() -> None:
    flat = array(np.arange(6.0))
    part = flat.view(2, (2, 2))
    part.value[...] = 0
    assert part.spec == Spec((2, 2), np.dtype(float)) and part.root is flat
    np.testing.assert_array_equal(flat.value, [0, 1, 0, 0, 0, 0])
    part.written()
    assert flat.version == 1 and isinstance(part, Array)
