"""Memory of large pages: pieces that do not overlap, and pages that go back to the system."""

from __future__ import annotations

import gc
import mmap
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("llvmlite", reason="llvmlite is not installed")

from tallygrad.autograd.backends.llvm.runtime import memory
from tallygrad.autograd.backends.llvm.runtime.memory import ALIGNED, LARGE, SHARED, LargePages

if memory.pages is None:
    pytest.skip("large pages are asked for on Linux", allow_module_level=True)

SIZES = [1, 64, 4097, LARGE // 2 - 1, LARGE // 2 + 1, LARGE - 1, LARGE, LARGE + 1, 3 * LARGE]


def test_pieces_of_many_threads_are_aligned_and_apart() -> None:
    pages = LargePages()
    wanted = np.random.default_rng(0).permutation(SIZES * 20).tolist()
    with ThreadPoolExecutor(8) as threads:
        pieces = [*threads.map(pages.take, wanted)]
    assert [piece.size for piece in pieces] == wanted
    spans = sorted((piece.ctypes.data, piece.size) for piece in pieces)
    assert all(start % ALIGNED == 0 for start, _ in spans)
    assert all(a + size <= b for (a, size), (b, _) in pairwise(spans))
    for number, piece in enumerate(pieces):
        piece[:] = number % 251
    assert all((piece == number % 251).all() for number, piece in enumerate(pieces))


def test_small_pieces_share_a_page_and_large_ones_begin_one() -> None:
    pages = LargePages()
    small = [pages.take(SHARED // 8 - 1) for _ in range(8)]
    assert len({piece.ctypes.data // LARGE for piece in small}) == SHARED // LARGE
    assert all(pages.take(size).ctypes.data % LARGE == 0 for size in SIZES if size >= LARGE)


def mapped() -> int:
    """Return the bytes of this process's address space."""
    return int(Path("/proc/self/statm").read_text().split()[0]) * mmap.PAGESIZE


def test_pages_go_back_to_the_system() -> None:
    pages, count = LargePages(), 200
    pieces = [pages.take(size) for size in (LARGE // 3, 2 * LARGE) for _ in range(count)]
    before = mapped()
    del pieces
    gc.collect()
    # A third of a page each, and two pages each: all but what is in use at the end.
    assert before - mapped() >= count * (LARGE // 3 + 2 * LARGE) - 2 * SHARED


def test_without_room_for_the_margin_memory_is_numpys(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **options: object) -> None:
        raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr(memory.mmap, "mmap", refuse)
    pages = LargePages()
    pieces = [pages.take(size) for size in SIZES]
    assert [piece.size for piece in pieces] == SIZES
    assert all(piece.ctypes.data % ALIGNED == 0 for piece in pieces)
    with pytest.raises(MemoryError):
        pages.take(1 << 60)
