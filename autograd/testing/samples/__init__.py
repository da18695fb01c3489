"""The table of operation samples: each row drives every check that there is of an operation.

One row gives gradient checks, comparison with torch and between backends, equal counts on meta, MAC
counts, error messages and non-contiguous inputs. A new operation is a new row."""

from __future__ import annotations

from importlib import import_module

from .sample import Sample

FAMILIES = (
    "activation",
    "algebra",
    "attention",
    "conv",
    "distance",
    "elementwise",
    "image",
    "indexing",
    "linear",
    "loss",
    "mathematics",
    "norm",
    "pool",
    "quantized",
    "recurrent",
    "shape",
)


def samples(family: str | None = None) -> list[Sample]:
    """Return the rows of one family of operations, or all."""
    names = FAMILIES if family is None else (family,)
    return [row for name in names for row in import_module(f".{name}", __package__).ROWS]


__all__ = ["FAMILIES", "Sample", "samples"]
