"""Models by name."""

from __future__ import annotations

import re
from collections.abc import Callable
from inspect import signature
from typing import Any, TypeVar

from ..nn.errors import unknown
from ..nn.module import Module

Shape = tuple[int, int, int]  # channels, height, width of an image
_models: dict[str, Callable[..., Module]] = {}
B = TypeVar("B", bound=Callable[..., Module])


def register(*names: str) -> Callable[[B], B]:
    """Enter a function of (input_shape, classes, options ..) under names."""

    def enter(builder: B) -> B:
        _models.update(dict.fromkeys(names, builder))
        return builder

    return enter


def names() -> tuple[str, ...]:
    """Return the names of all models."""
    return tuple(_models)


def create(
    name: str, *, input_shape: Shape = (1, 28, 28), classes: int = 10, **options: Any
) -> Module:
    """Return a new model for images of `input_shape` (C, H, W), whose result is (N, classes).
    A number at the end of a name stands for the option `depth`: resnet20. ValueError for an
    unknown name or option, with the nearest one, and for shapes that the model cannot take."""
    builder = _models.get(name)
    family = re.fullmatch(r"([a-z]+)(\d+)", name)
    if builder is None and family and "depth" in _options(family[1]):
        return create(
            family[1],
            input_shape=input_shape,
            classes=classes,
            **{"depth": int(family[2]), **options},
        )
    if builder is None:
        raise unknown("model", name, names())
    for option in options.keys() - {*_options(name)}:
        raise unknown(f"option of model {name}", option, _options(name) or ["none"])
    return builder(input_shape=input_shape, classes=classes, **options)


def _options(name: str) -> list[str]:
    parameters = signature(_models[name]).parameters if name in _models else ()
    return [p for p in parameters if p not in ("input_shape", "classes")]
