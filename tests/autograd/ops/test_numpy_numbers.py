"""NumPy's numbers as options of operations count as Python's: in results, gradients and kernels."""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import replace
from types import CellType, CodeType, FunctionType
from typing import Any, TypeAlias

import numpy as np
import pytest

from tallygrad.autograd import testing
from tallygrad.autograd.primitive import Primitive
from tallygrad.autograd.testing import Sample, samples
from tallygrad.autograd.testing.parity import evaluate

Change: TypeAlias = Callable[[Any], Any]
PRIMITIVES = [o for o in gc.get_objects() if isinstance(o, Primitive)]


def changed(value: Any, change: Change) -> Any:
    """Return a function of the tables with other numbers: in code, closure and defaults."""
    if type(value) in (int, float):
        return change(value)
    if type(value) in (tuple, list):
        return type(value)(changed(v, change) for v in value)
    if type(value) is dict:
        return {k: changed(v, change) for k, v in value.items()}
    if isinstance(value, CodeType):
        return value.replace(co_consts=changed(value.co_consts, change))
    if isinstance(value, FunctionType) and value.__module__.startswith(testing.__name__):
        cells = value.__closure__ and tuple(
            CellType(changed(cell.cell_contents, change)) for cell in value.__closure__
        )
        defaults = changed(value.__defaults__, change)
        code = changed(value.__code__, change)
        return FunctionType(code, value.__globals__, value.__name__, defaults, cells)
    return value


def single(value: Any) -> Any:
    """Return a number as float32 has it."""
    return float(np.float32(value)) if type(value) is float else value


def results(sample: Sample, change: Change, dtype: str, backend: str) -> list[Any]:
    """Return results and gradients of calls that were not made before."""
    for each in PRIMITIVES:  # a call is known by numbers that equal NumPy's
        each.resolved.clear()
        each.resolved.older.clear()
    with_numbers = replace(sample, function=changed(sample.function, change))
    values, grads, _ = evaluate(with_numbers, sample.draw(dtype=dtype), backend)
    return [t.numpy() for t in (*values, *grads)]


@pytest.mark.parametrize("sample", samples(), ids=lambda s: s.name)
def test_operations(sample: Sample, backend: str) -> None:
    for dtype, whole, fraction in (
        ("float32", np.int64, np.float64), ("float64", np.int32, np.float32),
    ):  # fmt: skip
        plain = single if fraction is np.float32 else lambda v: v

        def change(value: Any, whole: Any = whole, fraction: Any = fraction) -> Any:
            return whole(value) if type(value) is int else fraction(value)

        expected = results(sample, plain, dtype, backend)
        for a, b in zip(results(sample, change, dtype, backend), expected, strict=True):
            assert a.dtype == b.dtype
            np.testing.assert_array_equal(a, b)
