"""What is kept on disk from run to run: compiled kernels, and tiles that were found the fastest.

The folder holds machine code that will run, so it must belong to this user alone, and each file
carries a checksum: what is damaged or foreign is made anew. Files that nobody has read for the
longest time go first when there are too many.
"""

from __future__ import annotations

import hashlib
import os
import sys
import tempfile
from contextlib import suppress
from functools import cache
from pathlib import Path

CHECK = 32  # bytes of the checksum in front of a file's content
LIMIT = "TALLYGRAD_KERNEL_CACHE_MB"
USUAL = 256.0
KEPT = 0.75  # share of the limit that is left where files had to go


class Cache:
    """Files by name in a folder, `limit` bytes of them at most."""

    def __init__(self, folder: Path, limit: int) -> None:
        self.folder, self.limit = folder, limit
        self.size: int | None = None  # of all files, from the first one that is written on

    def read(self, name: str) -> bytes | None:
        """Return a file's content; None for no file, or a damaged one."""
        path = self.folder / name
        try:
            whole = path.read_bytes()
        except OSError:
            return None
        check, content = whole[:CHECK], whole[CHECK:]
        if not content or hashlib.sha256(content).digest() != check:
            return None
        with suppress(OSError):
            os.utime(path)
        return content

    def write(self, name: str, content: bytes) -> None:
        """Write a file at once, as two processes may do together; where that fails, a line says
        why."""
        try:
            handle, made = tempfile.mkstemp(dir=self.folder)
            try:
                with os.fdopen(handle, "wb") as stream:
                    stream.write(hashlib.sha256(content).digest() + content)
                os.replace(made, self.folder / name)
            except OSError:
                os.unlink(made)
                raise
        except OSError as error:
            _warn(self.folder, error.strerror or "cannot be written")
            return
        if self.size is None:
            self.size = sum(size for _, size, _ in self._files())
        else:
            self.size += CHECK + len(content)
        if self.size > self.limit:
            self._prune()

    def _prune(self) -> None:
        """Remove the files that were not read for the longest time."""
        files = sorted(self._files())
        left = sum(size for _, size, _ in files)
        for _, size, path in files:
            if left <= KEPT * self.limit:
                break
            with suppress(OSError):
                os.unlink(path)
            left -= size
        self.size = left

    def _files(self) -> list[tuple[float, int, str]]:
        """Return time, size and path of all files; other processes may remove some meanwhile."""
        found = []
        with suppress(OSError), os.scandir(self.folder) as entries:
            for entry in entries:
                with suppress(OSError):
                    state = entry.stat()
                    found.append((state.st_mtime, state.st_size, entry.path))
        return found


@cache
def opened() -> Cache | None:
    """Return the cache, its folder made if need be; None where nothing is to be kept, and, with a
    line that says why, where the folder cannot be had or others could write to it."""
    limit = _limit()
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    folder = Path(base) / "tallygrad" / "kernels"
    if not limit:
        return None
    why = _unfit(folder)
    if why:
        _warn(folder, why)
        return None
    return Cache(folder, limit)


def _limit() -> int:
    """Return the bytes that the environment allows; 0 for none at all."""
    text = os.environ.get(LIMIT, "")
    try:
        size = float(text or USUAL)
        if not 0 <= size < 1e9:
            raise ValueError
    except ValueError:
        print(f"tallygrad: warning: {LIMIT}={text}: no number of MB; taking {USUAL:.0f}",
              file=sys.stderr)  # fmt: skip
        size = USUAL
    return int(size * 1e6)


def _unfit(folder: Path) -> str:
    """Make the folder; return why it cannot be trusted, or nothing."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        state = folder.stat()
        os.scandir(folder).close()
    except OSError as error:
        return error.strerror or "cannot be used"
    if hasattr(os, "getuid") and state.st_uid != os.getuid():
        return f"belongs to user {state.st_uid}, not {os.getuid()}"
    if state.st_mode & 0o022:
        return f"others may write to it (mode {state.st_mode & 0o777:o})"
    return ""


@cache
def _warn(path: Path, why: str) -> None:
    """Say once why nothing is kept."""
    print(f"tallygrad: warning: {path}: {why}; kernels are not kept", file=sys.stderr)
