"""The precisions in which a model can compute, by the names of `--precision`."""

from __future__ import annotations

PRECISIONS = ("float32", "bf16")
INFERENCE = (*PRECISIONS, "int8")  # where nothing is trained


def named(what: str, precision: str) -> str:
    """Return a text with the precision, if it is not the usual one."""
    return what if precision == PRECISIONS[0] else f"{what}, in {precision}"
