"""What of gradients is sent when they are exchanged compressed."""

from __future__ import annotations

from math import prod

CODE_BYTES = 2  # of a number of 16 bits
INDEX_BYTES = 4  # of the index of a number


def parse_compress(text: str) -> tuple[str, float]:
    """Return scheme and share or rank of `none`, `bf16`, `fp16`, `topk=0.05`, `powersgd=2`, the
    last two also without. ValueError for others, and for those out of range."""
    name, equals, amount = text.partition("=")
    known: dict[str, float] = {"none": 0, "bf16": 0, "fp16": 0, "topk": 0.01, "powersgd": 4}
    value = float(amount) if equals else known.get(name, 0)
    low, high = {"topk": (0, 1), "powersgd": (1, 1024)}.get(name, (0, 0))
    is_rank = name == "powersgd" and not (equals and not amount.isdecimal())
    allowed = low <= value <= high and (is_rank or (value > 0) == (name == "topk"))
    if name not in known or not allowed or (equals and name not in ("topk", "powersgd")):
        raise ValueError(f"expected none, bf16, fp16, topk=SHARE or powersgd=RANK, got {text}")
    return name, value


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
