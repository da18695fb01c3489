"""Operations beside torch's: what a sample gives in both, and how far that is apart."""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import context
from ..array import Array, NDArray, array
from ..dtypes import is_floating
from ..functional.create import ones_like
from ..ledger import Ledger
from ..tensor import Tensor
from .samples import Sample


def outputs(result: Any) -> list[Any]:
    """Return the tensors of a result."""
    return [*result] if isinstance(result, tuple | list) else [result]


def evaluate(
    row: Sample, arrays: list[NDArray], backend: str
) -> tuple[list[Tensor], list[Tensor], Ledger]:
    """Run a sample forward and backward; return results, gradients and the ledger."""
    with context.using(backend=backend, ledger=Ledger()) as state:
        tensors = [Tensor(Array(array(a).spec, a), is_floating(a.dtype)) for a in arrays]
        results = outputs(row.function(*tensors))
        for y in results:
            if y.requires_grad:
                y.backward(ones_like(y), retain_graph=True)
        grads = [t.grad for t in tensors if t.grad is not None]
    return results, grads, state.ledger


def evaluate_torch(row: Sample, arrays: list[NDArray], torch: Any) -> tuple[list[Any], list[Any]]:
    """Run a sample's counterpart in torch; return results and gradients as arrays."""
    assert row.torch is not None, f"{row.name} has no counterpart"
    tensors = [torch.tensor(a, requires_grad=is_floating(a.dtype)) for a in arrays]
    results = outputs(row.torch(torch, *tensors))
    live = [y for y in results if y.requires_grad]
    if live:
        torch.autograd.backward(live, [torch.ones_like(y) for y in live])
    grads = [t.grad for t in tensors if t.grad is not None]
    return [y.detach().numpy() for y in results], [g.numpy() for g in grads]


def differences(row: Sample, torch: Any, dtype: str, backend: str) -> tuple[float, float]:
    """Return the largest difference of a result from torch's, and that of a gradient, in numbers
    above 1 as a share of them."""
    arrays = row.draw(dtype=dtype)
    results, grads, _ = evaluate(row, arrays, backend)
    theirs = evaluate_torch(row, arrays, torch)
    mine = [[t.numpy() for t in tensors] for tensors in (results, grads)]
    first, second = (
        max((_apart(a, b) for a, b in zip(x, y, strict=True)), default=0.0)
        for x, y in zip(mine, theirs, strict=True)
    )
    return first, second


def _apart(a: NDArray, b: NDArray) -> float:
    """Return the largest difference of two arrays, infinite where one is not finite alone."""
    wide, expected = (np.asarray(x, np.float64) for x in (a, b))
    if wide.shape != expected.shape:
        return np.inf
    finite = np.isfinite(expected)
    if not np.array_equal(wide[~finite], expected[~finite], equal_nan=True):
        return np.inf
    size = np.maximum(np.abs(expected[finite]), 1.0)
    return float(np.max(np.abs(wide[finite] - expected[finite]) / size, initial=0.0))
