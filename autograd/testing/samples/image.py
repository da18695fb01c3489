"""Rows for images enlarged, cut into patches and put together."""

from __future__ import annotations

from typing import Any

from ...functional import image as fn
from ...functional.grid import BORDERS, affine_grid, grid_sample
from .sample import Sample, normal

Wrong = tuple[tuple[str, tuple[tuple[int, ...], ...]], ...]


def row(name: str, shape: tuple[int, ...], wrong: Wrong = (), *args: Any, **options: Any) -> Sample:
    """Return the row of one way to call a function; its name is the function's, a slash, and what
    is special."""
    function: Any = getattr(fn, name.split("/")[0])
    return Sample(
        name,
        lambda x: function(x, *args, **options),
        (normal(*shape),),
        lambda t, x: getattr(t.nn.functional, function.__name__)(x, *args, **options),
        wrong=wrong,
    )


def resampled(mode: str, shape: tuple[int, ...], wrong: Wrong = (), **options: Any) -> Sample:
    """Return the row of one way to resample."""
    name = f"interpolate/{mode}{', antialias' * ('antialias' in options)}"
    return row(name, shape, wrong, mode=mode, **options)


ROWS = [
    resampled(
        "nearest", (2, 2, 3, 4), scale_factor=(1.6, 0.7),
        wrong=(
            ("interpolate: expected an input of 3 or 4 or 5 axes for mode 'nearest', got (3, 4)",
             ((3, 4),)),
            ("interpolate: expected 2 results of at least 1 from (3, 1), got (1.6, 0.7)",
             ((1, 1, 3, 1),)),
        ),
    ),
    resampled("nearest-exact", (2, 2, 5), size=3),
    resampled("linear", (2, 3, 4), size=7, align_corners=True),
    resampled("bilinear", (1, 2, 3, 4), size=(5, 3), align_corners=False),
    resampled("bicubic", (1, 2, 4, 3), scale_factor=1.7, align_corners=False),
    resampled("bicubic", (1, 2, 5, 6), size=(2, 9), antialias=True),
    resampled("trilinear", (1, 1, 2, 3, 2), scale_factor=1.5, align_corners=True,
              recompute_scale_factor=True),
    resampled("area", (1, 2, 3, 4), size=(2, 3)),
    row("pixel_shuffle", (2, 8, 2, 3), (
        ("pixel_shuffle: expected an input (.., channels, H, W) of a multiple of 2^2 channels, got "
         "(6, 2, 3)", ((6, 2, 3),)),
    ), 2),
    row("channel_shuffle", (2, 6, 3), (
        ("channel_shuffle: expected an input (N, multiple of 3, ..), got (2, 4, 3)",
         ((2, 4, 3),)),
    ), 3),
    row("pixel_unshuffle", (2, 4, 6), (
        ("pixel_unshuffle: expected an input (.., C, H, W) of multiples of 2, got (2, 3, 6)",
         ((2, 3, 6),)),
    ), 2),
    row(
        "unfold", (2, 3, 4, 5), kernel_size=(2, 3), dilation=(2, 1), padding=(1, 0), stride=(1, 2),
        wrong=(
            ("unfold: expected an input of 3 or 4 axes, got shape (4, 5)", ((4, 5),)),
            ("unfold: expected a padded image that kernel (2, 3) with dilation (2, 1) fits, got "
             "(6, 2)", ((1, 1, 4, 2),)),
        ),
    ),
    row(
        "fold", (2, 12, 8), output_size=(4, 5), kernel_size=(2, 3), dilation=(2, 1),
        padding=(1, 0), stride=(1, 2),
        wrong=(("fold: expected an input (.., multiple of 6, 8), got shape (12, 9)", ((12, 9),)),),
    ),
]  # fmt: skip


def sampled(border: str, aligned: bool, mode: str, wrong: Wrong = ()) -> Sample:
    """Return the row of one way to sample images, beyond them too."""
    return Sample(
        f"grid_sample/{mode}, {border}",
        lambda x, grid: grid_sample(x, grid, mode, border, aligned),
        (normal(2, 2, 3, 4), normal(2, 2, 3, 2)),
        lambda t, x, grid: t.nn.functional.grid_sample(x, grid, mode, border, aligned),
        wrong=wrong,
    )


ROWS += [
    sampled(BORDERS[0], False, "bilinear", (
        ("(N, E, F, G, 3), got (2, 2, 3, 4) and (1, 2, 3, 2)", ((2, 2, 3, 4), (1, 2, 3, 2))),
    )),
    sampled(BORDERS[2], True, "bilinear"),
    Sample(
        "affine_grid",
        lambda theta: affine_grid(theta, (2, 1, 3, 4)),
        (normal(2, 2, 3),),
        lambda t, theta: t.nn.functional.affine_grid(theta, (2, 1, 3, 4), align_corners=False),
        macs=2 * 12 * 3 * 2,
        wrong=(
            ("(N, 3, 4) and (N, C, D, H, W), got (2, 3, 3) and", ((2, 3, 3),)),
        ),
    ),
]  # fmt: skip
