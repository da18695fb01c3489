"""The llvm backend: kernels written in Python, compiled by LLVM for this machine, for the
primitives that pay. What it has no kernel for is left to NumPy, and the ledger shows it."""

from __future__ import annotations

from typing import Any

from ...array import Spec
from ...deferred import Call, DeferralPlan, Fused, Signature
from ...primitive import Primitive
from .. import Implementation
from ..reference import reference
from . import fusion  # noqa: F401  (registers)
from .compiler.isa import SETS
from .compiler.isa.targets import CONVOLUTIONS, TILES, Target, target
from .plans import (  # noqa: F401  (registers)
    batch_norm,
    conv,
    conv_tiles,
    conv_tiles_weights,
    elementwise,
    layerwise,
    linear,
    linear_tiles,
    loss,
    lrn,
    moments,
    pad,
    pool,
    quantized,
    recurrent,
    recurrent_cell,
    recurrent_tiles,
    standardize,
    sums,
    update,
)
from .plans.widened import widened
from .registry import Deferral, can_fuse, deferral, find, find_fastest, fuse
from .runtime.executable import Executable, OneAtATime
from .runtime.recording import NativeRecording
from .tuning import LEVELS, Tuner

EAGER, DRY, AMX = "eager", "dry", "amx"


class Llvm:
    """The backend: finds the kernel that is registered for a primitive, if it takes these shapes.

    With `eager` no call is deferred. With `dry` nothing is run; only the choices of `tune` are
    made.
    """

    def __init__(
        self, target: Target, tune: str = "off", eager: bool = False, dry: bool = False
    ) -> None:
        self.target, self.tuner, self.eager, self.dry = target, Tuner(target, tune), eager, dry

    @property
    def bfloat16(self) -> str:
        """How bfloat16 is computed, in words."""
        if self.target.convolves:
            tiles = "AMX" if self.target.tiles == AMX else self.target.tiles
            return f"convolutions, products and recurrent layers use {tiles}"
        if self.target.tiles:
            done = "products, recurrent layers and convolutions 1 x 1"
            return f"{done} use AVX512-BF16, all else is computed in float32"
        return "computed in float32, which saves memory rather than time"

    def find(
        self, primitive: Primitive, specs: tuple[Spec, ...], attrs: dict[str, Any]
    ) -> Implementation:
        """Return a compiled kernel, or the primitive's NumPy reference where there is none."""
        name = primitive.name
        target = self.tuner.fit(name, specs, attrs)
        if self.dry:
            return Implementation("llvm", None)
        executable = find_fastest(target, name, specs, attrs)
        is_whole = executable is not None
        if executable is None and not primitive.writes:
            results = primitive.infer(*specs, **attrs)
            many = (results,) if isinstance(results, Spec) else results
            executable = widened(target, name, specs, attrs, many)
        if executable is None:
            return reference(primitive, specs, attrs)
        # Rules of fusion are for kernels that take the operands as they are.
        call = self._call(target, name, specs, attrs, executable, is_whole)
        how = deferral(target, name, specs, attrs) if is_whole and not self.eager else None
        return Implementation(
            "llvm", call, how and self._deferral_plan(how, call), executable.executed
        )

    def _call(
        self, target: Target, name: str, specs: tuple[Spec, ...], attrs: dict[str, Any],
        executable: Executable, fuses: bool = True,
    ) -> Call:  # fmt: skip
        fuse = self._fuse if fuses and can_fuse(name) and not self.eager else None
        return Call(name, specs, attrs, _one_at_a_time(executable), fuse, target)

    def _deferral_plan(self, how: Deferral, call: Call) -> DeferralPlan | None:
        """Return how a call is deferred: as itself, or with one result left to another call
        (`tail`)."""
        if how.tail is None:
            large = [i for i, spec in enumerate(call.specs) if spec == call.specs[0]]
            operands = tuple(range(len(call.specs)))
            must_own = how.must_own or tuple(large)
            return DeferralPlan(call, operands, must_own, max_depth=how.max_depth, alone=how.alone)
        name, specs, attrs = how.tail
        executable = find(self.target, name, specs, attrs)
        if executable is None:
            return None
        tail = self._call(self.target, name, specs, attrs, executable)
        immediate = None
        if how.immediate is not None:
            immediate = self._call(self.target, how.name, call.specs, call.attrs, how.immediate)
        return DeferralPlan(tail, how.operands, how.must_own, how.output, immediate)

    def _fuse(self, call: Call, signatures: tuple[Signature | None, ...]) -> Fused | None:
        fused = fuse(self.target, call, signatures)
        if fused is None:
            return None
        assert isinstance(fused.kernel, Executable)
        return fused._replace(kernel=_one_at_a_time(fused.kernel))

    def recording(self, beside: NativeRecording | None = None) -> NativeRecording:
        """Return a recording of the calls of a thread, which can be replayed without Python."""
        return NativeRecording(self.target, beside)

    def choices(self) -> bytes:
        """Return the tiles chosen by timing so far, for `adopt`."""
        return self.tuner.dump()

    def adopt(self, choices: bytes) -> None:
        """Use the tiles that another process chose, and the rules for all other calls."""
        self.tuner.adopt(choices)


def _one_at_a_time(executable: Executable) -> Executable:
    """Serialise the calls of an executable, which has scratch memory of its own."""
    return OneAtATime(executable.run, native=executable.native, keeps=executable)


def create(options: str) -> Llvm:
    """Return the backend with options, separated by commas.

    Options are an instruction set (avx512, avx2, sse, neon), the algorithm of convolutions (auto,
    direct, winograd), what multiplies bfloat16 tile by tile (tiles=auto, tiles=off, tiles=amx,
    AVX512-BF16 with tiles=dot, or plain instructions for tests, tiles=emulated; auto takes AMX
    where no instruction set is named and this process may use it), how long to search
    for fast tiles (tune=off, tune=fast, tune=full), `eager` to defer no call, and `dry` to search
    for tiles and run nothing; `amx` is short for tiles=amx. Raises ValueError for others.
    """
    chosen = {"name": "", "convolution": "auto", "tiles": "auto"}
    levels, level = [f"tune={level}" for level in LEVELS], "off"
    tiles = [f"tiles={kind}" for kind in TILES]
    words = [word for word in options.split(",") if word]
    for word in words:
        known = (*SETS, *CONVOLUTIONS, *tiles, *levels, AMX, EAGER, DRY)
        if word not in known:
            raise ValueError(f"backend llvm: expected options {', '.join(known)}, got {word!r}")
        if word in levels:
            level = word.partition("=")[2]
        elif word in tiles:
            chosen["tiles"] = word.partition("=")[2]
        elif word == AMX:
            chosen["tiles"] = word
        elif word in SETS:
            chosen["name"] = word
        elif word in CONVOLUTIONS:
            chosen["convolution"] = word
    return Llvm(target(**chosen), level, EAGER in words, DRY in words)
