"""NEON, which every 64-bit ARM processor has: 32 registers of 128 bits."""

from .instruction_set import InstructionSet

# As AVX-512: the number of registers decides, not their width.
NEON = InstructionSet(
    name="neon",
    bits=128,
    registers=32,
    architecture="arm",
    features=(),
    cpu="generic",
    gradient_taps=3,
    gradient_sums=15,
)
