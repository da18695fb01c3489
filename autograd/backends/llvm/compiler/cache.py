"""The store on disk for what is reused from run to run: compiled kernels, and timed tiles.

The folder holds machine code that will run, so nobody but this user may be able to change it, any
folder above it, or a file in it (`private.py`); otherwise nothing is stored. Each file carries a
checksum: a damaged one is compiled again. Beyond the limit, the least recently read files go first.
"""

from __future__ import annotations

import hashlib
import os
import sys
import weakref
from contextlib import suppress
from functools import cache
from pathlib import Path

from .... import private

CHECK = 32  # bytes of the checksum in front of a file's content
LIMIT = "TALLYGRAD_KERNEL_CACHE_MB"
USUAL = 256.0
KEPT = 0.75  # share of the limit that is left where files had to go


class Cache:
    """Files by name in one folder, given as a descriptor; at most `limit` bytes. `path` names it in
    messages."""

    def __init__(self, path: Path, folder: int, limit: int) -> None:
        self.path, self.folder, self.limit = path, folder, limit
        self.size: int | None = None  # of all files, from the first one that is written on
        weakref.finalize(self, os.close, folder)

    def read(self, name: str) -> bytes | None:
        """Return a file's content; None if there is none, it is damaged, or others could have
        written it."""
        try:
            with private.reading(self.folder, name) as file:
                whole = file.read(self.limit + CHECK)
                check, content = whole[:CHECK], whole[CHECK:]
                if not content or hashlib.sha256(content).digest() != check:
                    return None
                with suppress(OSError):
                    os.utime(file.fileno())
                return content
        except OSError:
            return None

    def write(self, name: str, content: bytes) -> None:
        """Write a file atomically, since two processes may write it together; on failure print a
        line that says why."""
        try:
            with private.writing(self.folder, name) as file:
                file.write(hashlib.sha256(content).digest() + content)
        except OSError as error:
            _warn(self.path, error.strerror or "cannot be written")
            return
        if self.size is None:
            self.size = sum(size for _, size, _ in private.files(self.folder))
        else:
            self.size += CHECK + len(content)
        if self.size > self.limit:
            self._prune()

    def _prune(self) -> None:
        """Remove the files that were not read for the longest time."""
        files = sorted(private.files(self.folder))
        left = sum(size for _, size, _ in files)
        for _, size, name in files:
            if left <= KEPT * self.limit:
                break
            with suppress(OSError):
                os.unlink(name, dir_fd=self.folder)
            left -= size
        self.size = left


@cache
def opened() -> Cache | None:
    """Return the cache, creating its folder. None where it is disabled, and, with a line that says
    why, where the folder cannot be created or others could write to it."""
    limit, home = _limit(), private.cache_home()
    if not limit:
        return None
    if home is None:
        _warn(Path("~/.cache"), "no home folder is known")
        return None
    try:
        folder = private.open_folder(home, "tallygrad", "kernels")
    except OSError as error:
        path = error.filename or home / "tallygrad" / "kernels"
        _warn(Path(path), error.strerror or "cannot be used")
        return None
    return Cache(home / "tallygrad" / "kernels", folder, limit)


def _limit() -> int:
    """Return the bytes that the environment allows; 0 for none at all."""
    text = os.environ.get(LIMIT, "")
    try:
        size = float(text or USUAL)
        if not 0 <= size < 1e9:
            raise ValueError
    except ValueError:
        print(
            f"tallygrad: warning: {LIMIT}: expected MB, got {text!r:.60}; taking {USUAL:.0f}",
            file=sys.stderr,
        )
        size = USUAL
    return int(size * 1e6)


@cache
def _warn(path: Path, why: str) -> None:
    """Say once why nothing is kept, and what helps."""
    print(
        f"tallygrad: warning: {path}: {why}; kernels are not kept "
        "(XDG_CACHE_HOME can name another folder)",
        file=sys.stderr,
    )
