"""Products of tiles, which plain instructions emulate here, and convolutions that are made of
them; and what mixed precision fuses, with tiles and without."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("llvmlite", reason="llvmlite is not installed")
pytest.importorskip("ml_dtypes", reason="ml_dtypes is not installed")

from tallygrad.autograd import (
    Tensor,
    autocast,
    context,
    cross_entropy,
    from_numpy,
    get_num_threads,
    manual_seed,
    nn,
    no_grad,
    set_num_threads,
    threads,
)
from tallygrad.autograd.array import Array, Spec, array
from tallygrad.autograd.backends.llvm import create, fusion
from tallygrad.autograd.backends.llvm.compiler.isa import amx, targets
from tallygrad.autograd.backends.llvm.registry import find_tiled
from tallygrad.autograd.backends.llvm.runtime import parallel
from tallygrad.autograd.backends.llvm.runtime.layout import layout_stats
from tallygrad.autograd.dtypes import FLOAT32, bfloat16
from tallygrad.autograd.functional.activation import relu
from tallygrad.autograd.functional.pool import avg_pool2d, max_pool2d
from tallygrad.autograd.ops.activation import relu as positive
from tallygrad.autograd.ops.conv import conv2d, conv2d_dw, conv2d_dx
from tallygrad.autograd.ops.linear import linear, matmul
from tallygrad.autograd.ops.norm import batch_norm

if "avx512" not in targets.available():
    pytest.skip("tiles are emulated with AVX-512", allow_module_level=True)

BF16 = bfloat16()
BACKENDS = ["llvm:tiles=emulated"]
HAS_DOTS = "+avx512bf16" in targets.target().features.split(",")
if HAS_DOTS:
    BACKENDS.append("llvm:tiles=dot,direct")
if amx.permitted():
    BACKENDS.append("llvm:tiles=amx")
dots = pytest.mark.skipif(not HAS_DOTS, reason="this processor has no AVX512-BF16")
# The first kind alone is quick to compile for.
KINDS = [BACKENDS[0], *(pytest.param(name, marks=pytest.mark.slow) for name in BACKENDS[1:])]
# Images, channels, results, height, width, taps, stride, padding, dilation, bias.
CASES = [
    (16, 32, 32, 4, 4, 1, 1, 0, 1, 0),
    (16, 32, 32, 6, 7, 3, 1, 1, 1, 1),
    (5, 16, 20, 5, 5, 3, 1, 1, 1, 1),
    (33, 3, 40, 8, 8, 5, 1, 2, 1, 0),
    (20, 40, 33, 9, 8, 3, 2, 1, 1, 0),
    (17, 64, 64, 4, 4, 3, 1, 2, 1, 0),
    (8, 33, 16, 7, 7, 1, 2, 0, 1, 1),
    (1, 1, 1, 5, 6, 2, 3, 1, 2, 1),
    (2, 544, 576, 3, 3, 3, 1, 1, 1, 0),  # weights that do not stay in the cache
    (70, 16, 12, 5, 4, 3, 1, 1, 1, 1),  # four tiles of images and six more, windows of few channels
    (54, 16, 16, 3, 3, 3, 1, 1, 1, 0),  # four tiles of images, of which the last is lower
    (40, 50, 40, 3, 3, 3, 2, 0, 1, 0),
    (150, 3, 16, 4, 4, 3, 1, 1, 1, 0),  # windows of groups of images one after the other
]


def draw(rng: np.random.Generator, *shape: int) -> Array:
    return array(rng.normal(size=shape).astype(BF16))


def results(name: str, case: tuple[int, ...]) -> list[Any]:
    """Return y, dx and dw of a convolution."""
    n, c, m, h, w, taps, stride, pad, apart, biased = case
    rng = np.random.default_rng(0)
    x, filters = draw(rng, n, c, h, w), draw(rng, m, c, taps, taps)
    bias = [draw(rng, m)] * biased
    attrs: dict[str, Any] = {
        "stride": (stride, stride), "padding": ((pad, pad), (pad, pad)),
        "dilation": (apart, apart), "groups": 1,
    }  # fmt: skip
    with context.using(backend=name):
        y = conv2d(x, filters, *bias, **attrs)
        dy = draw(np.random.default_rng(1), *y.shape)
        dx = conv2d_dx(dy, filters, size=(h, w), **attrs)
        dw = conv2d_dw(x, dy, size=(taps, taps), **attrs)
        return [a.value for a in (y, dx, dw)]


def assert_near(y: Any, expected: Any) -> None:
    """Sums in another order may be rounded to the next number."""
    y, expected = y.astype(np.float64), expected.astype(np.float64)
    bound = 2**-7 * np.abs(expected) + 1e-5 * np.abs(expected).max(initial=0.0)
    assert (np.abs(y - expected) <= bound).all()


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_convolutions_are_those_of_numpy(name: str, case: tuple[int, ...]) -> None:
    for y, expected in zip(results(name, case), results("numpy", case), strict=True):
        assert y.dtype == expected.dtype
        assert_near(y, expected)


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize(
    ("rows", "channels", "outputs"), [(20, 64, 70), (64, 33, 40), (8, 300, 31), (1, 300, 40)]
)
def test_products_are_those_of_numpy(name: str, rows: int, channels: int, outputs: int) -> None:
    """Forward, and back to rows and weights, whose gradient is float32."""
    rng = np.random.default_rng(3)
    x, w, dy = draw(rng, rows, channels), draw(rng, outputs, channels), draw(rng, rows, outputs)
    bias, turned = array(draw(rng, outputs, 2).value[:, 0]), array(np.ascontiguousarray(w.value.T))
    found = []
    for each in (name, "numpy"):
        with context.using(backend=each):
            found.append([
                linear(x, w), linear(x, w, bias), matmul(dy, w), matmul(x, turned),
                matmul(x, array(w.value.T)), matmul(array(dy.value.T), x, wide=True),
            ])  # fmt: skip
    for y, expected in zip(*found, strict=True):
        assert y.dtype == expected.dtype
        assert_near(y.value, expected.value)


@pytest.mark.parametrize("name", KINDS)
def test_threads_do_not_change_a_bit(name: str) -> None:
    case, before, found = (70, 32, 64, 12, 12, 3, 1, 1, 1, 0), get_num_threads(), []
    try:
        for threads in (1, 2):
            set_num_threads(threads)
            found.append([y.tobytes() for y in results(name, case)])
    finally:
        set_num_threads(before)
    assert found[0] == found[1]


@pytest.mark.parametrize(
    ("filters", "attrs"),
    [((3, 2), {"stride": (2, 1), "padding": ((1, 0), (0, 3)), "dilation": (1, 2)}),
     ((1, 4), {"stride": (3, 2), "padding": ((0, 2), (3, 1)), "dilation": (1, 1)}),
     ((5, 1), {"stride": (1, 3), "padding": ((4, 5), (0, 0)), "dilation": (2, 1)})],
)  # fmt: skip
def test_axes_may_differ(filters: tuple[int, int], attrs: dict[str, Any]) -> None:
    """Borders on one side, windows that see nothing but border, strides above the filter's size."""
    rng, found = np.random.default_rng(6), []
    x, w = draw(rng, 18, 20, 7, 9), draw(rng, 33, 20, *filters)
    for name in (BACKENDS[0], "numpy"):
        with context.using(backend=name):
            y = conv2d(x, w, **attrs, groups=1)
            dy = draw(np.random.default_rng(1), *y.shape)
            dx = conv2d_dx(dy, w, size=(7, 9), **attrs, groups=1)
            found.append([y, dx, conv2d_dw(x, dy, size=filters, **attrs, groups=1)])
    for a, b in zip(*found, strict=True):
        assert_near(a.value, b.value)


@dots
def test_single_pixels_are_multiplied_as_they_lie() -> None:
    """By pairs, where convolutions by tiles are not asked for."""
    rng, target = np.random.default_rng(6), targets.target(tiles="dot")
    one = {"stride": (1, 1), "padding": ((0, 0), (0, 0)), "dilation": (1, 1), "groups": 1}
    for n, c, m, h, w in ((3, 32, 40, 7, 7), (2, 48, 17, 4, 8)):
        x, filters, dy = draw(rng, n, c, h, w), draw(rng, m, c, 1, 1), draw(rng, n, m, h, w)
        found = []
        for name in ("llvm:tiles=dot", "numpy"):
            with context.using(backend=name):
                y = conv2d(x, filters, draw(np.random.default_rng(0), m), **one)
                dx = conv2d_dx(dy, filters, size=(h, w), **one)
                found.append([y, dx, conv2d_dw(x, dy, size=(1, 1), **one)])
        for a, b in zip(*found, strict=True):
            assert_near(a.value, b.value)
        assert found[0][0].value.transpose(0, 2, 3, 1).flags.c_contiguous
        specs = x.spec, filters.spec
        assert find_tiled(target, "conv2d", specs, one) is not None
        for other in ({"stride": (2, 1)}, {"padding": ((1, 1), (0, 0))}, {"groups": 2}):
            assert find_tiled(target, "conv2d", specs, one | other) is None
        small = x.spec._replace(shape=(n, c, 1, 7)), filters.spec
        assert find_tiled(target, "conv2d", small, one) is None


@dots
def test_what_follows_single_pixels_is_fused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fusion, "LEAST", 1)
    found = []
    for name in ("llvm:tiles=dot", "llvm:tiles=dot,eager"):
        manual_seed(0)
        first, second = (nn.Conv2d(*sizes, 1, bias=False) for sizes in ((32, 48), (48, 32)))
        norms = nn.BatchNorm2d(48), nn.BatchNorm2d(32)
        x = Tensor(draw(np.random.default_rng(0), 5, 32, 3, 4))
        with context.using(backend=name), autocast():
            y = relu(norms[1].train()(second(relu(norms[0].train()(first(x))))) + x)
            y.backward(Tensor(draw(np.random.default_rng(1), *y.shape)))
            with no_grad():
                scores = relu(norms[1].eval()(second(relu(norms[0].eval()(first(x))))) + x)
        grads = [p.grad for layer in (first, second, *norms) for p in layer.parameters()]
        found.append([t.numpy().astype(np.float64) for t in (y, scores, *grads) if t is not None])
    for a, b in zip(*found, strict=True):
        assert np.linalg.norm(a - b) <= 0.02 * np.linalg.norm(b) + 1e-6


def test_threads_share_the_rows_of_a_product(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are images of one pixel."""
    rng, before, units = np.random.default_rng(7), get_num_threads(), []
    x, w, found = draw(rng, 300, 512), draw(rng, 512, 512), []
    rows, dy = draw(rng, 16384, 64), draw(rng, 16384, 64)

    def share(count: int, work: Any) -> None:
        units.append(count)
        threads.share(count, work)

    monkeypatch.setattr(parallel, "share", share)
    try:
        for number in (1, 2):
            set_num_threads(number)
            with context.using(backend=BACKENDS[0]):
                y, dw = linear(x, w), matmul(array(dy.value.T), rows, wide=True)
                found.append((y.value.tobytes(), dw.value.tobytes()))
    finally:
        set_num_threads(before)
    assert found[0] == found[1]
    assert len(units) == 4 and min(units) >= 2


def test_tiles_take_products_and_convolutions_of_bfloat16_alone() -> None:
    none = {"stride": (1, 1), "padding": ((0, 0), (0, 0)), "dilation": (1, 1), "groups": 1}
    tiles, others = targets.target(tiles="emulated"), targets.target(tiles="off")
    calls: list[tuple[str, tuple[tuple[int, ...], ...], dict[str, Any]]] = [
        ("conv2d", ((16, 32, 5, 5), (32, 32, 1, 1)), none),
        ("conv2d_dx", ((16, 32, 5, 5), (32, 32, 1, 1)), {**none, "size": (5, 5)}),
        ("conv2d_dw", ((16, 32, 5, 5), (16, 32, 5, 5)), {**none, "size": (1, 1)}),
        ("linear", ((64, 64), (64, 64)), {}),
        ("matmul", ((64, 64), (64, 64)), {}),
        ("matmul", ((64, 64), (64, 64)), {"wide": True}),
    ]
    for name, shapes, attrs in calls:
        narrow, wide = (tuple(Spec(s, t) for s in shapes) for t in (BF16, FLOAT32))
        assert find_tiled(tiles, name, narrow, attrs) is not None
        assert find_tiled(tiles, name, wide, attrs) is None
        assert find_tiled(others, name, narrow, attrs) is None
        if "groups" in attrs:
            assert find_tiled(tiles, name, narrow, {**attrs, "groups": 2}) is None


def test_several_groups_are_left_to_other_kernels() -> None:
    rng = np.random.default_rng(0)
    x, filters = draw(rng, 4, 8, 5, 5), draw(rng, 6, 4, 3, 3)
    attrs = {"stride": (1, 1), "padding": ((1, 1), (1, 1)), "dilation": (1, 1), "groups": 2}
    found = []
    for name in ("llvm:tiles=emulated", "numpy"):
        with context.using(backend=name):
            found.append(conv2d(x, filters, **attrs).value.astype(np.float32))
    np.testing.assert_allclose(*found, rtol=2**-7, atol=1e-5)


def test_it_says_what_computes_with_bfloat16() -> None:
    said = {kind: create(f"tiles={kind}").bfloat16 for kind in ("off", "emulated")}
    assert said["off"] == "computed in float32, which saves memory rather than time"
    assert said["emulated"] == "convolutions, products and recurrent layers use emulated"


class Net(nn.Module):
    """Convolutions with all that may follow: batch norm, a residual, ReLU, a stride, a bias."""

    def __init__(self) -> None:
        sizes = [(3, 16, 3, 1), (16, 16, 3, 1), (16, 40, 3, 2), (40, 40, 1, 1)]
        self.convs = nn.ModuleList([
            nn.Conv2d(a, b, t, s, padding=t // 2, bias=False) for a, b, t, s in sizes
        ])  # fmt: skip
        self.norms = nn.ModuleList([nn.BatchNorm2d(b) for _, b, _, _ in sizes])
        self.last = nn.Conv2d(40, 24, 3)
        self.linear = nn.Linear(24, 10)

    def forward(self, x: Tensor) -> Tensor:
        a = relu(self.norms[0](self.convs[0](x)))
        a = relu(self.norms[1](self.convs[1](a)) + a)
        b = relu(self.norms[2](self.convs[2](a)))
        b = relu(b + self.norms[3](self.convs[3](b)))
        pooled = max_pool2d(relu(self.last(b)), 2)
        return self.linear(avg_pool2d(pooled, pooled.shape[2]).flatten(1))


def trained(name: str, narrow: bool = True) -> tuple[list[Any], tuple[int, int]]:
    """Return the loss, the gradients and the evaluation of a net, and what calls of its second step
    left to NumPy."""
    manual_seed(0)
    net, rng, images = Net(), np.random.default_rng(1), 37
    pixels = rng.normal(size=(images, 21, 21, 3)).astype(np.float32).transpose(0, 3, 1, 2)
    x, labels = from_numpy(pixels), from_numpy(rng.integers(0, 10, images))
    with context.using(backend=name), autocast(enabled=narrow):
        for _ in range(2):
            before = layout_stats.read()
            net.zero_grad()
            loss = cross_entropy(net.train()(x), labels)
            loss.backward()
            moves = layout_stats.read()
        gradients = [p.grad.numpy() for p in net.parameters() if p.grad is not None]
        with no_grad():
            scores = net.eval()(x).numpy()
    return [loss.numpy(), *gradients, scores], (moves[0] - before[0], moves[1] - before[1])


@pytest.fixture(scope="module", params=["llvm:auto", *(n for n in BACKENDS if "dot" not in n)])
def fused(request: pytest.FixtureRequest) -> tuple[str, list[Any], tuple[int, int]]:
    name: str = request.param
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fusion, "LEAST", 1)
        return (name, *trained(name))


@pytest.mark.slow
def test_what_follows_a_convolution_is_fused_into_it(
    fused: tuple[str, list[Any], tuple[int, int]],
) -> None:
    """Its errors are those of the same calls one by one, though fewer numbers are rounded."""
    name, found, _ = fused
    eager, _ = trained(f"{name},eager")
    exact, _ = trained("llvm", narrow=False)

    def errors(values: list[Any]) -> list[float]:
        pairs = zip(values, exact, strict=True)
        return [float(np.linalg.norm(a - b) / np.linalg.norm(b)) for a, b in pairs]

    for error, expected in zip(errors(found), errors(eager), strict=True):
        assert error <= 1.3 * expected + 2e-3


@pytest.mark.slow
def test_no_array_is_moved_between_the_kernels_of_a_step(
    fused: tuple[str, list[Any], tuple[int, int]],
) -> None:
    assert fused[2] == (0, 0)


@pytest.mark.parametrize("images", [5, 37, 70])
@pytest.mark.parametrize("name", KINDS)
def test_statistics_keep_their_digits_where_the_mean_is_far_from_zero(
    name: str, images: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fusion, "LEAST", 1)
    rng = np.random.default_rng(4)
    x, w = draw(rng, images, 16, 6, 5), draw(rng, 20, 16, 1, 1)
    bias = array(np.full(20, 512.0, BF16))
    none = {"stride": (1, 1), "padding": ((0, 0), (0, 0)), "dilation": (1, 1), "groups": 1}
    ones, zeros = array(np.ones(20, np.float32)), array(np.zeros(20, np.float32))
    with context.using(backend=name):
        y = conv2d(positive(x), w, bias, **none)
        _, mean, var = batch_norm(y, ones, zeros, eps=1e-5)
        found = mean.value.copy(), var.value.copy()
    a, b = (np.asarray(t.value, np.float64) for t in (x, w))
    a = np.maximum(a, 0)
    sums = np.einsum("nchw,mc->nmhw", a, b[:, :, 0, 0])
    np.testing.assert_allclose(found[0] - 512, sums.mean((0, 2, 3)), atol=2e-4)
    # Sums near 512 have steps of 2^-14.
    np.testing.assert_allclose(found[1], sums.var((0, 2, 3)), rtol=1e-4)


def test_float32_goes_on_where_tiles_have_left_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Images that lie pixel by pixel are normalised as they lie, and convolved image by image."""
    monkeypatch.setattr(fusion, "LEAST", 1)
    x = from_numpy(np.random.default_rng(0).normal(size=(20, 16, 10, 10)).astype(np.float32))
    found = []
    for name in (BACKENDS[0], f"{BACKENDS[0]},eager"):
        manual_seed(0)
        first, norm, second = nn.Conv2d(16, 32, 3), nn.BatchNorm2d(32), nn.Conv2d(32, 32, 3)
        with context.using(backend=name):
            with autocast():
                y = first(x)
            z = second(relu(norm.train()(y.float())))
            with no_grad():
                found.append((z.numpy(), second(relu(norm.eval()(y.float()))).numpy()))
    for a, b in zip(*found, strict=True):
        np.testing.assert_allclose(a, b, atol=0.01)


@pytest.mark.parametrize("name", ["llvm:auto", BACKENDS[0]])
def test_a_model_wholly_in_bfloat16_is_that_of_single_calls(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its parameters of batch norm are bfloat16, which no fused kernel takes."""
    monkeypatch.setattr(fusion, "LEAST", 1)
    found = []
    for each in (name, f"{name},eager"):
        manual_seed(0)
        first, second = (nn.Conv2d(n, 32, 3, bias=False) for n in (16, 32))
        layers = first, nn.BatchNorm2d(32), nn.ReLU(), second
        net = nn.Sequential(*layers, nn.BatchNorm2d(32), nn.ReLU()).bfloat16()
        x = Tensor(draw(np.random.default_rng(0), 20, 16, 8, 8))
        with context.using(backend=each):
            y = net.train()(x)
            y.backward(Tensor(draw(np.random.default_rng(1), *y.shape)))
            with no_grad():
                scores = net.eval()(x)
        grads = [p.grad for p in net.parameters()]
        found.append([t.numpy().astype(np.float64) for t in (y, scores, *grads) if t is not None])
    for a, b in zip(*found, strict=True):
        assert np.linalg.norm(a - b) <= 0.1 * np.linalg.norm(b) + 1e-6
