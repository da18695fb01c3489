"""Arguments that torch's functions share: decorators that let ours take them."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar, cast

F = TypeVar("F", bound=Callable[..., Any])
NUMPY = (("axis", "dim"), ("keepdims", "keepdim"))  # its names, and torch's


def numpy_names(function: F) -> F:
    """Let a reduction take `axis` and `keepdims` for `dim` and `keepdim`, as torch does."""

    @wraps(function)
    def call(*args: Any, **named: Any) -> Any:
        for theirs, name in NUMPY:
            if theirs in named:
                if name in named:
                    raise TypeError(f"{function.__name__}: expected {name} or {theirs}, got both")
                named[name] = named.pop(theirs)
        return function(*args, **named)

    return cast(F, call)


def may_be_in_place(function: F) -> F:
    """Let a function of a tensor take `inplace`, by name: the tensor then has the result."""

    @wraps(function)
    def call(input: Any, *args: Any, inplace: bool = False, **named: Any) -> Any:
        if not inplace:
            return function(input, *args, **named)
        name = f"{function.__name__}(inplace=True)"
        return input._change(name, lambda x, _: function(x, *args, **named), 0)

    return cast(F, call)


def in_place(function: F) -> F:
    """Return a function that takes `inplace` as one that works in place."""

    @wraps(function)
    def call(input: Any, *args: Any, **named: Any) -> Any:
        return function(input, *args, inplace=True, **named)

    return cast(F, call)
