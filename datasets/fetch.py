"""Where data sets are looked for, and how absent ones are fetched: whole and verified, or not."""

from __future__ import annotations

import hashlib
import http.client
import os
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from tqdm import tqdm  # type: ignore[import-untyped,unused-ignore]

from ..autograd import private
from .source import DataError

PIECE = 1 << 20
LARGEST = 1 << 30
TIMEOUT = 30.0


@dataclass(frozen=True)
class Remote:
    """A file on public mirrors, known by its SHA-256."""

    name: str
    sha256: str
    mirrors: tuple[str, ...]


def cache_dir() -> Path | None:
    """Return `$XDG_CACHE_HOME/tallygrad`, or `~/.cache/tallygrad`; None for a user without a home,
    as in some containers."""
    home = private.cache_home()
    return None if home is None else home / "tallygrad"


def download_dir(name: str = "") -> Path:
    """Return the folder of the cache that a set is fetched into. DataError where there is none."""
    home = cache_dir()
    if home is None:
        raise DataError("no home folder is known to keep it in: set XDG_CACHE_HOME")
    return home / name


def check_data_dir(data_dir: str | os.PathLike[str] | None) -> None:
    """Raise DataError for a folder that is none."""
    if data_dir is not None and not os.path.isdir(data_dir):
        said = "is not a folder" if os.path.lexists(data_dir) else "no such folder"
        raise DataError(f"--data-dir {data_dir}: {said}")


def roots(data_dir: str | os.PathLike[str] | None) -> list[Path]:
    """Return where to look, in order: data_dir, TALLYGRAD_DATA, the cache folder."""
    check_data_dir(data_dir)
    named = [data_dir, os.environ.get("TALLYGRAD_DATA") or None, cache_dir()]
    return [Path(root) for root in named if root is not None]


def folders(
    root: Path, own: Sequence[str], foreign: Sequence[str] = (), *, explicit: bool = False
) -> Iterator[Path]:
    """Yield the folders under one root in which a data set's files may lie, best first.

    These are the set's own sub-folders. Files directly in the root count if the root is named
    like one of them (`TALLYGRAD_DATA=/data/mnist`), or if it is `explicit` (the `--data-dir`) and
    not named like another set's folder: MNIST and Fashion-MNIST use the same file names.
    """
    yield from (root / name for name in own)
    if _named_like(root, own) or (explicit and not _named_like(root, foreign)):
        yield root


def _named_like(root: Path, names: Sequence[str]) -> bool:
    parts = root.absolute().parts
    return any(parts[-len(tail) :] == tail for tail in (Path(name).parts for name in names))


@contextmanager
def whole_file(path: Path) -> Iterator[IO[bytes]]:
    """Write a file that appears under its name complete and synced, or not at all, into a folder
    that no other user can change. OSError, which names the part, where another can.

    An exception in the block, KeyboardInterrupt included, removes what was written.
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
    """Fetch one file into `folder` from the first mirror that delivers it, and return its path.

    The SHA-256 is checked before the file gets its name. Safe when several processes fetch the
    same file: each writes its own temporary file, and the last rename wins. `mirrors` replaces the
    file's own ones; `timeout` is in seconds and limits every wait for the network, not the whole
    transfer. Raises DataError with what went wrong at every mirror, and leaves nothing behind.
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
            raise DataError(f"{error.filename}: {error.strerror}; XDG_CACHE_HOME can name another "
                            "folder") from error  # fmt: skip
        except (OSError, http.client.HTTPException, ValueError) as error:
            failures.append(f"{url}: {_one_line(error)}")
    raise DataError("; ".join(failures) or f"{remote.name}: no mirror to fetch it from")


def incomplete(folder: Path, there: Sequence[str], absent: Sequence[str]) -> list[DataError]:
    """Return the error for a folder in which files of a set are, but not all that are needed; none
    for a folder without any. What a download left half done is no fault."""
    cache = cache_dir()
    if not there or not absent or (cache and folder.is_relative_to(cache)):
        return []
    return [DataError(f"{folder}: has {there[0]}, but no {', '.join(absent)}")]


def missing(
    name: str, data_dir: str | os.PathLike[str] | None, files: Sequence[str], own: str, why: str
) -> DataError:
    """Return the error that says which files to put where, and what works without any."""
    places = roots(data_dir)
    looked = ", ".join(map(str, places)) or "any folder"
    target = places[0] / own if places else "the folder that TALLYGRAD_DATA names"
    return DataError(
        f"{name}: not found in {looked}; {why}; put {', '.join(files)} into "
        f"{target}, or use the embedded data set 'digits', which needs no files"
    )


def _transfer(url: str, stream: IO[bytes], remote: Remote, progress: bool, timeout: float) -> None:
    """Copy a URL into `stream`, counting and hashing on the way."""
    digest, received = hashlib.sha256(), 0
    with urllib.request.urlopen(url, timeout=timeout) as response:
        length = response.headers.get("Content-Length")
        expected = int(length) if length else None
        if expected is not None and not 0 <= expected <= LARGEST:
            raise DataError(f"{url}: announces no size, or more than {LARGEST} bytes")
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
                    raise DataError(f"{url}: more than {LARGEST} bytes, stopped")
    if expected is not None and received != expected:
        raise DataError(f"{url}: transfer cut after {received} of {expected} bytes")
    if digest.hexdigest() != remote.sha256:
        raise DataError(f"{url}: SHA-256 is {digest.hexdigest()}, expected {remote.sha256}")


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
