"""The comparison of a saved state with what is expected, and its error message."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

Shape = tuple[int, ...]


class IncompatibleKeys(NamedTuple):
    """Names that a state lacks, and those that it has beyond what is expected."""

    missing_keys: list[str]
    unexpected_keys: list[str]


def compare(
    kind: str, expected: Mapping[str, Shape], state: Mapping[str, Shape], strict: bool
) -> IncompatibleKeys:
    """Return the missing and the unexpected names of a state.

    `expected` and `state` map names to shapes; `kind` is what messages call the state. ValueError
    that lists every wrong shape and, if strict, every missing and every extra name, one a line."""
    missing = [name for name in expected if name not in state]
    extra = [name for name in state if name not in expected]
    wrong = [
        f"{name}: expected {shape}, {kind} has {state[name]}"
        for name, shape in expected.items()
        if name in state and state[name] != shape
    ]
    if strict:
        wrong += [f"{name}: missing" for name in missing]
        wrong += [f"{name}: extra, nothing has this name" for name in extra]
    if wrong:
        raise ValueError("\n".join([f"the {kind} does not fit, nothing was loaded:", *wrong]))
    return IncompatibleKeys(missing, extra)
