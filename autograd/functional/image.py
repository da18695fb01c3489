"""Images enlarged, cut into patches and put together, with torch.nn.functional's names and argument
order."""

from __future__ import annotations

from collections.abc import Sequence
from math import floor, prod

from ..dtypes import is_floating, plain
from ..ops.shape import getslice, permute, reshape
from ..ops.sliding import sliding, sliding_sum, windows_along
from ..ops.stretch import stretch
from ..tensor import Tensor
from .arrange import pad
from .conv import Sizes, pair
from .pool import adaptive_avg_pool1d, adaptive_avg_pool2d
from .volume import adaptive_avg_pool3d

__all__ = [
    "channel_shuffle",
    "fold",
    "interpolate",
    "pixel_shuffle",
    "pixel_unshuffle",
    "unfold",
    "upsample",
]

# The kind of resampling along each axis, and the numbers of axes behind (N, C) that a mode is for.
MODES: dict[str, tuple[str, tuple[int, ...]]] = {
    "nearest": ("nearest", (1, 2, 3)),
    "nearest-exact": ("nearest-exact", (1, 2, 3)),
    "linear": ("linear", (1,)),
    "bilinear": ("linear", (2,)),
    "bicubic": ("cubic", (2,)),
    "trilinear": ("linear", (3,)),
    "area": ("area", (1, 2, 3)),
}
Factors = float | Sequence[float]


def interpolate(
    input: Tensor,
    size: Sizes | None = None,
    scale_factor: Factors | None = None,
    mode: str = "nearest",
    align_corners: bool | None = None,
    recompute_scale_factor: bool | None = None,
    antialias: bool = False,
) -> Tensor:
    """Return images (N, C, ..) resampled to `size`, or to floor(extent x scale_factor).

    Modes are "nearest", "nearest-exact" and "area" (means of windows that share out the image) for
    one to three axes behind (N, C), and "linear", "bilinear", "bicubic" and "trilinear" for as many
    axes as their names say. With `align_corners`, which these four have, the outermost elements
    stay where they are; else the image's edges do. Distances between results follow from
    scale_factor, or from the extents with `recompute_scale_factor`. With `antialias`, for
    "bilinear" and "bicubic", every element counts in a smaller image. ValueError for other modes
    and for both or neither of size and scale_factor, TypeError for integers where results are
    weighted sums."""
    if mode not in MODES:
        raise ValueError(f"interpolate: expected mode in {(*MODES,)}, got {mode!r}")
    kind, allowed = MODES[mode]
    if input.ndim - 2 not in allowed:
        axes = " or ".join(str(n + 2) for n in allowed)
        raise ValueError(
            f"interpolate: expected an input of {axes} axes for mode {mode!r}, got {input.shape}"
        )
    if align_corners is not None and kind not in ("linear", "cubic"):
        raise ValueError(f"interpolate: expected align_corners=None for {mode!r}, got a bool")
    if antialias and (mode not in ("bilinear", "bicubic") or align_corners):
        raise ValueError(
            "interpolate: expected antialias for mode 'bilinear' or 'bicubic' without "
            f"align_corners, got {mode!r}"
        )
    if kind in ("linear", "cubic") and not is_floating(input.dtype):
        raise TypeError(
            f"interpolate: expected floating-point numbers for {mode!r}, got {input.dtype}"
        )
    out, steps = _targets(input.shape[2:], size, scale_factor, bool(recompute_scale_factor))
    if kind == "area":
        pool = (adaptive_avg_pool1d, adaptive_avg_pool2d, adaptive_avg_pool3d)[len(out) - 1]
        return pool(input, out)
    y = input
    for i, (old, new, step) in enumerate(zip(input.shape[2:], out, steps, strict=True)):
        if new != old or (step != 1 and not antialias):
            kinds = f"{kind} corners" if align_corners else f"{kind} smooth" if antialias else kind
            y = stretch(y, axis=2 + i, size=new, step=step, kind=kinds)
    return y


def _targets(
    extents: tuple[int, ...], size: Sizes | None, factor: Factors | None, recompute: bool
) -> tuple[tuple[int, ...], tuple[float, ...]]:
    """Return the extents of a resampled image, and the distances of its elements in the old one."""
    given = size if factor is None else factor
    if given is None or (size is not None and factor is not None) or (recompute and size):
        raise ValueError(
            f"interpolate: expected either size or scale_factor, got {size} and {factor}"
        )
    many = plain(tuple(given) if isinstance(given, Sequence) else (given,) * len(extents))
    fits = len(many) == len(extents) and min(extents) > 0
    out = [floor(m if factor is None else n * m) for n, m in zip(extents, many, strict=False)]
    if not fits or min(out) < 1:
        raise ValueError(
            f"interpolate: expected {len(extents)} results of at least 1 from {extents}, got "
            f"{given}"
        )
    fixed = factor is not None and not recompute
    steps = [1 / m if fixed else n / k for n, k, m in zip(extents, out, many, strict=True)]
    return tuple(out), tuple(steps)


def upsample(
    input: Tensor,
    size: Sizes | None = None,
    scale_factor: Factors | None = None,
    mode: str = "nearest",
    align_corners: bool | None = None,
) -> Tensor:
    """Return `interpolate` by its old name."""
    return interpolate(input, size, scale_factor, mode, align_corners)


def pixel_shuffle(input: Tensor, upscale_factor: int) -> Tensor:
    """Return (.., C r^2, H, W) as (.., C, H r, W r), r the factor (Shi et al. 2016).

    ValueError for a factor below 1 and channels that it does not divide."""
    r, shape = upscale_factor, input.shape
    if input.ndim < 3 or r < 1 or shape[-3] % r**2:
        raise ValueError(
            f"pixel_shuffle: expected an input (.., channels, H, W) of a multiple of {r}^2 "
            f"channels, got {shape}"
        )
    *lead, c, h, w = shape
    n = len(lead)
    apart = reshape(input, shape=(*lead, c // r**2, r, r, h, w))
    order = (*range(n), n, n + 3, n + 1, n + 4, n + 2)
    return reshape(permute(apart, axes=order), shape=(*lead, c // r**2, h * r, w * r))


def pixel_unshuffle(input: Tensor, downscale_factor: int) -> Tensor:
    """Return (.., C, H r, W r) as (.., C r^2, H, W), r the factor: `pixel_shuffle` reversed.

    ValueError for a factor below 1 and extents that it does not divide."""
    r, shape = downscale_factor, input.shape
    if input.ndim < 3 or r < 1 or shape[-2] % r or shape[-1] % r:
        raise ValueError(
            f"pixel_unshuffle: expected an input (.., C, H, W) of multiples of {r}, got {shape}"
        )
    *lead, c, h, w = shape
    n = len(lead)
    apart = reshape(input, shape=(*lead, c, h // r, r, w // r, r))
    order = (*range(n), n, n + 2, n + 4, n + 1, n + 3)
    return reshape(permute(apart, axes=order), shape=(*lead, c * r**2, h // r, w // r))


def channel_shuffle(input: Tensor, groups: int) -> Tensor:
    """Return (N, C, ..) with the first channel of each group, then the second of each, and so on
    (Zhang et al. 2018).

    ValueError for a number of groups that does not divide C."""
    if input.ndim < 3 or groups < 1 or input.shape[1] % groups:
        raise ValueError(
            f"channel_shuffle: expected an input (N, multiple of {groups}, ..), got {input.shape}"
        )
    n, c, *extents = input.shape
    apart = input.reshape(n, groups, c // groups, *extents)
    return apart.transpose(1, 2).reshape(input.shape)


def unfold(
    input: Tensor, kernel_size: Sizes, dilation: Sizes = 1, padding: Sizes = 0, stride: Sizes = 1
) -> Tensor:
    """Return the patches that windows see, (N, C R S, windows), of images (N, C, H, W) or (C, H,
    W).

    Options are those of `conv2d`. ValueError where no window fits."""
    if input.ndim not in (3, 4):
        raise ValueError(f"unfold: expected an input of 3 or 4 axes, got shape {input.shape}")
    k, q, p, u = _patches("unfold", kernel_size, dilation, padding, stride)
    y = pad(input, (p[1], p[1], p[0], p[0])) if max(p) else input
    n = y.ndim - 2
    _windows("unfold", y.shape[n:], k, q, u)
    y = sliding(y, axis=n + 1, taps=k[1], stride=u[1], dilation=q[1])
    y = sliding(y, axis=n, taps=k[0], stride=u[0], dilation=q[0])
    *lead, c, e, _, f, _ = y.shape
    order = (*range(n), n + 1, n + 3, n, n + 2)
    return reshape(permute(y, axes=order), shape=(*lead, c * prod(k), e * f))


def fold(
    input: Tensor,
    output_size: Sizes,
    kernel_size: Sizes,
    dilation: Sizes = 1,
    padding: Sizes = 0,
    stride: Sizes = 1,
) -> Tensor:
    """Return images (N, C, *output_size) that patches (N, C R S, windows) are added up to.

    It is `unfold` transposed. ValueError where shapes do not fit."""
    k, q, p, u = _patches("fold", kernel_size, dilation, padding, stride)
    size = pair("fold: output_size", output_size, least=1)
    h, w = (n + 2 * b for n, b in zip(size, p, strict=True))
    e, f = _windows("fold", (h, w), k, q, u)
    lead, shape = input.shape[:-2], input.shape
    if input.ndim not in (2, 3) or shape[-2] % prod(k) or shape[-1] != e * f:
        raise ValueError(
            f"fold: expected an input (.., multiple of {prod(k)}, {e * f}), got shape {shape}"
        )
    n, c = len(lead) + 1, shape[-2] // prod(k)
    apart = reshape(input, shape=(*lead, c, *k, e, f))
    y = permute(apart, axes=(*range(n), n + 2, n, n + 3, n + 1))
    y = sliding_sum(y, axis=n, size=h, stride=u[0], dilation=q[0])
    y = sliding_sum(y, axis=n + 1, size=w, stride=u[1], dilation=q[1])
    inner = [(b, b + m, 1) for b, m in zip(p, size, strict=True)]
    return getslice(y, slices=(*[(0, m, 1) for m in y.shape[:n]], *inner)) if max(p) else y


def _patches(
    name: str, kernel_size: Sizes, dilation: Sizes, padding: Sizes, stride: Sizes
) -> list[tuple[int, int]]:
    """Return the options of patches as pairs."""
    return [
        pair(f"{name}: kernel_size", kernel_size, least=1),
        pair(f"{name}: dilation", dilation, least=1),
        pair(f"{name}: padding", padding),
        pair(f"{name}: stride", stride, least=1),
    ]


def _windows(
    name: str,
    size: tuple[int, ...],
    taps: tuple[int, int],
    dilation: tuple[int, int],
    stride: tuple[int, int],
) -> tuple[int, ...]:
    """Return how many windows fit a padded image. ValueError where none does."""
    each = zip(size, taps, stride, dilation, strict=True)
    counts = tuple(windows_along(*one) for one in each)
    if min(counts) < 1:
        raise ValueError(
            f"{name}: expected a padded image that kernel {taps} with dilation {dilation} fits, "
            f"got {size}"
        )
    return counts
