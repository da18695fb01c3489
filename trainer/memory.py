"""How much memory this process can still have, and what to say where it is not enough."""

from __future__ import annotations

import math
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .cost.report import gigabytes
from .errors import LackOfMemory, UserError

MEMINFO = Path("/proc/meminfo")
CGROUP = Path("/sys/fs/cgroup")
STATM = Path("/proc/self/statm")  # pages of address space come first
BESIDES = 1.4  # what kernels, pools and the interpreter take besides, as a factor


@contextmanager
def memory_errors(way: str) -> Iterator[None]:
    """Turn a lack of memory into one line: what did not fit, where, and a `way` out."""
    try:
        yield
    except MemoryError as error:
        raise LackOfMemory.of(error, way) from error


def check_memory(option: str, needed: float, what: str, batch: int) -> None:
    """UserError where a batch of an option needs more than can be had: to try it may cost another
    process its life."""
    needed, free = BESIDES * needed, available()
    if needed > free:
        fitting = int(0.9 * batch * free / needed)
        way = f"; try {option} {fitting}" if fitting else ""
        raise UserError(
            f"not enough memory: {option} {batch} needs about {gigabytes(needed)} for {what}, "
            f"{gigabytes(free)} are available{way}"
        )


def available() -> float:
    """Return the bytes that this process can still have, as the system, its control group and
    `ulimit -v` say; infinity where none does."""
    return min(_of_system(), _of_group(), _of_process())


def _of_system() -> float:
    try:
        lines = [line.split() for line in MEMINFO.read_text().splitlines()]
        sizes = {words[0]: 1024 * int(words[1]) for words in lines if len(words) > 1}
        return sizes["MemAvailable:"] + sizes.get("SwapFree:", 0)
    except (OSError, ValueError, KeyError):
        return math.inf


def _of_group() -> float:
    """Return what the limit of a control group (version 2) leaves."""
    try:
        most, now = ((CGROUP / f"memory.{name}").read_text() for name in ("max", "current"))
        return int(most) - int(now)
    except (OSError, ValueError):  # no such group, or "max"
        return math.inf


def _of_process() -> float:
    """Return what the limit of address space leaves."""
    most, _ = resource.getrlimit(resource.RLIMIT_AS)
    if most == resource.RLIM_INFINITY:
        return math.inf
    try:
        pages = int(STATM.read_text().split()[0])
    except (OSError, ValueError, IndexError):
        pages = 0
    return max(0, most - pages * resource.getpagesize())
