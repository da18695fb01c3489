"""From a kernel's text to a function: compiled by LLVM once, kept on disk, loaded from there.

The cache holds machine code that will run, so its folder must belong to this user alone, and each
file carries a checksum: what is damaged or foreign is made anew.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeAlias

import llvmlite
import llvmlite.binding as llvm

from .. import Building, built
from .language import Kernel
from .targets import Target

Maker: TypeAlias = Callable[..., Kernel]
Function: TypeAlias = Callable[..., None]
CHECK = 32  # bytes of the checksum in front of the object code

_kept: list[Any] = []


@dataclass
class Statistics:
    """Kernels compiled and kernels taken from the cache by this process; seconds of compiling."""

    compiled: int = 0
    cached: int = 0
    seconds: float = 0.0


statistics = Statistics()


@cache
def build(make: Maker, target: Target, *parameters: Any) -> Function:
    """Return the function of `make(target, *parameters)`: from this process, from the cache, or
    compiled. Parameters must be hashable, and their `repr` must say all about them."""
    name = _key(make, target, parameters)
    folder = cache_folder()
    code = _read(folder / name) if folder else None
    if code is None:
        code = _make(make, target, parameters)
        if folder:
            _write(folder / name, code)
    else:
        statistics.cached += 1
    return _load(code, target)


def _make(make: Maker, target: Target, parameters: tuple[Any, ...]) -> bytes:
    """Return compiled code, the number of arguments in front of it, in a byte."""
    begun = time.perf_counter()
    kernel = make(target, *parameters)
    code = bytes([len(kernel.arguments)]) + _compile(kernel, target)
    statistics.compiled += 1
    statistics.seconds += time.perf_counter() - begun
    built(Building(statistics.compiled, statistics.cached, statistics.seconds))
    return code


def _compile(kernel: Kernel, target: Target) -> bytes:
    module = llvm.parse_assembly(kernel.text())
    module.triple = llvm.get_process_triple()
    module.verify()
    machine = _machine(target)
    options = llvm.create_pipeline_tuning_options(speed_level=2)
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
    machine = llvm.Target.from_default_triple().create_target_machine(
        cpu=target.cpu, features=target.features, opt=3
    )
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), machine)
    engine.add_object_file(llvm.ObjectFileRef.from_data(code[1:]))
    engine.finalize_object()
    _kept.append(engine)
    address = engine.get_function_address("kernel")
    # Pointers and integers both have 64 bits, which Python's integers pass as addresses.
    return ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * code[0])(address)


@cache
def _sources() -> str:
    """Return a digest of the code that makes kernels."""
    files = sorted(Path(__file__).parent.glob("*.py"))
    return hashlib.sha256(b"".join(f.read_bytes() for f in files)).hexdigest()


def _key(make: Maker, target: Target, parameters: tuple[Any, ...]) -> str:
    versions = (llvmlite.__version__, llvm.llvm_version_info, sys.platform)
    made_for = (target.name, target.bits, target.registers, target.cpu, target.features)
    whole = (_sources(), make.__module__, make.__qualname__, parameters, made_for, versions)
    return hashlib.sha256(repr(whole).encode()).hexdigest()


@cache
def cache_folder() -> Path | None:
    """Return the folder of compiled kernels, made if need be; None, with a line that says why,
    where it cannot be had or others could write to it."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    folder = Path(base) / "tallygrad" / "kernels"
    why = _unfit(folder)
    if why:
        _warn(folder, why)
    return None if why else folder


def _unfit(folder: Path) -> str:
    """Make the folder; return why it cannot be trusted, or nothing."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        state = folder.stat()
    except OSError as error:
        return error.strerror or "cannot be used"
    if hasattr(os, "getuid") and state.st_uid != os.getuid():
        return f"belongs to user {state.st_uid}, not {os.getuid()}"
    if state.st_mode & 0o022:
        return f"others may write to it (mode {state.st_mode & 0o777:o})"
    return ""


def _warn(path: Path, why: str) -> None:
    print(f"tallygrad: warning: {path}: {why}; kernels are not kept", file=sys.stderr)


def _read(path: Path) -> bytes | None:
    """Return the code in a file of the cache; None for no file, or a damaged one."""
    try:
        content = path.read_bytes()
    except OSError:
        return None
    check, code = content[:CHECK], content[CHECK:]
    return code if code and hashlib.sha256(code).digest() == check else None


def _write(path: Path, code: bytes) -> None:
    """Write a file of the cache at once, as two processes may do together."""
    try:
        handle, name = tempfile.mkstemp(dir=path.parent)
        with os.fdopen(handle, "wb") as stream:
            stream.write(hashlib.sha256(code).digest() + code)
        os.replace(name, path)
    except OSError as error:
        _warn(path, error.strerror or "cannot be written")
