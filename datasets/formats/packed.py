"""Read gzip files, and tar archives in them, within bounds.

Memory and time are limited by the size of the file, whatever its headers claim.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..source import DataError

PIECE = 1 << 20
# A gzip file may unpack to FREE bytes plus EXPANSION times its size. Deflate can expand 1032 times;
# images and labels expand 2 to 20 times.
FREE, EXPANSION = 1 << 26, 64
BLOCK = 512  # bytes of a header in a tar archive, to a multiple of which files are padded
NAME, SIZE, CHECKSUM, TYPE = slice(0, 100), slice(124, 136), slice(148, 156), slice(156, 157)
FOLDER = slice(345, 500)  # prefix of the name
PLAIN = (b"0", b"\0")


class Unpacked:
    """Reader of a gzip file's contents, up to a limit that no genuine data set reaches.

    `limit` is the total number of bytes that may be unpacked, `left` what remains of it.
    """

    def __init__(self, path: Path, stream: gzip.GzipFile, stored: int) -> None:
        self.path, self.stream = path, stream
        self.limit = self.left = FREE + EXPANSION * stored

    def read(self, size: int) -> bytes:
        """Return `size` bytes, or fewer at the end. DataError beyond the limit."""
        pieces = []
        while size and (piece := self.stream.read(min(size, PIECE))):
            pieces.append(piece)
            size -= len(piece)
            self._count(len(piece))
        return b"".join(pieces)

    def take(self, size: int) -> bytes:
        """Return `size` bytes. EOFError if there are fewer."""
        data = self.read(size)
        if len(data) < size:
            raise EOFError(f"it ends {size - len(data)} bytes too early")
        return data

    def fill(self, buffer: memoryview) -> int:
        """Fill a buffer, and return how many bytes were read. DataError beyond the limit."""
        done = 0
        while done < len(buffer) and (more := self.stream.readinto(buffer[done : done + PIECE])):
            done += more
            self._count(more)
        return done

    def skip(self, size: int) -> None:
        """Skip bytes. EOFError if there are fewer."""
        while size:
            passed = len(self.stream.read(min(size, PIECE)))
            if not passed:
                raise EOFError(f"it ends {size} bytes too early")
            size -= passed
            self._count(passed)

    def _count(self, size: int) -> None:
        self.left -= size
        if self.left < 0:
            raise DataError(
                f"{self.path}: expected to unpack to at most {self.limit} bytes, got more; if that "
                "is right, gunzip it"
            )


@contextmanager
def unpacking(path: Path, kind: str) -> Iterator[Unpacked]:
    """Open a gzip file. DataError if it is damaged; `kind` is what the message calls it."""
    try:
        with gzip.open(path) as stream:
            yield Unpacked(path, stream, path.stat().st_size)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{path}: broken or truncated {kind} ({error})") from error
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}") from error


def members(archive: Unpacked) -> Iterator[tuple[str, int]]:
    """Yield name and size of each regular file in a tar archive.

    The caller may `take` the file's bytes before it asks for the next file. Links, folders and
    extended headers are skipped: their names and values, which may be of any length, are never
    read. Raises EOFError if the archive is damaged.
    """
    while True:
        header = archive.read(BLOCK)
        if len(header) < BLOCK or not any(header):
            return
        size = _octal(header[SIZE])
        filled = header[: CHECKSUM.start] + b" " * 8 + header[CHECKSUM.stop :]
        if sum(filled) != _octal(header[CHECKSUM]):
            raise EOFError("a header does not match its checksum")
        before = archive.left
        if header[TYPE] in PLAIN:
            yield _name(header), size
        archive.skip(size - (before - archive.left) + -size % BLOCK)


def _name(header: bytes) -> str:
    folder, name = (header[part].partition(b"\0")[0].decode("latin1") for part in (FOLDER, NAME))
    # Only POSIX archives have the prefix; in others, these bytes have other meanings.
    return f"{folder}/{name}" if folder and header[257:263] == b"ustar\0" else name


def _octal(field: bytes) -> int:
    digits = field.strip(b" \0")
    if not digits.isdigit() or b"8" in digits or b"9" in digits:
        raise EOFError(f"expected an octal number, got {field!r}")
    return int(digits, 8)
