"""SSE4.2, for x86 processors without AVX2: 16 registers of 128 bits, no fused multiply-add."""

from .instruction_set import InstructionSet

# As AVX2: the number of registers decides, not their width.
SSE = InstructionSet(
    name="sse",
    bits=128,
    registers=16,
    architecture="x86",
    features=("sse4.2",),
    cpu="nehalem",
    gradient_taps=2,
    gradient_sums=9,
)
