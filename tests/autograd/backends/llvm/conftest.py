"""What is slow among the tests of kernels."""

from __future__ import annotations

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark tests for registers narrower than this processor's as slow: their kernels come from the
    same generators, and take as long to compile."""
    try:
        from tallygrad.autograd.backends.llvm.compiler.isa import targets
    except ImportError:
        return
    narrower = {text for name in targets.available()[1:] for text in (name, f"llvm:{name}")}
    for item in items:
        callspec = getattr(item, "callspec", None)
        values = [v for v in callspec.params.values() if isinstance(v, str)] if callspec else []
        if narrower.intersection(values):
            item.add_marker(pytest.mark.slow)
