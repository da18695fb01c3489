"""Names of models with options of their own, such as `resnet50(stride_in='1x1', groups=2)`."""

from __future__ import annotations

import re
from ast import literal_eval
from collections.abc import Iterator, Mapping
from typing import Any

LONGEST = 1000  # characters of options
_WORDS = {"true": True, "false": False, "none": None}
_PAIRS = {"(": ")", "[": "]", "{": "}"}


def full_name(name: str, options: Mapping[str, Any]) -> str:
    """Return the name of a model with its options, in the order of their names."""
    texts = [f"{key}={options[key]!r}" for key in sorted(options)]
    return f"{name}({', '.join(texts)})" if texts else name


def split_name(name: str) -> tuple[str, dict[str, Any]]:
    """Return the name of a model and its options. ValueError where these are malformed."""
    match = re.fullmatch(r"([^()]*)\((.*)\)", name, re.DOTALL)
    return (match[1], parse_options(match[2])) if match else (name, {})


def parse_options(text: str) -> dict[str, Any]:
    """Return the options that `depth=26,hidden=(64,32),block=basic` stands for.

    Values are Python's numbers, strings, tuples and so on, true, false or none; anything else is a
    word. Nothing is run. ValueError for what has no such form."""
    if len(text) > LONGEST:
        raise ValueError(f"expected at most {LONGEST} characters of options, got {len(text)}")
    options: dict[str, Any] = {}
    for part in _parts(text) if text.strip() else ():
        key, equals, value = (word.strip() for word in part.partition("="))
        if not equals or not key.isidentifier() or not value or key in options:
            raise ValueError(f"expected KEY=VALUE,..., each key once, got {text!r:.100}")
        options[key] = _value(value)
    return options


def _parts(text: str) -> Iterator[str]:
    """Yield what commas divide outside of brackets and quotes."""
    closing: list[str] = []
    begin = 0
    for i, c in enumerate(text):
        if closing and c == closing[-1]:
            closing.pop()
        elif closing and closing[-1] in "'\"":
            continue
        elif c in _PAIRS or c in "'\"":
            closing.append(_PAIRS.get(c, c))
        elif c == "," and not closing:
            yield text[begin:i]
            begin = i + 1
    yield text[begin:]


def _value(text: str) -> Any:
    if text.lower() in _WORDS:
        return _WORDS[text.lower()]
    try:
        return literal_eval(text)
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
        return text
