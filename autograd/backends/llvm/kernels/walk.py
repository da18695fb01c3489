"""A kernel that calls others: a table of addresses and arguments, walked without Python.

Captured steps are replayed by it (`runtime/recording.py`).
"""

from __future__ import annotations

import llvmlite.ir as ir

from ..compiler.isa.targets import Target
from ..compiler.language import I64, KernelBuilder

MOST = 30  # arguments of a function
ENTRY = 2 + MOST  # 64-bit words: the function's address, how many arguments it has, those


def walk(target: Target) -> KernelBuilder:
    """Return the kernel that calls functions one after the other: a table of entries, each the
    address of a function, how many arguments it takes, and the arguments; how many there are."""
    k = KernelBuilder(target, "float64", ("table",), ("count",))
    table, count = k.arguments
    b = k.builder
    with k.loop(count) as i:
        entry = k.at(table, (i, ENTRY))
        code, end = k.read(entry, 0), b.append_basic_block("next")
        # A call needs its number of arguments when it is compiled: one case for each.
        choice = b.switch(k.read(entry, 1), end)
        for size in range(1, MOST + 1):
            block = b.append_basic_block()
            choice.add_case(ir.Constant(I64, size), block)
            b.position_at_end(block)
            # Pointers and integers of 64 bits are passed alike.
            kind = ir.FunctionType(ir.VoidType(), [I64] * size)
            function = b.inttoptr(code, ir.PointerType(kind))
            b.call(function, [k.read(entry, 2 + j) for j in range(size)])
            b.branch(end)
        b.position_at_end(end)
    return k
