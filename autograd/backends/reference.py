"""The numpy backend: every primitive's own reference."""

from __future__ import annotations

from functools import partial
from typing import Any

from ..array import Spec
from ..deferred import Call
from ..primitive import Primitive
from . import Implementation, no_options


def reference(
    primitive: Primitive, specs: tuple[Spec, ...], attrs: dict[str, Any]
) -> Implementation:
    """Return the function under the `@primitive` decorator, which every primitive has."""
    function = partial(primitive.reference, **attrs) if attrs else primitive.reference
    return Implementation("numpy", Call(primitive.name, specs, attrs, function))


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
