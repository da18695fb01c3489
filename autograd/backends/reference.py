"""The numpy backend: every primitive's own reference."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from ..array import NDArray, Spec
from ..deferred import Call, Kernel
from ..dtypes import computed_in, is_narrow
from ..primitive import Primitive
from . import Implementation, no_options


def reference(
    primitive: Primitive, specs: tuple[Spec, ...], attrs: dict[str, Any]
) -> Implementation:
    """Return the function under the `@primitive` decorator, which every primitive has."""
    function: Kernel = partial(primitive.reference, **attrs) if attrs else primitive.reference
    if any(is_narrow(spec.dtype) for spec in specs) and primitive.alias is None:
        function = Widened(primitive, specs, attrs, function)
    return Implementation("numpy", Call(primitive.name, specs, attrs, function))


class Widened:
    """A reference for arrays of a type that only stores numbers: it computes in the wider type of
    sums, and each result is rounded once."""

    def __init__(
        self,
        primitive: Primitive,
        specs: tuple[Spec, ...],
        attrs: dict[str, Any],
        function: Kernel,
    ) -> None:
        self.function, self.writes = function, primitive.writes
        found = () if primitive.writes else primitive.infer(*specs, **attrs)
        outputs = (found,) if isinstance(found, Spec) else found
        self.dtypes = [spec.dtype for spec in outputs]

    def __call__(self, *args: NDArray) -> Any:
        wide = [a.astype(computed_in(a.dtype)) if is_narrow(a.dtype) else a for a in args]
        with np.errstate(over="ignore"):
            results = self.function(*wide)
            for i in self.writes:
                if wide[i] is not args[i]:
                    args[i][...] = wide[i]
            if not self.dtypes:
                return None
            many = results if isinstance(results, tuple) else (results,)
            pairs = zip(many, self.dtypes, strict=True)
            rounded = tuple(np.asarray(y).astype(dtype, copy=False) for y, dtype in pairs)
        return rounded if isinstance(results, tuple) else rounded[0]


class Reference:
    """Finds the reference of every primitive."""

    def find(
        self, primitive: Primitive, specs: tuple[Spec, ...], attrs: dict[str, Any]
    ) -> Implementation:
        """Return the primitive's NumPy reference."""
        return reference(primitive, specs, attrs)


def create(options: str) -> Reference:
    """Return the backend. ValueError for options: it has none."""
    no_options("numpy", options)
    return Reference()
