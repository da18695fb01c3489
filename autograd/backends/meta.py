"""The meta backend: runs any program on shapes alone, and so counts its work without doing it."""

from __future__ import annotations

from typing import Any

from ..array import Spec
from ..primitive import Primitive
from . import Implementation, no_options


class Meta:
    """Finds no kernel for anything: results have shapes and no numbers."""

    def find(
        self, primitive: Primitive, specs: tuple[Spec, ...], attrs: dict[str, Any]
    ) -> Implementation:
        """Return no kernel."""
        return Implementation("meta", None)


def create(options: str) -> Meta:
    """Return the backend. ValueError for options: it has none."""
    no_options("meta", options)
    return Meta()
