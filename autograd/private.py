"""Folders and files that no other user can change.

A path is opened part by part, and each part is checked through its descriptor, so nothing can be
exchanged between the check and the use. What is stored there can be trusted, machine code
included."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from secrets import token_hex
from typing import BinaryIO

from .atomic import publishing

# Parents of a home are often searchable only, which suffices for O_PATH.
FOLDER = getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_NOFOLLOW
# Opening a pipe must not wait for its writer.
READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW


def cache_home() -> Path | None:
    """Return `$XDG_CACHE_HOME`, else `~/.cache`; None where neither is an absolute path.

    That is so for a user without a home: a relative path would lie in whatever folder is
    current."""
    bases = os.environ.get("XDG_CACHE_HOME", ""), os.path.expanduser("~/.cache")
    return next((Path(base) for base in bases if os.path.isabs(base)), None)


def open_folder(base: Path, *names: str) -> int:
    """Return a descriptor of the folder `base/names`, created with its parents where it is missing.

    Links are followed within `base` only, and what they lead to is checked instead. Parents may be
    writable for all if they are sticky, like /tmp. PermissionError, which names the part, where
    another user owns one or may write to one; OSError where the folder cannot be opened."""
    above = Path(os.path.realpath(base))
    way = [*above.parts[1:], *names]
    path = Path(above.anchor)
    folder = os.open(path, FOLDER)
    try:
        _check(path, os.fstat(folder), sticky=True)
        for i, name in enumerate(way):
            path /= name
            folder, parent = _below(folder, path), folder
            os.close(parent)
            _check(path, os.fstat(folder), sticky=i < len(way) - 1)
    except BaseException:
        os.close(folder)
        raise
    return folder


def _below(folder: int, path: Path) -> int:
    """Return a descriptor of a folder's sub-folder, created if need be."""
    try:
        try:
            return os.open(path.name, FOLDER, dir_fd=folder)
        except FileNotFoundError:
            with suppress(FileExistsError):
                os.mkdir(path.name, 0o700, dir_fd=folder)
            return os.open(path.name, FOLDER, dir_fd=folder)
    except OSError as error:
        linked = error.errno in (errno.ELOOP, errno.ENOTDIR)
        why = "is a link, or no folder" if linked else error.strerror
        raise OSError(error.errno, why, str(path)) from error


@contextmanager
def reading(folder: int, name: str) -> Iterator[BinaryIO]:
    """Open a file of a folder.

    OSError where there is none, for links and for what is no regular file; PermissionError where
    another user owns it or may write to it."""
    descriptor = os.open(name, READ, dir_fd=folder)
    with os.fdopen(descriptor, "rb") as stream:
        state = os.fstat(descriptor)
        if not stat.S_ISREG(state.st_mode):
            raise OSError(errno.EINVAL, "is no regular file", name)
        _check(Path(name), state, sticky=False)
        yield stream


@contextmanager
def writing(folder: int, name: str, mode: int = 0o600, sync: bool = False) -> Iterator[BinaryIO]:
    """Open a new file that gets its name in a folder when the block is done.

    With `sync` it is on the disk by then. An exception in the block, KeyboardInterrupt included,
    removes what was written."""
    temporary = f".{name}.{token_hex(8)}.part"
    with (
        publishing(temporary, name, folder, sync),
        os.fdopen(os.open(temporary, CREATE, mode, dir_fd=folder), "wb") as stream,
    ):
        yield stream


def files(folder: int) -> list[tuple[float, int, str]]:
    """Return time, size and name of a folder's regular files; others may remove some meanwhile."""
    entries_found = []
    with suppress(OSError):
        # A descriptor of its own: those that are copied share one place in the list of names.
        own = os.open(".", os.O_RDONLY, dir_fd=folder)
        try:
            with os.scandir(own) as entries:
                for entry in entries:
                    with suppress(OSError):
                        state = entry.stat(follow_symlinks=False)
                        if stat.S_ISREG(state.st_mode):
                            entries_found.append((state.st_mtime, state.st_size, entry.name))
        finally:
            os.close(own)
    return entries_found


def _check(path: Path, state: os.stat_result, sticky: bool) -> None:
    """PermissionError unless only this user and root can change what `state` is of."""
    user, mode = os.geteuid(), stat.S_IMODE(state.st_mode)
    why = ""
    if state.st_uid not in (0, user):
        why = f"belongs to user {state.st_uid}, not {user}"
    elif mode & 0o022 and not (sticky and mode & stat.S_ISVTX):
        why = f"others may write to it (mode {mode:o})"
    if why:
        raise PermissionError(errno.EPERM, why, str(path))
