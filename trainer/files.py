"""Files that are there whole or not at all, and what the system says when they cannot be."""

from __future__ import annotations

import json
import os
import socket
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from .errors import UserError, nearest

PARSERS = {"TOML": tomllib.loads, "JSON": json.loads}


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary file in the same folder that becomes `path` once it is on the disk."""
    temporary = path.with_name(f".{path.name}~{socket.gethostname()}~{os.getpid()}.tmp")
    with user_errors(path):
        try:
            temporary.unlink(missing_ok=True)
            yield temporary
            _sync(temporary, os.O_RDWR)
            os.replace(temporary, path)
            _sync(path.parent, os.O_RDONLY)
        except BaseException:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise


def read_data(option: str, path: Path, kind: str = "TOML") -> Any:
    """Return what a file of an option holds, TOML or JSON. UserError, in one line, where it cannot
    be read or is none."""
    try:
        return PARSERS[kind](path.read_text("utf-8"))
    except OSError as error:
        raise UserError(f"{option}: {path}: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        said = str(error).splitlines() or ["nested too deep"]
        raise UserError(f"{option}: {path} is no {kind}: {said[0]:.200}") from error


def named_file(option: str, name_or_file: str, folder: Path, other: str) -> Path:
    """Return the file that an option names: one that ends in .toml, or one of a folder without its
    ending. UserError for what is neither, with all names and the `other` that the option knows."""
    path = Path(name_or_file)
    if path.suffix == ".toml":
        return path
    names = sorted(file.stem for file in folder.glob("*.toml"))
    if name_or_file not in names:
        raise UserError(
            f"{option}: no {option.strip('-')} {name_or_file!r}"
            f"{nearest(name_or_file, [other, *names, 'FILE.toml'])}"
        )
    return folder / f"{name_or_file}.toml"


@contextmanager
def user_errors(path: Path) -> Iterator[None]:
    """Turn the system's refusals into one line that names the path."""
    try:
        yield
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error


def _sync(path: Path, flags: int) -> None:
    """Return once a file, or a folder's list of names, is on the disk."""
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_whole(path: Path, text: str) -> None:
    """Write a text file that appears under `path` whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
