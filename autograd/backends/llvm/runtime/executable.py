"""What a plan returns: a function of arrays, and what is known of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

Executable = Callable[..., Any]


Function = TypeVar("Function", bound=Executable)


def executing(kernel: Function, multiplications: int) -> Function:
    """Return the kernel, marked with the multiplications that a call executes, for the ledger; one
    without a mark executes the nominal ones."""
    kernel.executed = multiplications  # type: ignore[attr-defined]
    return kernel


def native(kernel: Function) -> Function:
    """Mark a kernel as native: whatever it does to numbers compiled functions do, on memory of its
    arguments, of `memory.empty`, or its own. So calling these again is calling it again; a call in
    which this does not hold adds to `Moves`."""
    kernel.native = True  # type: ignore[attr-defined]
    return kernel


def is_native(kernel: Executable) -> bool:
    """Tell whether a kernel was marked."""
    return getattr(kernel, "native", False)
