"""TOML and JSON that others wrote, read within bounds, and the files that options name."""

from __future__ import annotations

import json
import math
import re
import tomllib
from itertools import chain
from pathlib import Path
from typing import Any

from .errors import UserError, nearest

MAX_DEPTH = 32  # of tables and lists in one another
MAX_BYTES = 1 << 24  # of a file that an option names
BITS = 1024  # of a whole number: larger ones are no floats, and cannot even be printed
# The TOML reader takes time by the square of a dotted key's length.
_PART = r"""(?:[\w-]+|"[^"\n]*"|'[^'\n]*')\s*\.\s*"""
_DOTTED = re.compile(rf"(?<![\w-])(?:{_PART}){{{MAX_DEPTH}}}")


def parse_json(text: str | bytes, finite: bool = False) -> Any:
    """Return what JSON holds. ValueError for what is none, nested too deep, or has numbers that
    nothing could be done with; if `finite`, for infinities and NaN too."""
    try:
        return _bounded(json.loads(text), finite)
    except RecursionError as error:
        raise ValueError(f"expected at most {MAX_DEPTH} levels, got more") from error


def _parse_toml(text: str) -> Any:
    if _DOTTED.search(text):
        raise ValueError(f"expected keys of at most {MAX_DEPTH} parts, got a longer one")
    try:
        return _bounded(tomllib.loads(text))
    except RecursionError as error:
        raise ValueError(f"expected at most {MAX_DEPTH} levels, got more") from error


def _bounded(whole: Any, finite: bool = False) -> Any:
    """Return a value as it is. ValueError where its depth or a number is beyond all bounds."""
    level = [whole]
    for _ in range(MAX_DEPTH + 1):
        for value in level:
            if isinstance(value, int) and value.bit_length() > BITS:
                raise ValueError(
                    f"expected numbers of at most {BITS} bits, got {value.bit_length()} bits"
                )
            if finite and isinstance(value, float) and not math.isfinite(value):
                raise ValueError(f"expected finite numbers, got {value}")
        inner = [v.values() if isinstance(v, dict) else v for v in level if isinstance(v, _HOLDERS)]
        level = [*chain.from_iterable(inner)]
        if not level:
            return whole
    raise ValueError(f"expected at most {MAX_DEPTH} levels, got more")


_HOLDERS = (dict, list)
PARSERS = {"TOML": _parse_toml, "JSON": parse_json}


def read_toml_or_json(option: str, path: Path, kind: str = "TOML") -> Any:
    """Return what a file of an option holds, TOML or JSON. UserError, in one line, where it cannot
    be read or is none."""
    try:
        with open(path, "rb") as file:  # a pipe too
            data = file.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            raise ValueError(f"expected at most {MAX_BYTES} bytes, got more")
        return PARSERS[kind](data.decode("utf-8"))
    except OSError as error:
        raise UserError(f"{option}: {path}: {error.strerror or error}") from error
    except ValueError as error:
        said = str(error).splitlines() or [type(error).__name__]
        raise UserError(f"{option}: {path}: not valid {kind}: {said[0]:.200}") from error


def preset_names(folder: Path) -> list[str]:
    """Return the names of a folder's TOML files, without their ending, in order."""
    return sorted(file.stem for file in folder.glob("*.toml"))


def resolve_preset(option: str, name_or_file: str, folder: Path, other: str) -> Path:
    """Return the file that an option names: one that ends in .toml, or one of a folder without its
    ending. UserError for what is neither, with all names and the `other` that the option knows."""
    path = Path(name_or_file)
    if path.suffix == ".toml":
        return path
    names = preset_names(folder)
    if name_or_file not in names:
        raise UserError(
            f"{option}: no {option.strip('-')} {name_or_file!r}"
            f"{nearest(name_or_file, [other, *names, 'FILE.toml'])}"
        )
    return folder / f"{name_or_file}.toml"
