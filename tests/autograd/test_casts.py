"""Within a block of mixed precision a weight is cast once, whatever uses it, until it changes."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest

import tallygrad.autograd as ag
from tallygrad.autograd import Tensor, context, nn
from tallygrad.autograd.differentiate import grad
from tallygrad.autograd.ledger import Ledger

pytest.importorskip("ml_dtypes", reason="ml_dtypes is not installed")
X = np.random.default_rng(0).normal(size=(4, 4)).astype("f4")
W = np.random.default_rng(1).normal(size=(4, 4)).astype("f4")


def casts(ledger: Ledger) -> int:
    """Return the calls that turn float32 into bfloat16."""
    return sum(
        n for (_, _, name, _, cost), n in ledger.calls.items()
        if name == "cast" and cost.bytes_read == 2 * cost.bytes_written == 64
    )  # fmt: skip


def weight() -> nn.Parameter:
    return nn.Parameter(ag.tensor(W))


def used(w: Tensor, shared: bool, left: bool = True) -> Tensor:
    """Use a weight in three products in a row, in one block or in one each."""
    x = ag.tensor(X).bfloat16()
    with ag.autocast() if shared else nullcontext():
        for _ in range(3):
            with nullcontext() if shared else ag.autocast():
                x = w @ x if left else x @ w
    return x.float()


def test_ten_uses_are_one_cast(backend: str) -> None:
    w, x, ledger = weight(), ag.tensor(X).bfloat16(), Ledger()
    with context.using(ledger=ledger):
        with ag.autocast():
            for _ in range(10):
                x = w @ x
            assert casts(ledger) == 1
            with ag.autocast(), context.scope("inner"):
                w @ x
            with ag.no_grad():
                assert not (w @ x).requires_grad
            with ag.autocast(enabled=False):
                w @ x.float()
            assert casts(ledger) == 1 and (w @ x).requires_grad
            with context.using(ledger=Ledger()) as other:
                w @ x
            assert casts(other.ledger) == 1
        with ag.autocast():
            w @ x
        assert casts(ledger) == 2
        with ag.autocast():  # what is no weight may be large, and is used once as a rule
            z = ag.tensor(X)
            z @ z
        assert casts(ledger) == 4


def test_casts_live_no_longer_than_what_was_cast() -> None:
    """Inputs with gradients, and models, that come and go in a long block; in bytes of results."""
    pytest.importorskip("llvmlite", reason="llvmlite is not installed")
    used = []
    with context.using(backend="llvm"), ag.autocast():
        for _ in range(6):
            x = ag.tensor(np.ones((64, 64), "f4"), requires_grad=True)
            layer = nn.Linear(64, 64)
            layer(x).sum().backward()
            assert len(context.current().casts) == 3
            del x, layer
            used.append(ag.memory_in_use().used)
    assert used[1:] == used[:1] * 5


def test_a_weight_that_changes_is_cast_again(backend: str) -> None:
    w, x = weight(), ag.tensor(np.eye(4, dtype="f4"))

    def check(expected: np.ndarray) -> None:
        rounded = ag.tensor(expected).bfloat16()
        np.testing.assert_array_equal((w @ x).numpy(), rounded.numpy())

    with ag.autocast():
        check(W)
        with ag.no_grad():
            w.mul_(3.0)
        check(3 * W)
        w.array.write(X)
        check(X)
        w.rebind(ag.tensor(W).array)
        check(W)


@pytest.mark.parametrize("left", [True, False])
@pytest.mark.parametrize("computed", [True, False])
def test_gradients_of_several_uses_are_those_of_separate_blocks(
    backend: str, left: bool, computed: bool
) -> None:
    """To the bit: they are added in float32, be they rounded before or not."""
    found = []
    for shared in (False, True):
        w = weight()
        y = used(w + w if computed else w, shared, left)
        (y * y).sum().backward()
        assert w.grad is not None and w.grad.dtype == np.float32
        found.append(w.grad.numpy())
    np.testing.assert_array_equal(*found)


def test_gradients_of_gradients_pass_through_it() -> None:
    found = []
    for shared in (False, True):
        w = weight()
        y = used(w, shared)
        (dw,) = grad((y * y).sum(), w, create_graph=True)
        assert dw is not None
        (dw * dw).sum().backward()
        assert w.grad is not None
        found.append(w.grad.numpy())
    np.testing.assert_array_equal(*found)


def test_a_block_may_have_several_backward_passes(backend: str) -> None:
    """As one of micro-batches has; what the first one frees, the second does not need."""
    whole, apart = weight(), weight()
    with ag.autocast():
        for _ in range(2):
            used(whole, shared=True).sum().backward()
    for _ in range(2):
        used(apart, shared=False).sum().backward()
    assert whole.grad is not None and apart.grad is not None
    np.testing.assert_array_equal(whole.grad.numpy(), apart.grad.numpy())


def test_a_block_may_change_its_backend() -> None:
    w, x = weight(), ag.tensor(X)
    with ag.autocast():
        with context.using(backend="meta"):
            w @ x
        expected = (w @ x).numpy()
        with context.using(backend="meta"):
            assert not (w @ x).array.has_numbers
        np.testing.assert_array_equal((w @ x).numpy(), expected)


@pytest.mark.parametrize("outside", [True, False])
def test_traced_functions_read_weights_in_each_call(backend: str, outside: bool) -> None:
    w, x = weight(), ag.tensor(X).bfloat16()

    def product(x: Tensor) -> Tensor:
        with nullcontext() if outside else ag.autocast():
            return w @ (w @ x)

    traced, ledger = ag.trace(product), Ledger()
    with (
        context.using(ledger=ledger), ag.no_grad(), ag.autocast() if outside else nullcontext()
    ):  # fmt: skip
        w @ x
        for _ in range(4):
            before = casts(ledger)
            found = traced(x).numpy()
            assert casts(ledger) == before + 1
            np.testing.assert_array_equal(found, product(x).numpy())
            w.mul_(1.5)


def test_captured_steps_are_those_that_run(backend: str) -> None:
    """Steps that use a weight three times, as recorded and as they are, bit for bit."""
    found = []
    for traces in (False, True):
        w = weight()
        flat = nn.flatten([w])

        def step(x: Tensor, w: nn.Parameter = w) -> Tensor:
            with ag.autocast():
                y = (w @ (w @ (w @ x))).float().sum()
            y.backward()
            return y

        run = ag.trace(step, training=True) if traces else step
        losses = []
        for _ in range(4):
            losses.append(float(run(ag.tensor(X)).item()))
            assert w.grad is not None
            flat.data.write(flat.data.value - 0.01 * flat.grad.value)
            w.grad = None
        found.append((losses, w.numpy().copy()))
    (plain, before), (traced, after) = found
    assert plain == traced and len({*plain}) == 4
    np.testing.assert_array_equal(before, after)


class Layers(nn.Module):
    """Layers that multiply, and one that does not."""

    def __init__(self) -> None:
        self.conv, self.norm = nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.back, self.lstm = nn.ConvTranspose2d(4, 3, 2), nn.LSTM(18, 5)
        self.rnn, self.linear = nn.RNN(5, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        y = self.back(self.norm(self.conv(x))).flatten(2).permute(1, 0, 2)
        return self.linear(self.rnn(self.lstm(y)[0])[0])


class Rereads(nn.Module):
    """A model whose weights are read by more than products."""

    def __init__(self) -> None:
        self.embedding, self.out = nn.Embedding(20, 16), nn.Linear(16, 20, bias=False)
        self.out.weight = self.embedding.weight
        self.gate = nn.utils.weight_norm(nn.Linear(20, 8))
        self.last = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.gate(self.out(self.embedding(x)))).float() * self.last.weight.norm()


@pytest.mark.parametrize(
    ("create", "shape", "casts"), [(Layers, (3, 2, 5, 2), 9), (Rereads, (6,), 4)]
)
def test_weights_keep_narrow_copies_and_give_the_same_bits_without_casts(
    create: Any, shape: tuple[int, ...], casts: int, backend: str
) -> None:
    net, numbers = create().eval(), np.random.default_rng(0).normal(size=shape)
    x = ag.tensor(numbers.astype("f4") if len(shape) > 1 else numbers.astype("i8") % 20)

    def run() -> tuple[bytes, int]:
        with ag.no_grad(), ag.autocast(), context.using(ledger=Ledger()) as state:
            y = net(x)
        calls = state.ledger.calls.items()
        return y.numpy().tobytes(), sum(n for (_, _, name, *_), n in calls if name == "cast")

    before = run()
    assert nn.keep_narrow_weights(net) is net
    assert {p.dtype for p in net.parameters()} == {np.dtype("f4")}
    after = run()
    assert after[0] == before[0] and before[1] - after[1] == casts
    with ag.no_grad():
        net.get_parameter(next(n for n, p in net.named_parameters() if p.ndim > 1)).mul_(1.5)
    changed = run()
    fresh = create().eval()
    fresh.load_state_dict(net.state_dict())
    net = fresh
    assert changed[0] == run()[0] != before[0]
