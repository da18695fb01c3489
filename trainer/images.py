"""Images that a user gives `predict`: arrays in the forms that people have them."""

from __future__ import annotations

import tokenize
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..datasets.formats.idx import read_idx
from ..datasets.source import Bytes, DataError, Pixels
from ..datasets.store import check_finite
from .errors import UserError

Shape = tuple[int, int, int]
# What a file begins with that is an image, but none of ours.
PICTURES = {
    b"\x89PNG": "a PNG image", b"\xff\xd8\xff": "a JPEG image", b"GIF8": "a GIF image",
    b"BM": "a BMP image", b"II*\0": "a TIFF image", b"MM\0*": "a TIFF image",
    b"RIFF": "a WebP image",
}  # fmt: skip
_OF_PICTURE = (
    "make an array of it, such as by numpy.save('images.npy', "
    "numpy.asarray(PIL.Image.open('image.png')))"
)
# The same, and what to do about it.
FOREIGN = {
    **{magic: (kind, _OF_PICTURE) for magic, kind in PICTURES.items()},
    b"PK\x03\x04": ("an archive, as of np.savez", "save one of its arrays by numpy.save"),
}
NUMPY, IDX, GZIP = b"\x93NUMPY", b"\0\0", b"\x1f\x8b"

# What NumPy's reader of headers raises: they are Python's literals, of any depth.
_UNREADABLE = (
    ValueError, EOFError, OverflowError, tokenize.TokenError, RecursionError, MemoryError,
    SyntaxError, TypeError,
)  # fmt: skip


def read_images(path: Path, shape: Shape, floats: bool = False) -> Pixels:
    """Return the (N, C, H, W) uint8 images of a .npy or IDX file, for a model of `shape` (C, H, W);
    for one that was trained on `floats`, numbers as they are, in float32.

    Taken are one image or several, channels first or last, without their axis where there is one;
    whole numbers from 0 to 255, or floats that are shares from 0 to 1 as torchvision's ToTensor
    gives. UserError for other files, shapes and values.
    """
    array = _in_shape(path, _read(path), shape)
    if not array.size:
        raise UserError(f"{path}: expected at least one image, got shape {array.shape}")
    return _as_floats(path, array) if floats else _as_bytes(path, array)


def _as_floats(path: Path, array: NDArray[Any]) -> Pixels:
    if array.dtype.kind not in "iuf":
        raise UserError(f"{path}: expected numbers, got elements of type {array.dtype}")
    return check_finite(array.astype(np.float32), str(path), np.arange(len(array)))


def _read(path: Path) -> NDArray[Any]:
    try:
        with path.open("rb") as file:
            head = file.read(8)
        if not head.startswith(NUMPY):
            _check_idx(path, head)
            return read_idx(path)
        # Mapped, so that a header which promises more than the file holds takes no memory.
        array: NDArray[Any] = np.load(path, "r", allow_pickle=False)
        return array
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from error
    except DataError:
        raise  # names the file itself
    except _UNREADABLE as error:
        raise UserError(f"{path}: cannot be read as images: {error}") from error


def _check_idx(path: Path, head: bytes) -> None:
    """UserError for a file that begins as no IDX file does, plain or gzipped."""
    kind, way = next(
        (known for magic, known in FOREIGN.items() if head.startswith(magic)),
        (f"one that begins with {head!r}", "make an array of it for numpy.save"),
    )
    if head and not head.startswith((IDX, GZIP)):
        raise UserError(f"{path}: expected a .npy or IDX file, got {kind}: {way}")


def _in_shape(path: Path, array: NDArray[Any], shape: Shape) -> NDArray[Any]:
    """Return an array as (N, C, H, W)."""
    channels, height, width = shape
    forms: dict[tuple[int, ...], tuple[int, ...]] = {
        shape: (0, 1, 2, 3),
        (height, width, channels): (0, 3, 1, 2),
    }
    if channels == 1:
        forms[height, width] = (0, 1, 2)
    for form, axes in forms.items():
        if array.shape[-len(form) :] == form and array.ndim <= len(form) + 1:
            several = array.reshape(-1, *form) if array.size else array[:0].reshape(0, *form)
            return several.transpose(axes).reshape(-1, *shape)
    raise UserError(
        f"{path}: expected images of shape {', '.join(map(str, forms))}, one or several, "
        f"got an array of shape {array.shape}"
    )


def _as_bytes(path: Path, array: NDArray[Any]) -> Bytes:
    if array.dtype == np.uint8:
        return array
    if array.dtype.kind not in "iuf":
        raise UserError(f"{path}: expected numbers, got elements of type {array.dtype}")
    low, high = array.min(), array.max()
    if array.dtype.kind == "f" and 0 <= low <= high <= 1:
        return np.rint(array * 255.0).astype(np.uint8)
    if 0 <= low <= high <= 255 and (array == np.rint(array)).all():
        return array.astype(np.uint8)
    raise UserError(
        f"{path}: expected whole numbers from 0 to 255, or shares from 0 to 1, got {array.dtype} "
        f"from {low:.4g} to {high:.4g}: give images before they are normalised"
    )
