"""Models by name."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import partial
from inspect import signature
from typing import Any, TypeVar

from ..nn.errors import unknown
from ..nn.module import Module

Shape = tuple[int, int, int]  # channels, height, width of an image
_models: dict[str, Callable[..., Module]] = {}
_depths: dict[str, Sequence[int]] = {}
B = TypeVar("B", bound=Callable[..., Module])


def register(name: str, depths: Sequence[int] = ()) -> Callable[[B], B]:
    """Enter a function of (input_shape, classes, options ..) under a name; `depths` are the usual
    values of its option `depth`, which `names` lists."""

    def enter(builder: B) -> B:
        _models[name], _depths[name] = builder, depths
        return builder

    return enter


def names() -> tuple[str, ...]:
    """Return the names of all models, families with a depth by their usual members: resnet20."""
    listed = [[f"{name}{depth}" for depth in depths] or [name] for name, depths in _depths.items()]
    return tuple(name for members in listed for name in members)


def create(
    name: str, *, input_shape: Shape = (1, 28, 28), classes: int = 10, **options: Any
) -> Module:
    """Return a new model for images of `input_shape` (C, H, W), whose result is (N, classes).
    A number at the end of a name is the option `depth`, any that the model can have: resnet20.
    ValueError for an unknown name or option, with the nearest one, and for what the model cannot
    take."""
    builder = _models.get(name)
    family = re.fullmatch(r"([a-z]+)(\d+)", name)
    if builder is None and family and _depths.get(family[1]):
        builder = partial(_models[family[1]], depth=int(family[2]))
    if builder is None:
        raise unknown("model", name, names())
    fixed = builder.keywords if isinstance(builder, partial) else {}
    taken = {"input_shape", "classes", *fixed}
    known = [p for p in signature(builder).parameters if p not in taken]
    for option in options.keys() - {*known}:
        raise unknown(f"option of model {name}", option, known or ["none"])
    return builder(input_shape=input_shape, classes=classes, **options)


def _default(name: str, option: str) -> Any:
    """Return what a model takes where nothing is said."""
    builder = _models.get(name)
    family = re.fullmatch(r"([a-z]+)(\d+)", name)
    if builder is None and family and _depths.get(family[1]):
        builder = _models[family[1]]
    if builder is None:
        raise unknown("model", name, names())
    return signature(builder).parameters[option].default


def input_shape(name: str) -> Shape:
    """Return the (C, H, W) of the images that a model was made for. ValueError for an unknown
    one."""
    shape: Shape = _default(name, "input_shape")
    return shape


def classes(name: str) -> int:
    """Return how many classes the model of a name tells apart by default."""
    count: int = _default(name, "classes")
    return count
