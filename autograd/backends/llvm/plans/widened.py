"""Kernels for float32 on arrays of a narrow type, which are widened before and rounded after."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ....array import NDArray, Spec
from ....dtypes import computed_in, is_narrow
from ..compiler.isa.targets import Target
from ..registry import find
from ..runtime.executable import Executable
from ..runtime.recording import keep_foreign
from .elementwise import conversion


def widened(
    target: Target, name: str, specs: Sequence[Spec], attrs: dict[str, Any], results: Sequence[Spec]
) -> Executable | None:
    """Return the executable of a call with narrow arguments; None where there is none for wide
    ones, or none are narrow."""
    wide = tuple(map(_wide, specs))
    inner = find(target, name, wide, attrs) if wide != tuple(specs) else None
    return None if inner is None else around(target, inner, specs, results)


def around(
    target: Target, inner: Executable, specs: Sequence[Spec], results: Sequence[Spec]
) -> Executable:
    """Return an executable for arguments and results of these types around one for wide ones."""
    wide = tuple(map(_wide, specs))
    ways_in = [_between(target, a, b) for a, b in zip(specs, wide, strict=True)]
    ways_out = [_between(target, _wide(a), a) for a in results]

    def run(*arrays: NDArray) -> Any:
        converted = [way(a) for way, a in zip(ways_in, arrays, strict=True)]
        found = inner.run(*converted)
        many = found if len(ways_out) > 1 else (found,)
        keep_foreign([*converted, *many])
        rounded = tuple(way(y) for way, y in zip(ways_out, many, strict=True))
        return rounded if len(ways_out) > 1 else rounded[0]

    return Executable(run, native=inner.native, keeps=inner, executed=inner.executed)


def _wide(spec: Spec) -> Spec:
    return spec._replace(dtype=computed_in(spec.dtype)) if is_narrow(spec.dtype) else spec


def _between(target: Target, source: Spec, to: Spec) -> Any:
    """Return what converts an array, the array itself where nothing is to be done."""
    if source.dtype == to.dtype:
        return lambda x: x
    return conversion(target, source, to.dtype).run
