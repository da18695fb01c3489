"""Work on images shared among threads, cut by shapes alone, and memory that each thread has of its
own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ...array import NDArray
from ...threads import WORTHWHILE, share
from . import memory
from .layout import address

CALL = 1 << 19  # MACs in whose time a kernel is called once more

# Works on so many images from the first on: `work(first, count, worker)`.
Work = Callable[[int, int, int], None]


class Scratch:
    """Zeros for each thread that works on a plan, made when it first does."""

    def __init__(self, size: int, dtype: np.dtype[Any] | str) -> None:
        self.size, self.dtype = max(1, size), np.dtype(dtype)
        self.held: dict[int, NDArray] = {}

    def address(self, worker: int) -> int:
        """Return the address of a thread's memory."""
        made = self.held.get(worker)
        if made is None:
            made = self.held[worker] = memory.empty((self.size,), self.dtype)
            made[...] = 0
        return address(made)


def over_images(macs: int, images: int, work: Work) -> None:
    """Work on all images, in several threads where a call has MACs enough. What is done to an image
    must not depend on the others."""
    if macs < WORTHWHILE:
        work(0, images, 0)
    else:
        share(images, lambda first, last, worker: work(first, last - first, worker))


def in_parts(images: int, parts: int, work: Callable[[int, int, int, int], None]) -> None:
    """Work on parts of the images, whose number is fixed, so that what is summed up for each does
    not depend on the threads: `work(part, first, count, worker)`."""

    def several(begin: int, end: int, worker: int) -> None:
        for part in range(begin, end):
            first = images * part // parts
            work(part, first, images * (part + 1) // parts - first, worker)

    share(parts, several)


def parts_of(work: int, images: int, folding: int) -> int:
    """Return in how many parts images are to be summed up in `work` MACs, where folding one takes
    the time of so many: at most 8, so few that they cost about 3% more."""
    if work < WORTHWHILE:
        return 1
    return max(1, min(8, images, 1 + work // (32 * (CALL + folding))))
