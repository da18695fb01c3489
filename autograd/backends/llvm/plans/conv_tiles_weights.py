"""The gradient of a convolution's weights by tiles: plans."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any, TypeAlias

from ....array import NDArray, Spec
from ....dtypes import FLOAT32
from ..compiler.isa.targets import Target
from ..compiler.jit import build
from ..compiler.tiles import ROWS, TILE
from ..kernels import conv_tiles_weights as gradient
from ..kernels.border import Pair
from ..kernels.conv_tiles import TileCorrelation, blocks
from ..kernels.sweep import increase
from ..registry import tiled
from ..runtime import memory
from ..runtime.executable import Executable, Placeable
from ..runtime.layout import address, layout_stats
from ..runtime.parallel import Scratch, in_parts, parts_of
from .conv import FOLD
from .conv_pointwise import is_pointwise, pointwise_dw
from .conv_tiles import MOST, TAPS, Prepare, forward
from .pixels import Gathered, Pixels

CACHE = 3 << 18  # bytes of both factors that stay in the cache while all sums see them
SPAN = 1 << 12  # bytes of a pixel that are worth reading one after the other


# Tells where rows of gradients are, of a number of groups: which, the first row, how many rows, and
# the thread.
Tops: TypeAlias = Callable[[int, int, int, int], int]
Forward: TypeAlias = tuple[TileCorrelation, Prepare | Gathered]


@tiled("conv2d_dw")
def conv2d_dw(
    target: Target, x: Spec, dy: Spec, *, size: Pair, stride: Pair, padding: Any, dilation: Pair,
    groups: int,
) -> Executable | None:  # fmt: skip
    """Plan the gradient of w, in float32."""
    channels, m, (r, s) = x.shape[1], dy.shape[1], size
    w = Spec((m, channels, r, s), x.dtype)
    if groups == 1 and not target.convolves and is_pointwise(x, w, stride, padding):
        return pointwise_dw(conv2d_dw, target, x, dy)
    found = _forward(target, x, w, stride, padding, dilation, groups)
    if found is None:
        return None
    c, prepare = found
    top = Pixels(target, dy).of
    if not isinstance(prepare, Gathered):
        return _placeable(TileGradient(target, c, prepare, top, channels), w.shape)
    # Windows [row][column][channel] take the place of results, and these that of channels.
    turned = c._replace(channels=m, results=c.channels)
    call = TileGradient(target, turned, top, prepare, m)

    def run(x: NDArray, dy: NDArray) -> NDArray:
        sums = call.run(dy, x)[: r * s * channels]
        return sums.reshape(r, s, channels, m).transpose(3, 2, 0, 1)

    return Executable(run, native=True)


def is_placeable(
    target: Target, x: Spec, dy: Spec, *, size: Pair, stride: Pair, padding: Any, dilation: Pair,
    groups: int,
) -> bool:  # fmt: skip
    """Tell whether the plan of these gradients can write them where they belong."""
    w = Spec((dy.shape[1], x.shape[1], *size), x.dtype)
    found = _forward(target, x, w, stride, padding, dilation, groups)
    return found is not None and not isinstance(found[1], Gathered)


def _forward(
    target: Target, x: Spec, w: Spec, stride: Pair, padding: Any, dilation: Pair, groups: int
) -> Forward | None:
    """Return the forward convolution by tiles; None where these do not convolve."""
    if groups > 1 or not target.convolves or prod(w.shape[2:]) > TAPS:
        return None
    found = forward(target, x, w, stride, padding, dilation)
    return found if found[0].length <= MOST else None


def _placeable(call: TileGradient, shape: tuple[int, ...]) -> Placeable:
    def run(x: NDArray, dy: NDArray) -> NDArray:
        return call.run(x, dy).reshape(shape)

    def into(dw: NDArray, x: NDArray, dy: NDArray) -> None:
        if dw.flags.c_contiguous:
            call.into(address(dw), x, dy)
        else:
            layout_stats.fallbacks += 1
            dw[...] = run(x, dy)

    return Placeable(run, into)


class TileGradient:
    """Sums up what images and gradients give for the weights of the first `channels`. Both are
    brought [row][column][image][channel] before, but gathered windows a few rows at a time."""

    def __init__(
        self, target: Target, c: TileCorrelation, prepare: Prepare,
        prepare_top: Prepare | Gathered, channels: int,
    ) -> None:  # fmt: skip
        self.prepare, self.prepare_top = prepare, prepare_top
        self.shape = c.results, channels, c.indices
        (h, w), (e, f), (u, v), n = c.image, c.output, c.stride, c.images
        self.line = n * c.channels * 2 * w, n * c.results * 2 * f  # bytes of a row of both
        self.start, self.down, apart, across = 0, 1, 1, w  # pixels of a row
        if _sees_single_pixels(c):  # then only these are packed
            (i, j, _), *_ = c.taps
            self.start, self.down, apart = (i * w + j) * n * c.channels * 2, u, v
            c = c._replace(image=c.output, taps=((0, 0, 0),), stride=(1, 1))
        self.c, h, w, u = c, c.image[0], c.image[1], c.stride[0]
        high, wide = blocks(c.channels, ROWS), blocks(c.results, ROWS)
        self.packed = high * w * gradient.PLACE, wide * f * gradient.PLACE  # numbers of a row
        row, size = 2 * (u * self.packed[0] + self.packed[1]), high * wide * c.indices * TILE
        # Groups that lie side by side are packed together, unless rows are long. Rows of results of
        # these come after those of the ones before.
        groups, pixel = blocks(n, gradient.BATCH), 2 * gradient.BATCH * min(c.channels, c.results)
        few = even(groups, min(blocks(SPAN, pixel), CACHE // (2 * row)))
        self.images, row = few * gradient.BATCH, few * row
        self.units = e * blocks(n, self.images)
        self.parts = parts_of(c.macs, self.units, FOLD * prod(self.shape))
        most = min(e, blocks(self.units, self.parts))  # rows of a part, in a group
        # Where sums are many, they are read and written for many rows at a time.
        guess = min(most, max(1, CACHE // row, size // row))
        way = target.vary(gradient.TileSums(guess, gradient.SUMS))
        self.rows, together = even(most, way.rows), min(gradient.SUMS, way.sums)
        # Sums of all are kept, unless those of a block are complete at once.
        self.kept = int(self.rows < most or self.units > e)
        self.taps = min(t[0] for t in c.taps), max(t[0] for t in c.taps)
        needed = (self.rows - 1) * u + self.taps[1] - self.taps[0] + 1
        self.ring = 1 << (min(h, needed) - 1).bit_length()
        room = self.ring, self.rows
        self.rooms = [
            Scratch(few * rows * line, "bfloat16")
            for rows, line in zip(room, self.packed, strict=True)
        ]
        self.add = build(gradient.correlate_weights, target, c, room, together, channels)
        gathers = isinstance(prepare_top, Gathered)
        self.windows = Scratch(self.rows * f * self.images * c.results * gathers, "bfloat16")
        self.packs: list[tuple[Any, Any, int]] = []
        for first in range(0, n, self.images):
            count = min(self.images, n - first)
            x = gradient.PackedRows(
                n, c.channels, w, apart, self.down * across, count, self.ring, False
            )
            there = count if gathers else n
            dy = gradient.PackedRows(there, c.results, f, 1, f, count, self.rows, True)
            one, other = (build(gradient.pack_rows, target, p) for p in (x, dy))
            self.packs.append((one, other, blocks(count, gradient.BATCH)))
        self.room = (size if self.kept else gradient.PAIR**2 * c.indices * TILE) // 4
        self.merge = build(increase, target, "float32")

    def run(self, x: NDArray, dy: NDArray) -> NDArray:
        """Return the gradient (results, channels, matrices)."""
        dw = memory.empty(self.shape, FLOAT32)
        self.into(address(dw), x, dy)
        return dw

    def into(self, dw: int, x: NDArray, dy: NDArray) -> None:
        """Write the gradient to an address."""
        source, tops, size = self.prepare(x), self._tops(dy), prod(self.shape)
        sums = memory.empty((self.parts, self.room), FLOAT32)
        others = memory.empty((self.parts - 1, size), FLOAT32)
        ends = [dw, *(address(others) + part * size * 4 for part in range(self.parts - 1))]
        # By worker: the unit that follows those it did last, and the rows packed up to there.
        packed: dict[int, tuple[int, int]] = {}

        def one(part: int, first: int, count: int, worker: int) -> None:
            to = address(sums) + part * self.room * 4, ends[part]
            follows, done = packed.get(worker, (first, 0))
            done = done if follows == first else 0
            done = self._sum(address(source), tops, to, first, count, worker, done)
            packed[worker] = first + count, done

        in_parts(self.units, self.parts, one)
        for other in ends[1:]:
            self.merge(dw, other, size)

    def _sum(
        self, source: int, tops: Tops, to: tuple[int, int], first: int, count: int, worker: int,
        done: int,
    ) -> int:  # fmt: skip
        """Sum up so many units, and write the gradient. Rows of images are packed up to the one
        that is `done` first; return the same for who continues."""
        unit, last, e = first, first + count, self.c.output[0]
        while unit < last:
            group, start = divmod(unit, e)
            end = min(e, start + last - unit)
            done = done if start else 0
            for row in range(start, end, self.rows):
                rows = min(self.rows, end - row)
                done = self._pack(source, group, row, rows, done, worker)
                self.packs[group][1](
                    tops(group, row, rows, worker), self.rooms[1].address(worker), rows
                )
                ends = (room.address(worker) for room in self.rooms)
                begins, unit = int(unit == first), unit + rows
                groups = self.packs[group][2]
                self.add(*ends, *to, row, rows, groups, begins, int(unit == last), self.kept)
        return done

    def _pack(self, source: int, group: int, row: int, rows: int, done: int, worker: int) -> int:
        """Pack the rows of images that rows of results see, from `done` on; return the first that
        is not packed."""
        c = self.c
        first = max(done, row * c.stride[0] + self.taps[0], 0)
        last = min(c.image[0], (row + rows - 1) * c.stride[0] + self.taps[1] + 1)
        room, line = self.rooms[0].address(worker), self.line[0] * self.down
        from_image = self.start + group * self.images * c.channels * 2
        while first < last:
            slot = first % self.ring
            some = min(last - first, self.ring - slot)
            to = room + slot * self.packed[0] * 2
            self.packs[group][0](source + first * line + from_image, to, some)
            first += some
        return max(done, last)

    def _tops(self, dy: NDArray) -> Tops:
        """Return what tells a thread where gradients are that it packs next."""
        if not isinstance(self.prepare_top, Gathered):
            tops, across = self.prepare_top(dy), self.images * self.c.results * 2
            return lambda group, row, rows, worker: (
                address(tops) + row * self.line[1] + group * across
            )
        n = self.c.images
        counts = {first: min(self.images, n - first) for first in range(0, n, self.images)}
        lay = self.prepare_top.by_rows(dy, *{*counts.values()})

        def some(group: int, row: int, rows: int, worker: int) -> int:
            first, to = group * self.images, self.windows.address(worker)
            lay((first, counts[first]), (row, rows), to)
            return to

        return some


def even(count: int, most: int) -> int:
    """Return how many of `count` are done at a time, at most `most`, in pieces as even as can
    be."""
    return blocks(count, blocks(count, max(1, most)))


def _sees_single_pixels(c: TileCorrelation) -> bool:
    """Tell whether each result sees one pixel, all of them within the image."""
    (i, j, _), *others = c.taps
    (h, w), (e, f), (u, v) = c.image, c.output, c.stride
    inside = min(i, j) >= 0 and (e - 1) * u + i < h and (f - 1) * v + j < w
    return not others and c.indices == 1 and inside
