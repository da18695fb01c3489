"""The options that a layer was made with, as repr() shows them."""

from __future__ import annotations

from collections.abc import Container
from inspect import signature
from typing import Any

from ..dtypes import plain


def unusual_options(layer: Any, shown: Container[str]) -> dict[str, Any]:
    """Return attributes, other than those `shown` anyway, that are options of a layer's constructor
    and not its defaults."""
    found = {}
    for name, option in signature(type(layer)).parameters.items():
        usual, value = option.default, plain(getattr(layer, name, option.default))
        if name in shown or usual is option.empty:
            continue
        if isinstance(usual, bool):
            value = value is not None and value is not False  # a parameter, such as the bias
        values = value if isinstance(value, tuple) else (value,)
        if all(isinstance(v, int | float | str) and v != usual for v in values):
            found[name] = value
    return found
