"""Decode image files with Pillow (extra `images`) into bytes of one size and kind of colour.

Files are not trusted: only common formats are tried, none of which runs anything, and an image of
more than `MOST_PIXELS` is refused by its header, before it is decoded.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..source import Bytes, DataError

if TYPE_CHECKING:
    from PIL.Image import Image

SUFFIXES = (
    ".bmp", ".gif", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp",
)  # fmt: skip
FORMATS = ("PNG", "JPEG", "BMP", "GIF", "PPM", "TIFF", "WEBP")
MOST_PIXELS = 80_000_000  # below Pillow's own limit
GREY = ("1", "L", "LA", "La", "I", "F")  # and I;16
DEEP = ("I", "F", "I;16", "I;16B", "I;16L", "I;16N")  # more than 8 bits a pixel


class Header(NamedTuple):
    """What is known of an image before it is decoded."""

    height: int
    width: int
    is_grey: bool


def is_picture(name: str) -> bool:
    """Tell by its name whether a file is an image."""
    return name.lower().endswith(SUFFIXES) and not name.startswith(".")


def read_header(path: Path) -> Header:
    """Return size and kind of colour of an image. DataError where it cannot be read."""
    with _opened(path) as image:
        return Header(image.height, image.width, _is_grey(image))


def decode(path: Path, size: tuple[int, int], fit: str, rgb: bool) -> Bytes:
    """Return an image as bytes (height, width, 1 or 3).

    Sizes other than `size` are scaled: with "resize" in both directions, with "crop" until they
    cover it, of which the middle is taken. Colours become grey by ITU-R 601, transparency is
    dropped, and 16 bits become 8. DataError where the file cannot be decoded.
    """
    with _opened(path) as image:
        pixels = _to_mode(image, "RGB" if rgb else "L")
        if (image.height, image.width) != size:
            pixels = _fit(pixels, size, fit)
        return np.asarray(pixels, np.uint8).reshape(*size, 3 if rgb else 1)


def fit_bytes(images: Bytes, size: tuple[int, int], fit: str) -> Bytes:
    """Return images (n, H, W, 1 or 3) in another size."""
    from PIL import Image

    result = np.empty((len(images), *size, images.shape[3]), np.uint8)
    for i, pixels in enumerate(images):
        picture = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
        result[i] = np.asarray(_fit(picture, size, fit)).reshape(result.shape[1:])
    return result


def need_pillow(what: str) -> Any:
    """Return Pillow's module of images. DataError where Pillow is missing."""
    try:
        from PIL import Image
    except ImportError as error:
        raise DataError(f"{what}: needs Pillow (pip install 'tallygrad[images]')") from error
    return Image


def _is_grey(image: Image) -> bool:
    return image.mode in GREY or image.mode.startswith("I;16")


@contextmanager
def _opened(path: Path) -> Iterator[Image]:
    """Open an image; whatever is wrong with it becomes a DataError that names the file."""
    module = need_pillow(str(path))
    # Pillow warns of large images that it would decode; here they are refused.
    warnings.filterwarnings("ignore", category=module.DecompressionBombWarning)
    try:
        with module.open(path, formats=FORMATS) as image:
            pixels = image.width * image.height
            if not 0 < pixels <= MOST_PIXELS:
                raise DataError(
                    f"{path}: expected an image of 1 to {MOST_PIXELS} pixels, got "
                    f"{image.width} x {image.height}"
                )
            yield image
    except DataError:
        raise
    except module.UnidentifiedImageError as error:
        raise DataError(
            f"{path}: expected an image ({', '.join(FORMATS)}), got another or a damaged file"
        ) from error
    except module.DecompressionBombError as error:
        raise DataError(
            f"{path}: expected an image of 1 to {MOST_PIXELS} pixels, got more: {error}"
        ) from error
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or f'damaged image ({error})'}") from error
    except Exception as error:  # decoders of damaged files raise anything: struct.error, KeyError
        raise DataError(f"{path}: damaged image ({type(error).__name__}: {error})") from error


def _to_mode(image: Image, mode: str) -> Image:
    if image.mode in DEEP and image.mode != "F":
        from PIL import Image as module

        values = np.asarray(image).astype(np.int64)
        # Mode I holds the 16 bits of a PNG in 32.
        return module.fromarray((values.clip(0, 65535) >> 8).astype(np.uint8)).convert(mode)
    return image.convert(mode)


def _fit(image: Image, size: tuple[int, int], fit: str) -> Image:
    from PIL.Image import Resampling

    height, width = size
    if fit == "resize":
        return image.resize((width, height), Resampling.BILINEAR)
    scale = max(height / image.height, width / image.width)
    high, wide = height / scale, width / scale
    top, left = (image.height - high) / 2, (image.width - wide) / 2
    box = (left, top, min(left + wide, image.width), min(top + high, image.height))
    return image.resize((width, height), Resampling.BILINEAR, box=box)
