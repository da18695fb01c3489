"""What an instruction set tells kernels: a set is one file of this folder with one instance."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class InstructionSet:
    """Vector registers, what they can do, and the tuned constants that depend on them.

    `bits` is the width of a vector register, `registers` their number. `plans/` compute tiles from
    these two; only constants that do not follow from them stand here.
    """

    name: str
    bits: int
    registers: int
    architecture: str
    """Which machines have it at all: "x86" or "arm"."""
    features: tuple[str, ...]
    """LLVM's names of what a processor must support."""
    cpu: str
    """LLVM's processor to compile for where the host has a wider set that was not asked for."""
    gradient_taps: int
    """Taps that share each number of x in the gradient of a convolution's weights."""
    gradient_sums: int
    """Sums that a tile of that gradient has at most where there are few channels: each waits for
    the multiply-add before it, so many must be in flight."""
    reciprocal: str | None = None
    """LLVM's intrinsic that approximates 1 / x of float32 vectors to within 2^-14 under a mask."""
