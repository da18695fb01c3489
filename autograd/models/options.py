"""Types of the options of models, by the annotations of the functions that make these."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from numbers import Integral, Real
from typing import Any, Literal, get_args, get_origin, get_type_hints

_SUCH = {
    int: "a whole number of at least 1",
    float: "a number",
    bool: "true or false",
    str: "a word",
    type(None): "none",
    Sequence: "several, such as (64, 32)",
}


def check_types(name: str, builder: Callable[..., Any], options: Mapping[str, Any]) -> None:
    """ValueError for an option of another type than its annotation's, or for a size below 1. Models
    of the user's are left alone."""
    function = builder.func if isinstance(builder, partial) else builder
    if function.__module__.rpartition(".")[0] != __package__:
        return
    hints = get_type_hints(function)
    for option, value in options.items():
        kinds = _alternatives(hints[option])
        if not any(_fits(value, kind) for kind in kinds):
            such = " or ".join(_SUCH[get_origin(kind) or kind] for kind in kinds)
            raise ValueError(f"{name}: {option}: expected {such}, got {value!r:.60}")


def _alternatives(hint: Any) -> tuple[Any, ...]:
    """Return the types of a union; words to choose from count as any word, which models check."""
    if get_origin(hint) is Literal:
        return (str,)
    if get_origin(hint) in (None, Sequence):
        return (hint,)
    return tuple(kind for part in get_args(hint) for kind in _alternatives(part))


def _fits(value: Any, kind: Any) -> bool:
    if get_origin(kind) is Sequence:
        (part,) = get_args(kind)
        return isinstance(value, list | tuple) and all(_fits(v, part) for v in value)
    if kind is bool or isinstance(value, bool):
        return kind is bool and isinstance(value, bool)
    if kind is int:
        return isinstance(value, Integral) and int(value) >= 1
    return isinstance(value, Real if kind is float else kind)
