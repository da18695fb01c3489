"""Whole numbers as text gives them."""

from __future__ import annotations

DIGITS = 18  # nothing that is counted here needs more, and Python refuses to read some thousands


def whole_number(text: str) -> int | None:
    """Return the number that decimal digits say, None for other text and for too many of them."""
    return int(text) if text.isdecimal() and len(text) <= DIGITS else None
