"""AVX-512 (Intel from Skylake-SP, AMD from Zen 4): 32 registers of 512 bits, and masks."""

from .instruction_set import InstructionSet

# Sums of 3 taps x 8 channels fill 24 registers and leave 8 for x and dy.
AVX512 = InstructionSet(
    name="avx512",
    bits=512,
    registers=32,
    architecture="x86",
    features=("avx512f", "avx512bw", "avx512dq", "avx512vl", "fma"),
    cpu="skylake-avx512",
    gradient_taps=3,
    gradient_sums=15,
    reciprocal="llvm.x86.avx512.rcp14.ps.512",
)
