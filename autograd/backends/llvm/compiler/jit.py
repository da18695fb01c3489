"""From a kernel's text to a function: compiled by LLVM once, stored on disk, loaded from there.

The cache's key is a digest of the generator's name, its parameters, the target, the versions of
LLVM, and the sources of the whole backend: plans choose parameters, so their edits count too.
"""

from __future__ import annotations

import ctypes
import hashlib
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from threading import get_ident
from typing import Any, TypeAlias

import llvmlite
import llvmlite.binding as llvm

from .... import gaussian, update_rules
from ....recent import KERNELS
from ... import CompileStats, notify_compiled
from . import cache as disk
from .isa.targets import Target
from .language import KernelBuilder

Maker: TypeAlias = Callable[..., KernelBuilder]
Function: TypeAlias = Callable[..., None]

# Whose files decide what kernels are: generators, and the plans that choose their parameters.
BACKEND = Path(__file__).resolve().parents[1]

# By thread: what is told of each function that is called there: its address, the arguments, and
# what must be kept as long as the address is used.
notes: dict[int, Callable[[int, tuple[int | None, ...], Any], None]] = {}


@dataclass
class Statistics:
    """Kernels that this process has compiled and loaded from the cache, and seconds of
    compiling."""

    compiled: int = 0
    cached: int = 0
    seconds: float = 0.0


statistics = Statistics()


def build(make: Maker, target: Target, *parameters: Any) -> Function:
    """Return the function of the kernel `make(target, *parameters)`: known to this process, from
    the cache, or compiled.

    Parameters must be hashable, and their `repr` must be complete, as it is part of the key. `make`
    sees the bare target: choices of plans must be parameters.
    """
    return _build(make, target.bare, *parameters)


@lru_cache(KERNELS)
def _build(make: Maker, target: Target, *parameters: Any) -> Function:
    name, store = _key(make, target, parameters), disk.opened()
    code = store.read(name) if store else None
    if code is None:
        code = _make(make, target, parameters)
        if store:
            store.write(name, code)
    else:
        statistics.cached += 1
    return _load(code, target)


def _make(make: Maker, target: Target, parameters: tuple[Any, ...]) -> bytes:
    """Return object code, preceded by a byte: the number of arguments."""
    begun = time.perf_counter()
    kernel = make(target, *parameters)
    code = bytes([len(kernel.arguments)]) + _compile(kernel, target)
    statistics.compiled += 1
    statistics.seconds += time.perf_counter() - begun
    notify_compiled(CompileStats(statistics.compiled, statistics.cached, statistics.seconds))
    return code


def _compile(kernel: KernelBuilder, target: Target) -> bytes:
    module = llvm.parse_assembly(kernel.text())
    module.triple = llvm.get_process_triple()
    module.verify()
    machine = _machine(target)
    options = llvm.create_pipeline_tuning_options(speed_level=1)
    # The kernels are unrolled and vectorised by hand, for a known number of registers.
    options.loop_unrolling = options.loop_interleaving = False
    options.loop_vectorization = options.slp_vectorization = False
    passes = llvm.create_pass_builder(machine, options)
    passes.getModulePassManager().run(module, passes)
    return bytes(machine.emit_object(module))


@cache
def _machine(target: Target) -> Any:
    chosen = llvm.Target.from_default_triple()
    return chosen.create_target_machine(cpu=target.cpu, features=target.features, opt=3)


def _load(code: bytes, target: Target) -> Function:
    # A machine of its own: the engine takes possession of it.
    machine = llvm.Target.from_default_triple().create_target_machine(
        cpu=target.cpu, features=target.features, opt=3
    )
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), machine)
    # The engine owns the machine code: whoever keeps the address must keep it, as `call` does.
    engine.add_object_file(llvm.ObjectFileRef.from_data(code[1:]))
    engine.finalize_object()
    address = engine.get_function_address("kernel")
    # Pointers and integers both have 64 bits, which Python's integers pass as addresses.
    run = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * code[0])(address)

    def call(*arguments: int | None) -> None:
        if notes:  # somebody records; the test of an empty dict costs next to nothing
            notes.get(get_ident(), _nowhere)(address, arguments, engine)
        run(*arguments)

    return call


def _nowhere(code: int, arguments: tuple[int | None, ...], engine: Any) -> None:
    """Take no note of a call."""


@cache
def _sources() -> str:
    """Return a digest of every source file of the backend, and of coefficients and formulae that it
    uses."""
    digest = hashlib.sha256()
    for path in (gaussian.__file__, update_rules.__file__):
        digest.update(Path(path).read_bytes())
    for file in sorted(BACKEND.rglob("*.py")):
        # The length keeps what moves from one file to the next from going unseen.
        content = file.read_bytes()
        digest.update(f"{file.relative_to(BACKEND).as_posix()} {len(content)}\n".encode())
        digest.update(content)
    return digest.hexdigest()


def made_by(target: Target) -> tuple[Any, ...]:
    """Return what kernels depend on besides their parameters: sources, target, versions."""
    versions = (llvmlite.__version__, llvm.llvm_version_info, sys.platform)
    made_for = (
        target.name, target.bits, target.registers, target.cpu, target.features, target.tiles,
    )  # fmt: skip
    return _sources(), made_for, versions


def _key(make: Maker, target: Target, parameters: tuple[Any, ...]) -> str:
    whole = (make.__module__, make.__qualname__, parameters, made_by(target))
    return hashlib.sha256(repr(whole).encode()).hexdigest()
