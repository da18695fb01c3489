"""Gradients of weights by tiles: written where they belong, whatever the filter's size."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("llvmlite", reason="llvmlite is not installed")
pytest.importorskip("ml_dtypes", reason="ml_dtypes is not installed")

from tallygrad.autograd import backends, context
from tallygrad.autograd.array import Array, Spec, array
from tallygrad.autograd.backends.llvm import fusion
from tallygrad.autograd.backends.llvm.compiler import jit
from tallygrad.autograd.backends.llvm.compiler.isa import amx, targets
from tallygrad.autograd.backends.llvm.kernels.conv_tiles_weights import PackedRows
from tallygrad.autograd.backends.llvm.plans import conv_tiles_weights
from tallygrad.autograd.backends.llvm.registry import find_tiled
from tallygrad.autograd.backends.llvm.runtime.layout import layout_stats
from tallygrad.autograd.dtypes import bfloat16
from tallygrad.autograd.ops.activation import relu
from tallygrad.autograd.ops.conv import conv2d_dw
from tallygrad.autograd.ops.update import store

if "avx512" not in targets.available():
    pytest.skip("tiles are emulated with AVX-512", allow_module_level=True)

BF16 = bfloat16()
BACKENDS = ["llvm:tiles=emulated", *["llvm:tiles=amx"] * amx.permitted()]
# Images, channels, results, size, taps, stride: all sums complete in one call, and in several.
CASES = [
    (32, 32, 33, 4, 3, 1),
    (70, 20, 16, 5, 2, 1),
    (40, 48, 40, 6, 1, 2),
    (3, 40, 64, 9, 5, 2),
    (2, 17, 20, 8, 8, 1),
]


def draw(rng: np.random.Generator, n: int, c: int, h: int, w: int) -> Array:
    """Return images in the order of tiles that belong to the engine, as results of calls do."""
    pixels = rng.normal(size=(h, w, n, c)).astype(BF16)
    with context.using(backend="numpy"):
        return relu(array(pixels.transpose(2, 3, 0, 1)))


def gradient(case: tuple[int, ...]) -> tuple[Array, tuple[Array, Array]]:
    """Return the gradient of weights, perhaps pending, and its operands."""
    n, c, m, size, taps, stride = case
    rng, pad, out = np.random.default_rng(0), taps // 2, (size + 2 * (taps // 2) - taps) // stride
    x, dy = draw(rng, n, c, size, size), draw(rng, n, m, out + 1, out + 1)
    attrs: dict[str, Any] = {"padding": ((pad, pad),) * 2, "dilation": (1, 1), "groups": 1}
    return conv2d_dw(x, dy, size=(taps, taps), stride=(stride, stride), **attrs), (x, dy)


@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_gradient_is_written_to_its_slot(
    name: str, case: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has the bits of one by itself, and what lies around it keeps its numbers."""
    monkeypatch.setattr(fusion, "LEAST", 1)
    with context.using(backend="numpy"):
        exact = gradient(case)[0].value
    with context.using(backend=f"{name},eager"):
        alone = gradient(case)[0].value
    assert np.abs(alone - exact).max() <= 1e-5 * np.abs(exact).max()
    flat = array(np.full(alone.size + 8, 7, np.float32))
    with context.using(backend=name):
        dw, _ = gradient(case)
        assert dw.storage.pending is not None
        moves = layout_stats.read()
        store(flat.view(3, dw.shape), dw)
        assert moves == layout_stats.read()
        assert dw.storage.pending is not None  # it was not computed by itself
    assert flat.value[3:-5].tobytes() == alone.tobytes()
    assert (flat.value[:3] == 7).all() and (flat.value[-5:] == 7).all()


def test_one_gradient_at_a_time_is_pending(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else gradients that nobody stores would keep the images of all layers."""
    monkeypatch.setattr(fusion, "LEAST", 1)
    with context.using(backend=BACKENDS[0]):
        first, _ = gradient(CASES[0])
        assert first.storage.pending is not None
        second, _ = gradient(CASES[1])
        assert first.storage.pending is None and second.storage.pending is not None


def test_a_gradient_is_copied_to_a_slot_with_gaps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fusion, "LEAST", 1)
    with context.using(backend=BACKENDS[0]):
        dw, _ = gradient(CASES[0])
        slot = array(np.zeros((*dw.shape[:-1], 2 * dw.shape[-1]), np.float32)[..., ::2])
        store(slot, dw)
        np.testing.assert_array_equal(slot.value, dw.value)


@pytest.mark.parametrize("name", BACKENDS)
def test_a_recording_writes_the_gradient_of_other_numbers(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fusion, "LEAST", 1)
    engine: Any = backends.get(name)
    with context.using(backend=name):
        recording = engine.recording()
        slot = array(np.zeros((33, 32, 3, 3), np.float32))
        _, (x, dy) = gradient(CASES[0])
        other = draw(np.random.default_rng(5), *x.shape)
        attrs: dict[str, Any] = {
            "padding": ((1, 1), (1, 1)), "dilation": (1, 1), "groups": 1, "stride": (1, 1)
        }  # fmt: skip
        with recording:
            store(slot, conv2d_dw(x, dy, size=(3, 3), **attrs))
        x.value[...] = other.value
        slot.value[...] = 0
        recording.replay()
        assert len(recording.steps) == 1  # all of it without Python
        expected = conv2d_dw(x, dy, size=(3, 3), **attrs)
        np.testing.assert_array_equal(slot.value, expected.value)


@pytest.mark.parametrize(
    ("images", "channels", "together"),
    [(70, 16, {70}), (200, 16, {128, 72}), (70, 64, {32, 6})],
)
@pytest.mark.usefixtures("one_thread")
def test_rows_are_packed_once(
    images: int, channels: int, together: set[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Parts of the sums continue with what the thread has packed; groups of images that lie side by
    side are packed together."""
    packed: dict[PackedRows, int] = {}

    def build(*parameters: Any) -> Any:
        function, p = jit.build(*parameters), parameters[2]

        def call(*arguments: Any) -> None:
            if isinstance(p, PackedRows):
                packed[p] = packed.get(p, 0) + arguments[2]
            function(*arguments)

        return call

    monkeypatch.setattr(conv_tiles_weights, "build", build)
    x, dy = (Spec((images, c, 12, 12), BF16) for c in (channels, channels + 4))
    kernel = find_tiled(targets.target(tiles="emulated"), "conv2d_dw", (x, dy), {
        "size": (3, 3), "stride": (1, 1), "padding": ((1, 1), (1, 1)), "dilation": (1, 1),
        "groups": 1,
    })  # fmt: skip
    assert kernel is not None
    kernel(*(np.zeros(a.shape, BF16) for a in (x, dy)))
    assert sum(p.present * rows for p, rows in packed.items()) == 2 * 12 * images
    assert {p.present for p in packed} == together
