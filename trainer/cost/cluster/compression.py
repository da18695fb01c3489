"""What of gradients is sent when they are exchanged compressed."""

from __future__ import annotations

from math import prod

CODE_BYTES = 2  # of a number of 16 bits
INDEX_BYTES = 4  # of the index of a number


def kept(size: int, share: float) -> int:
    """Return how many of `size` numbers top-k keeps, one at least."""
    return min(size, max(1, round(share * size)))


def low_rank(shape: tuple[int, ...], rank: int) -> tuple[tuple[int, int], int] | None:
    """Return a parameter's shape as a matrix, and the rank of its factors; None where these would
    not be smaller."""
    if len(shape) < 2:
        return None
    rows, columns = shape[0], prod(shape[1:])
    rank = min(rank, rows, columns)
    return ((rows, columns), rank) if rank * (rows + columns) < rows * columns else None
