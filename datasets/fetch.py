"""Where data sets are looked for, and how absent ones are fetched: whole and verified, or not."""

from __future__ import annotations

import hashlib
import http.client
import os
import tempfile
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from tqdm import tqdm  # type: ignore[import-untyped,unused-ignore]

from .base import DataError

PIECE = 1 << 20
LARGEST = 1 << 30
TIMEOUT = 30.0


@dataclass(frozen=True)
class Remote:
    """A file on public mirrors, known by its SHA-256."""

    name: str
    sha256: str
    mirrors: tuple[str, ...]


def cache_dir() -> Path:
    """Return `$XDG_CACHE_HOME/tallygrad`, or `~/.cache/tallygrad`.

    In containers a user may have no home; then it lies in the folder for temporary files.
    """
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(tempfile.gettempdir() if base.startswith("~") else base) / "tallygrad"


def roots(data_dir: str | os.PathLike[str] | None) -> list[Path]:
    """Return where to look, in order: data_dir, TALLYGRAD_DATA, the cache folder."""
    if data_dir is not None and not os.path.isdir(data_dir):
        raise DataError(f"--data-dir {data_dir}: no such folder")
    named = [data_dir, os.environ.get("TALLYGRAD_DATA") or None]
    return [*(Path(root) for root in named if root is not None), cache_dir()]


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
    """Write a file that appears under its name complete and synced, or not at all.

    An exception in the block, KeyboardInterrupt included, removes what was written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        Path(name).chmod(0o644)
        os.replace(name, path)
    finally:
        with suppress(FileNotFoundError):
            os.unlink(name)


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
        except (OSError, http.client.HTTPException, ValueError) as error:
            failures.append(f"{url}: {_one_line(error)}")
    raise DataError("; ".join(failures) or f"{remote.name}: no mirror to fetch it from")


def missing(
    name: str, data_dir: str | os.PathLike[str] | None, files: Sequence[str], own: str, why: str
) -> DataError:
    """Return the error that says which files to put where, and what works without any."""
    places = roots(data_dir)
    return DataError(
        f"{name}: not found in {', '.join(map(str, places))}; {why}; put {', '.join(files)} into "
        f"{places[0] / own}, or use the embedded data set 'digits', which needs no files"
    )


def _transfer(url: str, stream: IO[bytes], remote: Remote, progress: bool, timeout: float) -> None:
    """Copy a URL into `stream`, counting and hashing on the way."""
    digest, received = hashlib.sha256(), 0
    with urllib.request.urlopen(url, timeout=timeout) as response:
        length = response.headers.get("Content-Length")
        expected = int(length) if length else None
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
