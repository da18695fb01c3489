"""What a pass takes at least: the traffic that nothing avoids, and the roofline (Williams, Waterman
and Patterson, CACM 52(4), 2009)."""

from __future__ import annotations

import math
from typing import NamedTuple

from ...autograd.ledger import Cost
from .workload import LayerShape, moved


class Bound(NamedTuple):
    """The least seconds of a pass, and the roof that binds: "compute" or "memory"."""

    seconds: float
    roof: str


class Roofline(NamedTuple):
    """The most MACs a second, and the most bytes a second of one level of memory; `memory` names
    the level."""

    macs_per_second: float
    bytes_per_second: float
    memory: str = "memory"

    def bound(self, macs: float, moved: float) -> Bound:
        """Return max(MACs / peak, bytes / bandwidth): both overlap perfectly."""
        compute, memory = macs / self.macs_per_second, moved / self.bytes_per_second
        return Bound(max(compute, memory), "compute" if compute >= memory else "memory")

    def attainable(self, intensity: float) -> float:
        """Return the most MACs a second at an arithmetic intensity in MACs a byte."""
        return min(self.macs_per_second, intensity * self.bytes_per_second)

    @property
    def ridge(self) -> float:
        """The intensity in MACs a byte from which on arithmetic binds."""
        return self.macs_per_second / self.bytes_per_second


class Bandwidth(NamedTuple):
    """The most bytes a second of one level of memory, and its name."""

    bytes_per_second: float
    memory: str = "memory"


class Roofs(NamedTuple):
    """What this host can do at most: GFLOP/s of a float32 matrix product, and GB/s of a copy,
    read and written bytes together, in one thread."""

    gflops: float
    gbytes: float

    @property
    def roofline(self) -> Roofline:
        """Both roofs in MACs and bytes a second."""
        return Roofline(self.gflops / 2e-9, self.gbytes / 1e-9)

    def seconds(self, cost: Cost) -> Bound:
        """Return the least time for so much work, and which roof binds: "compute" or "memory"."""
        return self.roofline.bound(cost.macs, moved(cost))


def intensity(macs: float, moved: float) -> float:
    """Return MACs a byte, infinite where nothing is moved for them, 0 without MACs."""
    if not macs:
        return 0.0
    return macs / moved if moved else math.inf


def compulsory_words(shape: LayerShape) -> int:
    """Return the words that memory gives and takes at least for any one pass: images, filters and
    results whole and once each, of which a pass reads two and writes the third."""
    images = shape.N * shape.C * shape.H * shape.W
    filters = shape.M * (shape.C // shape.groups) * shape.R * shape.S
    return images + filters + shape.N * shape.M * shape.E * shape.F
