"""Borders: images are copied into scratch memory with zeros around them where windows see beyond
them, so that no kernel asks where an image ends, and where their type is narrow, so that kernels
read each number many times as it is computed; and the columns of tiles that exist."""

from __future__ import annotations

from typing import Any, NamedTuple

from ..compiler.language import Integer, KernelBuilder, pieces

Pair = tuple[int, int]


class Border(NamedTuple):
    """The part of images (h, w, channels) that windows see."""

    image: Pair  # (h, w)
    start: Pair  # first row and column, which may lie before the image
    size: Pair  # rows and columns
    channels: int  # of a pixel
    narrow: bool = False  # whether images are of a narrow type, which copies are not

    @property
    def copied(self) -> bool:
        """Whether the part reaches beyond the image, or is of another type."""
        return self.narrow or any(
            a < 0 or a + n > whole
            for a, n, whole in zip(self.start, self.size, self.image, strict=True)
        )

    @property
    def strides(self) -> tuple[int, int, int]:
        """Numbers from one image, row and pixel to the next, as the kernel sees them."""
        h, w = self.size if self.copied else self.image
        return h * w * self.channels, w * self.channels, self.channels

    @property
    def elements(self) -> int:
        """Numbers of scratch memory that an image takes."""
        return self.strides[0] if self.copied else 0


def inside(start: int, size: int, whole: int) -> tuple[int, int]:
    """Return which places of start .. start + size lie in 0 .. whole, counted from start."""
    first = min(max(-start, 0), size)
    return first, max(first, min(whole - start, size))


def seen_columns(border: Border, apart: int, count: int, size: int) -> list[tuple[int, int, range]]:
    """Return rows of tiles, so many numbers apart, cut where tiles miss columns of the image: the
    first of each group, how many they are, and which of the columns they see exist."""
    groups: list[tuple[int, int, range]] = []
    for tile in range(count):
        first, end = inside(border.start[1] + tile * apart, size, border.image[1])
        columns = range(first, end)
        if groups and groups[-1][2] == columns:
            groups[-1] = groups[-1][0], groups[-1][1] + 1, columns
        else:
            groups.append((tile, 1, columns))
    return groups


def seen(
    k: KernelBuilder, border: Border, x: Any, scratch: Any, first: Integer, count: Integer
) -> Any:
    """Return the address of the parts of `count` images from `first` on, in the type of arithmetic;
    where they have borders, or are of another type, they are copied to the scratch memory, whose
    border is zero and stays so."""
    (h, w), (top, left), (high, wide), c, _ = border
    if not border.copied:
        return k.at(x, (first, h * w * c), (top * w + left) * c)
    a, b = inside(top, high, h)
    d, e = inside(left, wide, w)
    if b > a and e > d:
        row, apart = (e - d) * c, border.strides
        with k.loop(count) as i, k.loop(b - a) as j:
            source = k.at(
                x, (k.sum(first, i), h * w * c), (j, w * c), ((top + a) * w + left + d) * c
            )
            to = k.computed().at(scratch, (i, apart[0]), (j, apart[1]), a * apart[1] + d * c)
            copy(k, source, to, row)
    return scratch


def copy(k: KernelBuilder, source: Any, to: Any, size: int) -> None:
    """Copy so many numbers to memory in the type of arithmetic."""
    computed = k.computed()
    for start, count, width in pieces(size, 4 * k.lanes):
        with k.loop(count) as i:
            for at, _, part in ((p, 0, min(k.lanes, width - p)) for p in range(0, width, k.lanes)):
                value = k.load(k.at(source, (i, width), start + at), part)
                computed.store(value, computed.at(to, (i, width), start + at), part)
