"""What scripts for several kinds of devices ask first: there is no CUDA device."""

from __future__ import annotations


def is_available() -> bool:
    """Return False: there is no CUDA device."""
    return False


def device_count() -> int:
    """Return 0: there is no CUDA device."""
    return 0


def manual_seed_all(seed: int) -> None:
    """Do nothing, as torch does without a CUDA device."""


manual_seed = manual_seed_all
