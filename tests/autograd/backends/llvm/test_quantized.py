"""Products of 8-bit integers on llvm: the same bits as on NumPy, whatever the shape."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import tallygrad.autograd as ag
from tallygrad.autograd import context
from tallygrad.autograd.array import Spec, array
from tallygrad.autograd.ops import quantized as ops

pytest.importorskip("llvmlite", reason="llvmlite is not installed")

from tallygrad.autograd.backends.llvm.compiler.isa import amx
from tallygrad.autograd.backends.llvm.compiler.isa.targets import available, target
from tallygrad.autograd.backends.llvm.plans import quantized_tiles

NONE, ONE = ((0, 0), (0, 0)), ((1, 1), (1, 1))
TILES = ["emulated", pytest.param("amx", marks=pytest.mark.skipif(
    not amx.permitted(), reason="this processor has no AMX to use"
))]  # fmt: skip
vnni = pytest.mark.skipif(not target().adds_four_bytes, reason="this processor has no AVX512-VNNI")


def on_both(
    function: Any, *arrays: np.ndarray, expected: str = "llvm", name: str = "llvm", **attrs: Any
) -> None:
    """Compare bits and layouts of the results of numpy and llvm, and who computed."""
    found = []
    for backend in ("numpy", name):
        with context.using(backend=backend, ledger=ag.Ledger()) as state:
            y = function(*map(array, arrays), **attrs)
            found.append(y.value)
        (row,) = state.ledger
    assert row.key.backend == expected and found[0].dtype == found[1].dtype
    np.testing.assert_array_equal(*found)


def factors(dtype: str, x: tuple[int, ...], w: tuple[int, ...], biased: bool) -> list[np.ndarray]:
    """Draw channels-last factors, a scale and perhaps a bias."""
    rng = np.random.default_rng(0)
    info, filters = np.iinfo(dtype), w[0]
    drawn = rng.integers(info.min, info.max + 1, x, dtype), rng.integers(-128, 128, w, np.int8)
    images = [np.moveaxis(a, -1, 1) if a.ndim == 4 else a for a in drawn]
    vectors = rng.standard_normal((2, filters)).astype(np.float32)
    return [*images, *vectors[: 1 + biased]]


@vnni
@pytest.mark.parametrize("dtype", ["int8", "uint8"])
@pytest.mark.parametrize(
    ("channels", "filters", "taps", "stride", "padding", "dilation"),
    [
        (3, 16, (3, 3), (1, 1), ONE, (1, 1)),  # channels that fill no group of four
        (8, 10, (1, 1), (2, 2), NONE, (1, 1)),  # images read where they lie
        (20, 50, (5, 5), (1, 1), NONE, (1, 1)),
        (64, 144, (3, 3), (2, 1), ONE, (1, 1)),  # several groups of filters
        (33, 70, (3, 2), (1, 1), ((1, 0), (2, 1)), (1, 2)),
        (4, 20, (3, 3), (1, 1), ((-1, -1), (-2, 0)), (2, 1)),  # cropped
    ],
)
def test_convolutions(
    dtype: str, channels: int, filters: int, taps: Any, stride: Any, padding: Any, dilation: Any
) -> None:
    w = (filters, *taps, channels)
    arrays = factors(dtype, (3, 9, 8, channels), w, channels > 4)
    attrs = {"stride": stride, "padding": padding, "dilation": dilation, "groups": 1}
    on_both(ops.quantized_conv2d, *arrays, **attrs)


@vnni
@pytest.mark.parametrize("dtype", ["int8", "uint8"])
@pytest.mark.parametrize(("groups", "channels", "filters"), [(2, 8, 40), (3, 5, 16)])
def test_groups(dtype: str, groups: int, channels: int, filters: int) -> None:
    arrays = factors(
        dtype, (3, 6, 5, groups * channels), (groups * filters, 3, 3, channels), groups == 2
    )
    attrs = {"stride": (1, 1), "padding": ONE, "dilation": (1, 1), "groups": groups}
    on_both(ops.quantized_conv2d, *arrays, **attrs)


@vnni
@pytest.mark.parametrize("dtype", ["int8", "uint8"])
@pytest.mark.parametrize(("rows", "terms", "filters"), [(1, 64, 10), (37, 70, 33), (2, 801, 500)])
def test_products(dtype: str, rows: int, terms: int, filters: int) -> None:
    on_both(ops.quantized_linear, *factors(dtype, (rows, terms), (filters, terms), rows > 1))


@pytest.mark.skipif("avx512" not in available(), reason="tiles are emulated with AVX-512")
@pytest.mark.parametrize("tiles", TILES)
@pytest.mark.parametrize(
    ("dtype", "shape", "filters", "taps", "options"),
    [
        # Windows side by side, 17 images, 24 results.
        ("int8", (17, 5, 4, 3), 24, (3, 2), {"padding": ((1, 1), (0, 1))}),
        # Channels filled up, in two tiles each; strides and dilations; the last tile is lower.
        ("uint8", (25, 5, 6, 70), 40, (2, 2), {"stride": (2, 1), "dilation": (1, 2)}),
        # Four tiles of images; taps beyond the border are left out.
        ("int8", (70, 3, 3, 64), 12, (3, 1), {"padding": ((1, 1), (0, 0))}),
        # Fours that tiles divide otherwise than channels.
        ("uint8", (16, 1, 2, 150), 33, (1, 1), {}),
    ],
)
def test_convolutions_by_tiles(
    dtype: str, shape: tuple[int, ...], filters: int, taps: tuple[int, int],
    options: dict[str, Any], tiles: str,
) -> None:  # fmt: skip
    one = {"stride": (1, 1), "padding": NONE, "dilation": (1, 1), "groups": 1}
    arrays = factors(dtype, shape, (filters, *taps, shape[-1]), filters % 16 > 0)
    on_both(ops.quantized_conv2d, *arrays, name=f"llvm:tiles={tiles}", **one | options)


@pytest.mark.skipif("avx512" not in available(), reason="tiles are emulated with AVX-512")
@pytest.mark.parametrize("tiles", TILES)
@pytest.mark.parametrize("dtype", ["int8", "uint8"])
def test_products_by_tiles(dtype: str, tiles: str) -> None:
    arrays = factors(dtype, (37, 70), (133, 70), True)
    on_both(ops.quantized_linear, *arrays, name=f"llvm:tiles={tiles}")


def test_tiles_are_for_8_images_or_rows_and_more() -> None:
    emulated = replace(target(), tiles="emulated")
    real = replace(emulated, tiles="amx", features="+amx-tile,+amx-bf16,+amx-int8")
    assert emulated.multiplies_octets and real.multiplies_octets
    assert not replace(real, features="+amx-tile,+amx-bf16").multiplies_octets
    assert not replace(real, tiles="dot").multiplies_octets
    w = Spec((64, 64, 1, 1), np.dtype(np.int8))
    plan = quantized_tiles.convolution
    for images, by_tiles in ((7, False), (8, True)):
        x = Spec((images, 64, 5, 5), np.dtype(np.uint8))
        found = plan(emulated, x, w, False, (1, 1), NONE, (1, 1))
        assert (found is not None) == by_tiles
        rows = x._replace(shape=(images, 64)), w._replace(shape=(512, 64))
        assert (quantized_tiles.product(emulated, *rows, False) is not None) == by_tiles


@vnni
def test_what_is_left_to_numpy() -> None:
    x, w, scale = factors("uint8", (2, 5, 5, 4), (4, 3, 3, 2), False)
    attrs = {"stride": (1, 1), "padding": NONE, "dilation": (1, 1), "groups": 2}
    on_both(ops.quantized_conv2d, x, w, scale, expected="numpy", **attrs)
    x, w, scale = factors("uint8", (5, 4), (3, 4), False)
    on_both(ops.quantized_linear, x, w, scale.astype(float), expected="numpy")


@pytest.mark.parametrize("name", available())
@pytest.mark.parametrize("signed", [True, False])
def test_rounding(name: str, signed: bool) -> None:
    rng = np.random.default_rng(0)
    x = (200 * rng.standard_normal((7, 5, 4, 11))).astype(np.float32).transpose(0, 3, 1, 2)
    x[0, :3, 0, 0] = [0.5, -1.5, 2.5]
    odd = x.copy("K")
    odd[0, :3, 0, 0] = [np.nan, np.inf, -np.inf]
    scale, factors = array(np.float32(1.0)), array(np.arange(21, dtype=np.float32))
    for numbers in (x, odd):
        expected = ops.quantize(array(numbers), scale, factors, signed=signed)
        with context.using(backend=f"llvm:{name}"):
            found = ops.quantize(array(numbers), scale, factors, signed=signed)
        for a, b in zip(found, expected, strict=True):
            np.testing.assert_array_equal(a.value, b.value)
        assert found[0].value.strides == expected[0].value.strides
        assert np.isnan(found[1].value).all() == (numbers is odd)


@vnni
def test_threads_and_recordings_give_the_same_bits() -> None:
    model = ag.nn.Sequential(
        ag.nn.Conv2d(3, 40, 3, padding=1), ag.nn.ReLU(), ag.nn.Conv2d(40, 64, 3), ag.nn.Flatten(),
        ag.nn.Linear(64 * 22 * 22, 10),
    )  # fmt: skip
    x = ag.tensor(np.random.default_rng(0).standard_normal((6, 3, 24, 24)).astype(np.float32))
    quantized, found, before = ag.quantize(model, [x]), [], ag.get_num_threads()
    try:
        for threads in (1, 2):
            ag.set_num_threads(threads)
            with context.using(backend="llvm"), ag.no_grad():
                traced = ag.trace(quantized)
                found += [quantized(x).numpy(), *(traced(x).numpy().copy() for _ in range(3))]
    finally:
        ag.set_num_threads(before)
    with context.using(backend="numpy"), ag.no_grad():
        pixels = quantized[0](x).numpy()
    with context.using(backend="llvm"), ag.no_grad():
        np.testing.assert_array_equal(quantized[0](x).numpy(), pixels)
    for y in found[1:]:
        np.testing.assert_array_equal(y, found[0])
