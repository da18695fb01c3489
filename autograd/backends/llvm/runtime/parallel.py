"""Work on images that threads share, split by shape alone, and scratch memory for each thread."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from ....array import NDArray
from ....threads import WORTHWHILE, share
from . import memory
from .executable import Executable
from .layout import address

CALL = 1 << 19  # MACs in whose time a kernel is called once more
CACHED = 1 << 19  # bytes of a result that the next kernel finds in the second-level cache

# Works on so many images from the first on: `work(first, count, worker)`.
Work = Callable[[int, int, int], None]
# Gets a call's arrays; makes its result and what works on it.
Begin = Callable[..., tuple[Any, Work]]


class ByImages(Executable):
    """A call that works image by image.

    Threads can share the images, and another such call can continue with each few of them while
    they are in the cache (`chained`). `macs` decides whether threads pay.
    """

    __slots__ = ("begin", "images", "macs")

    def __init__(self, images: int, macs: int, begin: Begin, executed: int | None = None) -> None:
        self.images, self.macs, self.begin = images, macs, begin
        super().__init__(partial(_run, images, macs, begin), native=True, executed=executed)


def _run(images: int, macs: int, begin: Begin, *arrays: NDArray) -> Any:
    result, work = begin(*arrays)
    over_images(macs, images, work)
    return result


def chained(first: ByImages, count: int, then: ByImages) -> Executable:
    """Return the executable of two calls, of which the second reads the result of the first.

    It takes the `count` arrays of the first and the remaining ones of the second, and returns both
    results, the second's first. A few images go through both before the next few, so that the
    intermediate result is read from the cache; all of them, where that does not lie image by image.
    """

    def run(*arrays: NDArray) -> tuple[Any, Any]:
        intermediate, fill = first.begin(*arrays[:count])
        if not intermediate.transpose(0, 2, 3, 1).flags.c_contiguous:
            over_images(first.macs, first.images, fill)
            return then.run(intermediate, *arrays[count:]), intermediate
        result, work = then.begin(intermediate, *arrays[count:])
        # As many images as leave their intermediate results in the cache.
        few = max(1, CACHED * first.images // intermediate.nbytes)

        def both(begin: int, many: int, worker: int) -> None:
            for start in range(begin, begin + many, few):
                size = min(few, begin + many - start)
                fill(start, size, worker)
                work(start, size, worker)

        over_images(first.macs + then.macs, first.images, both)
        return result, intermediate

    return Executable(run, native=True)


def in_turn(first: ByImages, count: int, then: ByImages) -> Executable:
    """Return the executable of two calls as `chained`, which runs the first to its end."""

    def run(*arrays: NDArray) -> tuple[Any, Any]:
        intermediate = first.run(*arrays[:count])
        return then.run(intermediate, *arrays[count:]), intermediate

    return Executable(run, native=True)


class Scratch:
    """Zeros for each thread that works on a plan, made when it first does.

    Kernels leave borders zero, so they are cleared only once. A recording has its own, since it is
    replayed while others work on the plan.
    """

    def __init__(self, size: int, dtype: np.dtype[Any] | str) -> None:
        self.size, self.dtype = max(1, size), np.dtype(dtype)
        self.arrays: dict[int, NDArray] = {}

    def address(self, worker: int) -> int:
        """Return the address of a thread's memory."""
        return address(memory.lasting(worker, self.size, self.dtype, self.arrays))


def over_images(macs: int, images: int, work: Work) -> None:
    """Work on all images, in several threads if there are MACs enough. What is done to an image
    must not depend on the others."""
    if macs < WORTHWHILE:
        work(0, images, 0)
    else:
        share(images, lambda first, last, worker: work(first, last - first, worker))


def in_parts(images: int, parts: int, work: Callable[[int, int, int, int], None]) -> None:
    """Work on a fixed number of parts of the images, so that sums over each do not depend on the
    threads: `work(part, first, count, worker)`."""

    def several(begin: int, end: int, worker: int) -> None:
        for part in range(begin, end):
            first = images * part // parts
            work(part, first, images * (part + 1) // parts - first, worker)

    share(parts, several)


def parts_of(work: int, images: int, folding: int) -> int:
    """Return into how many parts images are split for sums of `work` MACs, where merging one part
    takes the time of `folding` MACs: at most 8, and few enough to cost about 3%."""
    if work < WORTHWHILE:
        return 1
    return max(1, min(8, images, 1 + work // (32 * (CALL + folding))))
