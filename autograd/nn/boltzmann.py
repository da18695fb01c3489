"""Boltzmann machines."""

from __future__ import annotations

import numpy.typing as npt

from .. import context
from ..dtypes import FLOAT32
from ..functional.activation import sigmoid, softplus
from ..functional.linear import linear
from ..functional.sampling import bernoulli
from ..tensor import Tensor
from . import init
from .layers import parameter
from .module import Module

__all__ = ["RestrictedBoltzmannMachine"]


class RestrictedBoltzmannMachine(Module):
    """A Boltzmann machine of binary units with weights between visible and hidden ones alone
    (Smolensky 1986).

        p(v, h) is proportional to exp(h^T W v + b^T v + c^T h)

    Parameters: weight W (hidden, visible), visible_bias b and hidden_bias c. A call returns the
    loss of contrastive divergence (Hinton 2002)."""

    shown = ("visible", "hidden")

    def __init__(self, visible: int, hidden: int, dtype: npt.DTypeLike = FLOAT32) -> None:
        self.visible, self.hidden = visible, hidden
        self.weight = parameter(hidden, visible, dtype=dtype)
        self.visible_bias = parameter(visible, dtype=dtype)
        self.hidden_bias = parameter(hidden, dtype=dtype)
        init.normal_(self.weight, std=0.01)

    def hidden_given(self, v: Tensor) -> Tensor:
        """Return the probabilities (N, hidden) of the hidden units; v (N, visible)."""
        return sigmoid(linear(v, self.weight, self.hidden_bias))

    def visible_given(self, h: Tensor) -> Tensor:
        """Return the probabilities (N, visible) of the visible units; h (N, hidden)."""
        return sigmoid(linear(h, self.weight.T, self.visible_bias))

    def free_energy(self, v: Tensor) -> Tensor:
        """Return (N,): minus the logarithm of what p(v), summed over h, is proportional to."""
        hidden = softplus(linear(v, self.weight, self.hidden_bias))
        return -(v @ self.visible_bias) - hidden.sum(1)

    def gibbs(self, v: Tensor, steps: int = 1) -> Tensor:
        """Return visible units (N, visible) drawn after so many steps to the hidden ones and back,
        which no gradient passes. ValueError for less than one step."""
        if steps < 1:
            raise ValueError(f"gibbs: expected at least 1 step, got {steps}")
        with context.using(tape=None):
            for _ in range(steps):
                v = bernoulli(self.visible_given(bernoulli(self.hidden_given(v))))
        return v

    def forward(self, v: Tensor, steps: int = 1, start: Tensor | None = None) -> Tensor:
        """Return the mean free energy of data v (N, visible) less that of draws, whose gradient is
        that of contrastive divergence.

        The draws are `steps` of `gibbs` away from the data, or from `start`, such as the draws of
        the step before (persistent chains, Tieleman 2008)."""
        drawn = self.gibbs(v if start is None else start, steps)
        return self.free_energy(v).mean() - self.free_energy(drawn).mean()
