"""What a pass takes at least: the traffic that nothing avoids, and the roofline (Williams, Waterman
and Patterson, CACM 52(4), 2009)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

from .workload import Shape


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


def intensity(macs: float, moved: float) -> float:
    """Return MACs a byte, infinite where nothing is moved for them, 0 without MACs."""
    if not macs:
        return 0.0
    return macs / moved if moved else math.inf


def compulsory_words(shape: Shape) -> int:
    """Return the words that memory gives and takes at least for any one pass: images, filters and
    results whole and once each, of which a pass reads two and writes the third."""
    images = shape.N * shape.C * shape.H * shape.W
    filters = shape.M * (shape.C // shape.groups) * shape.R * shape.S
    return images + filters + shape.N * shape.M * shape.E * shape.F


def peak(kind: str, numbers: Mapping[str, float]) -> float | None:
    """Return the most MACs a second of a machine of a kind, None where it has no speed."""
    if kind == "throughput":
        return numbers["macs_per_second"]
    if kind == "host":
        return numbers["gflops"] / 2e-9
    if kind in ("systolic", "row-stationary"):
        return numbers["rows"] * numbers["columns"] * numbers["clock_hz"]
    return None


def roofline(kind: str, numbers: Mapping[str, float]) -> Roofline | None:
    """Return the roofs of a machine of a kind: those of DRAM where it has a link, of the memories
    beside the array where only their width is known. None where a roof is missing."""
    most = peak(kind, numbers)
    if most is None:
        return None
    if kind == "row-stationary":
        return Roofline(most, numbers["link_hz"] * numbers["link_bytes"], "DRAM")
    if kind == "systolic":
        width = numbers["sram_words"] * numbers["word_bytes"]
        return Roofline(most, width * numbers["clock_hz"], "global buffer")
    if kind == "host":
        return Roofline(most, numbers["gbytes"] / 1e-9)
    return None
