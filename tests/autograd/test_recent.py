"""What is remembered of calls, kernels, traces and memory has a limit; entries are counted."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import numpy as np
import pytest

import tallygrad.autograd as ag
from tallygrad.autograd import context, deferred, nn, recent
from tallygrad.autograd.capture import trace
from tallygrad.autograd.ledger import CallBatch, Cost, Ledger
from tallygrad.autograd.ops.reduce import scale
from tallygrad.autograd.recent import KINDS, WAYS, Recent


def entries(table: Recent[Any, Any]) -> int:
    return len([*table.all()])


@pytest.fixture
def backend(backend: str, one_thread: None) -> str:
    return backend


def test_what_was_asked_for_lately_stays() -> None:
    table: Recent[int, int] = Recent(10)
    for i in range(100):
        table[i] = -i
        assert table[0] == 0 and table.find(-1) is None and entries(table) <= 10
    assert [table.find(i) for i in (0, 99, 98, 97, 96, 50)] == [0, -99, -98, -97, -96, None]
    table[0] = 5
    assert table[0] == 5 and sum(key == 0 for key, _ in table.all()) == 1
    with pytest.raises(KeyError):
        table[50]


def test_setting_an_older_entry_anew_leaves_one() -> None:
    table: Recent[int, int] = Recent(4)
    for i in (0, 1, 2):
        table[i] = i
    table[0] = 7
    assert table[0] == 7 and [*table.all()].count((0, 7)) == 1 and entries(table) == 3


@pytest.mark.usefixtures("backend")
def test_new_attributes_and_shapes_do_not_pile_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scale, "resolved", Recent(20))
    x = ag.ones(3)
    for i in range(100):
        assert scale(x, factor=float(i)).tolist() == [float(i)] * 3
        assert scale(ag.ones(i + 1), factor=2.0).shape == (i + 1,)
        assert entries(scale.resolved) <= 20
    assert scale.resolved[context.current().backend, (x.spec,), (99.0,)].outputs == (x.spec,)


@pytest.mark.parametrize("training", [False, True])
def test_kinds_of_calls_of_a_traced_function_do_not_pile_up(
    training: bool, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trace, "LONG", 0)
    traced = ag.trace(lambda x: x * 2.0, training=training)
    arenas = []
    for size in range(1, 2 * KINDS):
        for number in (1.0, 2.0, 3.0):
            assert traced(ag.full((size,), number)).tolist() == [2 * number] * size
        if (newest := traced.shared.newest) is not None and (one := newest()) is not None:
            arenas.append(weakref.ref(one.arena))
        del newest
        one = None
    tables = [traced.peaks, traced.captured] if training else [traced.programs]
    assert all(entries(t) <= KINDS for t in tables)
    if training and backend == "llvm":
        gc.collect()
        assert len(arenas) > 2 * KINDS - 3  # each kind was recorded
        assert arenas[-1]() is not None and arenas[0]() is None


@pytest.mark.usefixtures("backend")
def test_refusals_do_not_pile_up() -> None:
    traced = ag.trace(lambda x: x * float(x.sum().item()), training=True)
    for size in range(1, 2 * KINDS):
        for _ in range(2):
            assert traced(ag.ones(size)).tolist() == [float(size)] * size
    assert entries(traced.refused) <= KINDS


def test_batches_that_are_counted_no_more_are_added_up() -> None:
    ledger = Ledger()
    for i in range(3 * KINDS):
        for _ in range(2):
            ledger.count_batch(CallBatch([("a", "forward", "b", "c", Cost(add=i % 2))]))
        assert len(ledger._batches) <= KINDS
    assert sum(ledger.calls.values()) == 6 * KINDS and ledger.total().add == 3 * KINDS


def test_free_memory_is_held_only_beside_what_was_used(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("llvmlite", reason="llvmlite is not installed")
    from tallygrad.autograd.backends.llvm.runtime import memory

    monkeypatch.setattr(memory, "IDLE", 1 << 20)
    pool = memory.BlockPool()
    for size in range(1 << 16, 1 << 21, 1 << 13):
        both = [pool.take(size), pool.take(size)]
        del both
        free = sum(len(blocks) * room for room, blocks in pool.free.items())
        assert free <= pool.held <= (1 << 20) + 2 * pool.peak
    before = pool.held
    for _ in range(3):
        for size in (1 << 21, 1 << 20):  # those that take turns stay
            pool.take(size)
    held = pool.held
    for size in (1 << 21, 1 << 20) * 5:
        pool.take(size)
    assert pool.held == held <= max(before, (1 << 20) + 2 * pool.peak)


def _engine(function: Any) -> Any:
    named = dict(zip(function.__code__.co_freevars, function.__closure__, strict=True))
    return named["engine"].cell_contents


def test_machine_code_goes_with_the_last_who_may_call_it() -> None:
    pytest.importorskip("llvmlite", reason="llvmlite is not installed")
    from tallygrad.autograd.backends.llvm.compiler import jit
    from tallygrad.autograd.backends.llvm.compiler.isa import targets
    from tallygrad.autograd.backends.llvm.kernels.sweep import copied

    assert jit._build.cache_parameters()["maxsize"] == recent.KERNELS
    function = jit._build.__wrapped__(copied, targets.target().bare, "float32")
    engine = weakref.ref(_engine(function))
    assert engine() is not None
    del function
    assert engine() is None


def test_recordings_keep_the_machine_code_that_they_call() -> None:
    pytest.importorskip("llvmlite", reason="llvmlite is not installed")
    from llvmlite.binding import ExecutionEngine

    from tallygrad.autograd.backends.llvm.compiler import jit

    threads = ag.get_num_threads()
    ag.set_num_threads(1)
    layer = nn.Linear(300, 300)
    traced = ag.trace(layer)
    with context.using(backend="llvm"), ag.no_grad():
        x = ag.randn(40, 300)
        expected = traced(x).tolist()
        for _ in range(2):
            assert traced(x).tolist() == expected
        (program,) = next(traced.programs.all())[1]
        recording = program.replay.recording
        kept = [h for h in recording.retained.values() if isinstance(h, ExecutionEngine)]
        steps = sum(getattr(s, "args", (0, 0))[-1] for s in recording.steps)
        assert steps and kept
        jit._build.cache_clear()
        gc.collect()
        assert traced(x).tolist() == expected
    ag.set_num_threads(threads)


def test_ways_in_which_calls_meet_do_not_pile_up() -> None:
    """Calls that are known no more, but were fused, are forgotten by those that fused them."""
    call = deferred.Call("relu", (), {}, np.copy)
    for i in range(4 * WAYS):
        call.fused[(deferred.Signature(deferred.Call(str(i), (), {}, np.copy), ()),)] = None
    assert entries(call.fused) <= WAYS


def test_layouts_of_arrays_do_not_pile_up() -> None:
    pytest.importorskip("llvmlite", reason="llvmlite is not installed")
    from tallygrad.autograd.array import Spec
    from tallygrad.autograd.backends.llvm.runtime.layout import Layouts

    layouts = Layouts(Spec((6, 5), np.dtype(np.float32)))
    dense = np.zeros((5, 6), np.float32).T
    for width in range(5, 5 + 3 * WAYS):
        assert layouts.of(np.zeros((6, width), np.float32)[:, :5]) is None or width == 5
        assert layouts.of(dense) == ((4, 24), (4, 24)) and entries(layouts.known) <= WAYS


@pytest.mark.parametrize("name", ["numpy", "llvm"])
def test_gradients_in_any_layout_are_stored(name: str) -> None:
    if name == "llvm":
        pytest.importorskip("llvmlite", reason="llvmlite is not installed")
    p = ag.zeros(6, 5)
    for width in range(5, 5 + 3 * WAYS):
        wide = ag.from_numpy(np.arange(6.0 * width, dtype="f").reshape(width, 6))
        for x in (wide[:5].transpose(0, 1), ag.from_numpy(wide.numpy().T[:, :5])):
            with context.using(backend=name):
                p.copy_(x)
            np.testing.assert_array_equal(p.numpy(), x.numpy())
