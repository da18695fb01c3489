"""Models by name."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import partial
from inspect import signature
from typing import Any, TypeVar

from ..functional.loss import cross_entropy, mse_loss
from ..nn.module import Module
from ..suggest import unknown
from ..tensor import Tensor

Shape = tuple[int, int, int]  # channels, height, width of an image
_models: dict[str, Callable[..., Module]] = {}
_depths: dict[str, Sequence[int]] = {}
B = TypeVar("B", bound=Callable[..., Module])


def register(name: str, depths: Sequence[int] = ()) -> Callable[[B], B]:
    """Register a function of (input_shape, classes, options ..) under a name.

    `depths` are the usual values of its option `depth`, which `names` lists. A function without
    `classes` makes models that return their images, such as autoencoders."""

    def enter(builder: B) -> B:
        _models[name], _depths[name] = builder, depths
        return builder

    return enter


def names() -> tuple[str, ...]:
    """Return the names of all models, families with a depth by their usual members: resnet20."""
    listed = [[f"{name}{depth}" for depth in depths] or [name] for name, depths in _depths.items()]
    return tuple(name for members in listed for name in members)


def _builder(name: str) -> Callable[..., Module]:
    """Return what makes the model of a name. ValueError for an unknown one, with the nearest."""
    family = re.fullmatch(r"([a-z]+)(\d+)", name)
    if name not in _models and family and _depths.get(family[1]):
        return partial(_models[family[1]], depth=int(family[2]))
    if name not in _models:
        raise unknown("model", name, names())
    return _models[name]


def create(
    name: str, *, input_shape: Shape | None = None, classes: int | None = None, **options: Any
) -> Module:
    """Return a new model for images of `input_shape` (C, H, W), whose result is (N, classes).

    Both are those of its paper unless given; an autoencoder's result has the shape of the images. A
    number at the end of a name that is not registered itself is the option `depth`: resnet20.
    ValueError for an unknown name or option, with the nearest one, and for what the model cannot
    take."""
    builder = _builder(name)
    fixed = builder.keywords if isinstance(builder, partial) else {}
    fixed_options = {"input_shape", "classes", *fixed}
    parameters = signature(builder).parameters
    known = [p for p in parameters if p not in fixed_options]
    for option in options.keys() - {*known}:
        raise unknown(f"option of model {name}", option, known)
    data = {"input_shape": input_shape, "classes": classes}
    shape_options = {k: v for k, v in data.items() if v is not None and k in parameters}
    return builder(**shape_options, **options)


def input_shape(name: str) -> Shape:
    """Return the (C, H, W) of the images that a model was made for. ValueError for an unknown
    name."""
    shape: Shape = signature(_builder(name)).parameters["input_shape"].default
    return shape


def classes(name: str) -> int:
    """Return how many classes the model of a name tells apart by default, 0 for an autoencoder.
    ValueError for an unknown name."""
    parameter = signature(_builder(name)).parameters.get("classes")
    return parameter.default if parameter else 0


def usual_loss(name: str, output: Tensor, images: Tensor, labels: Tensor) -> Tensor:
    """Return the loss (0-d) that the model of a name is usually trained with: cross-entropy, or, of
    an autoencoder, the squared error against its images."""
    loss: Tensor = cross_entropy(output, labels) if classes(name) else mse_loss(output, images)
    return loss
