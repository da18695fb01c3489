"""The built-in data set `digits`: synthetic handwriting, drawn from strokes without any file.

A digit consists of a few pen strokes through control points (`glyphs.py`). For each sample, the
control points are moved, and the curve is warped, slanted, rotated and scaled. It is drawn as a sum
of small round stamps along the curve, each weighted by the length of curve that it covers. Stray
strokes, pressure and grain follow.

A seed gives the same bytes on any machine: the random words are raw Philox output, the arithmetic
on them is + - * / and square roots, whose rounding IEEE 754 defines, and stamps are rounded to
integers so small that the sums of the matrix product are exact in float32, in any order.

Drawing takes a second or two. The set of seed 0 is therefore stored in the cache folder, where it
is recognised by its SHA-256: a damaged or foreign file is replaced.
"""

from __future__ import annotations

import hashlib
from contextlib import suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..fetch import cache_dir, whole_file
from ..sampler import DRAWING, philox
from ..source import Bytes, DataError, Facts, Ids, ImageDataset, assemble
from .glyphs import MOST_POINTS, STAMPS, Outlines, outlines

SIZES = {"train": 60_000, "test": 10_000}
# Of the images of seed 0, followed by their labels (int64, little-endian).
SHA256 = {
    "train": "5b85a4166a2f0d69927910e67a3391395eabadaeccdae7a92d350407efa66bd0",
    "test": "3522aff2bb6cf7bbf84e75d48c823d4f8f4bf3d7dea4c517acbed3c05e0d6fe6",
}
FACTS = Facts(tuple("0123456789"), (1, 28, 28), (0.1455,), (0.2999,))

SIDE = 28
CHUNK = 500
STRAY = 6
# Stamps are integers up to LEVELS, and up to LEVELS * HEAVIEST once weighted. A sum over all stamps
# is at most (STAMPS + STRAY) 255 510 < 2^24, so float32 holds every partial sum exactly.
LEVELS = 255
HEAVIEST = 2.0
# Integral over d of (1 - d^2 / r^2)^2 from -r to r, divided by r.
STAMP_LENGTH = 16 / 15

Real = NDArray[np.float64]
Single = NDArray[np.float32]


class Draws:
    """Random numbers for the samples of one chunk, drawn column by column."""

    def __init__(self, seed: int, split: str, chunk: int) -> None:
        """Key the generator by (seed, split, chunk), so that chunks are independent."""
        index = 2 * chunk + (split == "test")
        self.words = philox(seed, DRAWING, index)

    def uniform(self, low: float, high: float, columns: int = 1) -> Real:
        """Return (CHUNK, columns) numbers in [low, high)."""
        raw = self.words.random_raw(CHUNK * columns).reshape(CHUNK, columns)
        return low + (raw >> np.uint64(11)).astype(np.float64) * (2.0**-53 * (high - low))

    def bell(self, scale: float, columns: int = 1) -> Real:
        """Return (CHUNK, columns) numbers with mean 0 and standard deviation `scale`.

        They are sums of four uniform numbers, at most 3.5 `scale` from 0: close to normal, but
        without the logarithm or cosine whose last bits differ between machines.
        """
        total = np.zeros((CHUNK, columns))
        for _ in range(4):
            total += self.uniform(-1, 1, columns)
        total *= scale * 0.75**0.5
        return total

    def noise(self) -> Bytes:
        """Return (CHUNK, SIDE, SIDE) random bytes."""
        words = self.words.random_raw(CHUNK * SIDE * SIDE // 8)
        return words.astype("<u8").view(np.uint8).reshape(CHUNK, SIDE, SIDE)


def load_digits(split: str, seed: int = 0) -> ImageDataset:
    """Return the 60,000 training or 10,000 test digits of a seed, drawn or from the cache.

    Arrays of seed 0 may be read-only. After two epochs, LeNet has an accuracy of 98.8%, and an MLP
    with 256 hidden units 96.8%. Raises DataError for an unknown split.
    """
    if split not in SIZES:
        raise DataError(f"split: expected one of {', '.join(SIZES)}, got {split!r}")
    images, labels = _cached(split) if seed == 0 else draw(split, seed)
    return assemble("digits", split, images[:, None], labels, FACTS)


def draw(split: str, seed: int) -> tuple[Bytes, Ids]:
    """Draw images (N, 28, 28) and labels (N,) of a split; 60,000 take a second or two."""
    shapes = outlines()
    chunks = [draw_chunk(shapes, seed, split, i) for i in range(SIZES[split] // CHUNK)]
    images = np.concatenate([images for images, _ in chunks])
    return images, np.concatenate([labels for _, labels in chunks])


def _cached(split: str) -> tuple[Bytes, Ids]:
    """Return a split of seed 0 from the cache, or draw it and store it there."""
    home = cache_dir()
    path = None if home is None else home / "digits" / f"{split}.bin"
    data = None if path is None else _read(path, split)
    if data is None:
        images, labels = draw(split, 0)
        data = images.tobytes() + labels.astype("<i8").tobytes()
        if path is None or not _is_known(data, split):
            return images, labels
        with suppress(OSError), whole_file(path) as stream:
            stream.write(data)
    count = SIZES[split]
    numbers = np.frombuffer(data, np.uint8, count * SIDE * SIDE)
    labels = np.frombuffer(data, "<i8", count, numbers.nbytes).astype(np.int64)
    return numbers.reshape(count, SIDE, SIDE), labels


def _read(path: Path, split: str) -> bytes | None:
    """Return the content of a cached file; None unless it is the split's."""
    size = SIZES[split] * (SIDE * SIDE + 8)
    with suppress(OSError):
        if path.stat().st_size == size:
            with path.open("rb") as stream:
                data = stream.read(size)
            return data if _is_known(data, split) else None
    return None


def _is_known(data: bytes, split: str) -> bool:
    return hashlib.sha256(data).hexdigest() == SHA256[split]


def draw_chunk(shapes: Outlines, seed: int, split: str, chunk: int) -> tuple[Bytes, Ids]:
    """Return CHUNK images (CHUNK, 28, 28) and their labels.

    The order of the draws is part of the data set: changing it changes every later number.
    """
    draws = Draws(seed, split, chunk)
    labels = (draws.uniform(0, 10)[:, 0]).astype(np.int64)
    variant = shapes.choose(labels, draws.uniform(0, 1)[:, 0])
    x, y = _curve(shapes, variant, draws)
    x, y = _bend(x, y, draws)
    x, y = _to_pixels(x, y, draws)
    weight = _lengths(x, y) * shapes.inside[variant]
    stray_x, stray_y, stray_weight = _stray(draws)
    x = np.concatenate([x, stray_x], axis=1)
    y = np.concatenate([y, stray_y], axis=1)
    weight = np.concatenate([weight, stray_weight], axis=1)
    radius = draws.uniform(1.5, 2.5)
    return _ink(_stamp(x, y, weight, radius), draws), labels


def _curve(shapes: Outlines, variant: Ids, draws: Draws) -> tuple[Real, Real]:
    """Return the stamps' coordinates (CHUNK, STAMPS), with each control point moved at random."""
    sloppiness = draws.uniform(0.3, 1.0)
    move_x = draws.bell(0.1, MOST_POINTS) * sloppiness
    move_y = draws.bell(0.09, MOST_POINTS) * sloppiness
    x, y = np.zeros((CHUNK, STAMPS)), np.zeros((CHUNK, STAMPS))
    for k in range(MOST_POINTS):
        basis = shapes.basis[k][variant]
        x += basis * (shapes.x[variant, k, None] + move_x[:, k, None])
        y += basis * (shapes.y[variant, k, None] + move_y[:, k, None])
    return x, y


def _bend(x: Real, y: Real, draws: Draws) -> tuple[Real, Real]:
    """Warp the plane smoothly by a random quadratic and cubic map."""
    a, b, c, d, e, f = (draws.bell(0.11) for _ in range(6))
    return (
        x + a * (y * y - 0.4) + b * x * y + c * y * (y * y - 0.6),
        y + d * x * x + e * x * y + f * x * (0.8 - y * y),
    )


def _to_pixels(x: Real, y: Real, draws: Draws) -> tuple[Real, Real]:
    """Slant, rotate, scale and shift the curve to pixel coordinates."""
    x = x * draws.uniform(0.75, 1.25) + y * (draws.bell(0.22) - 0.12)
    # The tangent of half the angle: sine and cosine of the angle need no transcendental function.
    half = draws.bell(0.07)
    cosine = (1 - half * half) / (1 + half * half)
    sine = 2 * half / (1 + half * half)
    x, y = cosine * x - sine * y, sine * x + cosine * y
    scale = draws.uniform(7.9, 10.6)
    middle = (SIDE - 1) / 2
    right, down = draws.uniform(-3.2, 3.2), draws.uniform(-3.2, 3.2)
    return middle + right + scale * x, middle + down + scale * y


def _lengths(x: Real, y: Real) -> Real:
    """Return the distance from each stamp to the next; the last repeats the one before it."""
    dx, dy = np.diff(x, axis=1), np.diff(y, axis=1)
    length = np.sqrt(dx * dx + dy * dy)
    return np.concatenate([length, length[:, -1:]], axis=1)


def _stray(draws: Draws) -> tuple[Real, Real, Real]:
    """Return stamps (x, y, weight) of a short stray stroke; weight 0 in four of five samples."""
    steps = np.arange(STRAY) - (STRAY - 1) / 2
    dx, dy = draws.uniform(-0.9, 0.9), draws.uniform(-0.9, 0.9)
    x, y = draws.uniform(2, SIDE - 3), draws.uniform(2, SIDE - 3)
    present = draws.uniform(0, 1) < 0.2
    weight = np.sqrt(dx * dx + dy * dy) * present
    return x + dx * steps, y + dy * steps, np.repeat(weight, STRAY, axis=1)


def _stamp(x: Real, y: Real, weight: Real, radius: Real) -> Single:
    """Return (CHUNK, SIDE, SIDE) sums of stamps; 1 is the middle of a full line.

    A stamp of radius r is (1 - dx^2/r^2)^2 (1 - dy^2/r^2)^2, a product of a row and a column: the
    sum over stamps is a matrix product.
    """
    columns = _profile(x, radius)
    rows = _profile(y, radius)
    columns *= LEVELS
    rows *= np.minimum(weight, HEAVIEST).astype(np.float32)[:, :, None] * np.float32(LEVELS)
    np.floor(columns, out=columns)
    np.floor(rows, out=rows)
    total: Single = np.matmul(rows.transpose(0, 2, 1), columns)
    full = (radius * (STAMP_LENGTH * LEVELS * LEVELS)).astype(np.float32)
    total /= full[:, :, None]
    return total


def _profile(center: Real, radius: Real) -> Single:
    """Return (CHUNK, stamps, SIDE): the ink of each stamp in each row or column."""
    inverse = (1 / radius).astype(np.float32)
    grid = np.arange(SIDE, dtype=np.float32) * inverse
    bump = grid[:, None, :] - (center.astype(np.float32) * inverse)[:, :, None]
    bump *= bump
    np.subtract(np.float32(1), bump, out=bump)
    np.maximum(bump, np.float32(0), out=bump)
    bump *= bump
    return bump


def _ink(density: Single, draws: Draws) -> Bytes:
    """Convert densities to bytes, with random pressure, saturation and grain."""
    pressure = draws.uniform(1.0, 2.4).astype(np.float32)[:, :, None]
    grain = draws.uniform(0.0, 0.35).astype(np.float32)[:, :, None]
    ink: Single = np.minimum(density * pressure, np.float32(1))
    noise = draws.noise().astype(np.float32) * np.float32(1 / 256) - np.float32(0.5)
    ink += grain * noise
    np.clip(ink, np.float32(0), np.float32(1), out=ink)
    ink *= LEVELS
    return ink.astype(np.uint8)
