"""Autoencoders, which return their images again."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import prod

from ..nn.activation import ReLU
from ..nn.layers import Linear
from ..nn.module import Module, Sequential
from ..tensor import Tensor
from .registry import Shape, register


class Autoencoder(Module):
    """A fully connected autoencoder (after Hinton and Salakhutdinov 2006, with ReLU).

    `encoder` maps pixels to a code, `decoder` maps the code back to pixels through the same
    widths."""

    def __init__(self, input_shape: Shape, hidden: Sequence[int], code: int) -> None:
        widths = [prod(input_shape), *hidden, code]
        self.encoder = _layers(widths)
        self.decoder = _layers(widths[::-1])

    def forward(self, x: Tensor) -> Tensor:
        """Return the reconstructed images (N, C, H, W), any real numbers; x (N, C, H, W)."""
        y: Tensor = self.decoder(self.encoder(x.flatten(1)))
        return y.reshape(x.shape)


def _layers(widths: Sequence[int]) -> Sequential:
    """Return linear layers with ReLU between them."""
    layers: list[Module] = []
    for a, b in pairwise(widths):
        layers += [Linear(a, b), ReLU()]
    return Sequential(*layers[:-1])


@register("autoencoder")
def autoencoder(
    input_shape: Shape = (1, 28, 28), hidden: int | Sequence[int] = (256,), code: int = 64
) -> Module:
    """Return an autoencoder, see `Autoencoder`.

    `hidden`: the widths between pixels and code, a number for a single one; `code`: the size of the
    code. Images of 28 x 28 take 434,176 MACs, and there are 435,536 parameters."""
    return Autoencoder(input_shape, [hidden] if isinstance(hidden, int) else [*hidden], code)
