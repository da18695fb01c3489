"""The llvm backend: kernels written in Python, compiled by LLVM for this machine, for the
primitives that pay. What it has no kernel for is left to NumPy, and the ledger shows it."""

from __future__ import annotations

from threading import Lock
from typing import Any

from ...array import NDArray, Spec
from ...deferred import Call, Joined, Later, Sign
from ...primitive import Primitive
from .. import Found, Kernel
from ..reference import reference
from . import fusion  # noqa: F401  (registers)
from .compiler.isa.targets import CONVOLUTIONS, WIDTHS, Target, target
from .plans import (  # noqa: F401  (registers)
    batch_norm,
    conv,
    elementwise,
    linear,
    loss,
    lrn,
    pad,
    pool,
    recurrent,
    recurrent_cell,
    sums,
    update,
)
from .registry import Waiting, find, join, joinable, waiting
from .runtime.executable import is_native, native
from .runtime.recording import Recording
from .tuning import LEVELS, Tuner

EAGER, DRY = "eager", "dry"


class Llvm:
    """Finds the kernel that is registered for a primitive, if it takes these shapes. With `eager`
    no call waits for another. A `dry` one makes the choices of `tune` and runs nothing."""

    def __init__(
        self, target: Target, tune: str = "off", eager: bool = False, dry: bool = False
    ) -> None:
        self.target, self.tuner, self.eager, self.dry = target, Tuner(target, tune), eager, dry

    def find(
        self, primitive: Primitive, specs: tuple[Spec, ...], attrs: dict[str, Any]
    ) -> Found:
        """Return a compiled kernel, or the primitive's NumPy reference."""
        name = primitive.name
        target = self.tuner.fit(name, specs, attrs)
        if self.dry:
            return Found("llvm", None)
        kernel = find(target, name, specs, attrs)
        if kernel is None:
            return reference(primitive, specs, attrs)
        call = self._call(target, name, specs, attrs, kernel)
        way = None if self.eager else waiting(target, name, specs, attrs)
        executed = getattr(kernel, "executed", None)
        return Found("llvm", call, way and self._later(way, call), executed)

    def _call(
        self, target: Target, name: str, specs: tuple[Spec, ...], attrs: dict[str, Any],
        kernel: Kernel,
    ) -> Call:  # fmt: skip
        join = self._join if joinable(name) and not self.eager else None
        return Call(name, specs, attrs, _one_at_a_time(kernel), join, target)

    def _later(self, way: Waiting, call: Call) -> Later | None:
        """Return how a call waits: as itself, or as another for one of its results."""
        if way.tail is None:
            large = [i for i, spec in enumerate(call.specs) if spec == call.specs[0]]
            return Later(call, tuple(range(len(call.specs))), tuple(large), deep=way.deep)
        name, specs, attrs = way.tail
        kernel = find(self.target, name, specs, attrs)
        if kernel is None:
            return None
        tail = self._call(self.target, name, specs, attrs, kernel)
        now = way.now and self._call(self.target, way.name, call.specs, call.attrs, way.now)
        return Later(tail, way.operands, way.large, way.output, now)

    def _join(self, call: Call, signs: tuple[Sign | None, ...]) -> Joined | None:
        joined = join(self.target, call, signs)
        return joined and joined._replace(kernel=_one_at_a_time(joined.kernel))

    def recording(self, beside: Recording | None = None) -> Recording:
        """Return what takes down the calls of a thread, so that they can be repeated."""
        return Recording(self.target, beside)

    def choices(self) -> bytes:
        """Return the tiles that were chosen by timing so far."""
        return self.tuner.dump()

    def adopt(self, choices: bytes) -> None:
        """Use the tiles that another process chose, and guesses for all else."""
        self.tuner.adopt(choices)


def _one_at_a_time(kernel: Kernel) -> Kernel:
    """Let threads wait for one another: a kernel has scratch memory of its own."""
    lock = Lock()

    def run(*arrays: NDArray) -> Any:
        with lock:
            return kernel(*arrays)

    return native(run) if is_native(kernel) else run


def create(options: str) -> Llvm:
    """Return the backend. Options, with a comma between, are a target (avx512, avx2, sse, neon),
    how convolutions are done (auto, direct, winograd), how long fast tiles are sought (tune=off,
    tune=fast, tune=full), eager: no call waits for another, and dry: nothing but seeking tiles.
    ValueError for others."""
    chosen = {"name": "", "convolution": "auto"}
    levels, level = [f"tune={level}" for level in LEVELS], "off"
    words = [word for word in options.split(",") if word]
    for word in words:
        known = (*WIDTHS, *CONVOLUTIONS, *levels, EAGER, DRY)
        if word not in known:
            raise ValueError(f"backend llvm: no option {word!r}; there are {', '.join(known)}")
        if word in levels:
            level = word.partition("=")[2]
        elif word in WIDTHS:
            chosen["name"] = word
        elif word in CONVOLUTIONS:
            chosen["convolution"] = word
    return Llvm(target(**chosen), level, EAGER in words, DRY in words)
