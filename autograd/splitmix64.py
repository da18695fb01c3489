"""SplitMix64 (Steele, Lea, Flood 2014): hashes for randomness that is keyed by what it is for.

Unlike a generator's stream it does not depend on who draws, or in which order."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Words = npt.NDArray[np.uint64]
GAMMA = 0x9E3779B97F4A7C15  # the increment of the generator's state: 2^64 over the golden ratio


def words(values: Any) -> Words:
    """Return a new array of unsigned 64-bit numbers."""
    return np.array(values, np.uint64)


def mix(x: Words) -> Words:
    """Hash each number in place, with the generator's finaliser, and return the array."""
    shifted = x >> np.uint64(30)
    x ^= shifted
    x *= np.uint64(0xBF58476D1CE4E5B9)
    x ^= np.right_shift(x, np.uint64(27), out=shifted)
    x *= np.uint64(0x94D049BB133111EB)
    x ^= np.right_shift(x, np.uint64(31), out=shifted)
    return x


def output(states: Words) -> Words:
    """Return the generator's output from each state."""
    return mix(states + np.uint64(GAMMA))
