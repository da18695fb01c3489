"""Fully connected networks."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import prod

from ..nn.activation import ReLU
from ..nn.containers import Sequential
from ..nn.layers import Flatten, Linear
from ..nn.module import Module
from .registry import Shape, register


@register("mlp")
def mlp(
    input_shape: Shape = (1, 28, 28), classes: int = 10, hidden: int | Sequence[int] = (256, 256)
) -> Module:
    """Return linear layers with ReLU between them; images are flattened.

    `hidden`: the widths of the layers before the last, a number for a single one; an empty sequence
    makes a linear classifier."""
    between = [hidden] if isinstance(hidden, int) else [*hidden]
    widths = [prod(input_shape), *between, classes]
    layers: list[Module] = [Flatten()]
    for a, b in pairwise(widths):
        layers += [Linear(a, b), ReLU()]
    return Sequential(*layers[:-1])
