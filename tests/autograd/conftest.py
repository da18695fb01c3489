"""Fixtures that the tests of the engine share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

BACKENDS_AND_TARGETS = ["numpy"]
try:
    from tallygrad.autograd.backends.llvm.compiler.isa import targets

    BACKENDS_AND_TARGETS += [f"llvm:{name}" for name in targets.available()]
except ImportError:
    pass


@pytest.fixture(params=["numpy", "llvm"])
def backend(request: pytest.FixtureRequest) -> Iterator[str]:
    """Compute on each backend, if it is installed; return its name."""
    if request.param == "llvm":
        pytest.importorskip("llvmlite", reason="llvmlite is not installed")
    from tallygrad.autograd import context

    with context.using(backend=request.param):
        yield request.param


@pytest.fixture(params=BACKENDS_AND_TARGETS)
def small_kernels(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Compute on NumPy and on each target of llvm, with kernels even for the smallest arrays."""
    from tallygrad.autograd import context

    if request.param != "numpy":
        from tallygrad.autograd.backends.llvm.plans import elementwise, loss

        for module in (elementwise, loss):
            monkeypatch.setattr(module, "LEAST", 0)
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
