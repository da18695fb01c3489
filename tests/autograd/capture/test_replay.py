"""Calls that are recorded and then repeated without Python: the same bits and ledger as running the
function, whatever numbers come; and what is run as it is, because it could not be repeated."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from importlib import import_module
from threading import Thread
from typing import Any

import numpy as np
import pytest

import tallygrad.autograd as ag
from tallygrad.autograd import context, models, nn
from tallygrad.autograd.array import array
from tallygrad.autograd.optim import SGD
from tallygrad.autograd.tensor import Tensor
from tallygrad.autograd.testing import Sample, samples

pytest.importorskip("llvmlite", reason="llvmlite is not installed")

memory = import_module("tallygrad.autograd.backends.llvm.runtime.memory")
jit = import_module("tallygrad.autograd.backends.llvm.compiler.jit")
recording = import_module("tallygrad.autograd.backends.llvm.runtime.recording")
walk = import_module("tallygrad.autograd.backends.llvm.kernels.walk")
ROWS = {row.name: row for row in samples()}
# Plans are kept by the backend's name; under this one they are made for the smallest arrays too.
SMALL = "llvm:auto,auto"


pytestmark = pytest.mark.usefixtures("one_thread")


def poison() -> None:
    """Overwrite memory that is free."""
    held = [np.full(n, np.nan, np.float32) for n in range(1, 5000, 7)]
    for room, free in [*memory.pool.free.items()]:
        for _ in [*free]:
            held.append(np.ndarray((room // 4,), np.float32, memory.pool.take(room)))
            held[-1][...] = np.nan


def tensors(arrays: list[np.ndarray]) -> list[Tensor]:
    return [Tensor(array(a.copy("K"))) for a in arrays]


def there_and_back(row: Sample) -> Callable[..., tuple[Tensor, ...]]:
    """Return a function that gives results and gradients of a sample."""

    def run(*xs: Tensor) -> tuple[Tensor, ...]:
        leaves = [Tensor(x.array, x.dtype.kind == "f") for x in xs]
        result = row.function(*leaves)
        results = [*result] if isinstance(result, tuple | list) else [result]
        ys = [y for y in results if y.requires_grad]
        ends = [x for x in leaves if x.requires_grad]
        tops = [ag.tanh(y.detach()) for y in ys]
        grads = ag.grad(ys, ends, tops, allow_unused=True) if ys else ()
        return *results, *[g for g in grads if g is not None]

    return run


@pytest.mark.parametrize("name", ROWS)
@pytest.mark.parametrize("dtype", ["float32", pytest.param("float64", marks=pytest.mark.slow)])
def test_every_operation(name: str, dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    plans = ("elementwise", "sums", "linear", "loss", "pad")
    for module in ("fusion", *(f"plans.{plan}" for plan in plans)):
        kernels = import_module(f"tallygrad.autograd.backends.llvm.{module}")
        monkeypatch.setattr(kernels, "LEAST", 0)
    plain = there_and_back(ROWS[name])
    traced = ag.trace(plain, training=True)
    with context.using(backend=SMALL):
        for seed in (0, 0, 1, 2):
            xs = ROWS[name].draw(seed, dtype)
            poison()
            found = traced(*tensors(xs))
            if traced.refused:
                assert "dropout" in name
                continue
            for a, b in zip(found, plain(*tensors(xs)), strict=True):
                np.testing.assert_array_equal(a.numpy(), b.numpy())
                assert not a.requires_grad and a.is_leaf
    assert sum(map(len, traced.captured.values())) == ("dropout" not in name)


SHAPES = {"lenet": (1, 28, 28), "mlp": (1, 28, 28), "lstm": (1, 28, 28), "resnet20": (3, 32, 32)}


class Fitting:
    """A model that is trained on drawn images, plainly or by repeating the first steps."""

    def __init__(self, name: str, traced: bool) -> None:
        ag.manual_seed(0)
        self.shape, self.model = SHAPES[name], self._create(name)
        with context.using(backend="llvm", ledger=ag.Ledger()) as state:
            self.sgd = SGD(self.model.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-3)
        self.ledger, self.runs = state.ledger, 0
        self.fit = ag.trace(self.backward, training=True) if traced else self.backward

    @staticmethod
    def _create(name: str) -> nn.Module:
        return models.create(name, input_shape=SHAPES[name], classes=10).train()

    def backward(self, images: Tensor, labels: Tensor) -> Tensor:
        self.runs += 1
        loss = ag.cross_entropy(self.model(images), labels)
        loss.backward()
        return loss

    def step(self, seed: int, count: int = 8) -> float:
        draw = np.random.default_rng(seed)
        images = draw.standard_normal((count, *self.shape), dtype=np.float32)
        given = ag.from_numpy(images), ag.from_numpy(draw.integers(0, 10, count))
        with context.using(backend="llvm", ledger=self.ledger):
            loss = self.fit(*given)
            self.sgd.step()
            self.sgd.zero_grad()
        return float(loss.item())

    @property
    def weights(self) -> np.ndarray:
        return self.sgd.groups[0].flat.data.value


@pytest.mark.parametrize("name", SHAPES)
def test_training_ends_with_the_same_bits_and_ledger(name: str) -> None:
    plain, traced = Fitting(name, False), Fitting(name, True)
    for seed, count in enumerate((8, 8, 8, 3, 8, 3, 8, 3)):
        poison()
        assert plain.step(seed, count) == traced.step(seed, count)
        np.testing.assert_array_equal(plain.weights, traced.weights)
        assert plain.ledger == traced.ledger
        assert plain.ledger.stashed == traced.ledger.stashed
    assert (plain.runs, traced.runs) == (8, 4)
    assert not traced.fit.refused
    for a, b in zip(plain.model.buffers(), traced.model.buffers(), strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy())


def test_a_repetition_is_a_few_walks_without_python_between() -> None:
    fitting = Fitting("resnet20", True)
    for seed in range(2):
        fitting.step(seed)
    [[one]] = fitting.fit.captured.values()
    done = one.replay.recording
    walks = [s for s in done.steps if s.func is done.walk]
    assert len(one.leaves) == len([*fitting.model.parameters()])
    assert len(done.steps) <= 12 and sum(s.args[1] for s in walks) > 300


@pytest.fixture
def llvm() -> Iterator[context.Context]:
    with context.using(backend="llvm", ledger=ag.Ledger()) as state:
        yield state


def reads_numbers(x: Tensor) -> Tensor:
    return x * 2.0 if x.sum().item() > 0 else x * 3.0


def draws(x: Tensor) -> Tensor:
    return ag.dropout(x, 0.5, True)


def counts_elsewhere(x: Tensor) -> Tensor:
    with context.using(ledger=ag.Ledger()):
        return x + x


@pytest.mark.usefixtures("llvm")
@pytest.mark.parametrize(
    ("function", "why"),
    [
        (reads_numbers, "reads a tensor's numbers"),
        (draws, "draws random numbers"),
        (counts_elsewhere, "changes the ledger"),
        (lambda x: ag.zeros(2).copy_(x), "writes to a tensor that it makes of numbers"),
        (lambda x: ag.zeros(3)[1:], "returns a tensor that it makes of numbers"),
    ],
)
def test_what_cannot_be_repeated_is_run_each_time(function: Any, why: str) -> None:
    seen: list[int] = []

    def noting(x: Tensor) -> Tensor:
        seen.append(1)
        return function(x)

    traced = ag.trace(noting, training=True)
    for n, number in enumerate((1.0, 1.0, -1.0, 1.0, -1.0), 1):
        found = traced(ag.full((2,), number)).tolist()
        if function is not draws:
            assert found == function(ag.full((2,), number)).tolist()
        assert len(seen) == n
    assert why in " ".join(traced.refused.values())


@pytest.mark.usefixtures("llvm")
def test_results_and_what_is_kept_elsewhere_stay_as_they_are() -> None:
    kept: list[Tensor] = []

    def step(x: Tensor) -> Tensor:
        y = ag.relu(x)
        kept.append(y * 2.0)
        return y

    traced, results = ag.trace(step, training=True), []
    for number in (1.0, 2.0, 3.0, 4.0):
        results.append(traced(ag.full((300,), number)))
    assert [float(r.numpy().max()) for r in results] == [1.0, 2.0, 3.0, 4.0]
    assert [k.numpy().tolist() for k in kept] == [[2.0 * n] * 300 for n in (1, 2, 3, 4)]
    assert "keeps a tensor that it computes" in " ".join(traced.refused.values())
    traced = ag.trace(lambda x: ag.relu(x), training=True)
    results = [traced(ag.full((300,), number)) for number in (1.0, 2.0, 3.0, 4.0)]
    results[3].array.write(np.zeros(300))
    assert traced(ag.full((300,), 5.0)).tolist() == [5.0] * 300
    assert results[2].tolist() == [3.0] * 300


@pytest.mark.usefixtures("llvm")
def test_several_threads_share_the_work_instead() -> None:
    seen: list[int] = []
    step = ag.trace(lambda x: (seen.append(1), x * 2.0)[1], training=True)
    for _ in range(3):
        step(ag.ones(300))
    ag.set_num_threads(2)
    for n in (3, 4):
        assert step(ag.full((300,), 2.0)).tolist() == [4.0] * 300 and len(seen) == n
    ag.set_num_threads(1)
    step(ag.ones(300))
    assert len(seen) == 4


@pytest.mark.usefixtures("llvm")
def test_memory_comes_back_when_nobody_can_repeat_any_more() -> None:
    big = ag.ones(1 << 18)
    traced = ag.trace(lambda x: ag.relu(ag.relu(x) * 2.0) + 1.0, training=True)
    gc.collect()
    before = memory.pool.used
    for _ in range(3):
        assert traced(big).numpy()[0] == 3.0
    gc.collect()
    assert memory.pool.used >= before + 3 * big.array.spec.nbytes
    del traced
    gc.collect()
    assert memory.pool.used == before
    assert (
        memory.pool.used + sum(room * len(free) for room, free in memory.pool.free.items())
        == memory.pool.held
    )


@pytest.mark.usefixtures("llvm")
def test_an_error_leaves_nothing_behind() -> None:
    wrong = [False]

    def step(x: Tensor) -> Tensor:
        y = ag.relu(x)
        if wrong[0]:
            raise ValueError("as told")
        return y * 2.0

    traced = ag.trace(step, training=True)
    traced(ag.ones(300))
    wrong[0] = True
    with pytest.raises(ValueError, match="as told"):
        traced(ag.ones(300))
    assert context.current().observer is None and not memory.pool.arenas and not jit.notes
    wrong[0] = False
    for number in (1.0, 2.0, 3.0):
        assert traced(ag.full((300,), number)).tolist() == [2 * number] * 300
    assert [len(found) for found in traced.captured.values()] == [1]


@pytest.mark.usefixtures("llvm")
def test_an_error_in_a_repetition_is_raised_and_does_no_harm() -> None:
    def judge(x: Tensor, labels: Tensor) -> Tensor:
        return ag.cross_entropy(x, labels)

    x, right = ag.randn(8, 5), ag.tensor(np.arange(8) % 5)
    for traced in (ag.trace(judge, training=True), ag.trace(judge)):
        expected = [traced(x, right).item() for _ in range(3)]
        with pytest.raises(IndexError, match=r"expected labels in \[0, 5\), got 7"):
            traced(x, ag.tensor(np.full(8, 7)))
        assert traced(x, right).item() == expected[0] == expected[2]
        assert not memory.pool.arenas


@pytest.mark.usefixtures("llvm")
def test_other_threads_are_not_recorded() -> None:
    """What they compute meanwhile is theirs."""
    other: list[np.ndarray] = []
    state = context.current()

    def elsewhere() -> None:
        with context.using(backend=state.backend, ledger=ag.Ledger()):
            other.append((ag.ones(3000) * 2.0).numpy())

    def step(x: Tensor) -> Tensor:
        y = x * 3.0
        thread = Thread(target=elsewhere)
        thread.start()
        thread.join()
        return y + 1.0

    traced = ag.trace(step, training=True)
    for number in (1.0, 2.0, 3.0, 4.0):
        assert traced(ag.full((3000,), number)).numpy()[-1] == 3 * number + 1
    assert len(other) == 2 and all((a == 2.0).all() for a in other)


@pytest.mark.usefixtures("llvm")
def test_so_many_recordings_and_no_more() -> None:
    traced = ag.trace(lambda x: x * 2.0, training=True)
    for size in range(300, 312):
        for _ in range(3):
            assert traced(ag.ones(size)).tolist() == [2.0] * size
        assert sum(map(len, traced.captured.values())) <= 8
    seen: list[int] = []
    traced = ag.trace(lambda x: (seen.append(1), x * 2.0)[1], training=True)
    for size in [*range(300, 310)] * 4:
        traced(ag.ones(size))
    assert len(seen) == 10 + 10 + 2 * 2  # what is recorded stays as long as it is used
    traced = ag.trace(lambda x: x * 2.0)
    before = memory.pool.used
    for size in range(300, 340):
        for _ in range(3):
            traced(ag.ones(size))
    assert memory.pool.used - before <= 8 * 10 * 4096


def test_without_numbers_the_function_is_run() -> None:
    traced = ag.trace(lambda x: x * 2.0, training=True)
    with context.using(backend="meta"):
        for _ in range(3):
            assert traced(ag.ones(5)).shape == (5,)
    for _ in range(3):
        assert traced(ag.ones(5)).tolist() == [2.0] * 5  # NumPy's calls are not recorded
    assert not any(traced.captured.values())


def test_inputs_are_tensors() -> None:
    with pytest.raises(TypeError, match="expected a tensor as input 1, got int"):
        ag.trace(lambda x, y: x, training=True)(ag.ones(2), 3)


def test_the_walk_passes_any_number_of_arguments() -> None:
    ctypes = import_module("ctypes")
    target = import_module("tallygrad.autograd.backends.llvm.compiler.isa.targets").target()
    seen: list[tuple[int, ...]] = []
    table = np.zeros((walk.MOST, walk.ENTRY), np.uint64)
    kept = []
    for n, row in enumerate(table, 1):
        kind = ctypes.CFUNCTYPE(None, *[ctypes.c_uint64] * n)
        kept.append(kind(lambda *given: seen.append(given)))
        row[0] = ctypes.cast(kept[-1], ctypes.c_void_p).value
        row[1], row[2 : 2 + n] = n, np.arange(n) + 1000 * n
    jit.build(walk.walk, target)(table.ctypes.data, len(table))
    assert seen == [tuple(range(1000 * n, 1001 * n)) for n in range(1, walk.MOST + 1)]


def halves(draw: np.random.Generator, count: int = 8) -> tuple[Tensor, Tensor]:
    images = draw.standard_normal((count, 3, 32, 32), dtype=np.float32)
    return ag.from_numpy(images), ag.from_numpy(draw.integers(0, 10, count))


def test_threads_that_repeat_do_not_disturb_one_another() -> None:
    """Nor those who call kernels of the same shapes meanwhile."""
    nets = [models.create("resnet20", input_shape=(3, 32, 32), classes=10).eval() for _ in range(3)]
    x = halves(np.random.default_rng(0), 4)[0]
    functions: list[Any] = [ag.trace(nets[0]), ag.trace(nets[1], training=True), nets[2]]
    wrong: list[int] = []

    def work(which: int) -> None:
        with context.using(backend="llvm", ledger=ag.Ledger()), ag.no_grad():
            expected = nets[which](x).numpy()
            for _ in range(40):
                if not np.array_equal(functions[which](x).numpy(), expected):
                    wrong.append(which)

    threads = [Thread(target=work, args=(i,)) for i in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.usefixtures("llvm")
@pytest.mark.parametrize("training", [False, True])
def test_nothing_is_repeated_that_was_not_recorded_to_its_end(
    training: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    traced = ag.trace(lambda x: ag.relu(x) * 2.0, training=training)
    traced(ag.ones(300))
    with monkeypatch.context() as broken:
        broken.setattr(recording.NativeRecording, "_walk", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            traced(ag.ones(300))
    for number in (3.0, 4.0, 5.0):
        assert traced(ag.full((300,), number)).tolist() == [2 * number] * 300


def test_all_kinds_of_a_function_share_memory() -> None:
    fitting = Fitting("lenet", True)
    gc.collect()
    before = memory.pool.used
    used = []
    for count in (32, 31, 30):
        for seed in range(3):
            fitting.step(seed, count)
        used.append(memory.pool.used - before)
    assert used[2] < 1.7 * used[0]


@pytest.mark.usefixtures("llvm")
def test_a_limit_of_memory_is_kept() -> None:
    seen: list[int] = []
    traced = ag.trace(lambda x: (seen.append(1), x * 2.0)[1], training=True)
    ag.set_memory_limit(memory.pool.held + (1 << 24))
    try:
        for _ in range(4):
            traced(ag.ones(300))
    finally:
        ag.set_memory_limit(0)
    assert len(seen) == 4


@pytest.mark.usefixtures("llvm")
def test_forward_passes_alone_leave_right_accounts() -> None:
    layer = nn.Conv2d(4, 16, 3)
    # What the tape keeps is let go behind the recording.
    traced = ag.trace(lambda x: ag.relu(ag.relu(layer(x))), training=True)
    x = ag.ones(8, 4, 32, 32)
    for _ in range(4):
        traced(x)
        gc.collect()
        free = sum(room * len(some) for room, some in memory.pool.free.items())
        assert memory.pool.used + free == memory.pool.held
