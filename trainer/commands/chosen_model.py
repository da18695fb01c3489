"""The model that `cost`, `plan` and `profile` are asked about, and its work.

Imports the engine inside functions only, so that `--help` loads neither it nor NumPy.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..errors import UserError
from ..numbers import whole_number

if TYPE_CHECKING:
    from ..cost.workload import Work

OPTIMIZER = "sgd"  # of a training step that names none


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """The options that `flags.add_model` adds; `model_args` and `input` are "" and `classes` 0
    where not given."""

    model: str
    batch: int
    input: str
    classes: int
    model_args: str = ""
    precision: str = "float32"

    def resolve(self) -> ChosenModel:
        """Return the model with its own input and classes where no option overrides them.
        UserError for an unknown model and for values out of range."""
        if self.batch < 1:
            raise UserError(f"--batch: expected at least 1, got {self.batch}")
        return choose(self.model, self.model_args, self.input, self.classes, self.precision)


def choose(
    model: str, model_args: str = "", shape: str = "", classes: int = 0, precision: str = "float32"
) -> ChosenModel:
    """Return a model, by name or code, with its own input and classes where none are given.
    UserError where there is none."""
    from ...autograd import models
    from ..own_models import registered

    if classes < 0:
        raise UserError(f"--classes: expected at least 1, or 0 for the model's own, got {classes}")
    name = registered(model, model_args)
    with _faults(name):
        if classes and not models.takes_classes(name):
            raise UserError(f"--classes: expected none, since {name} has no option classes, "
                            f"got {classes}")  # fmt: skip
        images = _input_shape(shape) or models.input_shape(name)
        return ChosenModel(name, images, classes or models.classes(name, images), precision)


@contextmanager
def _faults(name: str) -> Iterator[None]:
    """UserError, with the place of it, for what is wrong with a model."""
    from ...autograd.array import NoNumbers
    from ..user_code import explained, names_code, place

    try:
        with explained("--model"):
            try:
                yield
            except NoNumbers as error:
                raise UserError(
                    f"--model: {place(error)}: {error}; `tallygrad train` runs a model that reads "
                    "numbers, and `tallygrad bill` counts its run"
                ) from error
    except (ValueError, TypeError) as error:
        text = f"{error}{_way_out(str(error))}"
        raise UserError(
            f"{name}: {text}" if names_code(name) and name not in text else text
        ) from error


def _way_out(message: str) -> str:
    """Return which option has what a model does not say."""
    options = {"default of input_shape": "--input C,H,W", "default of classes": "--classes N"}
    ways = [f"; name it by {option}" for what, option in options.items() if what in message]
    return "".join(ways)


@dataclass(frozen=True)
class ChosenModel:
    """A model by name, the shape of its images (C, H, W), its number of classes, and the precision
    in which it computes."""

    name: str
    input: tuple[int, int, int]
    classes: int
    precision: str = "float32"

    def count(self, batch: int, training: bool, optimizer: str = OPTIMIZER) -> Work:
        """Return the work of a training step with an optimizer, by name, or of a forward pass, on
        `batch` images. UserError for an unknown name, for an input that the model cannot take, and
        for bf16 where it is not to be had."""
        from ...autograd import optim
        from ..cost.workload import count

        try:
            optim.options(optimizer)
        except ValueError as error:
            raise UserError(f"--optimizer: {error}") from error
        try:
            with _faults(self.name):
                return count(
                    self.name, batch, self.input, self.classes, training, optimizer, self.precision
                )
        except ImportError as error:
            raise UserError(f"--precision: {error}") from error


def _input_shape(text: str) -> tuple[int, int, int] | None:
    """Return the numbers of "C,H,W", None for an empty text. UserError for anything else."""
    if not text:
        return None
    sizes = [whole_number(part.strip()) for part in text.split(",")]
    if len(sizes) != 3 or not all(sizes):
        raise UserError(f"--input: expected C,H,W, such as 3,224,224, got {text!r:.60}")
    c, h, w = (size or 0 for size in sizes)
    return c, h, w
