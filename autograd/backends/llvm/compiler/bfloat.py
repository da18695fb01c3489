"""LLVM's type of bfloat16, which llvmlite does not have."""

from __future__ import annotations

from typing import Any

import llvmlite.ir as ir


class BFloat(ir.Type):  # type: ignore[misc]
    """The type `bfloat`."""

    def _to_string(self) -> str:
        return "bfloat"

    def __eq__(self, other: Any) -> bool:
        return isinstance(other, BFloat)

    def __hash__(self) -> int:
        return hash(BFloat)


BFLOATS = ir.VectorType(BFloat(), 32)  # of a vector of 512 bits
HALF_BFLOATS = ir.VectorType(BFloat(), 16)
