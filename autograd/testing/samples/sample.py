"""A row of the table of samples, and generators of its inputs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...array import NDArray
from ...dtypes import is_floating


def normal(*shape: int) -> Callable[[np.random.Generator], NDArray]:
    """Draw float64 numbers from the normal distribution."""
    return lambda rng: np.asarray(rng.standard_normal(shape))


def positive(*shape: int) -> Callable[[np.random.Generator], NDArray]:
    """Draw float64 numbers from [0.5, 2)."""
    return lambda rng: np.asarray(rng.uniform(0.5, 2.0, shape))


def distinct(*shape: int) -> Callable[[np.random.Generator], NDArray]:
    """Draw float64 numbers of which no two are close to each other, nor any to zero.

    They suit functions with kinks, which differences must not straddle."""

    def draw(rng: np.random.Generator) -> NDArray:
        size = int(np.prod(shape))
        return np.asarray((rng.permutation(size) - size / 2 + 0.25).reshape(shape) * 0.1)

    return draw


def labels(*shape: int, classes: int) -> Callable[[np.random.Generator], NDArray]:
    """Draw int64 class labels below `classes`."""
    return lambda rng: rng.integers(0, classes, shape)


@dataclass(frozen=True)
class Sample:
    """One way to call an operation.

    `inputs` draw the arrays; `function` takes them as tensors; `torch`, if there is a counterpart,
    takes the torch module and torch's tensors. `macs` is the forward pass's count of
    multiply-accumulates, worked out by other means than the cost rule. `second`: gradients of
    gradients exist; otherwise asking for them must raise RuntimeError. `wrong` maps a piece of the
    message to shapes of inputs that must raise ValueError."""

    name: str
    function: Callable[..., Any]
    inputs: tuple[Callable[[np.random.Generator], NDArray], ...]
    torch: Callable[..., Any] | None = None
    macs: int = 0
    second: bool = True
    rtol: float = 1e-5
    wrong: tuple[tuple[str, tuple[tuple[int, ...], ...]], ...] = ()

    def draw(self, seed: int = 0, dtype: Any = np.float64) -> list[NDArray]:
        """Return fresh inputs, floating-point ones in the given type."""
        rng = np.random.default_rng(seed)
        arrays = [make(rng) for make in self.inputs]
        return [a.astype(dtype) if is_floating(a.dtype) else a for a in arrays]
