"""Files that appear under their name whole or not at all.

This is the one home of writing under another name, syncing and renaming."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress


@contextmanager
def publishing(
    temporary: str, name: str, folder: int | None = None, sync: bool = True
) -> Iterator[None]:
    """Give the file that the block writes as `temporary` its final name at the end of the block.

    With `sync` it is on the disk by then. Names are relative to the descriptor `folder`, if there
    is one. An exception in the block, KeyboardInterrupt included, removes the file."""
    try:
        yield
        if sync:
            _sync(temporary, os.O_RDONLY | os.O_NOFOLLOW, folder)
        os.replace(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
        if sync:
            _sync_names(os.path.dirname(name) or ".", folder)
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary, dir_fd=folder)
        raise


def _sync_names(path: str, folder: int | None) -> None:
    """Bring a folder's list of names to the disk, and with it a rename, where the file system can.

    Some refuse to sync a folder, but the file has its name already."""
    try:
        _sync(path, os.O_RDONLY, folder)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise


def _sync(name: str, flags: int, folder: int | None) -> None:
    descriptor = os.open(name, flags, dir_fd=folder)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
