"""The tape: what is recorded, swept, freed, computed twice and refused."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Iterator

import numpy as np
import pytest

import tallygrad.autograd as ag
from tallygrad.autograd import context
from tallygrad.autograd.array import array
from tallygrad.autograd.ledger import Cost
from tallygrad.autograd.ops import update
from tallygrad.autograd.primitive import Primitive


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
    first.post_grad_hooks.append(lambda t: order.append(f"first {t.grad.item()}"))
    last.post_grad_hooks.append(lambda t: order.append(f"last {t.grad.item()}"))
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
        kept = weakref.ref(h.array)
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
        refs = [weakref.ref(y.source[0]), weakref.ref(y.array)]
        del y
        assert [r() for r in refs] == [None, None]
    finally:
        gc.enable()


def test_in_place_change_of_a_saved_array_is_an_error() -> None:
    x = leaf(1.0, 2.0)
    h = x * 2.0
    y = (h * h).sum()
    update.store(h.array, array(np.zeros(2)))
    with pytest.raises(RuntimeError, match=r"input 1 of mul was changed in place \(version 1"):
        y.backward()


def test_in_place_change_through_a_view_is_seen_too() -> None:
    x = leaf(1.0, 2.0)
    h = x * 2.0
    part = h.detach()[0:1]
    y = (h * h).sum()
    update.store(part.array, array(np.zeros(1)))
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
    with pytest.raises(
        RuntimeError, match=r"^backward: expected a single number, got shape \(2,\)"
    ):
        (leaf(1.0, 2.0) * 2.0).backward()
    with pytest.raises(ValueError, match=r"^backward: expected a gradient .*, got"):
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


def test_context_of_another_thread_is_its_own() -> None:
    seen: list[str] = []
    with context.using(scope="mine"):
        thread = threading.Thread(target=lambda: seen.append(context.current().scope))
        thread.start()
        thread.join()
    assert seen == [""]
