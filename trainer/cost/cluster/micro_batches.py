"""The micro-batches of a step, split among ranks as `datasets/sampler.py` does for `train`."""

from __future__ import annotations

from functools import lru_cache
from itertools import accumulate, pairwise
from typing import NamedTuple


class Split(NamedTuple):
    """`parts` micro-batches of a step, the largest of which has `size` images. A rank does `most`
    of them at most, and `images` images; `working` ranks have any, `busy` of them on a host at
    most."""

    parts: int
    size: int
    most: int
    images: int
    working: int
    busy: int


def split(images: int, ranks: int, per_host: int, micro_batches: int = 0) -> Split:
    """Return how a step's images are split into `micro_batches`, 0 for one a rank and at most one
    an image, and these among ranks, `per_host` of them on a host."""
    parts = min(micro_batches or ranks, images)
    owned = _owned(parts, ranks)
    base, more = divmod(images, parts)
    ends = [end * base + min(end, more) for end in accumulate(owned, initial=0)]
    return Split(
        parts,
        -(-images // parts),
        max(owned),
        max(stop - start for start, stop in pairwise(ends)),
        ranks - owned.count(0),
        max(sum(map(bool, owned[i : i + per_host])) for i in range(0, ranks, per_host)),
    )


@lru_cache(maxsize=128)  # halving a number, up and down, comes to two numbers a level
def _owned(count: int, ranks: int) -> tuple[int, ...]:
    """Return each rank's number of micro-batches: both are halved together, the first half getting
    the odd one, until one rank is left."""
    if ranks == 1:
        return (count,)
    first = _owned((count + 1) // 2, (ranks + 1) // 2)
    return first + _owned(count // 2, ranks // 2)
