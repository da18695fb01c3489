"""Models by name."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from inspect import Parameter, signature
from typing import Any, TypeVar

from .. import backends, context
from ..added_loss import added_losses
from ..functional.create import zeros
from ..functional.loss import cross_entropy, mse_loss
from ..ledger import Ledger
from ..nn.module import Module
from ..suggest import unknown
from ..tensor import Tensor
from .naming import split_name
from .options import check_types

Shape = tuple[int, int, int]  # channels, height, width of an image
_models: dict[str, Callable[..., Module]] = {}
_depths: dict[str, Sequence[int]] = {}
_DATA = ("input_shape", "classes")  # options that follow from the data
_CLASSES = ("classes", "num_classes")  # names of the second, the latter as in torch's scripts
B = TypeVar("B", bound=Callable[..., Module])


def register(name: str, depths: Sequence[int] = (), listed: bool = True) -> Callable[[B], B]:
    """Register a class or a function of options under a name, which `names` has if `listed`.

    Those that it has of `input_shape` and `classes` (or `num_classes`) follow from the data.
    `depths` are the usual values of its option `depth`, which `names` lists. One without `classes`
    makes models that return their images, such as autoencoders, or that have a fixed number of
    classes."""

    def enter(builder: B) -> B:
        _models[name] = builder
        if listed:
            _depths[name] = depths
        return builder

    return enter


def names() -> tuple[str, ...]:
    """Return the names of all models, families with a depth by their usual members: resnet20."""
    listed = [[f"{name}{depth}" for depth in depths] or [name] for name, depths in _depths.items()]
    return tuple(name for members in listed for name in members)


def _builder(name: str) -> Callable[..., Module]:
    """Return what makes the model of a name. ValueError for an unknown one or for an unknown
    option, with the nearest."""
    base, options = split_name(name)
    family = re.fullmatch(r"([a-z]+)(\d+)", base)
    if base in _models:
        builder = _models[base]
    elif family and _depths.get(family[1]):
        builder = partial(_models[family[1]], depth=int(family[2]))
    else:
        raise unknown("model", base, names())
    _check_options(base, builder, options)
    return partial(builder, **options) if options else builder


def _check_options(name: str, builder: Callable[..., Module], options: Mapping[str, Any]) -> None:
    parameters = signature(builder).parameters
    if any(p.kind is Parameter.VAR_KEYWORD for p in parameters.values()):
        return
    fixed = {*_DATA, *(builder.keywords if isinstance(builder, partial) else ())}
    known = [p for p in parameters if p not in fixed]
    for option in options.keys() - {*known}:
        raise unknown(f"option of model {name}", option, known)
    check_types(name, builder, options)


def create(
    name: str, *, input_shape: Shape | None = None, classes: int | None = None, **options: Any
) -> Module:
    """Return a new model for images of `input_shape` (C, H, W), whose result is (N, classes).

    Both are those of its paper unless given; an autoencoder's result has the shape of the images. A
    number at the end of a name that is not registered itself is the option `depth`: resnet20. A
    name may have options: `resnet20(option='B')`. ValueError for an unknown name or option, with
    the nearest one, for what the model cannot take, and for what makes no module."""
    builder = _builder(name)
    _check_options(name, builder, options)
    parameters = signature(builder).parameters
    data = {"input_shape": input_shape, _classes_option(builder) or "classes": classes}
    shape_options = {k: v for k, v in data.items() if v is not None and k in parameters}
    model = builder(**shape_options, **options)
    if not isinstance(model, Module):
        raise ValueError(f"model {name}: expected a Module, got {type(model).__name__}")
    return model


def input_shape(name: str) -> Shape:
    """Return the (C, H, W) of the images that a model was made for. ValueError for an unknown
    name, and for a model that does not say."""
    shape: Shape | None = _default(name, "input_shape")
    if shape is None:
        raise ValueError(f"{name}: expected a default of input_shape, got none")
    return shape


def classes(name: str, shape: Shape | None = None) -> int:
    """Return how many classes the model of a name tells apart by default, 0 for one that returns
    its images, of `shape` (C, H, W). ValueError for an unknown name, and where neither a default
    nor the model's result says."""
    option = _classes_option(_builder(name))
    if option is None:
        return _output_width(name, shape or input_shape(name))
    number: int | None = _default(name, option)
    if number is None:
        raise ValueError(f"{name}: expected a default of classes, got none")
    return number


def takes_classes(name: str) -> bool:
    """Tell whether the number of classes of a model can be chosen. ValueError for an unknown
    name."""
    return _classes_option(_builder(name)) is not None


def _classes_option(builder: Callable[..., Module]) -> str | None:
    """Return the name of the option that gets the number of classes, None where there is none, or
    where it is given."""
    given = builder.keywords if isinstance(builder, partial) else ()
    parameters = signature(builder).parameters
    return next((name for name in _CLASSES if name in parameters and name not in given), None)


def _default(name: str, option: str) -> Any:
    """Return the default of an option, None where there is none."""
    parameter = signature(_builder(name)).parameters.get(option)
    return None if parameter is None or parameter.default is Parameter.empty else parameter.default


def _output_width(name: str, shape: Shape) -> int:
    """Return the classes in the result of a model that fixes their number, 0 where it returns its
    images; by a run on shapes alone."""
    with context.using(backend=backends.SHAPES_ONLY, ledger=Ledger(), tape=None):
        images = zeros(1, *shape)
        output = create(name, input_shape=shape).eval()(images)
        loss = _usual_loss(output, images, zeros(1, dtype="int64"))
    assert loss.shape == ()
    return 0 if output.shape == images.shape else output.shape[1]


def _usual_loss(output: Tensor, images: Tensor, labels: Tensor) -> Tensor:
    """Return the loss (0-d) that a model is usually trained with: of scores (N, classes)
    cross-entropy, of images the squared error against the model's own. ValueError for a result of
    another shape."""
    shape = output.shape if isinstance(output, Tensor) else type(output).__name__
    if shape == images.shape:
        loss: Tensor = mse_loss(output, images)
    elif isinstance(output, Tensor) and output.ndim == 2 and len(output) == len(labels):
        loss = cross_entropy(output, labels)
    else:
        raise ValueError(
            f"model: expected a result ({len(labels)}, classes) or {images.shape}, got {shape}"
        )
    return loss


def training_loss(model: Module, images: Tensor, labels: Tensor) -> Tensor:
    """Return the loss (0-d) that a model is usually trained with, with the terms that it adds."""
    with added_losses() as terms:
        return sum(terms, _usual_loss(model(images), images, labels))
