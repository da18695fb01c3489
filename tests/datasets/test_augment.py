"""Augmentations beyond crop, flip and cutout, and the list that names them."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from tallygrad.datasets import (
    Augment,
    Brightness,
    Contrast,
    Cutout,
    DataError,
    Flip,
    PadCrop,
    ResizedCrop,
    Rotate,
    parse_augment,
)
from tallygrad.datasets.augment import _centers as centers
from tallygrad.datasets.augment import sample_keys

IMAGES = np.random.default_rng(0).normal(size=(64, 12, 10, 3)).astype(np.float32)
EVERY = (PadCrop(2, reflect=True), Flip(0.5, vertical=True), ResizedCrop(), Rotate(40),
         Brightness(), Contrast())  # fmt: skip


def keys(count: int) -> NDArray[np.uint64]:
    return sample_keys(1, 2, np.arange(count))


@pytest.mark.parametrize("change", EVERY, ids=lambda c: type(c).__name__)
def test_a_key_alone_decides_and_types_stay(change: Augment) -> None:
    before = IMAGES.copy()
    for kind in (np.float32, np.float64):
        whole = change(IMAGES.astype(kind), keys(64))
        part = change(IMAGES[7:9].astype(kind), keys(64)[7:9])
        assert whole.dtype == kind and whole.shape == IMAGES.shape
        np.testing.assert_array_equal(whole[7:9], part)
        assert (whole != IMAGES.astype(kind)).any((1, 2, 3)).sum() > 20
    assert change(IMAGES[:0], keys(0)).shape == (0, 12, 10, 3)
    np.testing.assert_array_equal(IMAGES, before)


def test_reflect_mirrors_the_border() -> None:
    padded = np.pad(IMAGES[0], ((2, 2), (2, 2), (0, 0)), "reflect")
    windows = {padded[y : y + 12, x : x + 10].tobytes() for y in range(5) for x in range(5)}
    found = PadCrop(2, reflect=True)(np.repeat(IMAGES[:1], 400, 0), keys(400))
    assert {image.tobytes() for image in found} == windows


def test_vertical_flip() -> None:
    np.testing.assert_array_equal(Flip(1, vertical=True)(IMAGES, keys(64)), IMAGES[:, ::-1])


def test_a_resized_crop_of_a_slope_is_a_slope() -> None:
    """Of an image that rises linearly, the crop rises as much slower as it is enlarged."""
    slope = np.repeat(np.arange(40, dtype=np.float64)[None, None, :, None], 400, 0)
    image = np.broadcast_to(slope, (400, 40, 40, 1))
    found = ResizedCrop(0.25)(image, keys(400))[:, 20, :, 0]
    steps = np.diff(found)[:, 15:25]
    np.testing.assert_allclose(steps, steps[:, :1].repeat(10, 1), atol=1e-9)
    widths = steps[:, 0] * 40  # of the parts, in pixels
    assert 0.43 < (widths / 40).min() < 0.5 and (widths / 40).max() > 0.95
    assert found.min() < 1 and found.max() > 38
    np.testing.assert_array_equal(centers(np.zeros(1), np.full(1, 5.0), 5), [np.arange(5)])
    constant = ResizedCrop()(np.full((9, 8, 8, 2), 3.5, np.float32), keys(9))
    np.testing.assert_allclose(constant, 3.5, rtol=1e-6)
    np.testing.assert_allclose(ResizedCrop(1)(IMAGES, keys(64)).shape, IMAGES.shape)


def test_a_rotation_turns_by_up_to_its_degrees() -> None:
    grid = np.arange(41) - 20.0
    image = np.broadcast_to(grid[None, None, :, None], (500, 41, 41, 1))
    found = Rotate(30)(image, keys(500), fill=0)[:, 20, 20:25, 0]
    cosine = np.diff(found)[:, 1]
    assert 0.8660 <= cosine.min() < 0.8690 and cosine.max() > 0.9999
    below = Rotate(30)(image, keys(500), fill=0)[:, 21, 20, 0]  # minus the sine, both ways
    assert -0.5001 < below.min() < -0.49 and 0.49 < below.max() < 0.5001
    corner = Rotate(45)(np.ones((99, 9, 9, 1), np.float32), keys(99), fill=-7)[:, 0, 0]
    assert corner.min() == pytest.approx(-7)


def test_brightness_and_contrast() -> None:
    change = Brightness(0.5)(IMAGES, keys(64)) - IMAGES
    assert change.std((1, 2, 3)).max() < 1e-6 and -0.5 < change.min() < -0.4
    assert 0.4 < change.max() < 0.5
    found = Contrast(0.5)(IMAGES, keys(64))
    np.testing.assert_allclose(found.mean((1, 2, 3)), IMAGES.mean((1, 2, 3)), atol=1e-6)
    factor = found.std((1, 2, 3)) / IMAGES.std((1, 2, 3))
    assert 0.5 < factor.min() < 0.6 and 1.4 < factor.max() < 1.5


def test_lists_of_names() -> None:
    assert parse_augment("none") == parse_augment("standard", "mnist") == ()
    assert parse_augment("standard", "cifar10", (3, 32, 32)) == (PadCrop(4), Flip())
    assert parse_augment("crop,flip,cutout", "x", (3, 32, 48)) == (PadCrop(4), Flip(), Cutout(24))
    assert parse_augment(" flip=0.25, reflect=2 ,standard", "cifar100") == (
        Flip(0.25), PadCrop(2, reflect=True), PadCrop(4), Flip(),
    )  # fmt: skip
    every = "crop,reflect,flip,vflip,cutout,resized,rotate,brightness,contrast"
    assert len(parse_augment(every, "x", (1, 2, 2))) == 9


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("flib", "--augment: unknown 'flib'; did you mean 'flip'"),
        ("crop,none", "--augment: unknown 'none'"),
        ("", "--augment: unknown ''"),
        ("crop=1.5", "--augment: crop=1.5: expected a whole number, got '1.5'"),
        ("flip=x", "--augment: flip=x: expected a number, got 'x'"),
        ("alternate=2", "--augment: alternate: expected no number, got '2'"),
        ("alternat", "unknown 'alternat'; did you mean 'alternate'"),
        ("flip=nan", r"--augment: flip=nan: Flip: expected p in \[0, 1\], got nan"),
        ("crop=0", "PadCrop: expected pad of at least 1, got 0"),
        ("resized=0", r"ResizedCrop: expected least in \(0, 1\], got 0"),
        ("rotate=91", r"Rotate: expected degrees in \(0, 90\], got 91"),
        ("brightness=-1", r"Brightness: expected most in \(0, 100\), got -1"),
        ("contrast=2", r"Contrast: expected most in \(0, 1\], got 2"),
    ],
)
def test_lists_that_do_not_fit(text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        parse_augment(text)
