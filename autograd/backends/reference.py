"""The numpy backend: every primitive's own reference."""

from __future__ import annotations

from typing import Any

from ..array import Spec
from ..primitive import Primitive
from . import Kernel, no_options


class Reference:
    """Finds the function under the `@primitive` decorator, which every primitive has."""

    def find(
        self, primitive: Primitive, specs: tuple[Spec, ...], attrs: dict[str, Any]
    ) -> tuple[Kernel, str]:
        """Return the primitive's NumPy reference."""
        return primitive.reference, "numpy"


def create(options: str) -> Reference:
    """Return the backend. ValueError for options: it has none."""
    no_options("numpy", options)
    return Reference()
