"""bfloat16: every primitive computes in float32 and rounds once; mixed precision after torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from threading import Barrier
from typing import Any

import numpy as np
import pytest

import tallygrad.autograd as ag
from tallygrad.autograd import Tensor, context, dtypes
from tallygrad.autograd.array import array
from tallygrad.autograd.capture.observer import Dispatched, PassiveObserver
from tallygrad.autograd.differentiate import grad
from tallygrad.autograd.ledger import Ledger
from tallygrad.autograd.testing.samples import Sample, samples

pytest.importorskip("ml_dtypes", reason="ml_dtypes is not installed")
BF16 = dtypes.bfloat16()
SAMPLES = samples()
CREATE: list[Callable[..., Tensor]] = [
    ag.tensor, partial(ag.full, fill_value=1.0), ag.zeros, ag.ones, ag.arange, ag.rand, ag.randn,
]  # fmt: skip


class Calls(PassiveObserver):
    """Keeps what each call was given, and what it returned."""

    def __init__(self) -> None:
        super().__init__(context.current().ledger)
        self.calls: list[tuple[Dispatched, list[Any], list[Any]]] = []

    def add(self, call: Dispatched) -> None:
        """Copy the numbers of a call, before anything overwrites them."""
        found = [a.value.copy() for a in call.args], [a.value.copy() for a in call.results]
        self.calls.append((call, *found))


def floats(result: Any) -> list[Tensor]:
    results = result if isinstance(result, tuple | list) else (result,)
    return [y for y in results if isinstance(y, Tensor) and dtypes.is_floating(y.dtype)]


def near(y: Any, expected: Any, what: str) -> None:
    """Compare results whose float32 numbers may differ in their last bits before rounding."""
    y, expected = y.astype(np.float64), expected.astype(np.float64)
    scale = np.abs(expected[np.isfinite(expected)]).max(initial=0.0)
    np.testing.assert_allclose(y, expected, 2**-7, 1e-5 * scale + 1e-6, err_msg=what)


def both_ways(sample: Sample, arrays: Sequence[Any]) -> list[Tensor | None]:
    """Return the results of a sample, and the gradients of its inputs."""
    tensors = [Tensor(array(a.copy()), dtypes.is_floating(a.dtype)) for a in arrays]
    results = floats(sample.function(*tensors))
    live = [t for t in tensors if t.requires_grad]
    ends = [y for y in results if y.requires_grad]
    seeds = [Tensor(array(np.ones(y.shape, y.dtype))) for y in ends]
    found = grad(ends, live, seeds, allow_unused=True) if ends and live else ()
    return [*results, *found]


@pytest.mark.parametrize("name", ["numpy", pytest.param("llvm", marks=pytest.mark.slow)])
@pytest.mark.parametrize("sample", SAMPLES, ids=lambda s: s.name)
def test_every_primitive_rounds_once(sample: Sample, name: str) -> None:
    """The kernels of llvm, of which many are compiled here, add up in another order."""
    if name == "llvm":
        pytest.importorskip("llvmlite", reason="llvmlite is not installed")
    drawn = sample.draw(1, np.float32)
    narrow = [a.astype(BF16) if dtypes.is_floating(a.dtype) else a for a in drawn]
    observer = Calls()
    with context.using(backend=name, observer=observer):
        results = both_ways(sample, narrow)
    assert all(y is None or y.dtype in (BF16, dtypes.FLOAT32) for y in results)
    for call, args, found in observer.calls:
        primitive = call.primitive
        if primitive.writes or primitive.alias is not None or not args:
            continue
        if not any(a.dtype == BF16 for a in args):
            continue
        wide = [a.astype(np.float32) if a.dtype == BF16 else a for a in args]
        attrs = dict(zip(primitive.defaults, call.attrs, strict=True))
        with np.errstate(all="ignore"):
            expected = primitive.reference(*wide, **attrs)
        many = expected if isinstance(expected, tuple) else [expected]
        for y, should in zip(found, many, strict=True):
            expected = np.asarray(should).astype(y.dtype)
            if name == "numpy":
                wide_ones = y.astype("f8"), expected.astype("f8")
                np.testing.assert_array_equal(*wide_ones, primitive.name)
            else:
                near(y, expected, primitive.name)


def test_a_write_rounds_too() -> None:
    x = ag.zeros(3).bfloat16()
    with ag.no_grad():
        x.copy_(ag.tensor([1.0, 1.00390625, 1.01171875]))  # ties go to even
        x += ag.tensor([0.001, 0.0, 0.0]).bfloat16()
    assert x.dtype == BF16 and x.tolist() == [1.0, 1.0, 1.015625]


@pytest.mark.parametrize(
    ("other", "expected"),
    [("bool", BF16), ("int64", BF16), ("uint8", BF16), ("bfloat16", BF16), ("float16", "float32"),
     ("float32", "float32"), ("float64", "float64")],
)  # fmt: skip
def test_types_are_promoted_as_in_torch(other: str, expected: Any) -> None:
    x, y = ag.ones(2).bfloat16(), ag.ones(2).to(other)
    assert (x + y).dtype == (y + x).dtype == np.dtype(expected)
    assert (x * 2.5).dtype == BF16 and (x > 0).dtype == np.bool_
    assert x.sum().dtype == x.mean().dtype == BF16


def test_a_tensor_of_it_is_printed_and_read() -> None:
    x = ag.tensor([1.5, -2.0]).bfloat16()
    assert "bfloat16" in repr(x) and x.tolist() == [1.5, -2.0] and x[1].item() == -2.0
    assert ag.tensor([0.1], dtype="bfloat16").item() == 0.10009765625


def model() -> ag.nn.Module:
    ag.manual_seed(0)
    layers = ag.nn.Conv2d(3, 8, 3, padding=1), ag.nn.BatchNorm2d(8), ag.nn.ReLU()
    return ag.nn.Sequential(*layers, ag.nn.MaxPool2d(4), ag.nn.Flatten(), ag.nn.Linear(128, 10))


def step(net: ag.nn.Module, on: bool) -> tuple[Tensor, Tensor]:
    """Return output and loss of a step, whose gradients are left in the model."""
    x, labels = Tensor(array(np.random.default_rng(1).normal(size=(8, 3, 16, 16)).astype("f4"))), 3
    with ag.autocast("bfloat16", enabled=on):
        y = net(x)
        loss = ag.cross_entropy(y, ag.from_numpy(np.full(8, labels)))
    loss.backward()
    return y, loss


def test_mixed_precision_keeps_weights_their_gradients_and_losses(backend: str) -> None:
    net, plain = model(), model()
    y, loss = step(net, True)
    assert y.dtype == BF16 and loss.dtype == np.float32
    assert step(plain, False)[0].dtype == np.float32
    for p, other in zip(net.parameters(), plain.parameters(), strict=True):
        assert p.dtype == np.float32 and p.grad is not None and p.grad.dtype == np.float32
        got, exact = p.grad.numpy(), other.grad.numpy()  # type: ignore[union-attr]
        assert not (got.view("u4") & 0xFFFF == 0).all() or not got.any()  # sums are not rounded
        assert np.linalg.norm(got - exact) < 0.2 * np.linalg.norm(exact) + 1e-3
    assert all(b.dtype == np.float32 for b in net.buffers() if b.dtype.kind != "i")


def test_the_ledger_of_shapes_alone_is_that_of_a_real_step() -> None:
    counted = []
    for name in ("numpy", "meta"):
        ledger = Ledger()
        with context.using(backend=name, ledger=ledger), ag.autocast():
            y = model()(ag.zeros(8, 3, 16, 16))
            ag.cross_entropy(y, ag.zeros(8, dtype="int64")).backward()
        keys = ((r.key.scope, r.key.phase, r.key.primitive) for r in ledger.rows())
        counted.append(dict(zip(keys, (r.cost for r in ledger.rows()), strict=True)))
    assert counted[0] == counted[1]
    convolution = counted[0]["0", "forward", "conv2d"]
    assert convolution.bytes_written == 2 * 8 * 8 * 16 * 16


def test_mixed_precision_is_traced_apart() -> None:
    net = ag.nn.Linear(4, 4)
    traced, x = ag.trace(net), ag.ones(2, 4)
    with ag.no_grad():
        assert traced(x).dtype == np.float32
        with ag.autocast("bfloat16"):
            assert traced(x).dtype == BF16
            with ag.autocast("bfloat16", enabled=False):
                assert traced(x).dtype == np.float32


@pytest.mark.parametrize("product", [lambda x, w: x @ w, lambda x, w: ag.matmul(x, w)])
def test_gradients_of_any_product_are_not_rounded(product: Any) -> None:
    x, w = ag.randn(6, 5), ag.randn(5, 4, requires_grad=True)
    with ag.autocast():
        y = product(x, w)
    y.backward(ag.ones(6, 4).bfloat16())
    assert w.grad is not None and w.grad.dtype == np.float32
    assert (w.grad.numpy().view("u4") & 0xFFFF).any()


def test_a_result_may_be_the_weights_of_a_convolution() -> None:
    x, z = ag.randn(2, 3, 5, 5).bfloat16(), ag.randn(4, 3, 3, 3, requires_grad=True)
    k = ag.randn(3, 3, 1, 1, requires_grad=True)
    y = ag.conv2d(x, ag.conv2d(z.bfloat16(), k.bfloat16()))
    y.backward(ag.ones(*y.shape).bfloat16())
    for leaf in (k, z):
        assert leaf.grad is not None and leaf.grad.dtype == np.float32
        assert np.isfinite(leaf.grad.numpy()).all()


def test_gradients_of_gradients_have_the_types_of_the_forward_pass() -> None:
    x, w = ag.randn(2, 3, 5, 5, requires_grad=True), ag.randn(4, 3, 3, 3, requires_grad=True)
    y = ag.conv2d(x, w).sum()
    with ag.autocast():  # which begins after it
        (dx,) = grad(y, x, create_graph=True)
        assert dx is not None and (dx.numpy().view("u4") & 0xFFFF).any()  # not rounded
        (dx * dx).sum().backward()
    assert w.grad is not None and w.grad.dtype == np.float32


def test_composed_functions_have_torchs_types_too() -> None:
    x, w, b = ag.randn(1, 3, 4, 4), ag.randn(3, 2, 2, 2), ag.randn(2)
    with ag.autocast():
        assert ag.conv_transpose2d(x, w, b).dtype == BF16
        assert ag.mse_loss(x.bfloat16(), x.bfloat16()).dtype == np.float32
    assert ag.mse_loss(x.bfloat16(), x.bfloat16()).dtype == BF16


def test_a_decorated_function_has_blocks_of_its_own() -> None:
    net, x, both = ag.nn.Linear(4, 4), ag.ones(2, 4), Barrier(2)

    @ag.autocast()
    def run(times: int) -> Tensor:
        both.wait(60)
        return run(times - 1) if times else net(x)

    with ThreadPoolExecutor(2) as threads:
        found = [y.dtype for y in threads.map(run, (3, 3))]
    assert found == [BF16] * 2 and net(x).dtype == np.float32
    with pytest.raises(TypeError, match="is a generator"):

        @ag.autocast()
        def each() -> Any:
            yield net(x)


def test_kernels_are_tuned_for_the_types_that_they_compute_in(backend: str) -> None:
    if backend == "numpy":
        pytest.skip("NumPy is not tuned")
    x, w = ag.randn(2, 4, 6, 6), ag.randn(4, 4, 3, 3)
    with context.using(backend="llvm:tune=fast"), ag.autocast():
        assert ag.conv2d(x, w).dtype == BF16


@pytest.mark.parametrize("make", CREATE)
def test_it_may_be_named_wherever_a_type_may(make: Callable[..., Tensor]) -> None:
    assert make(2, dtype="bfloat16").dtype == BF16
    with pytest.raises(TypeError, match=r"expected an element type .* got 'bfloat17'"):
        make(2, dtype="bfloat17")


def test_other_types_are_refused() -> None:
    with pytest.raises(TypeError, match="autocast: expected bfloat16, got float16"):
        ag.autocast("float16")
    with pytest.raises(ValueError, match=r"device: expected 'cpu', .* got 'cuda:0'"):
        ag.autocast("cuda:0")


def test_autocast_takes_the_device_first_as_in_torch() -> None:
    x = ag.ones(2, 2)
    for block in (ag.autocast("cpu", dtype=ag.bfloat16), ag.autocast(ag.device("cpu"), BF16)):
        with block:
            assert (x @ x).dtype == BF16
    with ag.autocast("cpu", enabled=False):
        assert (x @ x).dtype == np.float32


def test_autocast_has_torchs_other_arguments_and_questions() -> None:
    assert not ag.is_autocast_enabled() and ag.get_autocast_dtype() == BF16
    with ag.amp.autocast("cpu", dtype=None, cache_enabled=True):
        assert ag.is_autocast_enabled() and not ag.is_autocast_enabled("cuda")
    with pytest.raises(ValueError, match=r"device: expected 'cpu', .* got 'xpu'"):
        ag.autocast("xpu", dtype=BF16)


def test_finfo_knows_it_and_its_least_number_masks() -> None:
    limits = ag.finfo(ag.bfloat16)
    assert limits.eps == 2**-7 and limits.bits == 16 and limits.max == -limits.min > 3.3e38
    assert ag.finfo().eps == ag.finfo("float32").eps == 2**-23
    scores = ag.tensor([[1.0, 2.0], [3.0, 4.0]]).bfloat16()
    masked = scores.masked_fill(ag.tensor([[False, True], [False, False]]), limits.min)
    assert masked.dtype == BF16 and masked.softmax(-1).tolist()[0] == [1.0, 0.0]
    with pytest.raises(ValueError, match="not inexact"):
        ag.finfo(ag.int32)


def test_a_scaler_of_gradients_leaves_them_as_they_are() -> None:
    w, scaler = ag.nn.Parameter(ag.ones(2)), ag.amp.GradScaler("cpu", init_scale=2.0**16)
    optimizer = ag.optim.SGD([w], 0.5)
    scaler.scale((w * ag.tensor([1.0, 2.0])).sum()).backward()
    scaler.unscale_(optimizer)
    assert scaler.step(optimizer) is None and scaler.get_scale() == 1.0
    scaler.update()
    scaler.load_state_dict(scaler.state_dict())
    assert w.tolist() == [0.5, 0.0]


@pytest.mark.parametrize(
    ("call", "narrow"),
    [
        (lambda x, v: ag.addmm(x, x, x), True),
        (lambda x, v: ag.baddbmm(x[None], x[None], x[None]), True),
        (lambda x, v: ag.nn.functional.prelu(x, v), True),
        (lambda x, v: ag.nn.functional.prelu(x.bfloat16(), v), True),
        (lambda x, v: ag.nn.functional.linear(x.half(), x), True),
        (lambda x, v: ag.cdist(x.bfloat16(), x.bfloat16()), False),
        (lambda x, v: ag.nn.functional.pdist(x.bfloat16()), False),
    ],
)
def test_functions_of_several_primitives_have_torchs_types(call: Any, narrow: bool) -> None:
    x = ag.tensor([[0.5, 2.0], [-1.0, 3.0]])
    with ag.autocast():
        assert call(x, ag.tensor([0.25, 0.5])).dtype == (BF16 if narrow else np.float32)


def test_without_the_package_one_line_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dtypes, "BFLOAT16", None)
    name, one, linear = "bfloat16", ag.ones(1), ag.nn.Linear(1, 1)
    for call in (
        one.bfloat16, linear.bfloat16, ag.autocast,
        partial(one.to, name), partial(linear.astype, name), partial(ag.nn.LSTM, 1, 1, dtype=name),
        *[partial(make, 1, dtype=name) for make in CREATE],
    ):  # fmt: skip
        with pytest.raises(ImportError, match=r"^bfloat16 needs ml_dtypes: pip install"):
            call()


@pytest.mark.parity
def test_gradients_are_as_near_as_those_of_torch(backend: str) -> None:
    """Against float64, the error of the whole gradient is at most a fifth above torch's."""
    torch = pytest.importorskip("torch", reason="torch is not installed")
    net = model()
    x = np.random.default_rng(1).normal(size=(8, 3, 16, 16)).astype("f4")
    step(net, True)
    ours = np.concatenate([p.grad.numpy().ravel() for p in net.parameters()])  # type: ignore[union-attr]

    def theirs(dtype: Any, cast: bool) -> Any:
        nn = torch.nn
        layers = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(4)
        twin = nn.Sequential(*layers, nn.Flatten(), nn.Linear(128, 10)).to(dtype)
        with torch.no_grad():
            for a, b in zip(twin.parameters(), net.parameters(), strict=True):
                a.copy_(torch.tensor(b.numpy()))
        with torch.autocast("cpu", torch.bfloat16, enabled=cast):
            y = twin(torch.tensor(x).to(dtype))
            loss = nn.functional.cross_entropy(y, torch.full((8,), 3))
        loss.backward()
        return np.concatenate([p.grad.double().numpy().ravel() for p in twin.parameters()])

    exact, near = theirs(torch.float64, False), theirs(torch.float32, True)
    assert np.linalg.norm(ours - exact) < 1.2 * np.linalg.norm(near - exact)


@pytest.mark.parity
@pytest.mark.parametrize("pure", [False, True], ids=["autocast", "pure"])
@pytest.mark.parametrize("kind", ["GRU", "LSTM", "RNN"])
def test_recurrent_layers_are_as_near_as_those_of_torch(
    kind: str, pure: bool, backend: str
) -> None:
    """Against float64, the errors of states and of the whole gradient are at most a fifth above
    torch's."""
    torch = pytest.importorskip("torch", reason="torch is not installed")
    ag.manual_seed(0)
    options = {"num_layers": 2, "bidirectional": True}
    weights = getattr(ag.nn, kind)(7, 32, **options).state_dict()
    rng = np.random.default_rng(1)
    x, h = rng.normal(size=(6, 16, 7)).astype("f4"), rng.normal(size=(4, 16, 32)).astype("f4")

    def passes(t: Any, wide: bool) -> tuple[Any, Any]:
        """Return states and gradients, in float64 or in mixed precision."""
        dtype = t.float64 if wide else t.bfloat16 if pure else t.float32
        net = getattr(t.nn, kind)(7, 32, **options)
        net.load_state_dict({k: t.tensor(v) for k, v in weights.items()})
        net.to(dtype)
        read, first = t.tensor(x).to(dtype), t.tensor(h).to(dtype)
        with t.autocast("cpu", t.bfloat16, enabled=not (wide or pure)):
            y, _ = net(read, (first, first) if kind == "LSTM" else first)
            y = y.to(t.float64)
            (y * y).sum().backward()
        grads = [p.grad.to(t.float64).numpy().ravel() for p in net.parameters()]
        return y.detach().numpy().ravel(), np.concatenate(grads)

    found, exact, near = passes(ag, False), passes(torch, True), passes(torch, False)
    for y, right, other in zip(found, exact, near, strict=True):
        assert np.linalg.norm(y - right) < 1.2 * np.linalg.norm(other - right)


def test_it_is_saved_as_what_it_is(tmp_path: Path) -> None:
    file, x = tmp_path / "x.npz", ag.tensor([1.5, -2.0, float("nan")]).bfloat16()
    ag.save({"x": x, "numbers": x.numpy()}, file)
    found = ag.load(file)
    assert found["x"].dtype == found["numbers"].dtype == BF16
    assert found["x"].numpy().tobytes() == found["numbers"].tobytes() == x.numpy().tobytes()
    with np.load(file) as plain:  # also where ml_dtypes is not installed
        assert plain["0"].tolist() == x.numpy().view("u2").tolist()
