"""Lower bounds of a pass: compulsory memory traffic, and the roofline (Williams, Waterman and
Patterson, CACM 52(4), 2009)."""

from __future__ import annotations

import math
from typing import NamedTuple

from ...autograd.ledger import Cost
from .precision import PRECISIONS
from .workload import LayerShape, moved


class Bound(NamedTuple):
    """The least seconds of a pass, and the roof that binds: "compute" or "memory"."""

    seconds: float
    roof: str


class Roofline(NamedTuple):
    """Peak MACs per second, and peak bytes per second of the level of memory named `memory`."""

    macs_per_second: float
    bytes_per_second: float
    memory: str = "memory"

    def bound(self, macs: float, moved: float) -> Bound:
        """Return max(MACs / peak, bytes / bandwidth) seconds: both overlap perfectly."""
        compute, memory = macs / self.macs_per_second, moved / self.bytes_per_second
        return Bound(max(compute, memory), "compute" if compute >= memory else "memory")

    def attainable(self, intensity: float) -> float:
        """Return the most MACs per second at an arithmetic intensity in MACs per byte."""
        return min(self.macs_per_second, intensity * self.bytes_per_second)

    @property
    def ridge(self) -> float:
        """The ridge point: the intensity in MACs per byte from which arithmetic is the limit."""
        return self.macs_per_second / self.bytes_per_second


class Bandwidth(NamedTuple):
    """Peak bytes per second of the level of memory named `memory`."""

    bytes_per_second: float
    memory: str = "memory"


class Roofs(NamedTuple):
    """The measured roofs of this host, in one thread: GFLOP/s of matrix products and convolutions
    in a precision, and GB/s of a copy, read and written bytes together."""

    gflops: float
    gbytes: float
    precision: str = PRECISIONS[0]

    @property
    def roofline(self) -> Roofline:
        """Both roofs, in MACs and bytes per second."""
        return Roofline(self.gflops / 2e-9, self.gbytes / 1e-9)

    def seconds(self, cost: Cost) -> Bound:
        """Return the least time of an amount of work, and the roof that limits it."""
        return self.roofline.bound(cost.macs, moved(cost))


def intensity(macs: float, moved: float) -> float:
    """Return MACs per byte; 0 without MACs, infinite where MACs move no bytes."""
    if not macs:
        return 0.0
    return macs / moved if moved else math.inf


def compulsory_words(shape: LayerShape) -> int:
    """Return the least words between memory and chip for any one pass: images, filters and results
    once each, of which a pass reads two and writes the third."""
    images = shape.N * shape.C * shape.H * shape.W
    filters = shape.M * (shape.C // shape.groups) * shape.R * shape.S
    return images + filters + shape.N * shape.M * shape.E * shape.F
