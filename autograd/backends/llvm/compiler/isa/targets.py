"""Targets of compilation: which instruction sets this machine executes, and which one is used."""

from __future__ import annotations

import platform
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TypeAlias, TypeVar

import llvmlite.binding as llvm
import numpy as np
import numpy.typing as npt

from .....dtypes import computed_in
from . import SETS, InstructionSet, amx

llvm.initialize_native_target()
llvm.initialize_native_asmprinter()


Variation: TypeAlias = tuple[tuple[str, float], ...]  # fields of a tile and factors
Tile = TypeVar("Tile", bound=tuple[int, ...])
CONVOLUTIONS = ("auto", "direct", "winograd")
TILES = ("auto", "off", "amx", "dot", "emulated")
TILE_BITS = 512  # of a row


@dataclass(frozen=True)
class Target:
    """What kernels are compiled for: an instruction set, and LLVM's processor and features.

    `convolution` says how convolutions are planned: "direct"; "winograd", wherever that can be
    done; "winograd2", with tiles of 2x2 results only; or "auto", where it pays. Winograd's rounding
    errors are up to ten times as large. `varied` changes the tiles that plans choose. `tiles` says
    what multiplies bfloat16 tile by tile: "amx"; "dot", AVX512-BF16's products of pairs; "emulated"
    for tests; or "" for nothing.
    """

    isa: InstructionSet
    cpu: str
    features: str
    convolution: str = "auto"
    varied: Variation = ()
    tiles: str = ""

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

    @property
    def convolves(self) -> bool:
        """Whether convolutions of bfloat16 multiply tiles. Winograd's algorithm in float32 is
        faster than "dot", which is used where all are to be direct."""
        return self.tiles not in ("", "dot") or (bool(self.tiles) and self.convolution == "direct")

    @cached_property
    def rounds(self) -> bool:
        """Whether an instruction rounds float32 to bfloat16, which takes denormals for zeros."""
        return self.bits == TILE_BITS and "+avx512bf16" in self.features.split(",")

    @cached_property
    def adds_four_bytes(self) -> bool:
        """Whether an instruction adds four products of bytes to each of 16 sums (AVX512-VNNI)."""
        return self.bits == TILE_BITS and "+avx512vnni" in self.features.split(",")

    @cached_property
    def multiplies_octets(self) -> bool:
        """Whether tiles of 8-bit integers are multiplied."""
        has_octets = "+amx-int8" in self.features.split(",")
        return self.tiles == "emulated" or (self.tiles == "amx" and has_octets)

    def lanes(self, dtype: npt.DTypeLike) -> int:
        """Return how many numbers a vector register holds, in the type in which those of a type
        are computed."""
        return self.bits // (8 * computed_in(np.dtype(dtype)).itemsize)

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


# LLVM's names of processors whose products of pairs take as long as float32's multiply-adds, for
# twice as many numbers: Zen 4 and 5. Intel's take four times as long.
FAST_DOTS = ("znver4", "znver5")


def target(name: str = "", convolution: str = "auto", tiles: str = "auto") -> Target:
    """Return the target of an instruction set by name, by default the widest of this machine.
    `tiles` are those of "amx", "dot", "emulated", "off", or "auto": without a name "amx" where this
    process may use it, else "dot" where that is fast.

    Raises ValueError for a set or for tiles that this machine does not execute, and for an unknown
    kind of convolution.
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
    if tiles == "emulated" and SETS[chosen].bits != TILE_BITS:
        raise ValueError(f"tiles: expected avx512 to emulate them, got {chosen}")
    if tiles == "auto" and not name and SETS[chosen].bits == TILE_BITS and amx.permitted():
        tiles = "amx"
    if tiles == "amx" and not (SETS[chosen].bits == TILE_BITS and amx.permitted()):
        raise ValueError("tiles: expected a processor with AMX, and leave to use it, got none")
    has_dots = "+avx512bf16" in features.split(",")
    if tiles == "auto":
        tiles = "dot" if has_dots and cpu in FAST_DOTS else "off"
    if tiles == "dot" and not has_dots:
        raise ValueError(f"tiles: expected a processor with AVX512-BF16, got {cpu} with {chosen}")
    multiplied = "" if tiles == "off" else tiles
    return Target(SETS[chosen], cpu, features, convolution, tiles=multiplied)
