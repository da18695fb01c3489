"""Kernels of batch normalisation and pooling against the NumPy references, for all targets."""

from typing import Any

import numpy as np
import pytest

pytest.importorskip("llvmlite")

from tallygrad.autograd.array import NDArray, Spec
from tallygrad.autograd.backends.llvm import registry
from tallygrad.autograd.backends.llvm.compiler.isa.targets import available, target
from tallygrad.autograd.backends.llvm.compiler.jit import build
from tallygrad.autograd.backends.llvm.kernels.batch_norm import normalise
from tallygrad.autograd.backends.llvm.kernels.batch_norm_passes import arranged
from tallygrad.autograd.backends.llvm.kernels.epilogue import Epilogue
from tallygrad.autograd.backends.llvm.kernels.pool import backward, forward
from tallygrad.autograd.backends.llvm.kernels.windows import pooling
from tallygrad.autograd.backends.llvm.runtime import memory
from tallygrad.autograd.backends.llvm.runtime.layout import address
from tallygrad.autograd.ops import norm, pool

EPS = 1e-5
GUARD = 64  # numbers before and after an array that no kernel may touch
LIMIT = {np.float32: 2e-6, np.float64: 1e-13}
# Channels that fill vectors, leave a rest, or are fewer than a vector's; one pixel; no images.
SHAPES = [
    (1, 1, 1, 2), (5, 3, 7, 5), (2, 5, 1, 1), (4, 16, 9, 9), (3, 17, 5, 5), (5, 20, 3, 3),
    (2, 50, 9, 7), (2, 130, 3, 3), (7, 16), (33, 5), (2, 3, 2, 4, 3),
]  # fmt: skip
WINDOWS = [
    ((2, 2), (2, 2), ((0, 0), (0, 0)), (1, 1)),
    ((3, 3), (2, 2), ((1, 1), (1, 1)), (1, 1)),
    ((3, 2), (1, 3), ((1, 2), (0, 1)), (1, 1)),
    ((2, 2), (2, 1), ((2, 2), (1, 3)), (3, 2)),
    ((5, 7), (5, 7), ((0, 0), (0, 0)), (1, 1)),
]


MACHINE = {"target": target()}  # what kernels are made for


@pytest.fixture(params=available())
def chosen(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setitem(MACHINE, "target", target(request.param))
    return str(request.param)


def last(x: NDArray) -> NDArray:
    """Return x with its channels last in memory."""
    return np.moveaxis(np.ascontiguousarray(np.moveaxis(x, 1, -1)), -1, 1)


def call(name: str, *arrays: NDArray, **attributes: Any) -> Any:
    """Run a primitive's kernel, which must be there."""
    specs = tuple(Spec(a.shape, a.dtype) for a in arrays)
    kernel = registry.find(MACHINE["target"], name, specs, attributes)
    assert kernel is not None, f"{name}: no kernel"
    return kernel(*arrays)


def near(got: NDArray, expected: NDArray, limit: float) -> None:
    scale = max(1.0, float(np.abs(expected).max()))
    np.testing.assert_allclose(got, expected, rtol=0, atol=limit * scale)


def samples(shape: tuple[int, ...], dtype: Any, mean: float = 0.0) -> list[NDArray]:
    rng = np.random.default_rng(sum(shape))
    x, dy = rng.standard_normal((2, *shape))
    w, b = rng.standard_normal((2, shape[1]))
    return [a.astype(dtype) for a in (x + mean, dy, w, b)]


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [(s, np.float32) for s in SHAPES] + [(s, np.float64) for s in SHAPES if s[1] in (3, 17)],
)
def test_batch_norm(chosen: str, shape: tuple[int, ...], dtype: Any) -> None:
    x, dy, w, b = samples(shape, dtype)
    x, limit = last(x), LIMIT[dtype]
    y, mean, var = call("batch_norm", x, w, b, eps=EPS)
    assert [a.dtype for a in (y, mean, var)] == [dtype] * 3
    axes = (0, *range(2, len(shape)))
    wide = x.astype(np.float64)
    near(mean, wide.mean(axes), limit)
    near(var, wide.var(axes), 4 * limit)
    exact = [a.astype(np.float64) for a in (w, b, mean, var)]
    fixed = norm.batch_norm_eval.reference(wide, *exact, eps=EPS)
    near(y, fixed, 100 * limit)
    near(call("batch_norm_eval", x, w, b, mean, var, eps=EPS), fixed, limit)
    sums = call("batch_norm_sums", dy, x, mean, var, eps=EPS)
    expected = norm.batch_norm_sums.reference(dy.astype(np.float64), wide, *exact[2:], eps=EPS)
    for got, value in zip(sums, expected, strict=True):
        near(got, value, 4 * limit)
    dx = call("batch_norm_dx", dy, x, w, mean, var, *sums, eps=EPS)
    dys, (dw, db) = dy.astype(np.float64), (s.astype(np.float64) for s in sums)
    steep = float(np.abs(w / np.sqrt(var + EPS)).max())
    arrays = dys, wide, exact[0], *exact[2:], dw, db
    expected = norm.batch_norm_dx.reference(*arrays, eps=EPS)
    near(dx / steep, expected / steep, 4 * limit)


@pytest.mark.parametrize("channels", [1, 16, 20])
@pytest.mark.parametrize(("dtype", "mean"), [(np.float32, 1e4), (np.float64, 1e7)])
def test_mean_far_from_zero(chosen: str, channels: int, dtype: Any, mean: float) -> None:
    x, _, w, b = samples((4, channels, 33, 31), dtype, mean)
    wide = x.astype(np.float64)
    _, got_mean, var = call("batch_norm", last(x), w, b, eps=EPS)
    limit = 1e-5 if dtype is np.float32 else 1e-12
    exact = wide.var((0, 2, 3))
    np.testing.assert_allclose(var, exact, rtol=limit)
    np.testing.assert_allclose(got_mean, wide.mean((0, 2, 3)), rtol=limit / 10)
    # Drift: each image has another mean, so that no first guess serves all.
    drifting = x + (np.arange(4) * 100).reshape(4, 1, 1, 1).astype(dtype)
    _, _, var = call("batch_norm", last(drifting), w, b, eps=EPS)
    np.testing.assert_allclose(var, drifting.astype(np.float64).var((0, 2, 3)), rtol=limit)


def test_batch_norm_keeps_what_is_not_a_number_to_its_channel(chosen: str) -> None:
    x, dy, w, b = samples((2, 5, 9, 9), np.float32)
    x[1, 3, 8, 8] = np.nan
    y, mean, var = call("batch_norm", x, w, b, eps=EPS)
    bad = [False, False, False, True, False]
    dw, db = call("batch_norm_sums", dy, x, mean, var, eps=EPS)
    assert np.isfinite(db).all()
    for values in (mean, var, dw):
        np.testing.assert_array_equal(np.isnan(values), bad)
    np.testing.assert_array_equal(np.isnan(y).all((0, 2, 3)), bad)
    np.testing.assert_array_equal(np.isnan(y).any((0, 2, 3)), bad)


def test_types_must_agree(chosen: str) -> None:
    x, _, w, b = samples((2, 5, 3, 3), np.float32)
    specs = [Spec(a.shape, a.dtype) for a in (x, w.astype(np.float64), b)]
    assert registry.find(MACHINE["target"], "batch_norm", tuple(specs), {"eps": EPS}) is None


def guarded(x: NDArray) -> tuple[NDArray, NDArray]:
    """Return a copy of x between numbers that tell whether something touched them, and those."""
    around = np.full(x.size + 2 * GUARD, 77, x.dtype)
    inner = around[GUARD : GUARD + x.size].reshape(x.shape)
    inner[...] = x
    return inner, around


def intact(around: NDArray) -> bool:
    return bool((around[:GUARD] == 77).all() and (around[-GUARD:] == 77).all())


@pytest.mark.parametrize("channels", [3, 20, 70])
@pytest.mark.parametrize(
    "epilogue", [Epilogue(), Epilogue(residual=True, relu=True)], ids=["plain", "fused"]
)
def test_normalise_stays_within_its_arrays(chosen: str, channels: int, epilogue: Epilogue) -> None:
    x, residual, w, b = samples((3, channels, 7, 5), np.float32)
    where, spec = target(chosen), Spec(x.shape, x.dtype)
    rows, extent = arranged(where, spec)
    arrays = [*(np.moveaxis(a, 1, -1) for a in (x, residual)), w, b]
    padded = -(-rows.width // where.lanes(np.float32)) * where.lanes(np.float32)
    room = np.zeros(padded * (16 + 3 * 4) // 4, np.float32)
    empty = [np.zeros(channels, np.float32)] * 2 + [np.zeros_like(arrays[0]), room]
    inner, around = zip(*map(guarded, [*arrays, *empty]), strict=True)
    function = build(normalise, where, rows, EPS, False, epilogue)
    function(*map(address, inner), *extent)
    assert all(map(intact, around))
    expected = norm.batch_norm.reference(x, w, b, eps=EPS)[0]
    if epilogue.relu:
        expected = np.maximum(expected + residual, 0)
    near(np.moveaxis(inner[6], -1, 1), expected, 1e-5)


def tied(shape: tuple[int, ...], dtype: Any) -> NDArray:
    """Return images full of equal numbers, infinities and what is not a number."""
    rng = np.random.default_rng(sum(shape))
    x = rng.integers(-2, 3, shape).astype(dtype)
    kind = rng.random(shape)
    x[kind < 0.05] = np.nan
    x[(kind > 0.05) & (kind < 0.4)] = -np.inf
    x[kind > 0.97] = np.inf
    return x


@pytest.mark.parametrize("windows", WINDOWS, ids=str)
@pytest.mark.parametrize(
    ("channels", "dtype"),
    [(3, np.float32), (20, np.float32), (50, np.float32), (16, np.float64)],
)
def test_max_pool(chosen: str, windows: Any, channels: int, dtype: Any) -> None:
    x = tied((3, channels, 9, 7), dtype)
    attrs = dict(zip(("kernel", "stride", "padding", "dilation"), windows, strict=True))
    expected, places = pool.max_pool2d.reference(x, **attrs)
    y, place = call("max_pool2d", last(x), **attrs)
    assert place.dtype == places.dtype
    np.testing.assert_array_equal(y, expected)
    np.testing.assert_array_equal(place, places)
    np.testing.assert_array_equal(call("max_pool2d", x, **attrs)[1], places)
    dy = np.random.default_rng(0).standard_normal(y.shape).astype(dtype)
    dy[0, 0, 0, 0] = np.inf
    sent = pool.max_pool2d_dx.reference(dy, places, size=(9, 7), **attrs)
    np.testing.assert_array_equal(
        call("max_pool2d_dx", dy, np.ascontiguousarray(place), size=(9, 7), **attrs), sent
    )


@pytest.mark.parametrize("windows", [w for w in WINDOWS if w[3] == (1, 1)], ids=str)
@pytest.mark.parametrize(
    ("counted", "divisor", "channels", "dtype"),
    [
        (True, 0, 20, np.float32),
        (False, 0, 20, np.float64),
        (False, 3, 20, np.float32),
        (False, 0, 3, np.float32),
    ],
)
def test_avg_pool(
    chosen: str, windows: Any, counted: bool, divisor: int, channels: int, dtype: Any
) -> None:
    x = np.random.default_rng(1).standard_normal((3, channels, 9, 7)).astype(dtype)
    attrs: dict[str, Any] = dict(zip(("kernel", "stride", "padding"), windows[:3], strict=True))
    attrs |= {"counted": counted, "divisor": divisor}
    y = call("avg_pool2d", last(x), **attrs)
    near(y, pool.avg_pool2d.reference(x, **attrs), 1e-6)
    dy = np.random.default_rng(2).standard_normal(y.shape).astype(dtype)
    expected = pool.avg_pool2d_dx.reference(dy, size=(9, 7), **attrs)
    near(call("avg_pool2d_dx", dy, size=(9, 7), **attrs), expected, 1e-6)


def test_large_windows_of_a_mean_are_loops(chosen: str) -> None:
    x = np.random.default_rng(1).standard_normal((2, 20, 40, 45))
    attrs: dict[str, Any] = {"kernel": (40, 45), "stride": (40, 45), "padding": ((0, 0), (0, 0))}
    attrs |= {"counted": True, "divisor": 0}
    y = call("avg_pool2d", last(x), **attrs)
    near(y, pool.avg_pool2d.reference(x, **attrs), 1e-13)
    dx = call("avg_pool2d_dx", y, size=(40, 45), **attrs)
    near(dx, np.broadcast_to(y / 1800, x.shape), 1e-15)


def test_what_no_kernel_covers_is_left_to_numpy(chosen: str) -> None:
    x = Spec((1, 4, 40, 40), np.dtype(np.float32))
    attrs = {"stride": (1, 1), "padding": ((0, 0), (0, 0)), "dilation": (1, 1)}
    large, small = (
        registry.find(MACHINE["target"], "max_pool2d", (x,), {"kernel": size, **attrs})
        for size in ((17, 17), (3, 3))
    )
    assert large is None and small is not None


@pytest.mark.parametrize("channels", [3, 20])
def test_pools_stay_within_their_arrays(chosen: str, channels: int) -> None:
    where, dtype = target(chosen), np.dtype(np.float32)
    kernel, stride, padding, dilation = WINDOWS[1]
    x = np.random.default_rng(3).standard_normal((2, channels, 9, 7)).astype(dtype)
    plan = pooling(Spec(x.shape, dtype), kernel, stride, padding, dilation)
    out = (2, plan.vertical.windows, plan.horizontal.windows, channels)
    arrays = [np.moveaxis(x, 1, -1), np.zeros(out, dtype), np.zeros(out, np.uint8)]
    inner, around = zip(*map(guarded, arrays), strict=True)
    build(forward, where, plan, 1)(*map(address, inner), 2)
    assert all(map(intact, around))
    assert inner[2].any()
    dx, edge = guarded(np.full_like(arrays[0], np.nan))
    build(backward, where, plan, 1)(address(inner[1]), address(inner[2]), address(dx), 2)
    assert intact(edge) and all(map(intact, around))
    assert not np.isnan(dx).any()


def test_results_lie_channels_last_in_pooled_memory(chosen: str) -> None:
    x, _, w, b = samples((2, 5, 4, 4), np.float32)
    before = memory.pool.used
    y, _, _ = call("batch_norm", x, w, b, eps=EPS)
    assert y.transpose(0, 2, 3, 1).flags.c_contiguous
    assert memory.pool.used > before
