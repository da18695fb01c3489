"""Spiking neurons."""

from __future__ import annotations

from ..functional.arrange import stack
from ..functional.spike import spike
from ..tensor import Tensor
from .module import Module

__all__ = ["LIF"]


class LIF(Module):
    """Leaky integrate-and-fire neurons, trained with a surrogate gradient (Neftci et al. 2019).

        v = leak v + x - threshold s
        s = 1 where v > threshold, else 0

    v is the membrane's potential, which begins with 0, x the current and s the spikes: one step
    after another, a spike takes the threshold away from the potential. `slope` is that of `spike`.
    ValueError for a leak outside [0, 1], and for a threshold that is not above 0."""

    shown = ("leak", "threshold")

    def __init__(self, leak: float = 0.9, threshold: float = 1.0, slope: float = 10.0) -> None:
        if not 0 <= leak <= 1:
            raise ValueError(f"LIF: expected a leak in [0, 1], got {leak}")
        if not threshold > 0:
            raise ValueError(f"LIF: expected a threshold above 0, got {threshold}")
        self.leak, self.threshold, self.slope = leak, threshold, slope

    def forward(self, x: Tensor) -> Tensor:
        """Return the spikes (T, ..) of T steps with currents x (T, ..). ValueError for no step."""
        if not x.ndim or not x.shape[0]:
            raise ValueError(f"LIF: expected currents (T, ..) of T >= 1 steps, got {x.shape}")
        spikes: list[Tensor] = []
        v: Tensor | None = None
        for current in x.unbind():
            v = current if v is None else self.leak * v + current - self.threshold * spikes[-1]
            spikes.append(spike(v - self.threshold, self.slope))
        return stack(spikes)
