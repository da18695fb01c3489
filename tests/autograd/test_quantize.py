"""Post-training quantization: exact products, what is folded and what is not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tallygrad.autograd as ag
from tallygrad.autograd import context, nn
from tallygrad.autograd.array import NDArray, array
from tallygrad.autograd.ops import quantized as ops


def ints(rng: np.random.Generator, dtype: str, *shape: int) -> NDArray:
    """Draw integers, half of them the largest ones, so that sums are as large as can be."""
    info = np.iinfo(dtype)
    x = rng.integers(info.min, info.max + 1, shape, dtype)
    x[rng.random(shape) < 0.5] = info.max
    return x


@pytest.mark.parametrize("dtype", ["int8", "uint8"])
@pytest.mark.parametrize("terms", [3, 3000])  # sums in float32 and in float64
def test_sums_are_exact(dtype: str, terms: int) -> None:
    rng = np.random.default_rng(0)
    x, w = ints(rng, dtype, 5, terms), ints(rng, "int8", 4, terms)
    one, bias = np.ones(4), np.arange(4.0)
    y = ops.quantized_linear(*map(array, (x, w, one, bias))).value
    np.testing.assert_array_equal(y, x.astype(np.int64) @ w.T.astype(np.int64) + np.arange(4))
    images, filters = (a.reshape(*a.shape, 1, 1) for a in (x, w))
    attrs: dict[str, Any] = dict(stride=(1, 1), padding=((1, 1), (0, 0)), dilation=(1, 1), groups=1)
    z = ops.quantized_conv2d(*map(array, (images, filters, one, bias)), **attrs).value
    np.testing.assert_array_equal(z[:, :, 1, 0], y)
    assert (z[:, :, 0] == bias[:, None]).all()  # padding is exactly 0


def test_rounding() -> None:
    x = np.array([-300.0, -0.75, -0.5, -0.25, 0.25, 0.74, 127.0, 200.0, np.nan], np.float32)
    scale, factors = array(np.float32(0.5)), array(np.arange(3, dtype=np.float32))
    signed, checked = (a.value for a in ops.quantize(array(x), scale, factors))
    assert signed.dtype == np.int8 and np.isnan(checked).all()
    assert signed.tolist() == [-127, -2, -1, 0, 0, 1, 127, 127, -127]
    unsigned, checked = (a.value for a in ops.quantize(array(x[:-1]), scale, factors, signed=False))
    assert unsigned.dtype == np.uint8 and unsigned.tolist() == [0, 0, 0, 0, 0, 1, 254, 255]
    assert checked.tolist() == [0, 1, 2]


@pytest.mark.parametrize("backend", ["numpy", "llvm"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [0, 1000])  # in whole vectors, and in the rest
def test_numbers_that_are_not_finite_are_not_hidden(backend: str, value: float, place: int) -> None:
    """What integers cannot stand for makes all results of the call NaN; other calls keep theirs."""
    if backend == "llvm":
        pytest.importorskip("llvmlite", reason="llvmlite is not installed")
    net = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(2697, 2))
    good = images(1, 1, 31, 33)
    pixels = good.numpy().copy()
    pixels.reshape(-1)[place] = value
    with context.using(backend=backend), ag.no_grad():
        quantized = ag.quantize(net, [good])
        expected = quantized(good).numpy()
        assert np.isnan(quantized(ag.tensor(pixels)).numpy()).all()
        np.testing.assert_array_equal(quantized(good).numpy(), expected)
        assert np.isfinite(expected).all()


@pytest.mark.parametrize(
    ("shapes", "types", "said"),
    [
        (((2, 3), (4, 3), (4,)), "float32 int8 float32", "x of int8 or uint8 and w of int8, got"),
        (((2, 3), (4, 3), (4,)), "int8 uint8 float32", "x of int8 or uint8 and w of int8, got"),
        (((2, 3), (4, 3), (3,)), "int8 int8 float32", r"a scale of shape \(4,\), got \(3,\)"),
        (((2, 3), (4, 3), (4,), (3,)), "int8 int8 float32 float32", r"bias of shape \(4,\), got"),
        (((2, 3), (4, 3), (4,), (4,)), "int8 int8 float32 float64", "scale and bias of one type"),
        (((2, 3), (4, 3), (4,)), "int8 int8 int64", "scale and bias of one type"),
        (((2, 3), (4, 2), (4,)), "int8 int8 float32", r"\(.., C\) and weight \(M, C\), got"),
        (((1, 65794), (1, 65794), (1,)), "int8 int8 float32", "at most 65793 products, got 65794"),
    ],
)
def test_what_does_not_fit(shapes: Any, types: str, said: str) -> None:
    arrays = [array(np.zeros(s, t)) for s, t in zip(shapes, types.split(), strict=True)]
    with pytest.raises((TypeError, ValueError), match=f"quantized_linear: expected .*{said}"):
        ops.quantized_linear(*arrays)


class Chain(nn.Module):
    """A convolution and batch norm, joined as a test says."""

    def __init__(self, join: Callable[[Chain, ag.Tensor], Any], bias: bool = False) -> None:
        self.conv = nn.Conv2d(3, 8, 3, padding=1, bias=bias)
        self.bn, self.other = nn.BatchNorm2d(8), nn.BatchNorm2d(8)
        self.join = join

    def forward(self, x: ag.Tensor) -> Any:
        return self.join(self, x)


def settled(model: nn.Module) -> nn.Module:
    """Give batch norms statistics and weights such as training does."""
    rng = np.random.default_rng(1)
    for m in model.modules():
        if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d):
            for name, low in (("running_mean", -1), ("running_var", 0.5), ("weight", 0.5)):
                numbers = rng.uniform(low, 2, m.num_features).astype(np.float32)
                with ag.no_grad():
                    getattr(m, name).copy_(ag.tensor(numbers))
    return model.eval()


def images(*shape: int) -> ag.Tensor:
    rng = np.random.default_rng(2)
    return ag.tensor(rng.standard_normal(shape).astype(np.float32))


def kept(m: Chain, x: ag.Tensor) -> ag.Tensor:
    m.__dict__["seen"] = y = m.conv(x)
    return m.bn(y)


def read(m: Chain, x: ag.Tensor) -> ag.Tensor:
    y = m.conv(x)
    return m.bn(y) if y.numpy().any() else y


FOLDED = {
    "in a row": lambda m, x: m.bn(m.conv(x)),
    "twice": lambda m, x: m.bn(m.conv(x)) + m.bn(m.conv(x.flip(3))),
    "residual": lambda m, x: ag.relu(m.bn(m.conv(x))) + x.sum(1, keepdim=True),
}
NOT_FOLDED = {
    "read again": lambda m, x: (y := m.conv(x), m.bn(y) + y)[1],
    "read before": lambda m, x: (y := m.conv(x), y.sum(), m.bn(y))[2],
    "two norms": lambda m, x: (y := m.conv(x), m.bn(y) + m.other(y))[1],
    "normed twice": lambda m, x: (y := m.conv(x), m.bn(y) + m.bn(y))[1],
    "one or the other": lambda m, x: m.bn(m.conv(x)) + m.other(m.conv(x)),
    "another input": lambda m, x: m.bn(m.conv(x)) + m.bn(ag.cat([x, x, x[:, :2]], 1)),
    "relu between": lambda m, x: m.bn(ag.relu(m.conv(x))),
    "a view": lambda m, x: m.bn(m.conv(x)[:, :, ::2]),
    "written to": lambda m, x: (y := m.conv(x), y.add_(1.0), m.bn(y))[2],
    "returned": lambda m, x: (y := m.conv(x), m.bn(y))[::-1],
    "kept": kept,
    "numbers read": read,
}  # fmt: skip


def first(result: Any) -> NDArray:
    y = result[0] if isinstance(result, tuple) else result
    assert isinstance(y, ag.Tensor)
    return y.detach().numpy()


@pytest.mark.parametrize("backend", ["numpy", "llvm"])
@pytest.mark.parametrize("name", [*FOLDED, *NOT_FOLDED])
def test_a_norm_is_folded_where_nothing_else_reads(name: str, backend: str) -> None:
    if backend == "llvm":
        pytest.importorskip("llvmlite", reason="llvmlite is not installed")
    model, x = settled(Chain((FOLDED | NOT_FOLDED)[name], bias=name == "twice")), images(4, 3, 8, 8)
    with context.using(backend=backend), ag.no_grad():
        quantized = ag.quantize(model, [x, x[:2]])
        ours, exact = first(quantized(x)), first(model(x))
    assert isinstance(quantized, Chain) and isinstance(model.bn, nn.BatchNorm2d)
    assert isinstance(quantized.bn, nn.Identity) == (name in FOLDED)
    assert isinstance(quantized.conv, nn.QuantizedConv2d)
    assert np.abs(ours - exact).max() < 0.03 * np.abs(exact).max()


@pytest.mark.parametrize(
    ("name", "folds"), [("in a row", True), ("read again", False), ("returned", False)]
)
def test_a_norm_of_signals_is_folded_likewise(name: str, folds: bool, backend: str) -> None:
    """Results of Conv1d are those of images, reshaped."""
    model, x = Chain((FOLDED | NOT_FOLDED)[name]), images(4, 3, 9)
    model.conv, model.bn = nn.Conv1d(3, 8, 3), nn.BatchNorm1d(8)
    settled(model)
    quantized = ag.quantize(model, [x])
    assert isinstance(quantized, Chain) and isinstance(quantized.bn, nn.Identity) == folds
    exact, ours = first(model(x)), first(quantized(x))
    assert np.abs(ours - exact).max() < 0.03 * np.abs(exact).max()


def test_a_norm_of_another_axis_is_not_folded() -> None:
    model, x = settled(nn.Sequential(nn.Linear(6, 5), nn.BatchNorm2d(5))), images(2, 5, 3, 6)
    quantized = ag.quantize(model, [x])
    assert isinstance(quantized, nn.Sequential) and isinstance(quantized[1], nn.BatchNorm2d)
    exact = model(x).detach().numpy()
    assert np.abs(quantized(x).numpy() - exact).max() < 0.03 * np.abs(exact).max()


def kinds(model: nn.Module, kind: type[nn.Module]) -> int:
    return sum(isinstance(m, kind) for m in model.modules())


@pytest.mark.parametrize(
    ("name", "options", "shape", "layers"),
    [
        ("mlp", {"hidden": (20, 30)}, (1, 28, 28), 3),
        ("lenet", {}, (1, 28, 28), 4),
        ("lenet5", {}, (1, 28, 28), 5),
        ("resnet", {"depth": 8}, (3, 16, 16), 8),
        ("resnet", {"depth": 8, "option": "B", "preactivation": True}, (3, 16, 16), 10),
        ("resnet18", {"width": 4}, (3, 64, 64), 21),
    ],
)
def test_models(name: str, options: dict[str, Any], shape: tuple[int, ...], layers: int) -> None:
    """Their results are near those of float32, and meta counts what is computed."""
    model = settled(ag.models.create(name, input_shape=shape, classes=10, **options))
    x = images(8, *shape)
    ledgers = []
    for backend in ("numpy", "meta"):
        with context.using(backend=backend), ag.no_grad():
            quantized = ag.quantize(model, [x])
            with context.using(ledger=ag.Ledger()) as state:
                y = quantized(x)
            ledgers.append(state.ledger)
            if backend == "numpy":
                exact = model(x).numpy()
                assert np.abs(y.numpy() - exact).max() < 0.1 * np.abs(exact).max()
    assert ledgers[0] == ledgers[1]
    integers = {"quantized_conv2d", "quantized_linear"}
    assert {r.key.primitive for r in ledgers[0] if r.cost.macs} <= integers
    found = kinds(quantized, nn.QuantizedConv2d) + kinds(quantized, nn.QuantizedLinear)
    assert found == layers and kinds(quantized, nn.Conv2d) == kinds(quantized, nn.Linear) == 0
    assert (kinds(quantized, nn.BatchNorm2d) > 0) == ("preactivation" in options)


def test_inputs_without_negative_numbers_are_unsigned() -> None:
    model = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3))
    quantized = ag.quantize(model, [images(32, 6)])
    assert [m.signed for m in quantized if isinstance(m, nn.QuantizedLinear)] == [True, False, True]


def test_signals_rows_and_a_model_that_is_one_layer() -> None:
    norm = nn.BatchNorm1d(5)
    norm.running_var.copy_(ag.tensor(np.arange(1.0, 6.0, dtype=np.float32)))
    for model, x in (
        (nn.Sequential(nn.Linear(6, 5), norm).eval(), images(32, 6)),
        (nn.Conv1d(6, 5, 3, padding="same"), images(8, 6, 20)),
        (nn.Linear(6, 5).double(), images(8, 3, 6).double()),
    ):
        quantized = ag.quantize(model, [x])
        exact, ours = model(x), quantized(x)
        assert kinds(quantized, nn.BatchNorm1d) == 0 and ours.dtype == exact.dtype
        error = np.abs(ours.numpy() - exact.detach().numpy()).max()
        assert 0 < error < 0.03 * np.abs(exact.detach().numpy()).max()


class Beside(nn.Module):
    """A layer that is never called."""

    def __init__(self) -> None:
        self.fc = nn.Linear(3, 2)

    def forward(self, x: ag.Tensor) -> ag.Tensor:
        return x


def test_a_layer_in_two_places_and_one_whose_weights_are_read() -> None:
    shared, tied = nn.Linear(6, 6), Chain(lambda m, x: m.bn(m.conv(x)) * m.conv.weight.sum())
    model = nn.Sequential(tied, nn.Flatten(), nn.Linear(32, 6), shared, nn.ReLU(), shared, Beside())
    quantized = ag.quantize(model, [images(4, 3, 2, 2)])
    assert isinstance(quantized[0], Chain) and type(quantized[0].conv) is nn.Conv2d
    assert type(quantized[0].bn) is nn.BatchNorm2d
    assert quantized[3] is quantized[5] and type(quantized[3]) is nn.QuantizedLinear
    assert isinstance(quantized[6], Beside) and type(quantized[6].fc) is nn.Linear


class Rest(nn.Module):
    """A layer of the rows from `first` on, beside one of all rows."""

    def __init__(self, first: int) -> None:
        self.first, self.all, self.some = first, nn.Linear(3, 2), nn.Linear(3, 2)

    def forward(self, x: ag.Tensor) -> ag.Tensor:
        return ag.concat([self.all(x), self.some(x[self.first :])])


def test_a_layer_without_numbers_stays_as_it_is() -> None:
    for first, kind in ((4, nn.Linear), (3, nn.QuantizedLinear)):
        quantized = ag.quantize(Rest(first), [images(2, 3), images(4, 3)])
        assert type(quantized.all) is nn.QuantizedLinear and type(quantized.some) is kind


class Aliased(nn.Module):
    """A layer that is called by another reference than the attribute that holds it."""

    def __init__(self) -> None:
        self.fc = nn.Linear(3, 2)
        self.layers = [self.fc]

    def forward(self, x: ag.Tensor) -> ag.Tensor:
        return self.layers[0](x)


@pytest.mark.parametrize(
    ("model", "batches", "said"),
    [
        (nn.Linear(3, 2), [], "expected batches to calibrate with, got none"),
        (nn.ReLU(), [images(2, 3)], "expected a model with a Conv2d, Conv1d or Linear of float32"),
        (nn.Linear(3, 2), [images(0, 3)], r"expected batches with numbers, got \(0, 3\)"),
        (nn.Linear(3, 2), [images(2, 3), images(2, 3) * np.nan], "Linear: expected finite inputs"),
        (nn.Linear(3, 2), [images(2, 3) / 0], "Linear: expected finite inputs, got"),
        (nn.Linear(3, 2), [abs(images(2, 3)) / 0], "Linear: expected finite inputs, got inf"),
        (nn.Linear(3, 2), [-abs(images(2, 3)) / 0], "Linear: expected finite inputs, got inf"),
        (nn.Sequential(nn.Linear(3, 2).apply(lambda m: nn.init.constant_(m.weight, np.inf))),
         [images(2, 3)], "0: expected finite weights, got inf"),
        (Aliased(), [images(2, 3)], "fc: expected calls as a child of a module alone, got"),
        (nn.Sequential(ag.quantize(nn.Linear(3, 2), [images(2, 3)])), [images(2, 3)],
         "expected a model in floating-point, got one that is quantized: 0$"),
    ],
)  # fmt: skip
def test_what_cannot_be_quantized(model: nn.Module, batches: Any, said: str) -> None:
    with pytest.raises(ValueError, match=f"quantize: {said}"), np.errstate(all="ignore"):
        ag.quantize(model, batches)


@pytest.mark.parametrize(
    ("model", "batches", "said"),
    [
        (np.tanh, [], "expected a Module, not traced yet, got ufunc tanh"),
        (ag.trace(nn.ReLU()), [], "expected a Module, not traced yet, got InferenceTrace"),
        (nn.Linear(3, 2), images(2, 3), r"expected a list of batches, got a tensor \(2, 3\)"),
        (nn.Linear(3, 2), 7, "expected a list of batches, got int"),
        (
            nn.Linear(3, 2),
            [np.ones((2, 3))],
            "expected each batch as a tensor, or a .*, got ndarray",
        ),
        (nn.Linear(3, 2), [[images(2, 3)]], "expected each batch as a tensor, or a .*, got list"),
    ],
)
def test_what_is_no_model_and_no_batches(model: Any, batches: Any, said: str) -> None:
    with pytest.raises(TypeError, match=f"quantize: {said}"):
        ag.quantize(model, batches)


def test_a_state_is_not_loaded_where_inputs_have_other_signs() -> None:
    x = images(4, 3)
    signed, unsigned = (ag.quantize(nn.Linear(3, 2), [y]) for y in (x, x.abs()))
    with pytest.raises(ValueError, match="signed_scale: missing"):
        signed.load_state_dict(unsigned.state_dict())


def test_inputs_of_another_type_are_rounded_too() -> None:
    """As within mixed precision, where the layer before gives bfloat16."""
    pytest.importorskip("ml_dtypes", reason="ml_dtypes is not installed")
    model, x = nn.Sequential(nn.ConvTranspose2d(3, 4, 2), nn.Conv2d(4, 5, 2)), images(2, 3, 4, 4)
    expected, quantized = model(x).numpy(), ag.quantize(model, [x])
    with ag.autocast():
        found = quantized(x)
    assert found.dtype == "float32"
    np.testing.assert_allclose(found.numpy(), expected, atol=0.05 * np.abs(expected).max())


def test_a_traced_model_computes_the_same_and_has_no_gradient(backend: str) -> None:
    model, x = ag.models.create("lenet"), images(3, 1, 28, 28)
    quantized = ag.quantize(model, [x])
    with ag.no_grad():
        expected, traced = quantized(x).numpy(), ag.trace(quantized)
        for _ in range(3):
            np.testing.assert_array_equal(traced(x).numpy(), expected)
    assert not quantized(images(3, 1, 28, 28).requires_grad_()).requires_grad
    assert not [*quantized.parameters()]
    assert len([*model.parameters()]) == 8
