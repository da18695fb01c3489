"""What kernels are made for: width and number of vector registers, and LLVM's names for them."""

from __future__ import annotations

import platform
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TypeAlias, TypeVar

import llvmlite.binding as llvm
import numpy as np
import numpy.typing as npt

llvm.initialize_native_target()
llvm.initialize_native_asmprinter()


Variation: TypeAlias = tuple[tuple[str, float], ...]  # fields of a tile and factors
Tile = TypeVar("Tile", bound=tuple[int, ...])
CONVOLUTIONS = ("auto", "direct", "winograd")


@dataclass(frozen=True)
class Target:
    """A kind of processor: bits of a vector register, number of registers, LLVM's processor and
    features. `convolution` says how convolutions are planned for it: "direct", "winograd" wherever
    that can be done, "winograd2" with tiles of 2x2 results only, or "auto", where it pays; its
    rounding errors are up to ten times as large. `varied` changes the tiles that plans choose."""

    name: str
    bits: int
    registers: int
    cpu: str
    features: str
    convolution: str = "auto"
    varied: Variation = ()

    def lanes(self, dtype: npt.DTypeLike) -> int:
        """Return how many numbers a register holds."""
        return self.bits // (8 * np.dtype(dtype).itemsize)

    @cached_property
    def bare(self) -> Target:
        """The processor alone."""
        return replace(self, convolution="auto", varied=())

    def vary(self, tile: Tile) -> Tile:
        """Return a tile whose fields are multiplied as `varied` says; other names are no fields of
        this kind of tile."""
        fields = tile._asdict()  # type: ignore[attr-defined]
        changes = {n: max(1, round(fields[n] * factor)) for n, factor in self.varied if n in fields}
        return tile._replace(**changes)  # type: ignore[attr-defined]


WIDTHS = {"avx512": (512, 32), "avx2": (256, 16), "sse": (128, 16), "neon": (128, 32)}
# What a processor must have for each; the later ones also run where the earlier do.
NEEDS = {
    "avx512": ("avx512f", "avx512bw", "avx512dq", "avx512vl", "fma"),
    "avx2": ("avx2", "fma"),
    "sse": ("sse4.2",),
    "neon": ("neon",),
}
PLAIN = {"avx2": "haswell", "sse": "nehalem"}


def available() -> tuple[str, ...]:
    """Return the names of the targets that this machine executes, widest first."""
    features = llvm.get_host_cpu_features()
    if platform.machine().lower() in ("aarch64", "arm64"):
        return ("neon",)
    return tuple(n for n, needs in NEEDS.items() if all(features.get(f, False) for f in needs))


def target(name: str = "", convolution: str = "auto") -> Target:
    """Return a target by name, the widest one of this machine without. ValueError for one that it
    does not execute, and for an unknown kind of convolution."""
    if convolution not in CONVOLUTIONS:
        raise ValueError(f"convolution {convolution!r}: there are {', '.join(CONVOLUTIONS)}")
    names = available()
    if not names:
        raise ValueError(f"no kernels for a {platform.machine()} processor of this kind")
    chosen = name or names[0]
    if chosen not in names:
        raise ValueError(f"target {name}: this machine executes {', '.join(names)}")
    if chosen == names[0]:
        cpu, features = llvm.get_host_cpu_name(), llvm.get_host_cpu_features().flatten()
    else:
        cpu, features = PLAIN[chosen], ""
    return Target(chosen, *WIDTHS[chosen], cpu, features, convolution)
