"""The arrays that an epilogue reads and writes, as addresses for its kernel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from ....array import NDArray
from ..kernels.epilogue import IMAGES, TOTALS, Epilogue
from ..runtime.layout import address, channels_last, plain


class Following(Protocol):
    """Returns the addresses of an epilogue's arrays from image `first` on; of those like the
    result, `offset` bytes further."""

    def __call__(self, first: int, offset: int = 0) -> list[int]: ...


def tail_of(epilogue: Epilogue, arrays: Sequence[NDArray]) -> Following:
    """Return the function that gives the addresses of an epilogue's arrays."""
    entries: list[tuple[NDArray, int, bool]] = []
    for name, a in zip(epilogue.pointers, arrays, strict=True):
        whole = name in IMAGES
        a = channels_last(a) if whole else plain(a)
        entries.append((a, a.nbytes // len(a) if whole or name in TOTALS else 0, whole))

    def addresses(first: int, offset: int = 0) -> list[int]:
        return [address(a) + first * step + offset * whole for a, step, whole in entries]

    return addresses
