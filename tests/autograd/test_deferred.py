"""Calls that wait for their reader: the same bits as calls at once, whatever happens in between."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

import tallygrad.autograd as ag
from tallygrad.autograd import context, deferred, models, nn, primitive
from tallygrad.autograd.deferred import Call
from tallygrad.autograd.optim import SGD

pytest.importorskip("llvmlite")

SHAPE = (16, 16, 32, 32)  # large enough for all kernels
Passes = list[tuple[tuple[str, ...], tuple[str, ...]]]


def inside(signatures: tuple[Any, ...], inlined: tuple[Any, ...]) -> Iterator[str]:
    """Yield the names of the calls whose work a kernel does on the way."""
    for signature, inner in zip(signatures, inlined, strict=True):
        if inner is not None:
            yield signature.call.name
            yield from inside(signature.operands, inner)


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> Passes:
    """Collect what runs in one pass: the name of a call and of those that it is given, and the
    names of all that it does on the way."""
    found: Passes = []
    real = Call.run

    def run(self: Call, args: Any) -> Any:
        signatures = deferred._signatures(args)
        result = real(self, args)
        fused = self.fused.get(signatures)
        if fused:
            given = (self.name, *[signature.call.name for signature in signatures if signature])
            found.append((given, (*inside(signatures, fused.inlined),)))
        return result

    monkeypatch.setattr(Call, "run", run)
    return found


def numbers(*shape: int, seed: int = 0, dtype: str = "float32") -> ag.Tensor:
    """Return numbers that the engine made, so that calls may wait."""
    drawn = np.random.default_rng(seed).normal(size=shape).astype(dtype)
    return ag.from_numpy(drawn) * 1.0


def both(function: Callable[[], Any]) -> tuple[Any, Any]:
    """Return what a function gives with calls that wait and with calls at once."""
    found = []
    for backend in ("llvm", "llvm:eager"):
        with context.using(backend=backend, ledger=ag.Ledger()) as state:
            found.append((function(), state.ledger))
    (waited, one), (at_once, two) = found
    assert one == two and one.rows()
    return waited, at_once


def step(name: str, shape: tuple[int, ...], batch: int, dtype: str) -> dict[str, np.ndarray]:
    """Return loss, gradients and buffers of a training step and the loss of an evaluation."""
    ag.manual_seed(0)
    model = models.create(name, input_shape=shape, classes=10).astype(dtype)
    x = ag.from_numpy(np.random.default_rng(1).normal(size=(batch, *shape)).astype(dtype))
    y = ag.from_numpy(np.arange(batch) % 10)
    model.train()
    loss = ag.cross_entropy(model(x), y)
    loss.backward()
    found = {n: p.grad.numpy() for n, p in model.named_parameters() if p.grad is not None}
    found |= {n: b.numpy() for n, b in model.named_buffers()} | {"loss": loss.numpy()}
    model.eval()
    with ag.no_grad():
        found["evaluated"] = ag.cross_entropy(model(x), y).numpy()
    return found


@pytest.mark.parametrize(("dtype", "bound"), [("float32", 3e-3), ("float64", 1e-11)])
def test_a_step_gives_the_same(dtype: str, bound: float, passes: Passes) -> None:
    """But for rounding where convolutions sum up for batch norm; in float32 a ReLU may tip."""
    waited, at_once = both(lambda: step("resnet20", (3, 32, 32), 16, dtype))
    assert waited.keys() == at_once.keys() and len(waited) > 60
    for name, value in waited.items():
        off = np.linalg.norm(value - at_once[name])
        assert off <= bound * np.linalg.norm(at_once[name]) + 1e-12, name
    kinds = {given for given, _ in passes}
    assert {("moments", "conv2d"), ("batch_norm_sums", "relu_dx"), ("relu", "add")} <= kinds
    assert {("relu", "batch_norm_eval"), ("batch_norm_dx", "relu_dx")} <= kinds


def normalised(x: ag.Tensor) -> tuple[ag.Tensor, ag.Tensor, ag.Tensor]:
    channels = x.shape[1]
    w, b = numbers(channels, seed=2), numbers(channels, seed=3)
    y = ag.batch_norm(x, None, None, w, b, training=True)
    return y, w, b


@pytest.mark.parametrize("written", [0, 1, 2])
def test_numbers_are_computed_before_an_operand_is_written_over(written: int) -> None:
    def late() -> np.ndarray:
        with ag.no_grad():
            x = numbers(*SHAPE)
            y, w, b = normalised(x)
            (x, w, b)[written].copy_(7.0)
            return ag.relu(y).numpy()

    def early() -> np.ndarray:
        with ag.no_grad():
            return ag.relu(normalised(numbers(*SHAPE))[0]).numpy()

    waited, at_once = both(late)
    np.testing.assert_array_equal(waited, at_once)
    np.testing.assert_array_equal(waited, both(early)[0])


@pytest.mark.parametrize("written", [0, 1])
def test_a_convolution_reads_its_operands_as_they_were(written: int) -> None:
    def late() -> np.ndarray:
        with ag.no_grad():
            x, w = numbers(*SHAPE), numbers(8, 16, 3, 3, seed=4)
            y = ag.conv2d(x, w, padding=1)
            assert (y.array.storage.pending is None) == (context.current().backend == "llvm:eager")
            (x, w)[written].copy_(7.0)
            return ag.relu(normalised(y)[0]).numpy()

    waited, at_once = both(late)
    np.testing.assert_allclose(waited, at_once, rtol=1e-5, atol=1e-5)
    assert np.ptp(waited) > 1


def test_what_an_operand_waits_for_is_computed_too_before_it_is_written_over() -> None:
    def late() -> np.ndarray:
        with ag.no_grad():
            x = numbers(*SHAPE)
            total = normalised(x)[0] + numbers(*SHAPE, seed=5)
            x.zero_()
            return ag.relu(total).numpy()

    waited, at_once = both(late)
    np.testing.assert_array_equal(waited, at_once)
    assert np.ptp(waited) > 1


def test_arrays_of_the_user_are_read_at_once() -> None:
    a, b = (np.random.default_rng(i).normal(size=SHAPE).astype("f") for i in (0, 1))
    expected = a + b
    with context.using(backend="llvm"):
        total = ag.from_numpy(a) + ag.from_numpy(b)
        a[...] = 0
        np.testing.assert_array_equal(total.numpy(), expected)


def test_numbers_that_were_given_away_may_be_changed() -> None:
    """Small operands of the user's, and results that were shown."""

    def late() -> list[np.ndarray]:
        x, w, b = numbers(*SHAPE), np.ones(16, "f"), np.zeros(16, "f")
        y = ag.batch_norm(x, None, None, ag.from_numpy(w), ag.from_numpy(b), training=True)
        w *= 2
        b += 1
        z = ag.relu(x)
        x.numpy()[...] = 0
        return [y.numpy(), z.numpy(), ag.relu(x).numpy()]

    waited, at_once = both(late)
    for one, two in zip(waited, at_once, strict=True):
        np.testing.assert_array_equal(one, two)
    assert waited[1].any() and not waited[2].any()


def layers() -> nn.Module:
    ag.manual_seed(0)
    return nn.Sequential(nn.Conv2d(16, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU())


@pytest.mark.parametrize("how", ["made", "flat", "copied", "flat and copied"])
def test_weights_are_read_where_they_lie(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Calls that wait take no copies of them, not even after they were saved and loaded."""
    copied: list[tuple[int, ...]] = []
    real = primitive._copied
    monkeypatch.setattr(primitive, "_copied", lambda a: copied.append(a.shape) or real(a))
    net, x = layers(), numbers(*SHAPE)
    if "flat" in how:
        nn.flatten([*net.parameters()])
    if "copied" in how:
        net[0].weight.numpy()
        net = copy.deepcopy(net)
    for _ in range(2):
        with context.using(backend="llvm"):
            net(x * 1.0).sum().backward()
        net.load_state_dict(net.state_dict())
    assert not copied
    net[0].weight.numpy()  # which somebody may write to from now on
    with context.using(backend="llvm"):
        net(x * 1.0).sum().backward()
    assert (16, 16, 3, 3) in copied


def step_down(weight: ag.Tensor, optimizer: SGD) -> None:
    weight.grad = ag.ones(*weight.shape)
    optimizer.step()


WRITES: dict[str, Callable[[nn.Module, ag.Tensor, SGD], Any]] = {
    "in place": lambda net, w, optimizer: w.mul_(2.0),
    "loaded": lambda net, *_: net.load_state_dict({n: v + 1 for n, v in net.state_dict().items()}),
    "drawn": lambda net, w, optimizer: nn.init.ones_(w),
    "by a step": lambda net, w, optimizer: step_down(w, optimizer),
    "through numpy()": lambda net, w, optimizer: w.numpy().fill(0),
    "through asarray": lambda net, w, optimizer: np.asarray(w).fill(0),
}


@pytest.mark.parametrize("how", WRITES)
def test_calls_that_wait_read_weights_as_they_were(how: str) -> None:
    net = layers().eval()
    weight, optimizer = net[0].weight, SGD(net.parameters(), lr=1.0)
    with ag.no_grad(), context.using(backend="llvm"):
        x = numbers(*SHAPE)
        expected = net(x).numpy().copy()
        y = net(x)
        assert y.array.storage.pending is not None
        WRITES[how](net, weight, optimizer)
        np.testing.assert_array_equal(y.numpy(), expected)
        assert not np.array_equal(net(x).numpy(), expected)


def test_many_results_that_nobody_reads_are_computed() -> None:
    with context.using(backend="llvm"):
        x = numbers(2, 32, 32, 32)
        kept = [ag.relu(x) for _ in range(2 * deferred.MAX_PENDING)]
        assert sum(y.array.storage.pending is not None for y in kept) <= deferred.MAX_PENDING
        assert all((y.numpy() >= 0).all() for y in kept[:3])


def test_arrays_without_numbers_never_wait() -> None:
    with context.using(backend="meta"):
        x = numbers(*SHAPE)
    with context.using(backend="llvm"), pytest.raises(RuntimeError, match="meta backend"):
        ag.relu(x)


def test_two_threads_read_what_waits() -> None:
    with context.using(backend="llvm"):
        for number in range(5):
            y = normalised(numbers(*SHAPE, seed=number))[0]
            z = ag.relu(y)
            with ThreadPoolExecutor(2) as pool:
                first, second = pool.map(lambda t: t.numpy(), [z, y])
            np.testing.assert_array_equal(first, np.maximum(second, 0))


@pytest.mark.parametrize("flipped", [False, True])
@pytest.mark.parametrize("read_first", [False, True])
def test_sums_take_in_a_normalisation_on_either_side(
    flipped: bool, read_first: bool, passes: Passes
) -> None:
    def block() -> list[np.ndarray]:
        y, other = normalised(numbers(*SHAPE))[0], numbers(*SHAPE, seed=5)
        total = other + y if flipped else y + other
        first = [total.numpy()] if read_first else []
        return [*first, ag.relu(total).numpy(), total.numpy(), y.numpy()]

    waited, at_once = both(block)
    for one, two in zip(waited, at_once, strict=True):
        np.testing.assert_array_equal(one, two)
    assert passes[0][0] == (("add", "batch_norm_eval") if read_first else ("relu", "add"))


def test_two_normalisations_and_sums_of_sums() -> None:
    def block() -> np.ndarray:
        x = numbers(*SHAPE)
        y, z = normalised(x)[0], normalised(x * x)[0]
        return ag.relu((y + z) + (z + y) + y).numpy()

    waited, at_once = both(block)
    np.testing.assert_array_equal(waited, at_once)


def test_copies_and_texts_of_numbers_that_wait() -> None:
    with context.using(backend="llvm"):
        y = normalised(numbers(*SHAPE))[0]
        assert "pending" in repr(y.array) and y.array.has_numbers
        twin = copy.deepcopy(y.array)
        assert "ready" in repr(y.array)
        np.testing.assert_array_equal(twin.value, y.numpy())
        assert "meta" not in repr(normalised(numbers(*SHAPE))[0])


def test_an_operand_that_was_computed_meanwhile_is_read() -> None:
    """The kernel that takes the operand in must not be given the numbers in its place."""

    def block() -> np.ndarray:
        y = normalised(numbers(*SHAPE))[0]
        total = y + numbers(*SHAPE, seed=5)
        _ = y.numpy()
        return ag.relu(total).numpy()

    waited, at_once = both(block)
    np.testing.assert_array_equal(waited, at_once)


def test_no_long_row_of_calls_waits() -> None:
    """Its operands would be kept, and nothing is made for it."""
    with context.using(backend="llvm"), ag.no_grad():
        x = numbers(*SHAPE)
        sums = [x]
        for _ in range(8):
            sums.append(sums[-1] + x)
        depths = [deferred._depth(y.array) for y in sums[1:]]
        assert depths[-1] > 1 and max(depths) < deferred.MAX_DEPTH
        expected = x.numpy()
        for _ in range(8):
            expected = expected + x.numpy()
        np.testing.assert_array_equal(sums[-1].numpy(), expected)


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("with_residual", [False, True])
def test_convolutions_go_on_image_by_image(
    with_residual: bool, stride: int, threads: int, passes: Passes
) -> None:
    """What is normalised on the way is there for others too, and there once."""

    def block() -> list[np.ndarray]:
        x, w = numbers(*SHAPE).requires_grad_(), numbers(8, 16, 3, 3, seed=4).requires_grad_()
        residual = numbers(*SHAPE, seed=5) if with_residual else None
        y = normalised(x)[0]
        read = ag.relu(y if residual is None else y + residual)
        z = ag.conv2d(read, w, stride=stride, padding=1)
        assert z.array.value is not None and read.array.storage.pending is None
        loss = (z * z).sum() + read.sum()
        loss.backward()
        assert x.grad is not None and w.grad is not None
        return [z.numpy(), read.numpy(), x.grad.numpy(), w.grad.numpy()]

    before = ag.get_num_threads()
    ag.set_num_threads(threads)
    try:
        waited, at_once = both(block)
    finally:
        ag.set_num_threads(before)
    for one, two, near in zip(waited, at_once, (0, 0, 1e-5, 0), strict=True):
        np.testing.assert_allclose(one, two, rtol=near, atol=near * np.abs(two).max())
    assert ("conv2d", "relu") in [given for given, _ in passes]


@pytest.mark.parametrize(
    ("size", "options"),
    [
        ((32, 32), {"padding": 1}),
        ((33, 31), {"padding": 1}),
        ((18, 18), {"padding": 0}),
        ((65, 66), {"padding": 1, "stride": 2}),
    ],
    ids=str,
)
def test_all_convolutions_do_what_follows(
    size: tuple[int, int], options: dict[str, int], passes: Passes
) -> None:
    """Sums for batch norm on the way and, with a mask, on the way back."""

    def block() -> list[np.ndarray]:
        x, w = numbers(16, 16, *size).requires_grad_(), numbers(16, 16, 3, 3, seed=4) * 0.1
        y, slope, level = normalised(x)
        z = ag.conv2d(ag.relu(y), w, **options)
        (ag.relu(ag.batch_norm(z, None, None, slope, level, training=True)) ** 2).sum().backward()
        assert x.grad is not None
        return [x.grad.numpy()]

    (waited,), (at_once,) = both(block)
    np.testing.assert_allclose(waited, at_once, atol=2e-4 * np.abs(at_once).max())
    names = [(given[0], on_the_way) for given, on_the_way in passes]
    assert any(name == "moments" and "conv2d" in way for name, way in names)
    assert any(name == "batch_norm_sums" and "conv2d_dx" in way for name, way in names)


@pytest.mark.parametrize("flipped", [False, True])
def test_gradients_of_two_convolutions_meet(flipped: bool, passes: Passes) -> None:
    """As at the input of a block whose shortcut has a convolution, too."""

    def block() -> list[np.ndarray]:
        x = numbers(16, 16, 32, 32).requires_grad_()
        w, shortcut = numbers(16, 16, 3, 3, seed=4) * 0.1, numbers(16, 16, 1, 1, seed=5)
        y = ag.relu(normalised(x)[0])
        ways = [ag.conv2d(y, w, padding=1, stride=2), ag.conv2d(y, shortcut, stride=2)]
        one, two = reversed(ways) if flipped else ways
        (one + two).sum().backward()
        assert x.grad is not None
        return [x.grad.numpy()]

    (waited,), (at_once,) = both(block)
    np.testing.assert_allclose(waited, at_once, atol=2e-4 * np.abs(at_once).max())
    on_the_way = ("relu_dx", "add", "conv2d_dx")
    assert ("batch_norm_sums", on_the_way) in [(given[0], way) for given, way in passes]


def test_the_reference_never_waits() -> None:
    with context.using(backend="numpy"):
        assert normalised(numbers(*SHAPE))[0].array.storage.pending is None
