"""Scratch memory for what a call needs while it runs. It is reused, since fresh memory costs page
faults."""

from __future__ import annotations

from threading import local
from typing import Any

import numpy as np

from ..array import NDArray

ALIGNED = 64  # bytes: a cache line, and the widest vector; NumPy writes to the start of one faster

_memory = local()


def scratch(name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray:
    """Return unset memory of a shape and type.

    The thread that asks gets the same memory for its next request of that name, so what is returned
    is valid until then. It starts at a multiple of ALIGNED bytes."""
    size = int(np.prod(shape)) * dtype.itemsize
    buffer = getattr(_memory, name, None)
    if buffer is None or buffer.nbytes < size:
        # Over-allocate and skip to the next boundary: NumPy aligns to 16 bytes only.
        wide = np.empty(size + ALIGNED, np.uint8)
        start = -wide.ctypes.data % ALIGNED
        buffer = wide[start : start + size]
        setattr(_memory, name, buffer)
    return buffer[:size].view(dtype).reshape(shape)
