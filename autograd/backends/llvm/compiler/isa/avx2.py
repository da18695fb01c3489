"""AVX2 with FMA (Intel from Haswell, AMD from Zen): 16 registers of 256 bits."""

from .instruction_set import InstructionSet

# Sums of 2 taps x 4 channels fill 8 registers and leave 8 for x and dy.
AVX2 = InstructionSet(
    name="avx2",
    bits=256,
    registers=16,
    architecture="x86",
    features=("avx2", "fma"),
    cpu="haswell",
    gradient_taps=2,
    gradient_sums=9,
)
