"""Where data files are searched for, and how missing ones are downloaded and verified."""

from __future__ import annotations

import hashlib
import http.client
import os
import urllib.request
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from tqdm import tqdm  # type: ignore[import-untyped,unused-ignore]

from ..autograd import private
from .source import DataError

PIECE = 1 << 20  # bytes per read
LARGEST = 1 << 30  # bytes of a download; the largest data set has 0.2 GB
TIMEOUT = 30.0  # seconds
DEPTH, MOST_FOLDERS = 4, 500  # levels below --data-dir that are searched, and folders


@dataclass(frozen=True)
class Remote:
    """A file on public mirrors (base URLs), identified by its SHA-256."""

    name: str
    sha256: str
    mirrors: tuple[str, ...]


def cache_dir() -> Path | None:
    """Return `$XDG_CACHE_HOME/tallygrad`, by default `~/.cache/tallygrad`.

    None if the user has no home folder, as in some containers.
    """
    home = private.cache_home()
    return None if home is None else home / "tallygrad"


def download_dir(name: str = "") -> Path:
    """Return the cache folder that a data set is downloaded to. DataError if there is none."""
    home = cache_dir()
    if home is None:
        raise DataError("no home folder is known to download to; set XDG_CACHE_HOME")
    return home / name


def check_data_dir(data_dir: str | os.PathLike[str] | None) -> None:
    """Raise DataError if `data_dir` is neither None nor a folder."""
    if data_dir is not None and not os.path.isdir(data_dir):
        reason = "not a folder" if os.path.lexists(data_dir) else "no such folder"
        raise DataError(f"--data-dir {data_dir}: {reason}")


def roots(data_dir: str | os.PathLike[str] | None) -> list[Path]:
    """Return the folders to search, in order: data_dir, $TALLYGRAD_DATA, the cache folder."""
    check_data_dir(data_dir)
    named = [data_dir, os.environ.get("TALLYGRAD_DATA") or None, cache_dir()]
    return [Path(root) for root in named if root is not None]


def folders(
    root: Path, own: Sequence[str], foreign: Sequence[str] = (), *, explicit: bool = False
) -> Iterator[Path]:
    """Yield the folders under `root` that may hold a data set's files, best first.

    First the set's `own` subfolders. Then the root itself, if it has the name of one of them
    (`TALLYGRAD_DATA=/data/mnist`), or if it is `explicit` (from `--data-dir`) and does not have the
    name of a `foreign` set's folder: MNIST and Fashion-MNIST use the same file names. Below an
    explicit root, all further folders follow, those of other sets excepted.
    """
    yield from (root / name for name in own)
    if _named_like(root, own) or (explicit and not _named_like(root, foreign)):
        yield root
    if explicit:
        known = {root / name for name in own}
        yield from (folder for folder in _below(root, foreign) if folder not in known)


def _below(root: Path, foreign: Sequence[str]) -> Iterator[Path]:
    """Yield the folders under a root, level by level, but none of or in `foreign` sets' folders."""
    queue = deque([(root, 0)])
    for _ in range(MOST_FOLDERS):
        if not queue:
            return
        folder, depth = queue.popleft()
        with suppress(OSError), os.scandir(folder) as entries:
            names = sorted(e.name for e in entries if e.is_dir() and not e.name.startswith("."))
            children = [folder / name for name in names]
            children = [child for child in children if not _named_like(child, foreign)]
            yield from children
            if depth + 1 < DEPTH:
                queue.extend((child, depth + 1) for child in children)


def _named_like(root: Path, names: Sequence[str]) -> bool:
    parts = root.absolute().parts
    return any(parts[-len(tail) :] == tail for tail in (Path(name).parts for name in names))


@contextmanager
def whole_file(path: Path) -> Iterator[IO[bytes]]:
    """Open a file for writing that appears under its name complete and synced, or not at all.

    Any exception in the block, including KeyboardInterrupt, removes what was written. Raises
    PermissionError, which names the folder, if another user could change the file's folder or one
    above it.
    """
    folder = private.open_folder(path.parent)
    try:
        with private.writing(folder, path.name, 0o644, sync=True) as stream:
            yield stream
    finally:
        os.close(folder)


def download(
    remote: Remote,
    folder: Path,
    *,
    mirrors: Sequence[str] | None = None,
    progress: bool = True,
    timeout: float = TIMEOUT,
) -> Path:
    """Download a file to `folder` from the first mirror that delivers it, and return its path.

    The SHA-256 is checked before the file gets its name. Several processes may download the same
    file: each writes its own temporary file, and the last rename wins. `mirrors` replaces the
    file's own. `timeout` in seconds limits each wait for the network, not the whole transfer.
    Raises DataError, which lists the failure of every mirror, and leaves nothing behind.
    """
    target = folder / remote.name
    failures = []
    for mirror in mirrors if mirrors is not None else remote.mirrors:
        url = mirror.rstrip("/") + "/" + remote.name
        try:
            with whole_file(target) as stream:
                _transfer(url, stream, remote, progress, timeout)
            return target
        except DataError as error:
            failures.append(str(error))
        except PermissionError as error:
            raise DataError(f"{error.filename}: {error.strerror}; set XDG_CACHE_HOME to another "
                            "folder") from error  # fmt: skip
        except (OSError, http.client.HTTPException, ValueError) as error:
            failures.append(f"{url}: {_one_line(error)}")
    raise DataError("; ".join(failures) or f"{remote.name}: no mirror to download it from")


def incomplete(folder: Path, there: Sequence[str], absent: Sequence[str]) -> list[DataError]:
    """Return the error for a folder that has some files of a set (`there`) and lacks others.

    Empty for a folder that has none or all, and for the cache: there a download may have been
    interrupted, and continues.
    """
    cache = cache_dir()
    if not there or not absent or (cache and folder.is_relative_to(cache)):
        return []
    return [DataError(f"{folder}: has {there[0]}, but no {', '.join(absent)}")]


def missing(
    name: str, data_dir: str | os.PathLike[str] | None, files: Sequence[str], own: str, why: str
) -> DataError:
    """Return the error that says which files to put where, and which data set needs none."""
    searched = roots(data_dir)
    target = searched[0] / own if searched else "the folder that TALLYGRAD_DATA names"
    return DataError(
        f"{name}: not found in {', '.join(map(str, searched)) or 'any folder'}; {why}; put "
        f"{', '.join(files)} into {target}, or use the built-in data set 'digits', which needs no "
        "files"
    )


def _transfer(url: str, stream: IO[bytes], remote: Remote, progress: bool, timeout: float) -> None:
    """Copy a URL to `stream`, checking its length and SHA-256."""
    digest, received = hashlib.sha256(), 0
    with urllib.request.urlopen(url, timeout=timeout) as response:
        length = response.headers.get("Content-Length")
        expected = int(length) if length else None
        if expected is not None and not 0 <= expected <= LARGEST:
            raise DataError(
                f"{url}: expected a Content-Length of 0 to {LARGEST}, got {length!r:.24}"
            )
        bar = tqdm(
            total=expected, desc=remote.name, unit="B", unit_scale=True,
            disable=None if progress else True,
        )  # fmt: skip
        with bar:
            while piece := response.read(PIECE):
                stream.write(piece)
                digest.update(piece)
                received += len(piece)
                bar.update(len(piece))
                if received > LARGEST:
                    raise DataError(f"{url}: expected at most {LARGEST} bytes, got more")
    if expected is not None and received != expected:
        raise DataError(f"{url}: expected {expected} bytes, got {received}: transfer cut off")
    if digest.hexdigest() != remote.sha256:
        raise DataError(f"{url}: expected SHA-256 {remote.sha256}, got {digest.hexdigest()}")


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
