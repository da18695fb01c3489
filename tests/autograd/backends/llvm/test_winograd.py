"""Winograd convolution of the llvm backend against NumPy in float64: values, edges, memory, and
when it is chosen."""

from __future__ import annotations

from functools import partial
from itertools import product
from math import prod
from typing import Any, NamedTuple

import numpy as np
import pytest

from tallygrad.autograd.array import Spec
from tallygrad.autograd.ops import conv

pytest.importorskip("llvmlite", reason="llvmlite is not installed")

from tallygrad.autograd.backends.llvm.compiler.isa.targets import available, target
from tallygrad.autograd.backends.llvm.kernels import conv_winograd as winograd
from tallygrad.autograd.backends.llvm.kernels import conv_winograd_transforms as winograd_transforms
from tallygrad.autograd.backends.llvm.plans import conv as conv_plans
from tallygrad.autograd.backends.llvm.plans import conv_winograd as winograd_plan
from tallygrad.autograd.backends.llvm.runtime import parallel

Pair = tuple[int, int]
GUARD = 4096  # numbers before and after an array
PATTERN = np.float32(-7.25)


class Layer(NamedTuple):
    """A convolution of stride 1: images, channels, their size, results, taps, padding."""

    n: int
    c: int
    size: Pair
    m: int
    r: int
    padding: tuple[Pair, Pair]

    @property
    def attributes(self) -> dict[str, Any]:
        return {"stride": (1, 1), "padding": self.padding, "dilation": (1, 1), "groups": 1}

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        """Shapes of x, w and y."""
        e, f = (s + sum(p) - self.r + 1 for s, p in zip(self.size, self.padding, strict=True))
        c, m, r = self.c, self.m, self.r
        return [(self.n, c, *self.size), (m, c, r, r), (self.n, m, e, f)]


ONE, TWO, NONE = ((1, 1), (1, 1)), ((2, 2), (2, 2)), ((0, 0), (0, 0))
F4 = {
    "whole tiles": Layer(2, 16, (8, 8), 16, 3, ONE),
    "ragged, odd channels": Layer(3, 17, (9, 6), 5, 3, ONE),
    "ragged, many channels": Layer(2, 50, (7, 11), 70, 3, TWO),
    "asymmetric, no border left": Layer(1, 1, (13, 6), 3, 3, ((2, 0), (0, 1))),
    "fewer tiles of dy": Layer(2, 5, (10, 10), 18, 3, NONE),
    "cut off": Layer(2, 3, (9, 10), 20, 3, ((-1, 0), (1, -2))),
}
F2 = {
    "4x4": Layer(5, 20, (4, 4), 33, 3, ONE),
    "one pixel": Layer(5, 3, (1, 1), 17, 3, ONE),
    "one result": Layer(2, 5, (3, 3), 1, 3, NONE),
}
F25 = {
    "lenet": Layer(3, 20, (12, 12), 50, 5, NONE),
    "ragged": Layer(2, 5, (6, 7), 17, 5, ((2, 1), (0, 2))),
}
LAYERS = {f"{f}, {name}": layer for f, layers in (("F4", F4), ("F2", F2), ("F(2,5)", F25))
          for name, layer in layers.items()}  # fmt: skip
# Relative to the largest value: of y and dx, and of dw, which sums up many more products.
WITHIN = {4: (1e-5, 1e-4), 2: (1e-6, 1e-5)}


def draw(layer: Layer, dtype: Any = "float32") -> list[np.ndarray]:
    """Return x, w and dy."""
    rng = np.random.default_rng(3)
    x, w, dy = (rng.standard_normal(shape).astype(dtype) for shape in layer.shapes)
    return [last(x), w, last(dy)]


def last(x: np.ndarray) -> np.ndarray:
    """Return images channels-last in memory."""
    return np.ascontiguousarray(x.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)


def passes(
    layer: Layer, x: np.ndarray, w: np.ndarray, dy: np.ndarray, name: str = "",
    how: str = "winograd",
) -> list[np.ndarray]:  # fmt: skip
    """Return y, dx and dw: of the kernels for a target, of NumPy without a name."""
    calls: list[tuple[str, list[np.ndarray], dict[str, Any]]] = [
        ("conv2d", [x, w], layer.attributes),
        ("conv2d_dx", [dy, w], {"size": layer.size, **layer.attributes}),
        ("conv2d_dw", [x, dy], {"size": (layer.r, layer.r), **layer.attributes}),
    ]
    found = []
    for primitive, arrays, attributes in calls:
        if name:
            specs = [Spec(a.shape, a.dtype) for a in arrays]
            kernel = getattr(conv_plans, primitive)(target(name, how), *specs, **attributes)
        else:
            kernel = partial(getattr(conv, primitive).reference, **attributes)
        found.append(kernel(*arrays))
    return found


def error(found: np.ndarray, expected: np.ndarray) -> float:
    """Return the largest difference, relative to the largest value; it is nan for nan."""
    assert found.shape == expected.shape and found.dtype == np.float32
    return float(np.abs(found - expected).max() / np.abs(expected).max())


@pytest.mark.parametrize("name", LAYERS)
def test_all_passes_equal_numpy(name: str) -> None:
    compare(LAYERS[name], available()[0])


@pytest.mark.parametrize("name", available()[1:])
@pytest.mark.parametrize("layer", ["F4, ragged, odd channels", "F2, 4x4", "F(2,5), ragged"])
def test_narrow_registers_equal_numpy(layer: str, name: str) -> None:
    compare(LAYERS[layer], name)


def compare(layer: Layer, name: str) -> None:
    arrays = draw(layer)
    expected = passes(layer, *[a.astype(np.float64) for a in arrays])
    found = passes(layer, *arrays, name)
    for index, (a, b) in enumerate(zip(found, expected, strict=True)):
        places = layer.size if index == 1 else layer.shapes[2][2:]
        m = 4 if layer.r == 3 and max(places) > 4 else 2
        # F(2,5) has as many points as F(4,3), and rounds like it.
        limits = WITHIN[4 if layer.r == 5 else m]
        assert error(a, b) < limits[index == 2], ("y", "dx", "dw")[index]


@pytest.mark.parametrize("layer", ["F4, ragged, odd channels", "F2, 4x4", "F(2,5), ragged"])
def test_a_bias_is_added(layer: str) -> None:
    x, w, dy = draw(LAYERS[layer])
    b = np.random.default_rng(4).standard_normal(len(w)).astype("float32")
    attributes = LAYERS[layer].attributes
    specs = [Spec(a.shape, a.dtype) for a in (x, w, b)]
    kernel = conv_plans.conv2d(target(convolution="winograd"), *specs, **attributes)
    y = passes(LAYERS[layer], x, w, dy, available()[0])[0]
    np.testing.assert_array_equal(kernel(x, w, b), y + b[:, None, None])


def equal_float32(layer: Layer, arrays: list[np.ndarray], *target: str) -> None:
    """Assert that kernels on narrow arrays compute what those on float32 do, and round that."""
    expected = passes(layer, *[a.astype(np.float32) for a in arrays], *target)
    y, dx, dw = passes(layer, *arrays, *target)
    assert dw.dtype == np.float32
    for found, wide in zip((y, dx), expected, strict=False):
        assert found.dtype == arrays[0].dtype
        rounded = wide.astype(found.dtype)
        np.testing.assert_array_equal(*[a.astype(np.float32) for a in (found, rounded)])
    np.testing.assert_array_equal(dw, expected[2])


def seldom(*values: Any) -> Any:
    """Return parameters of a test that takes long, since it compiles much."""
    return pytest.param(*values, marks=pytest.mark.slow)


BFLOAT16 = ["F4, ragged, odd channels", "F4, fewer tiles of dy", "F2, 4x4", "F(2,5), ragged"]


@pytest.mark.parametrize(
    ("layer", "name", "how"),
    [(BFLOAT16[0], available()[0], "winograd"),
     *(seldom(layer, available()[0], "winograd") for layer in BFLOAT16[1:]),
     seldom(BFLOAT16[1], available()[-1], "winograd"),
     seldom(BFLOAT16[0], available()[0], "direct"),
     seldom(BFLOAT16[1], available()[0], "direct")],
)  # fmt: skip
def test_bfloat16_is_computed_in_float32(layer: str, name: str, how: str) -> None:
    """Also next to what is not finite, where tiles are computed once more."""
    dtype = pytest.importorskip("ml_dtypes").bfloat16
    arrays = draw(LAYERS[layer], dtype)
    equal_float32(LAYERS[layer], arrays, name, how)
    for a in arrays:
        a[tuple(n // 2 for n in a.shape)] = np.inf
        with np.errstate(invalid="ignore"):
            equal_float32(LAYERS[layer], arrays, name, how)
        a[...] = 1.0


def test_a_bias_of_bfloat16_is_added() -> None:
    dtype = pytest.importorskip("ml_dtypes").bfloat16
    layer = LAYERS[BFLOAT16[0]]
    x, w, _ = draw(layer, dtype)
    b = np.random.default_rng(4).standard_normal(len(w)).astype(dtype)
    found = []
    for arrays in ((x, w, b), [a.astype(np.float32) for a in (x, w, b)]):
        specs = [Spec(a.shape, a.dtype) for a in arrays]
        kernel = conv_plans.conv2d(target(convolution="winograd"), *specs, **layer.attributes)
        found.append(kernel(*arrays))
    assert found[0].dtype == dtype
    np.testing.assert_array_equal(found[0], found[1].astype(dtype))


class Guarded:
    """Arrays within larger buffers, whose rest must stay as it was."""

    def __init__(self, rest: float) -> None:
        self.rest, self.buffers = np.float32(rest), list[tuple[np.ndarray, int]]()

    def empty(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray:
        """Return an array between two guards."""
        size = prod(shape)
        buffer = np.full(size + 2 * GUARD, self.rest, dtype)
        self.buffers.append((buffer, size))
        return buffer[GUARD : GUARD + size].reshape(shape)

    def scratch(self, size: int, dtype: str) -> parallel.Scratch:
        """Return scratch memory whose zeros, for the first thread, lie between two guards."""
        made = parallel.Scratch(size, dtype)
        made.arrays[0] = self.empty((made.size,), made.dtype)
        made.arrays[0][...] = 0
        return made

    def holding(self, x: np.ndarray) -> np.ndarray:
        """Return a copy of x between two guards, in the same order."""
        images = x.ndim == 4 and not x.flags.c_contiguous
        y = x.transpose(0, 2, 3, 1) if images else x
        made = self.empty(y.shape, x.dtype)
        made[...] = y
        return made.transpose(0, 3, 1, 2) if images else made

    def check(self) -> None:
        """Assert that no guard was written to."""
        for array, size in self.buffers:
            buffer = array.astype(np.float32)
            np.testing.assert_array_equal(buffer[:GUARD], self.rest)
            np.testing.assert_array_equal(buffer[GUARD + size :], self.rest)


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        *product([*F4, *F25], ["float32"]),
        seldom("fewer tiles of dy", "bfloat16"),
        seldom("ragged", "bfloat16"),
    ],
)
def test_nothing_beyond_the_arrays_is_read_or_written(
    name: str, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is read beyond an operand is not a number, and would spread to the results."""
    if dtype == "bfloat16":
        dtype = pytest.importorskip("ml_dtypes").bfloat16
    layer = {**F4, **F25}[name]
    arrays = draw(layer, dtype)
    plain = passes(layer, *arrays, available()[0])
    operands, results = Guarded(np.nan), Guarded(PATTERN)
    held = [operands.holding(a) for a in arrays]
    monkeypatch.setattr(winograd_plan.memory, "empty", results.empty)
    monkeypatch.setattr(winograd_plan, "_shared", type("Fresh", (), {})())
    monkeypatch.setattr(winograd_plan, "Scratch", results.scratch)
    found = passes(layer, *held, available()[0])
    assert len(results.buffers) >= 3
    operands.check()
    results.check()
    for a, b in zip(found, plain, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(("m", "r"), [(2, 3), (4, 3), (2, 5)])
def test_matrices_give_a_correlation(m: int, r: int) -> None:
    size = m + r - 1
    rng = np.random.default_rng(0)
    x, w = rng.standard_normal(size), rng.standard_normal(r)
    values, images = winograd_transforms.values, winograd_transforms.images
    products = np.array(values(size, r, scaled=True)) @ w * (np.array(images(size)) @ x)
    y = np.array(values(size, m)).T @ products
    np.testing.assert_allclose(y, np.correlate(x, w, "valid"), rtol=0, atol=1e-12)


def test_positions_of_a_plane_lie_in_all_cache_sets() -> None:
    for tiles, width in ((16, 16), (64, 64), (3, 8), (128, 512)):
        plane = winograd.Plane(tiles, width)
        assert plane.apart >= tiles * width
        assert len({p * plane.apart // winograd.LINE % 64 for p in range(36)}) == 36


def chosen(layer: Layer, convolution: str) -> int:
    """Return how many results a tile of the forward pass has, 0 for a direct convolution."""
    e, f = layer.shapes[2][2:]
    start = (-layer.padding[0][0], -layer.padding[1][0])
    machine = target(convolution=convolution)
    sizes = (layer.r,) * 2, layer.c, layer.m, layer.n, layer.size, (e, f)
    found = winograd_plan.find(machine, *sizes, start, "float32")
    return found.outputs if found else 0


def test_modes_choose() -> None:
    wide, narrow = Layer(8, 16, (8, 8), 16, 3, ONE), Layer(8, 3, (8, 8), 16, 3, ONE)
    tiny, single = wide._replace(size=(4, 4)), wide._replace(n=1)
    lenet = Layer(8, 20, (12, 12), 50, 5, NONE)
    pointwise = Layer(8, 16, (8, 8), 16, 1, NONE)
    layers = (wide, narrow, tiny, single, lenet, pointwise)
    expected = {"auto": (4, 0, 2, 0, 2, 0), "direct": (0,) * 6, "winograd": (4, 4, 2, 4, 2, 0)}
    for name, outputs in expected.items():
        assert tuple(chosen(layer, name) for layer in layers) == outputs
    with pytest.raises(
        ValueError, match="convolution: expected auto, direct, winograd, got 'fast'"
    ):
        target(convolution="fast")


def turned_back(layer: Layer, convolution: str = "auto") -> int:
    """Return how many rows a tile of dy has where the transposed method gives dx, else 0."""
    e, f = layer.shapes[2][2:]
    start = (-layer.padding[0][0], -layer.padding[1][0])
    sizes = (layer.r,) * 2, layer.c, layer.m, layer.n, layer.size, (e, f)
    machine = target(convolution=convolution)
    found = winograd_plan.find_back(machine, *sizes, start, "float32")
    return found.outputs if found else 0


def test_dx_is_by_tiles_of_dy_where_these_are_fewer() -> None:
    lenet, same = Layer(8, 20, (12, 12), 50, 5, NONE), Layer(8, 20, (12, 12), 50, 5, TWO)
    assert turned_back(lenet) == 2 and turned_back(lenet, "direct") == 0
    assert turned_back(lenet._replace(c=6, m=16)) == 2
    assert turned_back(lenet._replace(c=1)) == 2 and turned_back(lenet._replace(m=1)) == 0
    assert turned_back(lenet._replace(n=1)) == 0 and turned_back(same) == 0
    assert turned_back(lenet._replace(n=1), "winograd") == 2
    assert turned_back(lenet._replace(r=3, size=(10, 10))) == 4
    assert turned_back(lenet._replace(padding=((-1, 0), (0, 0)))) == 0


@pytest.mark.parametrize(
    ("attributes", "dtype"),
    [
        ({}, "float64"),
        ({"stride": (2, 1)}, "float32"),
        ({"dilation": (1, 2)}, "float32"),
        ({"groups": 2}, "float32"),
    ],
)
def test_the_rest_is_direct(
    attributes: dict[str, Any], dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise AssertionError("Winograd's method was planned")

    monkeypatch.setattr(winograd_plan, "forward", fail)
    monkeypatch.setattr(winograd_plan, "weights", fail)
    asked = {**Layer(2, 4, (8, 8), 4, 3, ONE).attributes, **attributes}
    shapes = ((2, 4, 8, 8), (4, 4 // asked["groups"], 3, 3))
    x, w = (Spec(shape, np.dtype(dtype)) for shape in shapes)
    y = conv.conv2d.infer(x, w, **asked)
    assert isinstance(y, Spec)
    machine = target(convolution="winograd")
    assert conv_plans.conv2d(machine, x, w, **asked)
    assert conv_plans.conv2d_dx(machine, y, w, size=(8, 8), **asked)
    assert conv_plans.conv2d_dw(machine, x, y, size=(3, 3), **asked)
    with pytest.raises(AssertionError, match="was planned"):
        plain = Layer(2, 4, (8, 8), 4, 3, ONE).attributes
        x, w = (Spec(shape, np.dtype("float32")) for shape in ((2, 4, 8, 8), (4, 4, 3, 3)))
        conv_plans.conv2d(machine, x, w, **plain)


def test_fewer_images_than_before_and_more_than_a_block() -> None:
    """The last block is smaller than the others; kernels take the number when they run."""
    layer = Layer(21, 16, (8, 8), 16, 3, ONE)
    c = winograd.Winograd(4, 3, 16, 16, (8, 8), (8, 8), (-1, -1))
    per = winograd_plan.blocks(target(available()[0]), c, layer.n).images
    assert 1 < per < layer.n and layer.n % per
    compare(layer, available()[0])


# What is not finite, and where: in the middle of an image, in its first and last corner.
POISONS = [np.nan, np.inf, -np.inf]
SPOTS = [0.5, 0.0, 0.999]


@pytest.mark.parametrize("poison", POISONS)
@pytest.mark.parametrize(
    "layer",
    ["F4, ragged, odd channels", "F4, fewer tiles of dy", "F2, 4x4", "F(2,5), lenet"],
)
def test_what_is_not_finite_stays_where_it_belongs(layer: str, poison: float) -> None:
    """An infinity or NaN of x, w or dy reaches the results that depend on it, and no others."""
    for which in range(3):
        for spot in SPOTS:
            arrays = draw(LAYERS[layer])
            a = arrays[which]
            a[tuple(int(spot * n) for n in a.shape)] = poison
            with np.errstate(invalid="ignore"):
                expected = passes(LAYERS[layer], *[b.astype(np.float64) for b in arrays])
                found = passes(LAYERS[layer], *arrays, available()[0])
            for a, b in zip(found, expected, strict=True):
                np.testing.assert_array_equal(np.isnan(a), np.isnan(b))
                np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3 * np.nanmax(np.abs(
                    b, where=np.isfinite(b), out=np.zeros_like(b))))  # fmt: skip


def test_a_tile_of_nan_is_all_nan() -> None:
    """Also where a vector is not full, and where sums have ended early."""
    layer = LAYERS["F4, ragged, odd channels"]
    x, w, dy = draw(layer)
    for a, b in zip(
        passes(layer, x * np.nan, w, dy * np.nan, available()[0]), layer.shapes[2:], strict=False
    ):
        assert a.shape == b and np.isnan(a).all()


def test_numbers_too_large_for_the_transforms() -> None:
    """Their results are finite: a tenth of the largest float32 number, seen once."""
    layer = F4["whole tiles"]
    x, w, dy = draw(layer)
    x[:], w[:] = 0, 0
    x[0, 3, 4, 4], w[:, 3, 1, 1] = 2e38, 0.5
    y = passes(layer, x, w, dy, available()[0])[0]
    assert (y[0, :, 4, 4] == 1e38).all() and np.count_nonzero(y) == layer.m


def test_witnesses_tell_of_each_term() -> None:
    for size, m in ((6, 4), (6, 2), (4, 2)):
        for matrix in (
            winograd_transforms.values(size, m),
            winograd_transforms.images(size),
            winograd_transforms.values(size, size - m + 1, scaled=True),
        ):
            a, b = winograd_transforms.witnesses(matrix)
            assert all(row[a] or row[b] for row in matrix)
