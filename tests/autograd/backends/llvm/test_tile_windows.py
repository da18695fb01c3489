"""Windows of images with few channels, which are laid out side by side for tiles."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("llvmlite", reason="llvmlite is not installed")
pytest.importorskip("ml_dtypes", reason="ml_dtypes is not installed")

from tallygrad.autograd.array import Spec
from tallygrad.autograd.backends.llvm.compiler import jit
from tallygrad.autograd.backends.llvm.compiler.isa import targets
from tallygrad.autograd.backends.llvm.compiler.tiles import ROWS
from tallygrad.autograd.backends.llvm.kernels.epilogue import TOTALS, Epilogue
from tallygrad.autograd.backends.llvm.kernels.pixels import gathered
from tallygrad.autograd.backends.llvm.plans import conv_tiles, pixels
from tallygrad.autograd.dtypes import bfloat16

if "avx512" not in targets.available():
    pytest.skip("tiles are emulated with AVX-512", allow_module_level=True)

BF16 = bfloat16()


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("moments", [False, True])
def test_windows_are_gathered_a_few_rows_at_a_time(
    moments: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However few these are, results have the same bits."""
    rng = np.random.default_rng(0)
    rows: list[Any] = []
    found: list[Any] = []
    x, w = (rng.normal(size=s).astype(BF16) for s in ((70, 3, 9, 8), (16, 3, 3, 3)))

    def build(*parameters: Any) -> Any:
        function = jit.build(*parameters)

        def call(*arguments: Any) -> None:
            if parameters[0] is gathered:
                rows.append(arguments[2:])
            function(*arguments)

        return call

    monkeypatch.setattr(pixels, "build", build)
    for seen in (conv_tiles.SEEN, 1):
        monkeypatch.setattr(conv_tiles, "SEEN", seen)
        kernel = conv_tiles.conv2d(
            targets.target(tiles="emulated"), Spec(x.shape, BF16), Spec(w.shape, BF16),
            stride=(1, 1), padding=((1, 1), (1, 1)), dilation=(1, 1), groups=1,
            epilogue=Epilogue(moments=moments),
        )  # fmt: skip
        assert kernel is not None
        sums = [np.zeros((kernel.images, TOTALS["moments"], 16))] * moments
        found.append((kernel(x, w, *sums).tobytes(), *(s.tobytes() for s in sums)))
    assert found[0] == found[1]
    assert rows == [(0, 9), *((row, 1) for row in range(9))]


@pytest.mark.parametrize(("rows", "units"), [(1, 512 // ROWS), (conv_tiles.SHARED, 16)])
def test_threads_share_images_where_rows_are_few(rows: int, units: int) -> None:
    rng, attrs = np.random.default_rng(0), {"stride": (1, 1), "dilation": (1, 1), "groups": 1}
    x, w = (rng.normal(size=s).astype(BF16) for s in ((512, 2, rows, 12), (32, 2, 1, 7)))
    specs = Spec(x.shape, BF16), Spec(w.shape, BF16)
    kernel = conv_tiles.conv2d(
        targets.target(tiles="emulated"), *specs, padding=((0, 0), (3, 3)), **attrs
    )
    assert kernel is not None and kernel.images == units
    found, wide = kernel(x, w).astype("f4"), x.astype("f4")
    padded = np.pad(wide, ((0, 0), (0, 0), (0, 0), (3, 3)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, 7, 3)  # (N, C, rows, 12, 7)
    expected = np.einsum("ncrwk,mck->nmrw", windows, w.astype("f4")[:, :, 0])
    np.testing.assert_allclose(found, expected, rtol=2**-8, atol=2e-2)
