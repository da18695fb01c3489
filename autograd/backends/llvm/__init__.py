"""The llvm backend: kernels written in Python, compiled by LLVM for this machine, for the
primitives that pay. What it has no kernel for is left to NumPy, and the ledger shows it."""

from __future__ import annotations

from threading import Lock
from typing import Any

from ...array import NDArray, Spec
from ...primitive import Primitive
from .. import Kernel
from . import convolution, elementwise, loss, norm, pool, recurrent, update  # noqa: F401  (registers)
from .registry import find
from .targets import CONVOLUTIONS, WIDTHS, Target, target


class Llvm:
    """Finds the kernel that is registered for a primitive, if it takes these shapes."""

    def __init__(self, target: Target) -> None:
        self.target = target

    def find(
        self, primitive: Primitive, specs: tuple[Spec, ...], attrs: dict[str, Any]
    ) -> tuple[Kernel, str]:
        """Return a compiled kernel, or the primitive's NumPy reference."""
        kernel = find(self.target, primitive.name, specs, attrs)
        if kernel is None:
            return primitive.reference, "numpy"
        return _one_at_a_time(kernel), "llvm"


def _one_at_a_time(kernel: Kernel) -> Kernel:
    """Let threads wait for one another: a kernel has scratch memory of its own."""
    lock = Lock()

    def run(*arrays: NDArray, **attributes: Any) -> Any:
        with lock:
            return kernel(*arrays, **attributes)

    return run


def create(options: str) -> Llvm:
    """Return the backend. Options are a target (avx512, avx2, sse, neon) and how convolutions are
    done (auto, direct, winograd), with a comma between. ValueError for others."""
    chosen = {"name": "", "convolution": "auto"}
    for word in filter(None, options.split(",")):
        known = (*WIDTHS, *CONVOLUTIONS)
        if word not in known:
            raise ValueError(f"backend llvm: no option {word!r}; there are {', '.join(known)}")
        chosen["name" if word in WIDTHS else "convolution"] = word
    return Llvm(target(**chosen))
