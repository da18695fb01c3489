"""What follows convolutions in the same pass, against the same one after the other, in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("llvmlite", reason="llvmlite is not installed")

import tallygrad.autograd as ag
from tallygrad.autograd.array import NDArray, Spec
from tallygrad.autograd.backends.llvm.compiler.isa import targets
from tallygrad.autograd.backends.llvm.compiler.jit import build
from tallygrad.autograd.backends.llvm.kernels.epilogue import (
    IMAGES,
    TOTALS,
    Epilogue,
    merge_moments,
    merge_sums,
    scaling,
)
from tallygrad.autograd.backends.llvm.plans import linear as linear_plans
from tallygrad.autograd.backends.llvm.plans.conv import conv2d, conv2d_dx
from tallygrad.autograd.backends.llvm.plans.linear import linear, matmul
from tallygrad.autograd.backends.llvm.runtime.layout import address
from tallygrad.autograd.ops import conv as ops

PLAIN = {"stride": (1, 1), "padding": ((1, 1), (1, 1)), "dilation": (1, 1), "groups": 1}
UNPADDED = {"padding": ((0, 0), (0, 0))}  # dx by the transposed method
EPILOGUES = [
    Epilogue(scale=True),
    Epilogue(residual=True),
    Epilogue(relu=True),
    Epilogue(mask=True),
    Epilogue(scale=True, residual=True, relu=True),
    Epilogue(moments=True),
    Epilogue(sums=True),
    Epilogue(residual=True, mask=True, sums=True),
]
# How, types, channels, image, taps, options. Winograd's method knows float32 alone.
BOTH, SINGLE = ("float32", "float64"), ("float32",)
KERNELS = [
    ("direct", BOTH, 17, (8, 8), 3, {}),
    ("winograd2", SINGLE, 17, (8, 8), 3, {}),
    ("winograd", SINGLE, 33, (8, 8), 3, {}),
    ("direct", BOTH, 18, (8, 8), 3, {"groups": 3, "dilation": (2, 2), "padding": ((2, 2), (2, 2))}),
    ("winograd2", SINGLE, 17, (9, 9), 3, {}),
    ("winograd", SINGLE, 17, (7, 10), 3, {}),
    ("winograd", SINGLE, 17, (10, 9), 3, UNPADDED),
    ("direct", SINGLE, 17, (9, 8), 3, {"stride": (2, 2)}),
    ("direct", BOTH, 18, (7, 9), 1, {"stride": (2, 2), "groups": 2, **UNPADDED}),
]
# Rows, inner axis (also in more than one piece), columns; whether x, or the second matrix, is given
# by columns: many rows, and so few that y is turned.
PRODUCTS = [
    ("linear", 39, 1050, 75, False, True),
    ("linear", 7, 150, 133, False, True),
    ("matmul", 67, 40, 37, False, False),
    ("matmul", 33, 1024, 40, True, False),
]
CASES = [
    (epilogue, dtype, how, *rest)
    for number, (how, dtypes, *rest) in enumerate(KERNELS)
    for dtype in dtypes
    for epilogue in (EPILOGUES if number < 3 else EPILOGUES[4:])  # single steps, then all together
]


def name_of(value: Any) -> str:
    return "-".join(value.pointers) or "relu" if isinstance(value, Epilogue) else str(value)


def drawn(seed: int, *shape: int, dtype: Any, last: bool = True) -> NDArray:
    """Return numbers, images with their channels last in memory."""
    x = np.random.default_rng(seed).standard_normal(shape).astype(dtype)
    if len(shape) == 4 and last:
        return np.ascontiguousarray(x.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    return x


def specs(*arrays: NDArray) -> list[Spec]:
    return [Spec(a.shape, a.dtype) for a in arrays]


def given(epilogue: Epilogue, shape: tuple[int, ...], dtype: Any) -> dict[str, NDArray]:
    """Return the arrays that an epilogue takes, sums as they are when nobody has set them."""
    n, channels = shape[0] if len(shape) == 4 else 1, shape[1]
    made: dict[str, NDArray] = {}
    for i, name in enumerate(epilogue.pointers):
        if name in TOTALS:
            made[name] = np.full((n, TOTALS[name], channels), np.nan)
        else:
            whole = name in ("residual", "mask", "seen")
            made[name] = drawn(50 + i, *(shape if whole else (channels,)), dtype=dtype)
    return made


def each(channels: NDArray, axes: int) -> NDArray:
    """Return a number for each channel, in float64, as an array of so many axes."""
    return channels.astype(float).reshape(-1, *[1] * (axes - 2))


def expected(epilogue: Epilogue, y: NDArray, arrays: dict[str, NDArray]) -> NDArray:
    if epilogue.scale:
        y = y * each(arrays["slope"], y.ndim) + each(arrays["level"], y.ndim)
    if epilogue.residual:
        y = y + arrays["residual"]
    if epilogue.relu:
        y = np.where(y < 0, 0, y)
    return np.where(arrays["mask"] > 0, y, 0) if epilogue.mask else y


@pytest.mark.parametrize(
    ("epilogue", "dtype", "how", "channels", "size", "taps", "other"), CASES, ids=name_of
)
@pytest.mark.parametrize("name", targets.available())
@pytest.mark.parametrize("back", [False, True], ids=["forward", "dx"])
def test_convolutions(
    name: str, how: str, channels: int, size: tuple[int, int], taps: int, other: dict[str, Any],
    dtype: str, epilogue: Epilogue, back: bool,
) -> None:  # fmt: skip
    attrs = {**PLAIN, **other}
    inner = channels // attrs["groups"]
    x = drawn(0, 5, channels, *size, dtype=dtype) + np.asarray(3, dtype)
    w = drawn(1, channels, inner, taps, taps, dtype=dtype, last=False) / np.asarray(9, dtype)
    machine = targets.replace(targets.target(name), convolution=how)
    y = ops.conv2d.reference(x.astype(float), w.astype(float), **attrs)
    operation: Any = conv2d
    if back:
        operation, attrs = conv2d_dx, {**attrs, "size": size}
        x = drawn(0, *y.shape, dtype=dtype) + np.asarray(3, dtype)
        y = ops.conv2d_dx.reference(x.astype(float), w.astype(float), **attrs)
    plan = operation(machine, *specs(x, w), **attrs, epilogue=epilogue)
    check(plan, (x, w), y, epilogue, machine)


@pytest.mark.slow
@pytest.mark.parametrize("kernel", [KERNELS[i] for i in (3, 5, 6, 7)], ids=str)
@pytest.mark.parametrize("back", [False, True], ids=["forward", "dx"])
def test_images_of_bfloat16_are_computed_in_float32(kernel: tuple[Any, ...], back: bool) -> None:
    narrow = pytest.importorskip("ml_dtypes").bfloat16
    how, _, channels, size, taps, other = kernel
    attrs, everything = {**PLAIN, **other}, Epilogue(*[True] * 6)
    inner, operation = channels // attrs["groups"], conv2d_dx if back else conv2d
    w = drawn(1, channels, inner, taps, taps, dtype=narrow, last=False)
    images = Spec((5, channels, *size), np.dtype("float32"))
    top = ops.conv2d.infer(images, images._replace(shape=w.shape), **attrs)
    assert isinstance(top, Spec)
    ends = (top, images) if back else (images, top)
    attrs |= {"size": size} if back else {}
    x, more = drawn(0, *ends[0].shape, dtype=narrow), given(everything, ends[1].shape, narrow)
    found = []
    for dtype in (narrow, np.float32):
        arrays = [
            a.copy() if name in TOTALS else a.astype(dtype if name in IMAGES else np.float32)
            for name, a in more.items()
        ]
        operands = x.astype(dtype), w.astype(dtype)
        plan: Any = operation(
            targets.target(convolution=how), *specs(*operands), **attrs, epilogue=everything
        )
        y = plan(*operands, *arrays)
        rows = [a for name, a in zip(more, arrays, strict=True) if name in TOTALS]
        found.append([y.astype(narrow), *rows])
        assert y.dtype == dtype
    for a, b in zip(*found, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("epilogue", EPILOGUES[4:], ids=name_of)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("case", PRODUCTS, ids=str)
@pytest.mark.parametrize("name", targets.available())
def test_products(
    name: str, case: tuple[str, int, int, int, bool, bool], dtype: str, epilogue: Epilogue
) -> None:
    how, n, c, m, x_turned, w_turned = case

    def matrix(seed: int, *shape: int, turned: bool = False) -> NDArray:
        made = drawn(seed, *(shape[::-1] if turned else shape), dtype=dtype)
        return made.T if turned else made

    x, w = matrix(0, n, c, turned=x_turned), matrix(1, c, m, turned=w_turned)
    y = x.astype(float) @ w.astype(float)
    if how == "linear":
        bias = drawn(2, m, dtype=dtype)
        operands, y = (x, w.T, bias), y + bias
        plan = linear(targets.target(name), *specs(*operands), epilogue=epilogue)
    else:
        operands = (x, w)
        plan = matmul(targets.target(name), *specs(x, w), epilogue=epilogue)
    check(plan, operands, y, epilogue, targets.target(name))


@pytest.mark.parametrize("epilogue", EPILOGUES, ids=name_of)
@pytest.mark.parametrize(
    ("sizes", "turned", "order"),
    [
        ((9, 300, 75), False, linear_plans.Order.INNER),
        ((40, 1100, 75), False, linear_plans.Order.INNER),
        ((70, 33, 100), True, linear_plans.Order.ROWS),
    ],
)
def test_products_with_long_rows(
    sizes: tuple[int, int, int], turned: bool, order: linear_plans.Order, epilogue: Epilogue,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Which go through pieces of the inner axis first, copied or not, or through tiles of rows."""
    tiles: list[linear_plans.MatmulTile] = []

    def built(kernel: Any, target: Any, p: Any, tile: linear_plans.MatmulTile, *rest: Any) -> Any:
        tiles.append(tile)
        return build(kernel, target, p, tile, *rest)

    monkeypatch.setattr(linear_plans, "build", built)
    monkeypatch.setattr(linear_plans, "LONG", 1)
    monkeypatch.setattr(linear_plans, "BLOCKED", 1 << 14)
    n, c, m = sizes
    x, w = drawn(0, n, c, dtype="float32"), drawn(1, c, m, dtype="float32")
    x = np.asfortranarray(x) if turned else x
    plan = matmul(targets.target(), *specs(x, w), epilogue=epilogue)
    check(plan, (x, w), x.astype(float) @ w.astype(float), epilogue, targets.target())
    assert {(tile.order, tile.copied) for tile in tiles} == {(order, n >= linear_plans.COPIED)}


@pytest.mark.parametrize("sizes", [(300, 100, 100), (400, 900, 900)], ids=["panels", "turned"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_sums_of_products_are_the_same_for_any_number_of_threads(
    sizes: tuple[int, int, int], dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(linear_plans, "WORTHWHILE", 1)
    (n, c, m), found = sizes, []
    operands = [drawn(i, *shape, dtype=dtype) for i, shape in enumerate([(n, c), (m, c), (m,)])]
    epilogue = Epilogue(scale=True, residual=True, mask=True, moments=True, sums=True)
    y = operands[0].astype(float) @ operands[1].T.astype(float) + operands[2]
    before = ag.get_num_threads()
    try:
        for threads in (1, 3):
            ag.set_num_threads(threads)
            plan = linear(targets.target(), *specs(*operands), epilogue=epilogue)
            check(plan, tuple(operands), y, epilogue, targets.target())
            arrays = given(epilogue, (n, m), dtype)
            made = plan(*operands, *arrays.values())
            found.append([made, arrays["moments"], arrays["sums"]])
    finally:
        ag.set_num_threads(before)
    for one, three in zip(*found, strict=True):
        np.testing.assert_array_equal(one, three)


def check(
    plan: Any, operands: tuple[NDArray, ...], y: NDArray, epilogue: Epilogue, machine: Any
) -> None:
    """Compare a kernel's result with what an epilogue makes of y."""
    dtype = operands[0].dtype.name
    arrays = given(epilogue, y.shape, dtype)
    found = plan(*operands, *arrays.values())
    wanted = expected(epilogue, y, arrays)
    near = 1e-12 if dtype == "float64" else 3e-5
    np.testing.assert_allclose(found, wanted, rtol=near, atol=near * np.abs(wanted).max())
    # All rows of a matrix are one image.
    n, c = (len(y) if y.ndim == 4 else 1), y.shape[1]
    axes = (0, *range(2, y.ndim))
    if epilogue.moments:
        mean, var = np.empty((2, c), dtype)
        function = build(merge_moments, machine, dtype, c, y.size // n // c)
        function(address(arrays["moments"]), address(mean), address(var), n)
        np.testing.assert_allclose(mean, wanted.mean(axes), rtol=near, atol=near)
        np.testing.assert_allclose(var, wanted.var(axes), rtol=10 * near)
    if epilogue.sums:
        var, dw, db = (np.abs(drawn(9, 3, c, dtype=dtype)) + np.asarray(0.1, dtype)).copy()
        function = build(merge_sums, machine, dtype, c, 1e-5)
        function(*(address(a) for a in (arrays["sums"], var, dw, db)), n)
        off = arrays["seen"].astype(float) - each(arrays["mean"], y.ndim)
        scale = np.abs(wanted).sum(axes).max()
        np.testing.assert_allclose(db, wanted.sum(axes), atol=near * scale)
        steep = (wanted * off).sum(axes) / np.sqrt(var.astype(float) + 1e-5)
        np.testing.assert_allclose(dw, steep, atol=10 * near * scale)


@pytest.mark.parametrize("name", targets.available())
@pytest.mark.parametrize("how", ["direct", "winograd"])
def test_a_mean_far_from_zero_costs_nothing(name: str, how: str) -> None:
    machine = targets.replace(targets.target(name), convolution=how)
    x, w = drawn(0, 6, 16, 16, 16, dtype="float32"), drawn(1, 16, 16, 3, 3, dtype="float32")
    level = np.full(16, 1000, np.float32)
    epilogue = Epilogue(scale=True, moments=True)
    plan = conv2d(machine, *specs(x, w), **PLAIN, epilogue=epilogue)
    rows, mean, var = np.empty((6, 3, 16)), np.empty(16, "f"), np.empty(16, "f")
    y = plan(x, w, np.full(16, 0.01, "f"), level, rows).astype(float)
    build(merge_moments, machine, "float32", 16, 256)(*map(address, (rows, mean, var)), 6)
    np.testing.assert_allclose(mean, y.mean((0, 2, 3)), rtol=1e-7)
    np.testing.assert_allclose(var, y.var((0, 2, 3)), rtol=1e-4)


@pytest.mark.parametrize("how", ["direct", "winograd"])
def test_sums_of_large_images_are_exact(how: str) -> None:
    """Of one image with 2^16 pixels, that are all 0.1, and whose own sums would be a running one
    over 4,096 tiles."""
    machine, tenth = targets.replace(targets.target(), convolution=how), float(np.float32(0.1))
    x = np.full((1, 256, 256, 16), 0.1, "f").transpose(0, 3, 1, 2)
    w = np.zeros((16, 16, 3, 3), "f")
    w[range(16), range(16), 1, 1] = 1
    plan = conv2d(machine, *specs(x, w), **PLAIN, epilogue=Epilogue(sums=True))
    rows, zero = np.empty((1, 2, 16)), np.zeros(16, "f")
    y = plan(x, w, x, zero, rows)
    np.testing.assert_allclose(y, tenth, rtol=1e-5)
    np.testing.assert_allclose(rows[0, 0], y.sum((0, 2, 3), dtype=float), rtol=5e-7)
    np.testing.assert_allclose(rows[0, 1], (y * x).sum((0, 2, 3), dtype=float), rtol=5e-7)


def test_what_a_normalisation_multiplies_by() -> None:
    w, b, mean, var = np.random.default_rng(0).uniform(0.5, 2, (4, 37))
    slope, level = np.empty((2, 37))
    build(scaling, targets.target(), "float64", 37, 1e-3)(
        *map(address, (w, b, mean, var, slope, level))
    )
    np.testing.assert_allclose(slope, w / np.sqrt(var + 1e-3), rtol=1e-14)
    np.testing.assert_allclose(level, b - mean * w / np.sqrt(var + 1e-3), rtol=1e-13)
