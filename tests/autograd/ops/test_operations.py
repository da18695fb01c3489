"""Every row of the operation table through every check."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import numpy as np
import pytest

import tallygrad.autograd as ag
from tallygrad.autograd import context
from tallygrad.autograd.testing import Sample, gradcheck, gradgradcheck, samples
from tallygrad.autograd.testing.parity import evaluate, evaluate_torch

ROWS = samples()
BY_NAME = {row.name: row for row in ROWS}
each_row = pytest.mark.parametrize("name", BY_NAME)


def test_names_are_unique() -> None:
    assert len(BY_NAME) == len(ROWS)


@each_row
def test_gradient(name: str) -> None:
    row = BY_NAME[name]
    gradcheck(row.function, row.draw(), rtol=row.rtol)


@each_row
def test_gradient_of_gradient(name: str) -> None:
    row = BY_NAME[name]
    if row.second:
        gradgradcheck(row.function, row.draw(), rtol=10 * row.rtol)
    else:
        with pytest.raises(RuntimeError, match="no derivative"):
            gradgradcheck(row.function, row.draw())


def run(row: Sample, arrays: list[np.ndarray], backend: str) -> tuple[list[ag.Tensor], ag.Ledger]:
    """Forward and backward; return results, gradients and the ledger."""
    results, grads, ledger = evaluate(row, arrays, backend)
    return [*results, *grads], ledger


@each_row
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_meta_equals_real(name: str, dtype: str) -> None:
    row = BY_NAME[name]
    arrays = row.draw(dtype=dtype)
    real, ledger = run(row, arrays, "numpy")
    meta, predicted = run(row, arrays, "meta")
    assert [t.spec for t in real] == [t.spec for t in meta]
    assert ledger == predicted
    assert {t.dtype for t in real if t.dtype.kind == "f"} <= {np.dtype(dtype)}


@each_row
def test_macs(name: str) -> None:
    row = BY_NAME[name]
    with context.using(ledger=ag.Ledger()) as state:
        row.function(*[ag.tensor(a) for a in row.draw()])
    assert state.ledger.total().macs == row.macs


@each_row
def test_layout_does_not_matter(name: str) -> None:
    row = BY_NAME[name]
    arrays = row.draw()
    plain, _ = run(row, arrays, "numpy")
    strided, _ = run(
        row,
        [np.asfortranarray(np.repeat(a, 2, -1))[..., ::2] if a.ndim else a for a in arrays],
        "numpy",
    )
    for a, b in zip(plain, strided, strict=True):
        np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=1e-9, atol=1e-12)


@each_row
def test_inputs_stay_as_they_are(name: str) -> None:
    row = BY_NAME[name]
    arrays = row.draw()
    run(row, [a.copy() for a in arrays], "numpy")
    frozen = [a.copy() for a in arrays]
    for a in frozen:
        a.setflags(write=False)
    run(row, frozen, "numpy")
    for a, b in zip(arrays, frozen, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(("name", "piece", "shapes"), [(r.name, *w) for r in ROWS for w in r.wrong])
def test_wrong_shapes(name: str, piece: str, shapes: tuple[tuple[int, ...], ...]) -> None:
    row = BY_NAME[name]
    arrays = [np.zeros(shape, a.dtype) for shape, a in zip(shapes, row.draw(), strict=True)]
    with pytest.raises(ValueError) as caught:
        row.function(*[ag.tensor(a) for a in arrays])
    assert piece in str(caught.value)
    assert re.fullmatch(r"[\w, ]+: expected .+, got .+", str(caught.value))


@pytest.mark.parity
@pytest.mark.parametrize("name", [r.name for r in ROWS if r.torch])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_parity_with_torch(name: str, dtype: str) -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    torch.backends.mkldnn.enabled = False
    row = BY_NAME[name]
    arrays = row.draw(dtype=dtype)
    ours, _ = run(row, arrays, "numpy")
    results, grads = evaluate_torch(row, arrays, torch)
    expected = [*results, *grads]
    rtol, atol = (2e-4, 2e-5) if dtype == "float32" else (1e-9, 1e-11)
    assert len(ours) == len(expected)
    for a, b in zip(ours, expected, strict=True):
        np.testing.assert_allclose(a.numpy(), b, rtol=rtol, atol=atol)


def test_no_operation_names_a_backend() -> None:
    package = Path(ag.__file__).parent
    named = [
        f"{path.relative_to(package)}:{node.lineno}"
        for folder in ("ops", "functional", "nn", "models", "optim")
        for path in sorted((package / folder).rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and node.value in ("meta", "llvm", "numpy")
    ]
    assert named == []
