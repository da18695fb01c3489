"""The llvm backend as a whole: every operation on it against NumPy, its cache, its memory."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import tallygrad.autograd as ag
from tallygrad.autograd import backends, context
from tallygrad.autograd.array import Array
from tallygrad.autograd.testing import Sample, samples

pytest.importorskip("llvmlite", reason="llvmlite is not installed")

from tallygrad.autograd.backends.llvm.compiler.isa import targets
from tallygrad.autograd.backends.llvm.runtime import memory

ROWS = {row.name: row for row in samples()}
WIDTHS = [f"llvm:{name}" for name in targets.available()]
WITHIN = {"float32": 2e-5, "float64": 1e-13}  # of the largest value


def run(row: Sample, arrays: list[np.ndarray], backend: str) -> tuple[list[ag.Tensor], ag.Ledger]:
    """Forward and backward; return results, gradients and the ledger."""
    with context.using(backend=backend, ledger=ag.Ledger()) as state:
        tensors = [ag.Tensor(Array(ag.tensor(a).spec, a), a.dtype.kind == "f") for a in arrays]
        result = row.function(*tensors)
        results = [*result] if isinstance(result, tuple | list) else [result]
        for y in results:
            if y.requires_grad:
                # Not ones: the gradient of batch norm would be nothing but rounding.
                drawn = np.random.default_rng(y.size).standard_normal(y.shape)
                y.backward(ag.tensor(drawn.astype(y.dtype)), retain_graph=True)
        grads = [t.grad for t in tensors if t.grad is not None]
    return [*results, *grads], state.ledger


@pytest.mark.parametrize("backend", WIDTHS)
@pytest.mark.parametrize("name", ROWS)
def test_every_operation_equals_numpy(name: str, backend: str) -> None:
    """Within 32 roundings of the largest value: float32 sums of some hundred terms in another
    order, and Winograd's, whose transforms cost two more digits; float64 always exact sums.
    Narrower registers hold either type in the same way: float32 suffices."""
    for dtype in WITHIN if backend == WIDTHS[0] else ("float32",):
        within, arrays = WITHIN[dtype], ROWS[name].draw(dtype=dtype)
        expected, ledger = run(ROWS[name], arrays, "numpy")
        found, mine = run(ROWS[name], arrays, backend)
        for a, b in zip(found, expected, strict=True):
            assert a.spec == b.spec
            scale = float(np.abs(b.numpy()[np.isfinite(b.numpy())]).max(initial=1e-30))
            np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=0, atol=within * scale)
        assert mine == ledger


@pytest.mark.parametrize("options", [{}, {"stride": 2}, {"groups": 2}])
def test_filters_may_lie_in_any_order(options: dict[str, int]) -> None:
    """Copies that kernels need are there until they end."""
    draw = np.random.default_rng(0)
    x = draw.standard_normal((2, 16, 9, 9))
    w = draw.standard_normal((16, 3, 3, 16 // options.get("groups", 1))).transpose(0, 3, 1, 2)
    found = []
    for backend in ("numpy", "llvm"):
        with context.using(backend=backend):
            images, filters = (ag.from_numpy(a).requires_grad_() for a in (x, w))
            y = ag.conv2d(images, filters, padding=1, **options)
            found.append([y, *ag.grad(y, [images, filters], ag.ones_like(y))])
    for a, b in zip(*found, strict=True):
        np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=1e-10, atol=1e-10)


def test_what_has_a_kernel_is_booked_on_llvm_and_the_rest_on_numpy() -> None:
    x = ag.tensor(np.ones((2, 3, 5, 5), np.float32))
    w = ag.tensor(np.ones((4, 3, 3, 3), np.float32))
    with context.using(backend="llvm", ledger=ag.Ledger()) as state:
        ag.conv2d(x, w)
        ag.conv2d(x[:0], w)
        ag.cos(x)
    booked = {(row.key.primitive, row.key.backend) for row in state.ledger}
    assert {("conv2d", "llvm"), ("conv2d", "numpy"), ("cos", "numpy")} <= booked


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("llvm:neon" if "neon" not in targets.available() else "llvm:sse", "machine executes "),
        ("llvm:direct,oops", "backend llvm: expected options avx512, .*, got 'oops'"),
        ("numpy:fast", "numpy: expected no options, got 'fast'"),
        ("cuda", "unknown backend 'cuda'"),
    ],
)
def test_unknown_backends_and_options(name: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        backends.get(name)


def test_memory_comes_back_with_the_last_view_and_a_limit_is_told() -> None:
    pool = memory.BlockPool()
    held = np.ndarray((1000, 3), np.float32, pool.take(12000))
    assert held.ctypes.data % memory.ALIGNED == 0
    first, view = held.ctypes.data, held[1:].T
    assert pool.used >= 12000 and pool.held == pool.used == pool.peak
    del held
    gc.collect()
    assert pool.used > 0
    del view
    gc.collect()
    assert pool.used == 0 and pool.held > 0
    again = np.ndarray((3000,), np.float32, pool.take(12000))
    assert again.ctypes.data == first
    before = ag.memory_in_use()
    kept = [ag.zeros(300, 300) * 1.0]
    with context.using(backend="llvm"):
        kept.append(ag.relu(ag.zeros(300, 300)))
    after = ag.memory_in_use()
    assert 360_000 <= after.used - before.used < 400_000 and after.used <= after.peak
    ag.set_memory_limit(after.used + 500_000)
    try:
        assert memory.pool.limit == after.used + 500_000
        with pytest.raises(ag.OutOfMemory), context.using(backend="llvm"):
            ag.relu(ag.zeros(600, 600))
    finally:
        ag.set_memory_limit(0)
    with pytest.raises(ValueError, match="expected at least 0 bytes, got -1"):
        ag.set_memory_limit(-1)
    pool.limit = pool.held + 10_000
    with pytest.raises(memory.OutOfMemory, match=r"MB of results needed, the limit is 0\.0"):
        pool.take(100_000)


def test_threads_do_not_disturb_one_another() -> None:
    """The same convolution, with borders in scratch memory, for four images at once."""
    w = np.random.default_rng(0).standard_normal((20, 20, 3, 3)).astype(np.float32)
    images = [np.full((4, 20, 24, 24), i, np.float32) for i in range(16)]

    def work(image: np.ndarray) -> np.ndarray:
        with context.using(backend="llvm", ledger=ag.Ledger()):
            y = [ag.conv2d(ag.from_numpy(image), ag.from_numpy(w), padding=1) for _ in range(5)]
        assert all(np.array_equal(a.numpy(), y[0].numpy()) for a in y)
        return y[0].numpy()

    expected = [work(image) for image in images]
    with ThreadPoolExecutor(4) as threads:
        for found, known in zip(threads.map(work, images), expected, strict=True):
            np.testing.assert_array_equal(found, known)


def test_without_llvmlite_training_says_so_and_goes_on(tmp_path: Path) -> None:
    (tmp_path / "llvmlite").mkdir()
    (tmp_path / "llvmlite" / "__init__.py").write_text("raise ImportError('no llvmlite here')")
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-m", "tallygrad.trainer", "train", "--model", "mlp"]
    command += ["--max-steps", "1", "--eval-batch-size", "5000", "--out", str(tmp_path / "run")]

    def train(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*command, *words], env={**os.environ, "PYTHONPATH": path}, capture_output=True,
            text=True, timeout=120,
        )  # fmt: skip

    done = train("--backend", "llvm")
    assert done.returncode == 2 and "--backend llvm: no llvmlite here" in done.stderr
    done = train()
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("using NumPy: no llvmlite here") == 1
