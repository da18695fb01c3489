"""Layers and functions of images: what they refuse, and long rows as torch has them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tallygrad.autograd as ag
from tallygrad.autograd import nn

IMAGE = ag.zeros(1, 4, 3, 5)
WRONG: list[tuple[Callable[[], Any], str]] = [
    (lambda: ag.interpolate(IMAGE, 2, mode="cubic"), "interpolate: expected mode in ('nearest', "),
    (lambda: ag.interpolate(IMAGE, 2, mode="linear"), "interpolate: expected an input of 3 axes"),
    (lambda: ag.interpolate(IMAGE, 2, align_corners=True), "interpolate: expected align_corners="),
    (
        lambda: ag.interpolate(IMAGE, 2, antialias=True),
        "interpolate: expected antialias for mode 'bilinear' or 'bicubic' without align_corners, g",
    ),
    (lambda: ag.interpolate(IMAGE), "interpolate: expected either size or scale_factor, got None"),
    (lambda: ag.interpolate(IMAGE, 2, 2.0), "interpolate: expected either size or scale_factor"),
    (lambda: ag.interpolate(IMAGE, (2, 2, 2)), "interpolate: expected 2 results of at least 1"),
    (lambda: ag.interpolate(IMAGE, scale_factor=0.1), "interpolate: expected 2 results of at le"),
    (lambda: ag.pixel_shuffle(IMAGE, 0), "pixel_shuffle: expected an input (.., channels, H, W)"),
    (lambda: ag.fold(IMAGE, 4, 2), "fold: expected an input (.., multiple of 4, 9), got shape (1"),
    (lambda: ag.fold(IMAGE, 1, 2), "fold: expected a padded image that kernel (2, 2) with dilat"),
    (
        lambda: ag.grid_sample(IMAGE, ag.zeros(1, 2, 2, 2), "linear"),
        "grid_sample: expected a mode in ('bilinear', 'nearest', 'bicubic') (bicubic for images) ",
    ),
    (
        lambda: ag.grid_sample(ag.ones(1, 1, 2, 2, 2), ag.zeros(1, 1, 1, 1, 3), "bicubic"),
        "grid_sample: expected a mode in ('bilinear', 'nearest', 'bicubic') (bicubic for images) ",
    ),
    (lambda: nn.ZeroPad2d((1, 2)), "ZeroPad2d: expected one width or 4, got (1, 2)"),
    (lambda: nn.ZeroPad1d(1)(IMAGE), "ZeroPad1d: expected an input of 2 or 3 axes, got shape (1"),
]


@pytest.mark.parametrize(("call", "message"), WRONG, ids=[m[:40] for _, m in WRONG])
def test_what_does_not_fit(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError) as caught:
        call()
    assert str(caught.value).startswith(message)


@pytest.mark.parity
@pytest.mark.parametrize(
    ("mode", "antialias"),
    [(mode, False) for mode in ("nearest", "nearest-exact", "bilinear", "bicubic")]
    + [("bilinear", True), ("bicubic", True)],
)
def test_rows_of_any_length_as_in_torch(mode: str, antialias: bool) -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    x = np.random.default_rng(0).standard_normal((1, 1, 2, 30))
    for size in range(1, 130):
        for dtype in (np.float32, np.float64):
            ours, theirs = (
                t.nn.functional.interpolate(
                    t.tensor(x.astype(dtype)), (2, size), mode=mode, antialias=antialias
                )
                for t in (ag, torch)
            )
            np.testing.assert_allclose(ours.numpy(), theirs.numpy(), rtol=0, atol=2e-5)


def test_maps_of_integers_are_refused() -> None:
    with pytest.raises(TypeError, match=r"^affine_grid: expected floating.* got int64"):
        ag.affine_grid(ag.ones(1, 2, 3).long(), (1, 1, 2, 2))


def test_antialias_leaves_axes_that_keep_their_extent() -> None:
    x = ag.randn(1, 1, 5, 6)
    same = ag.interpolate(x, scale_factor=1.05, mode="bilinear", antialias=True)
    np.testing.assert_array_equal(same.numpy(), x.numpy())


@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
def test_weighted_sums_of_integers_are_refused(mode: str) -> None:
    image = IMAGE.astype("uint8")
    with pytest.raises(TypeError, match=f"^interpolate: expected float.* for '{mode}', got uint8"):
        ag.interpolate(image, 2, mode=mode)
    assert ag.interpolate(image, 2).dtype == ag.uint8


@pytest.mark.parity
@pytest.mark.parametrize(
    ("mode", "axes"),
    [("bilinear", 2), ("nearest", 2), ("bicubic", 2), ("bilinear", 3), ("nearest", 3)],
)
@pytest.mark.parametrize("border", ["zeros", "border", "reflection"])
@pytest.mark.parametrize("aligned", [False, True])
def test_places_far_beyond_the_image_as_in_torch(
    mode: str, axes: int, border: str, aligned: bool
) -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    draw = np.random.default_rng(0)
    image = draw.standard_normal((2, 3, 4, 5, 3)[: 2 + axes])
    maps = 2 * draw.standard_normal((2, axes, axes + 1))
    size = (2, 3, 6, 7, 4)[: 2 + axes]
    found = []
    for t in (ag, torch):
        fn = t.nn.functional
        x, theta = (t.tensor(a, requires_grad=True) for a in (image, maps))
        places = fn.affine_grid(theta, size, aligned)
        y = fn.grid_sample(x, places, mode, border, aligned)
        (y * y).sum().backward()
        grads = [x.grad] if mode == "nearest" else [x.grad, theta.grad]
        found.append([a.detach().numpy() for a in (places, y, *grads)])
    bounds = (0, 1e-12), (0, 1e-11), (1e-9, 1e-11), (1e-9, 1e-11)
    for ours, theirs, (rtol, atol) in zip(*found, bounds[: len(found[0])], strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=rtol, atol=atol)


def test_patches_come_together_again() -> None:
    x = ag.rand(2, 3, 6, 4)
    counts = ag.fold(ag.unfold(ag.ones(2, 3, 6, 4), 3, padding=1), (6, 4), 3, padding=1)
    y = ag.fold(ag.unfold(x, 3, padding=1), (6, 4), 3, padding=1) / counts
    np.testing.assert_allclose(y.numpy(), x.numpy(), rtol=1e-6)
    np.testing.assert_array_equal(
        ag.pixel_unshuffle(ag.pixel_shuffle(IMAGE, 2), 2).shape, (1, 4, 3, 5)
    )


def test_windows_are_a_view_that_nothing_writes_to() -> None:
    from tallygrad.autograd.ops.sliding import sliding

    x = ag.arange(5).float()
    y = sliding(x, axis=0, taps=2, stride=1, dilation=1)
    assert y.array.owner is x.array
    assert y.tolist() == [[0, 1], [1, 2], [2, 3], [3, 4]]
    with pytest.raises(ValueError, match="share memory"):
        y += 1.0
