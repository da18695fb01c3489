"""Files that are there whole or not at all, and what the system says when they cannot be."""

from __future__ import annotations

import errno
import os
import socket
import stat
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import BufferedReader
from pathlib import Path
from typing import NamedTuple

from .errors import UserError


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary file in the same folder that becomes `path` once it is on the disk."""
    # Not at the top: `inspect` loads no engine, and threads are settled before NumPy loads.
    from ..autograd.atomic import publishing

    part = temporary(path)
    with user_errors(path):
        part.unlink(missing_ok=True)
        with publishing(str(part), str(path)):
            yield part


def temporary(path: Path) -> Path:
    """Return the name beside `path` under which this process keeps what is not to be seen yet."""
    return path.with_name(f".{path.name}~{socket.gethostname()}~{os.getpid()}.tmp")


def collect_temporaries(folder: Path) -> None:
    """Remove the temporary files of writers that were killed. What cannot be removed, such as a
    folder of that name, is no reason to end."""
    for path in folder.glob(".*.tmp"):
        if _is_stale(path):
            with suppress(OSError):
                path.unlink()


def _is_stale(part: Path) -> bool:
    """Whether nobody writes this file any more; a writer on another node gets an hour."""
    try:
        age = time.time() - part.stat().st_mtime
        _, host, pid = part.name.removesuffix(".tmp").rsplit("~", 2)
        if host == socket.gethostname() and int(pid) != os.getpid():
            os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except (OSError, ValueError, OverflowError):
        return False
    # This process writes one file at a time, so its number here is a predecessor's.
    return age > 3600 or (host == socket.gethostname() and int(pid) == os.getpid())


@contextmanager
def regular_file(path: Path, flags: int = 0) -> Iterator[BufferedReader]:
    """Yield a file open for reading, with more `flags` of `open`. OSError for what is no regular
    file: opening a pipe, or reading it, would wait for a writer that may never come."""

    def opener(name: str, mode: int) -> int:
        return os.open(name, mode | os.O_NONBLOCK | flags)

    with open(path, "rb", opener=opener) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(errno.EINVAL, "not a regular file")
        yield file


@contextmanager
def user_errors(path: Path) -> Iterator[None]:
    """Turn the system's refusals into one line that names the path."""
    try:
        yield
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error


def write_whole(path: Path, text: str) -> None:
    """Write a text file that appears under `path` whole or not at all."""
    # Made anew: what somebody puts under that name meanwhile, a link say, is not written to.
    with replacing(path) as part, part.open("x", encoding="utf-8") as file:
        file.write(text)


class OutputFile(NamedTuple):
    """A file that `option` names, for a text of ours: `kind`, in words, all of which begin with
    `mark`. It may be new, empty, one that begins with the mark, or standard output; what else lies
    there is replaced with `force` alone, and nothing is ever written through a link."""

    option: str
    path: Path
    kind: str
    mark: str
    force: bool = False

    def check(self) -> None:
        """Do nothing where `write` may go on. UserError else: before work whose result would have
        no place."""
        with user_errors(self.path):
            foreign = self._foreign()
            if not foreign:
                _check_folder(self.path.parent)
        if foreign and not (self.force and foreign.replaceable):
            way = "; --force replaces it" if foreign.replaceable else ""
            raise UserError(
                f"{self.option}: expected a new file or {self.kind} of tallygrad, got {self.path}, "
                f"{foreign.what}{way}"
            )

    def write(self, text: str) -> None:
        """Write a text that begins with the mark, whole or not at all. UserError, as `check`."""
        self.check()
        with user_errors(self.path):
            is_output = self._is_output()
        if is_output:
            sys.stdout.write(text)
        else:
            write_whole(self.path, text)

    def _foreign(self) -> Foreign | None:
        """Return what lies there that is not ours."""
        if self._is_output():
            return None
        try:
            mode = self.path.lstat().st_mode
        except FileNotFoundError:
            return None
        if stat.S_ISLNK(mode):
            return Foreign(f"a link to {os.readlink(self.path)}", True)
        if not stat.S_ISREG(mode):
            return Foreign("a folder" if stat.S_ISDIR(mode) else "no regular file", False)
        with open(self.path, "rb") as file:
            start = file.read(len(self.mark.encode()))
        ours = start in (b"", self.mark.encode())
        return None if ours else Foreign("a file with other content", True)

    def _is_output(self) -> bool:
        """Tell whether the path is this process's standard output, as /dev/stdout is."""
        try:
            return os.path.samestat(os.stat(self.path), os.fstat(1))
        except OSError:
            return False


class Foreign(NamedTuple):
    """What lies where a file of ours shall be, in words, and whether a file can take its place."""

    what: str
    replaceable: bool


def _check_folder(folder: Path) -> None:
    """OSError where no new file can be made."""
    folder.stat()
    if not os.access(folder, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
