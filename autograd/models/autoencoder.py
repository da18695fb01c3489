"""Autoencoders, which return their images again."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import prod

from ..added_loss import add_loss
from ..functional.sampling import randn_like
from ..nn.activation import ReLU
from ..nn.containers import Sequential
from ..nn.layers import Linear
from ..nn.module import Module
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


class Denoising(Autoencoder):
    """An autoencoder whose images get normal noise of deviation `noise` in training alone; the loss
    compares what it returns with the images without (after Vincent et al. 2008)."""

    def __init__(
        self, input_shape: Shape, hidden: Sequence[int], code: int, noise: float = 1.0
    ) -> None:
        super().__init__(input_shape, hidden, code)
        if not noise >= 0:
            raise ValueError(f"denoising: expected noise of at least 0, got {noise}")
        self.noise = noise

    def forward(self, x: Tensor) -> Tensor:
        """Return the images (N, C, H, W) without noise; x (N, C, H, W)."""
        return super().forward(x + self.noise * randn_like(x) if self.training else x)


class VAE(Module):
    """A variational autoencoder (Kingma and Welling 2014): `encoder` maps pixels to means and log
    variances of a normal code, `decoder` a draw of it to pixels; in evaluation, the means.

    The divergence of the code from the standard normal, in nats a sample, times 2 `beta` / pixels
    is added to the loss. Mean squared error and that with `beta` 1 are, but for a constant, 2 /
    pixels times the negative bound of the log likelihood, with pixels of variance 1; for other
    `beta` see Higgins et al. 2017."""

    def __init__(
        self, input_shape: Shape, hidden: Sequence[int], code: int, beta: float = 1.0
    ) -> None:
        if not beta >= 0:
            raise ValueError(f"vae: expected beta of at least 0, got {beta}")
        pixels = prod(input_shape)
        self.weight = beta / pixels
        self.encoder = _layers([pixels, *hidden, 2 * code])
        self.decoder = _layers([code, *hidden[::-1], pixels])

    def forward(self, x: Tensor) -> Tensor:
        """Return the reconstructed images (N, C, H, W), any real numbers; x (N, C, H, W)."""
        mean, log_variance = self.encoder(x.flatten(1)).chunk(2, 1)
        divergence = mean * mean + log_variance.exp() - log_variance - 1
        add_loss(divergence.sum() * (self.weight / len(x)))
        code = mean
        if self.training:
            code = mean + (log_variance / 2).exp() * randn_like(mean)
        y: Tensor = self.decoder(code)
        return y.reshape(x.shape)


def _layers(widths: Sequence[int]) -> Sequential:
    """Return linear layers with ReLU between them."""
    layers: list[Module] = []
    for a, b in pairwise(widths):
        layers += [Linear(a, b), ReLU()]
    return Sequential(*layers[:-1])


def _listed(hidden: int | Sequence[int]) -> list[int]:
    return [hidden] if isinstance(hidden, int) else [*hidden]


@register("autoencoder")
def autoencoder(
    input_shape: Shape = (1, 28, 28), hidden: int | Sequence[int] = (256,), code: int = 64
) -> Module:
    """Return an autoencoder, see `Autoencoder`.

    `hidden`: the widths between pixels and code, a number for a single one; `code`: the size of the
    code. Images of 28 x 28 take 434,176 MACs, and there are 435,536 parameters."""
    return Autoencoder(input_shape, _listed(hidden), code)


@register("denoising")
def denoising(
    input_shape: Shape = (1, 28, 28), hidden: int | Sequence[int] = (256,), code: int = 64,
    noise: float = 1.0,
) -> Module:  # fmt: skip
    """Return an autoencoder that learns to take noise away, see `Denoising`.

    `hidden` and `code` as for `autoencoder`, MACs and parameters, too; `noise`: in deviations of
    the pixels of the data set."""
    return Denoising(input_shape, _listed(hidden), code, noise)


@register("vae")
def vae(
    input_shape: Shape = (1, 28, 28), hidden: int | Sequence[int] = (256,), code: int = 64,
    beta: float = 1.0,
) -> Module:  # fmt: skip
    """Return a variational autoencoder, see `VAE`.

    `hidden` and `code` as for `autoencoder`; `beta`: the weight of the divergence. Images of 28 x
    28 take 450,560 MACs, and there are 451,984 parameters."""
    return VAE(input_shape, _listed(hidden), code, beta)
