"""Sequences of several lengths, padded or packed, with torch's names."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from ... import context
from ...functional.arrange import pad, stack
from ...functional.create import from_numpy
from ...functional.packed import PackedSequence
from ...tensor import Tensor

__all__ = [
    "PackedSequence",
    "pack_padded_sequence",
    "pack_sequence",
    "pad_packed_sequence",
    "pad_sequence",
    "unpack_sequence",
    "unpad_sequence",
]


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


def pack_padded_sequence(
    input: Tensor,
    lengths: Tensor | Sequence[int],
    batch_first: bool = False,
    enforce_sorted: bool = True,
) -> PackedSequence:
    """Return padded sequences (T, N, ..), or (N, T, ..) with `batch_first`, of these lengths,
    packed.

    ValueError for lengths that do not fit, and with `enforce_sorted` for a longer sequence behind
    a shorter one."""
    context.not_replayable("packs sequences of lengths that numbers tell")
    if input.ndim < 2:
        raise ValueError(
            f"pack_padded_sequence: expected an input of at least 2 axes, got shape {input.shape}"
        )
    counts = np.asarray(lengths.numpy() if isinstance(lengths, Tensor) else lengths)
    x = input.transpose(0, 1) if batch_first else input
    fits = counts.dtype.kind in "iu" and counts.shape == x.shape[1:2] and counts.size
    if not fits or counts.min() < 1 or counts.max() > len(x):
        raise ValueError(
            f"pack_padded_sequence: expected integer lengths of {x.shape[1]} sequences in [1, "
            f"{len(x)}], got {counts.tolist()}"
        )
    if enforce_sorted and (np.diff(counts) > 0).any():
        raise ValueError(
            "pack_padded_sequence: expected lengths from the longest on, or enforce_sorted=False, "
            f"got {counts.tolist()}"
        )
    order = np.argsort(-counts, kind="stable")
    sizes = (counts > np.arange(counts.max())[:, None]).sum(1)
    steps = np.repeat(np.arange(len(sizes)), sizes)
    places = np.concatenate([order[:size] for size in sizes])
    indices = (None, None) if enforce_sorted else (order, np.argsort(order))
    orders = [None if i is None else from_numpy(i) for i in indices]
    return PackedSequence(x[steps, places], from_numpy(sizes), *orders)


def pad_packed_sequence(
    sequence: PackedSequence,
    batch_first: bool = False,
    padding_value: float = 0.0,
    total_length: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Return packed sequences as a tensor (T, N, ..), or (N, T, ..) with `batch_first`, T the
    longest or `total_length`, and their lengths (N,).

    ValueError for a `total_length` below the longest."""
    layout = sequence.layout()
    x, longest = layout.padded(sequence.data, padding_value), int(layout.lengths.max())
    if total_length is not None:
        if total_length < longest:
            raise ValueError(
                f"pad_packed_sequence: expected total_length of at least {longest}, got "
                f"{total_length}"
            )
        x = pad(x, [0, 0] * (x.ndim - 1) + [0, total_length - longest], value=padding_value)
    return x.transpose(0, 1) if batch_first else x, from_numpy(layout.lengths)


def pack_sequence(sequences: Sequence[Tensor], enforce_sorted: bool = True) -> PackedSequence:
    """Return sequences (L, ..) packed, see `pack_padded_sequence`."""
    return pack_padded_sequence(
        pad_sequence(sequences), [*map(len, sequences)], enforce_sorted=enforce_sorted
    )


def unpack_sequence(packed_sequences: PackedSequence) -> list[Tensor]:
    """Return the sequences (L, ..) that were packed."""
    return unpad_sequence(*pad_packed_sequence(packed_sequences))
