"""Instruction sets that kernels are compiled for, one file each; `targets.py` chooses one."""

from .avx2 import AVX2
from .avx512 import AVX512
from .instruction_set import InstructionSet
from .neon import NEON
from .sse import SSE

__all__ = ["SETS", "InstructionSet"]

# The widest first: the first one that the host executes is the default. A new set is a new file
# and its entry here.
SETS = {isa.name: isa for isa in (AVX512, AVX2, SSE, NEON)}
