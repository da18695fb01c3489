"""Numerical checks of derivatives against central differences."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..array import NDArray, array
from ..differentiate import grad
from ..dtypes import is_floating
from ..tensor import Tensor

Function = Callable[..., Any]


def _floats(result: Any) -> list[Tensor]:
    """Return the floating-point tensors of a result."""
    results = result if isinstance(result, tuple | list) else (result,)
    return [y for y in results if isinstance(y, Tensor) and is_floating(y.dtype)]


def _project(function: Function, arrays: Sequence[Any], weights: Sequence[NDArray]) -> float:
    """Return the weighted sum of a function's results, a single number."""
    results = _floats(function(*[Tensor(array(a)) for a in arrays]))
    return float(sum((y.numpy() * v).sum() for y, v in zip(results, weights, strict=True)))


def gradcheck(
    function: Function,
    inputs: Sequence[NDArray],
    eps: float = 1e-6,
    rtol: float = 1e-5,
    atol: float = 1e-7,
    seed: int = 0,
) -> float:
    """Compare the gradient of `function` with central differences along one random direction.

    Its results are weighted at random, so that the cost does not grow with the size (as in HIPS
    autograd's check). `inputs` are arrays; the floating-point ones, which must be float64, are
    varied. Return the relative error.

    AssertionError where it exceeds rtol (and the difference atol), or where a gradient's shape or
    type is not its input's. TypeError for inputs of another floating-point type."""
    rng = np.random.default_rng(seed)
    tensors = [Tensor(array(a.copy()), is_floating(a.dtype)) for a in map(np.asarray, inputs)]
    if any(t.requires_grad and t.dtype != np.float64 for t in tensors):
        raise TypeError(
            "gradcheck: expected float64 inputs, got float32, whose rounding hides the differences"
        )
    results = _floats(function(*tensors))
    weights = [rng.standard_normal(y.shape) for y in results]
    live = [t for t in tensors if t.requires_grad]
    seeds = [Tensor(array(np.asarray(v))) for v in weights]
    pairs = [(y, v) for y, v in zip(results, seeds, strict=True) if y.requires_grad]
    gradients = grad([y for y, _ in pairs], live, [v for _, v in pairs], allow_unused=True)
    directions = [rng.standard_normal(t.shape) for t in live]
    analytic = _along(gradients, live, directions)
    moved = (_moved(tensors, directions, by) for by in (eps, -eps))
    above, below = (_project(function, arrays, weights) for arrays in moved)
    return _relative_error(analytic, (above - below) / (2 * eps), rtol, atol)


def _moved(tensors: Sequence[Tensor], directions: Sequence[NDArray], by: float) -> list[NDArray]:
    """Return the numbers of tensors, moved along the directions where they are varied."""
    step = iter(directions)
    return [t.numpy() + by * next(step) if t.requires_grad else t.numpy() for t in tensors]


def _relative_error(analytic: float, numeric: float, rtol: float, atol: float) -> float:
    """Return the relative error of a derivative. AssertionError beyond both tolerances."""
    difference = abs(analytic - numeric)
    error = difference / max(abs(analytic), abs(numeric), 1e-300)
    assert difference <= atol or error <= rtol, (
        f"gradient {analytic:.12g}, differences {numeric:.12g}"
    )
    return error


def _along(
    gradients: Sequence[Tensor | None], inputs: Sequence[Tensor], directions: Sequence[NDArray]
) -> float:
    """Return the derivative along a direction. AssertionError for a gradient of another shape or
    type than its input."""
    total = 0.0
    for t, g, u in zip(inputs, gradients, directions, strict=True):
        if g is not None:
            assert g.spec == t.spec, f"gradient {g.spec} of an input {t.spec}"
            total += float((g.numpy() * u).sum())
    return total


def gradgradcheck(
    function: Function, inputs: Sequence[NDArray], seed: int = 0, **tolerances: float
) -> float:
    """Run `gradcheck` on the gradient of `function`, taken with create_graph: a check of second
    derivatives."""
    rng = np.random.default_rng(seed + 1)
    arrays = [np.asarray(a) for a in inputs]
    results = _floats(function(*[Tensor(array(a)) for a in arrays]))
    weights = [np.asarray(rng.standard_normal(y.shape)) for y in results]

    def first(*tensors: Tensor) -> tuple[Tensor, ...]:
        xs, vs = tensors[: len(arrays)], tensors[len(arrays) :]
        live = [x.requires_grad_(True) if x.is_leaf else x for x in xs if is_floating(x.dtype)]
        results = _floats(function(*xs))
        pairs = [(y, v) for y, v in zip(results, vs, strict=True) if y.requires_grad]
        ys, seeds = [y for y, _ in pairs], [v for _, v in pairs]
        slopes = grad(ys, live, seeds, create_graph=True, allow_unused=True)
        return tuple(g for g in slopes if g is not None)

    return gradcheck(first, [*arrays, *weights], seed=seed, **tolerances)
