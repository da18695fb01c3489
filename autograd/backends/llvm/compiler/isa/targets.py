"""Targets of compilation: which instruction sets this machine executes, and which one is used."""

from __future__ import annotations

import platform
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TypeAlias, TypeVar

import llvmlite.binding as llvm
import numpy as np
import numpy.typing as npt

from . import SETS, InstructionSet

llvm.initialize_native_target()
llvm.initialize_native_asmprinter()


Variation: TypeAlias = tuple[tuple[str, float], ...]  # fields of a tile and factors
Tile = TypeVar("Tile", bound=tuple[int, ...])
CONVOLUTIONS = ("auto", "direct", "winograd")


@dataclass(frozen=True)
class Target:
    """What kernels are compiled for: an instruction set, and LLVM's processor and features.

    `convolution` says how convolutions are planned: "direct"; "winograd", wherever that can be
    done; "winograd2", with tiles of 2x2 results only; or "auto", where it pays. Winograd's rounding
    errors are up to ten times as large. `varied` changes the tiles that plans choose.
    """

    isa: InstructionSet
    cpu: str
    features: str
    convolution: str = "auto"
    varied: Variation = ()

    @property
    def name(self) -> str:
        """The instruction set's name."""
        return self.isa.name

    @property
    def bits(self) -> int:
        """Bits of a vector register."""
        return self.isa.bits

    @property
    def registers(self) -> int:
        """Number of vector registers."""
        return self.isa.registers

    def lanes(self, dtype: npt.DTypeLike) -> int:
        """Return how many numbers of a type a vector register holds."""
        return self.bits // (8 * np.dtype(dtype).itemsize)

    @cached_property
    def bare(self) -> Target:
        """This target without choices of plans: what a kernel's code depends on."""
        return replace(self, convolution="auto", varied=())

    def vary(self, tile: Tile) -> Tile:
        """Return a tile whose fields are multiplied as `varied` says, which may name fields that
        this kind of tile lacks."""
        fields = tile._asdict()  # type: ignore[attr-defined]
        changes = {n: max(1, round(fields[n] * factor)) for n, factor in self.varied if n in fields}
        return tile._replace(**changes)  # type: ignore[attr-defined]


ARM = ("aarch64", "arm64")  # what `platform.machine` calls 64-bit ARM


def available() -> tuple[str, ...]:
    """Return the names of the instruction sets that this machine executes, widest first."""
    features = llvm.get_host_cpu_features()
    architecture = "arm" if platform.machine().lower() in ARM else "x86"
    return tuple(
        name
        for name, isa in SETS.items()
        if isa.architecture == architecture and all(features.get(f, False) for f in isa.features)
    )


def target(name: str = "", convolution: str = "auto") -> Target:
    """Return the target of an instruction set by name, by default the widest of this machine.

    Raises ValueError for a set that this machine does not execute, and for an unknown kind of
    convolution.
    """
    if convolution not in CONVOLUTIONS:
        raise ValueError(f"convolution: expected {', '.join(CONVOLUTIONS)}, got {convolution!r}")
    names = available()
    if not names:
        raise ValueError(
            f"backend llvm: expected a processor with {', '.join(SETS)}, got {platform.machine()}; "
            "the numpy backend runs everywhere"
        )
    chosen = name or names[0]
    if chosen not in names:
        raise ValueError(
            f"target: expected one that this machine executes ({', '.join(names)}), got {chosen}"
        )
    if chosen == names[0]:
        cpu, features = llvm.get_host_cpu_name(), llvm.get_host_cpu_features().flatten()
    else:
        # Not the host's features: LLVM would use wider registers, or instructions beyond the set.
        cpu, features = SETS[chosen].cpu, ""
    return Target(SETS[chosen], cpu, features, convolution)
