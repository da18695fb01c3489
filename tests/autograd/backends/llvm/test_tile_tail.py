"""What follows a block of sums by tiles: which results the mask of a ReLU clears, how many images
are written together, and sums over blocks of several widths."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("llvmlite", reason="llvmlite is not installed")
pytest.importorskip("ml_dtypes", reason="ml_dtypes is not installed")

from tallygrad.autograd.array import NDArray, Spec
from tallygrad.autograd.backends.llvm.compiler.isa import amx, targets
from tallygrad.autograd.backends.llvm.kernels.epilogue import TOTALS, Epilogue
from tallygrad.autograd.backends.llvm.plans.conv_tiles import conv2d, conv2d_dx
from tallygrad.autograd.backends.llvm.plans.pixels import new_pixels
from tallygrad.autograd.dtypes import bfloat16

if "avx512" not in targets.available():
    pytest.skip("tiles are emulated with AVX-512", allow_module_level=True)

BF16 = bfloat16()
TARGETS = ["emulated", *["amx"] * amx.permitted()]
ATTRS = {"stride": (1, 1), "padding": ((1, 1), (1, 1)), "dilation": (1, 1), "groups": 1}
# 16 results of an even number of images are written two images at a time; widths of 1 to 7 pixels
# are cut into blocks of 4, 2 and 1.
SHAPES = [(n, m, wide) for n in (3, 4, 18) for m in (16, 40) for wide in (1, 2, 3, 5, 6, 7)]


def draw(rng: np.random.Generator, *shape: int) -> NDArray:
    pixels = new_pixels(shape, BF16)
    pixels[...] = rng.normal(size=shape).astype(BF16)
    return pixels


@pytest.mark.parametrize("tiles", TARGETS)
@pytest.mark.parametrize("channels", [16, 32], ids=str)
def test_a_mask_clears_what_is_not_positive_and_keeps_nan(tiles: str, channels: int) -> None:
    rng, target = np.random.default_rng(0), targets.target(tiles=tiles)
    dy, filters = draw(rng, 4, 16, 3, 6), rng.normal(size=(16, channels, 3, 3)).astype(BF16)
    specs = Spec(dy.shape, BF16), Spec(filters.shape, BF16)
    mask = draw(rng, 4, channels, 3, 6)
    special = [0.0, -0.0, 1e-38, -1e-38, np.inf, -np.inf, np.nan, -np.nan]
    mask[1, : len(special)] = np.array(special).astype(BF16)[:, None, None]
    plain = conv2d_dx(target, *specs, size=(3, 6), **ATTRS)
    masked = conv2d_dx(target, *specs, size=(3, 6), epilogue=Epilogue(mask=True), **ATTRS)
    assert plain is not None and masked is not None
    with np.errstate(invalid="ignore"):
        expected = np.where(mask <= 0, BF16.type(0), plain(dy, filters))
    found = masked(dy, filters, mask)
    np.testing.assert_array_equal(found.view(np.uint16), expected.view(np.uint16))
    assert (found[1, :8] != 0).any(axis=(1, 2)).tolist() == [False, False, True, False, True,
                                                            False, True, True]  # fmt: skip


@pytest.mark.parametrize("tiles", TARGETS)
@pytest.mark.parametrize(("images", "results", "wide"), SHAPES)
def test_moments_are_those_of_results(tiles: str, images: int, results: int, wide: int) -> None:
    rng, target = np.random.default_rng(0), targets.target(tiles=tiles)
    x, filters = draw(rng, images, 16, 2, wide), rng.normal(size=(results, 16, 3, 3)).astype(BF16)
    specs = Spec(x.shape, BF16), Spec(filters.shape, BF16)
    plan = conv2d(target, *specs, epilogue=Epilogue(moments=True), **ATTRS)
    assert plan is not None
    rows = np.full((plan.images, TOTALS["moments"], results), np.nan)
    y = plan(x, filters, rows).astype(float)
    assert np.isfinite(y).all()
    shift, off, square = rows[:, :, None].transpose(1, 0, 2, 3)[..., 0, :]
    count = images * wide  # of a row
    mean = (shift + off / count).mean(axis=0)
    np.testing.assert_allclose(mean, y.mean(axis=(0, 2, 3)), atol=2e-2)
    power = (square + 2 * shift * off + count * shift**2).sum(axis=0)
    off_by = 2e-2 / np.sqrt(y[:, 0].size)  # what rounding y changes, less than any value of it
    np.testing.assert_allclose(power, (y**2).sum(axis=(0, 2, 3)), rtol=off_by)
