"""Fixtures that the tests of the engine share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest


@pytest.fixture(params=["numpy", "llvm"])
def backend(request: pytest.FixtureRequest) -> Iterator[str]:
    """Compute on each backend, if it is installed; return its name."""
    if request.param == "llvm":
        pytest.importorskip("llvmlite", reason="llvmlite is not installed")
    from tallygrad.autograd import context

    with context.using(backend=request.param):
        yield request.param


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Compute in one thread, as recordings need."""
    import tallygrad.autograd as ag

    before = ag.get_num_threads()
    ag.set_num_threads(1)
    yield
    ag.set_num_threads(before)
