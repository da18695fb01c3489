"""A trained model with int8 weights and activations, and what it loses by them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import DTypeLike

from ..autograd import Ledger, context, from_numpy, nn, quantize
from ..datasets import Source
from ..datasets.loader import Normalise
from .errors import UserError
from .tasks.task import Task, change_text

Figures: TypeAlias = dict[str, tuple[Any, str]]  # by name: a value, and its text
IMAGES, BATCH = 512, 128  # that activations are calibrated on, in all and at a time
INTEGER = ("quantized_conv2d", "quantized_linear")


def calibrated(model: nn.Module, train: Source, dtype: DTypeLike) -> nn.Module:
    """Return a model of int8 layers whose activations are scaled for images spread evenly over the
    training set. UserError for a model that has none, and for numbers that are not finite."""
    step = -(-len(train) // IMAGES)
    pixels = train.read(np.arange(0, len(train), step))
    x = Normalise(train, dtype)(pixels).transpose(0, 3, 1, 2)
    try:
        return quantize(model, (from_numpy(x[i : i + BATCH]) for i in range(0, len(x), BATCH)))
    except ValueError as error:
        raise UserError(f"--precision int8: {error}") from error


def compare(
    task: Task, exact: Figures, evaluated: Callable[[nn.Module], Figures], model: nn.Module
) -> Figures:
    """Return the figures of an int8 model, those of float32, what the former differ by, and the
    layers that stay float32."""
    with context.using(ledger=Ledger()) as state:
        figures = evaluated(model)
    merged = dict(figures)
    changes = {metric.name: metric.change for metric in task.metrics} | {"loss": change_text}
    merged |= {f"float32_{name}": exact[name] for name in changes}
    for name, text in changes.items():
        change = figures[name][0] - exact[name][0]
        merged[f"{name}_difference"] = change, text(change)
    layers = float_layers(state.ledger)
    return merged | {"float32_layers": (layers, ", ".join(layers) or "none")}


def float_layers(ledger: Ledger) -> list[str]:
    """Return the layers whose products are not of integers."""
    keys = [row.key for row in ledger if row.cost.macs and row.key.primitive not in INTEGER]
    return [*dict.fromkeys(key.scope or key.primitive for key in keys)]
