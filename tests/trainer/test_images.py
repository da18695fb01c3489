"""Arrays of images that `predict` takes, and what it says of others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tallygrad.datasets import DataError
from tallygrad.datasets.formats.idx import write_idx
from tallygrad.trainer import cli
from tallygrad.trainer.errors import UserError
from tallygrad.trainer.images import read_images

GRAY, COLOUR = (1, 4, 5), (3, 4, 5)
PIXELS = np.arange(60, dtype=np.uint8).reshape(1, 3, 4, 5)


def read(folder: Path, array: Any, shape: tuple[int, int, int]) -> Any:
    np.save(folder / "x.npy", array)
    return read_images(folder / "x.npy", shape)


@pytest.mark.parametrize("several", [False, True])
@pytest.mark.parametrize("last", [False, True])
def test_channels_first_or_last_one_or_several(tmp_path: Path, several: bool, last: bool) -> None:
    given = np.repeat(PIXELS, 2, 0) if several else PIXELS[0]
    given = np.moveaxis(given, -3, -1) if last else given
    found = read(tmp_path, given, COLOUR)
    assert found.shape == (1 + several, *COLOUR) and (found == PIXELS).all()


@pytest.mark.parametrize("shape", [(4, 5), (1, 4, 5), (4, 5, 1), (6, 4, 5), (6, 1, 4, 5)])
def test_one_channel_needs_no_axis(tmp_path: Path, shape: tuple[int, ...]) -> None:
    given = np.arange(np.prod(shape), dtype=np.uint8).reshape(shape)
    found = read(tmp_path, given, GRAY)
    assert found.shape == (given.size // 20, *GRAY) and (found.ravel() == given.ravel()).all()


@pytest.mark.parametrize("dtype", ["<i8", "<f4", "<f8", ">i2", "<u2"])
def test_whole_numbers_of_any_type(tmp_path: Path, dtype: str) -> None:
    given = (PIXELS * 4).astype(np.uint8)
    found = read(tmp_path, given.astype(dtype), COLOUR)
    assert found.dtype == np.uint8 and (found == given).all()


@pytest.mark.parametrize("dtype", ["<f2", "<f4", "<f8"])
def test_shares_come_back_as_the_bytes_they_were(tmp_path: Path, dtype: str) -> None:
    given = np.arange(240, dtype=np.uint8).reshape(4, *COLOUR)
    for shift in (0.0, 0.3):  # shares are rounded, not cut off
        shares = ((given - shift).clip(0) / 255).astype(dtype)
        assert (read(tmp_path, shares, COLOUR) == given).all()


def test_idx_files_are_read_whatever_their_name(tmp_path: Path) -> None:
    write_idx(tmp_path / "images", PIXELS[0])
    assert (read_images(tmp_path / "images", GRAY) == PIXELS[0][:, None]).all()


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.zeros((32, 32), np.uint8), "images of shape (1, 4, 5), (4, 5, 1), (4, 5), one or sev"),
        (np.zeros((2, 2, 1, 4, 5), np.uint8), "got an array of shape (2, 2, 1, 4, 5)"),
        (np.zeros((0, 4, 5), np.uint8), "expected at least one image, got shape (0, 1, 4, 5)"),
        (np.full((4, 5), -0.5), "got float64 from -0.5 to -0.5: give images before"),
        (np.full((4, 5), 1.5), "expected whole numbers from 0 to 255, or shares from 0 to 1"),
        (np.full((4, 5), np.nan), "got float64 from nan to nan"),
        (np.full((4, 5), 256), "got int64 from 256 to 256"),
        (np.zeros((4, 5), bool), "expected numbers, got elements of type bool"),
        (np.zeros((4, 5), "<U3"), "got elements of type <U3"),
    ],
)
def test_what_is_no_image_is_refused_in_words(tmp_path: Path, array: Any, words: str) -> None:
    with pytest.raises(UserError) as caught:
        read(tmp_path, array, GRAY)
    assert words in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("head", "words"),
    [
        (b"\x89PNG\r\n\x1a\n", "expected a .npy or IDX file, got a PNG image"),
        (b"\xff\xd8\xff\xe0", "got a JPEG image"),
        (b"PK\x03\x04", "got an archive, as of np.savez: save one of its arrays by numpy.save$"),
        (b"\x93NUMPY\x01\0", "cannot be read as images"),
        (b"what is this", "expected a .npy or IDX file, got one that begins with b'what is '"),
        (b"\0\0\7\1", "wrong magic number"),
        (b"", "empty file"),
    ],
)
def test_other_files_are_told_by_what_they_are(tmp_path: Path, head: bytes, words: str) -> None:
    (tmp_path / "x.npy").write_bytes(head)
    with pytest.raises(DataError if words in ("wrong magic number", "empty file") else UserError,
                       match=words):  # fmt: skip
        read_images(tmp_path / "x.npy", GRAY)


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.npy: cannot be read: No such file"):
        read_images(tmp_path / "none.npy", GRAY)


def test_images_and_samples_at_once_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["predict", "runs/x", "images.npy", "--samples", "0-3"]) == 2
    said = "--samples: expected none with images of a file, got 0-3\n"
    assert capsys.readouterr().err.endswith(said)
