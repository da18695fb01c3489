"""Gzip files, and tar archives in them, read within bounds: memory and time follow the size of the
file, not what it claims to hold."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..source import DataError

PIECE = 1 << 20
# A gzip file unpacks to so many bytes, and so many more for each of its own; deflate can give 1032,
# images and labels give 2 to 20.
FREE, EXPANSION = 1 << 26, 64
BLOCK = 512  # bytes of a tar archive's header, and what its files are filled up to
NAME, SIZE, CHECKSUM, TYPE = slice(0, 100), slice(124, 136), slice(148, 156), slice(156, 157)
FOLDER = slice(345, 500)  # in front of the name
PLAIN = (b"0", b"\0")


class Unpacked:
    """Reads what a gzip file holds, up to a limit that no real one reaches."""

    def __init__(self, path: Path, stream: gzip.GzipFile, stored: int) -> None:
        self.path, self.stream = path, stream
        self.limit = self.left = FREE + EXPANSION * stored

    def read(self, size: int) -> bytes:
        """Return `size` bytes, less at the end. DataError beyond the limit."""
        pieces = []
        while size and (piece := self.stream.read(min(size, PIECE))):
            pieces.append(piece)
            size -= len(piece)
            self._count(len(piece))
        return b"".join(pieces)

    def take(self, size: int) -> bytes:
        """Return `size` bytes. EOFError where there are fewer."""
        data = self.read(size)
        if len(data) < size:
            raise EOFError(f"it ends {size - len(data)} bytes too early")
        return data

    def fill(self, buffer: memoryview) -> int:
        """Read into a buffer, and return how many bytes there were. DataError beyond the limit."""
        done = 0
        while done < len(buffer) and (more := self.stream.readinto(buffer[done : done + PIECE])):
            done += more
            self._count(more)
        return done

    def skip(self, size: int) -> None:
        """Pass over bytes. EOFError where there are fewer."""
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
                f"{self.path}: unpacks to more than {self.limit} bytes; gunzip it if it is meant to"
            )


@contextmanager
def unpacking(path: Path, kind: str) -> Iterator[Unpacked]:
    """Open a gzip file. DataError, which calls it a `kind`, where it is damaged."""
    try:
        with gzip.open(path) as stream:
            yield Unpacked(path, stream, path.stat().st_size)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{path}: broken or truncated {kind} ({error})") from error
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}") from error


def members(archive: Unpacked) -> Iterator[tuple[str, int]]:
    """Yield name and size of each plain file of a tar archive; the consumer may read its bytes
    before the next.

    Links, folders and extended headers are passed over: their names, lengths and values, which may
    be of any size, are never looked at. EOFError where the archive is damaged.
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
    # Only POSIX archives have a folder: elsewhere other fields lie there.
    return f"{folder}/{name}" if folder and header[257:263] == b"ustar\0" else name


def _octal(field: bytes) -> int:
    digits = field.strip(b" \0")
    if not digits.isdigit() or b"8" in digits or b"9" in digits:
        raise EOFError(f"{field!r} is no octal number")
    return int(digits, 8)
