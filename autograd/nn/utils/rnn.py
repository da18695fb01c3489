"""Sequences of several lengths, with torch's names."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ...functional.arrange import pad, stack
from ...tensor import Tensor

__all__ = ["pad_sequence", "unpad_sequence"]


def pad_sequence(
    sequences: Iterable[Tensor],
    batch_first: bool = False,
    padding_value: float = 0.0,
    padding_side: str = "right",
) -> Tensor:
    """Return sequences (L, ..) in one tensor (T, N, ..), or (N, T, ..) with `batch_first`, T the
    longest, with a value behind the others or, on the side "left", in front of them.

    ValueError for no sequences and another side."""
    rows = [*sequences]
    if not rows:
        raise ValueError("pad_sequence: expected at least one sequence, got none")
    if padding_side not in ("left", "right"):
        raise ValueError(
            f"pad_sequence: expected padding_side 'left' or 'right', got {padding_side!r}"
        )
    longest = max(map(len, rows))
    front = padding_side == "left"
    padded = [
        pad(x, [0, 0] * (x.ndim - 1) + [gap * front, gap * (not front)], value=padding_value)
        for x in rows
        for gap in [longest - len(x)]
    ]
    return stack(padded, 0 if batch_first else 1)


def unpad_sequence(
    padded_sequences: Tensor, lengths: Tensor | Sequence[int], batch_first: bool = False
) -> list[Tensor]:
    """Return the sequences of which `pad_sequence` made a tensor, of these lengths."""
    rows = padded_sequences if batch_first else padded_sequences.transpose(0, 1)
    counts = lengths.tolist() if isinstance(lengths, Tensor) else lengths
    return [row[:count] for row, count in zip(rows, counts, strict=True)]
