"""CSV files of bytes, as small images are kept: a line a sample, perhaps under a line of names."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

import numpy as np

from ..source import Bytes, DataError

MOST_BYTES = 1 << 30


def read_csv(path: Path, width: int) -> Bytes:
    """Return the lines of a file as (N, width) bytes. DataError for other numbers of columns, and
    for values that are no whole numbers from 0 to 255."""
    try:
        if (size := os.path.getsize(path)) > MOST_BYTES:
            raise DataError(f"{path}: expected at most {MOST_BYTES} bytes, got {size}")
        with path.open("rb") as stream:
            first = stream.readline(1 << 20)
        skip = int(not first.split(b",")[0].strip().isdigit())
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of a file without lines, told below
            rows = np.loadtxt(path, np.int16, delimiter=",", skiprows=skip, ndmin=2, comments=None)
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}") from error
    except ValueError as error:
        raise DataError(f"{path}: cannot be read as numbers: {error!s:.200}") from error
    if not len(rows) or rows.shape[1] != width:
        raise DataError(
            f"{path}: expected lines of {width} numbers, got {len(rows)} of {rows.shape[1]}"
        )
    wrong = np.argwhere((rows < 0) | (rows > 255))
    if len(wrong):
        line, column = wrong[0]
        raise DataError(f"{path}: line {line + 1 + skip}: expected 0 to 255, "
                        f"got {rows[line, column]}")  # fmt: skip
    return rows.astype(np.uint8)
