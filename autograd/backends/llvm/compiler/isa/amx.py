"""AMX (Intel from Sapphire Rapids): whether this process may multiply tiles of bfloat16.

The registers of tiles are so large that Linux saves them only for processes that ask for them; the
first instruction of one that has not asked ends it."""

from __future__ import annotations

import ctypes
import os
import platform
import sys
from functools import cache

import llvmlite.binding as llvm

FEATURES = ("amx-tile", "amx-bf16")
ARCH_PRCTL, REQUEST_PERMISSION, TILE_DATA = 158, 0x1023, 18  # Linux on x86-64


@cache
def permitted() -> bool:
    """Ask for the registers, once a process: tell whether it has them now, in all its threads. A
    line says so where the processor has them and the system refuses, and what is used instead."""
    known = llvm.get_host_cpu_features()
    if not all(known.get(name, False) for name in FEATURES):
        return False
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return False
    refused = _request()
    if refused:
        instead = "AVX512-VNNI" if known.get("avx512vnni", False) else "NumPy"
        print(
            f"tallygrad: not using AMX: {os.strerror(refused)}; bfloat16 is computed in float32, "
            f"int8 with {instead}",
            file=sys.stderr,
            flush=True,
        )
    return not refused


def _request() -> int:
    """Ask Linux: return 0, or the number of the error."""
    libc = ctypes.CDLL(None, use_errno=True)
    given = libc.syscall(ARCH_PRCTL, REQUEST_PERMISSION, TILE_DATA) == 0
    return 0 if given else ctypes.get_errno()
