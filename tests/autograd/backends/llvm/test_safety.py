"""Memory of kernels. None reads or writes outside of its arrays: a page that may not be touched
lies directly behind each of them, and then directly before, so that a step outside ends the
process. And a steady step takes no new memory."""

from __future__ import annotations

import ctypes
import subprocess
import sys
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import numpy as np
import pytest

import tallygrad.autograd as ag
from tallygrad.autograd import context, models, nn, optim

pytest.importorskip("llvmlite", reason="llvmlite is not installed")
if not sys.platform.startswith("linux"):
    pytest.skip("pages are protected through Linux's mprotect", allow_module_level=True)

from tallygrad.autograd.backends.llvm.compiler.isa import targets
from tallygrad.autograd.backends.llvm.runtime import layout

SCRIPT = Path(__file__).parent / "guard_pages.py"
KINDS = ("auto", "direct", "winograd")
NARROW = [
    *(f"llvm:{kind}" for kind in KINDS[1:]),  # of which "auto" is one or the other
    *["llvm:tiles=emulated"] * ("avx512" in targets.available()),
    *["llvm:tiles=off", "llvm:avx2"] * ("avx2" in targets.available()),
]
# Narrower registers hold either type in the same way: float32 suffices.
RUNS = [
    (f"llvm:{name},{kind}", dtype)
    for name in targets.available()
    for kind in KINDS
    for dtype in ("float32", "float64")[: 1 + (name == targets.available()[0])]
]


def guarded(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(SCRIPT), *words], capture_output=True, text=True, timeout=280
    )


@pytest.mark.slow
@pytest.mark.parametrize("end", ["behind", "before"])
@pytest.mark.parametrize(("backend", "dtype"), [*RUNS, *product(NARROW, ("bfloat16",))])
def test_no_sample_leaves_its_arrays(backend: str, dtype: str, end: str) -> None:
    if dtype == "bfloat16":
        pytest.importorskip("ml_dtypes", reason="ml_dtypes is not installed")
    done = guarded(backend, end, dtype)
    last = done.stdout.splitlines()[-1:]
    assert done.returncode == 0, f"{backend}, a page {end}: crash in {last}\n{done.stderr[-2000:]}"
    assert last == ["done"]


@pytest.mark.parametrize("end", ["behind", "before"])
def test_a_step_outside_is_seen(end: str) -> None:
    for what in ("read", "write", "result"):
        done = guarded("self-test", end, what)
        assert done.returncode < 0, f"{what} {end}: {done.stdout}"
        assert done.stdout.splitlines()[-1] == what


@pytest.fixture
def fresh_pages() -> Iterator[None]:
    """Let malloc take pages from the system for each array of 64 KB and more, and give them back:
    else it keeps what it once had, and nothing would be seen."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        pytest.skip("this system's malloc has no mallopt")
    mmap_threshold = -3
    assert mallopt(mmap_threshold, 1 << 16)
    yield
    mallopt(mmap_threshold, 1 << 25)  # where it arrives by itself


@pytest.mark.usefixtures("fresh_pages")
@pytest.mark.parametrize(
    ("name", "shape", "batch", "moved"),
    [("lenet", (1, 28, 28), 32, 1), ("resnet20", (3, 32, 32), 8, 0)],
)
def test_a_steady_step_takes_no_page_and_moves_no_image(
    name: str, shape: tuple[int, int, int], batch: int, moved: int
) -> None:
    """Of 40 steps together: Python's own objects may take a page now and then, and the system takes
    pages away and gives them back; but the smallest array that kernels keep memory for has 16.
    LeNet's gradient moves once, where flattened images come back to their shape."""
    resource = pytest.importorskip("resource", reason="page faults are not counted here")
    net = models.create(name, input_shape=shape, classes=10)
    flat = nn.flatten([*net.parameters()])
    sgd = optim.SGD(flat, 0.01, momentum=0.9)
    drawn = np.random.default_rng(0).standard_normal((batch, *shape[1:], shape[0]))
    x = ag.from_numpy(drawn.astype(np.float32).transpose(0, 3, 1, 2))
    labels = ag.from_numpy(np.arange(batch) % 10)

    def steps(count: int) -> tuple[int, int]:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt, layout.layout_stats.copies
        for _ in range(count):
            ag.cross_entropy(net(x), labels).backward()
            sgd.step()
            sgd.zero_grad()
        after = resource.getrusage(resource.RUSAGE_SELF).ru_minflt, layout.layout_stats.copies
        return after[0] - before[0], after[1] - before[1]

    with context.using(backend="llvm"):
        steps(10)
        tries = [steps(40)]
        while min(tries)[0] >= 16 and len(tries) < 8:  # the system takes fewer pages with time
            tries.append(steps(40))
    assert {moves for _, moves in tries} == {40 * moved}
    assert min(faults for faults, _ in tries) < 16
