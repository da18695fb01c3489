"""LARS, LAMB, Muon and norms: near the NumPy references on every target, whatever the layout, and
nowhere outside of their arrays."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("llvmlite")

from tallygrad.autograd.ops import clipping, layerwise
from tallygrad.autograd.orthogonal import COEFFICIENTS
from tallygrad.autograd.primitive import Primitive

from .test_elementwise import intact, kernel, numbers, target  # noqa: F401  (a fixture)

LARS = {"momentum": 0.9, "trust_coefficient": 0.1, "eps": 1e-8}
LAMB = {"betas": (0.9, 0.99), "eps": 1e-6}
MUON = {
    "momentum": 0.9, "ns_coefficients": COEFFICIENTS, "ns_steps": 2, "eps": 1e-7,
    "scale": 0.3,
}  # fmt: skip
CASES: list[tuple[Primitive, int, dict[str, Any]]] = [
    (layerwise.lars, 1, {**LARS, "weight_decay": 0.1, "adapts": True}),
    (layerwise.lars, 1, {**LARS, "weight_decay": 0.0, "adapts": True}),
    (layerwise.lars, 1, {**LARS, "weight_decay": 0.1, "adapts": False}),
    (layerwise.lamb, 3, {**LAMB, "weight_decay": 0.1, "adapts": True}),
    (layerwise.lamb, 3, {**LAMB, "weight_decay": 0.0, "adapts": True}),
    (layerwise.lamb, 3, {**LAMB, "weight_decay": 0.1, "adapts": False}),
    (layerwise.muon, 1, {**MUON, "weight_decay": 0.1, "nesterov": True}),
    (layerwise.muon, 1, {**MUON, "weight_decay": 0.0, "nesterov": False}),
]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("primitive", "count", "options"), CASES)
def test_steps_are_those_of_the_reference(
    primitive: Primitive, count: int, options: dict[str, Any], dtype: str
) -> None:
    """Up to the rounding of norms, which are sums; without norms, bit for bit."""
    scalars = [np.array(0.05, dtype), np.array(0.1), np.array(0.01)][:count]
    slots = len(primitive.arguments) - 2 - count
    close = 1e-6 if dtype == "float32" else 1e-13
    for shape, layout in [((1,), "plain"), ((1337,), "gaps"), ((5, 17), "turned")]:
        arrays = [numbers(*shape, dtype=dtype, seed=i, layout=layout) for i in range(2 + slots)]
        for slot in arrays[2:]:
            np.abs(slot, out=slot)
        theirs = [x.copy() for x in arrays]
        run = kernel(primitive, *arrays, *scalars, **options)
        for _ in range(2):
            run(*arrays, *scalars)
            primitive.reference(*theirs, *scalars, **options)
        for x, y in zip(arrays, theirs, strict=True):
            np.testing.assert_allclose(x, y, rtol=close if options.get("adapts") else 0, atol=0)
            assert intact(x)
        scalars[0] *= 0.5  # it may change from step to step


@pytest.mark.parametrize(("primitive", "count", "options"), [CASES[1], CASES[4]])
@pytest.mark.parametrize("zero", [0, 1])
def test_zeros_do_not_scale_a_step(
    primitive: Primitive, count: int, options: dict[str, Any], zero: int
) -> None:
    scalars = [np.array(0.05, "f4"), np.array(0.1), np.array(0.01)][:count]
    arrays = [np.ones(37, "f4") for _ in primitive.arguments[:-count]]
    arrays[zero][:] = 0.0
    theirs = [x.copy() for x in arrays]
    kernel(primitive, *arrays, *scalars, **{**options, "eps": 0.0})(*arrays, *scalars)
    primitive.reference(*theirs, *scalars, **{**options, "eps": 0.0})
    for x, y in zip(arrays, theirs, strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-6)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_sums_of_squares_have_the_bits_of_the_reference(dtype: str) -> None:
    """They are exact; those of infinities and NaN too."""
    for shape, layout in [((1,), "plain"), ((1337,), "gaps"), ((5, 17), "turned")]:
        x = numbers(*shape, dtype=dtype, layout=layout)
        x *= np.logspace(-9, 5, x.size, dtype=dtype).reshape(shape)
        for last in (x[-1], 0.0, np.inf, np.nan):
            x[-1] = last
            largest = clipping.magnitude.reference(x)
            run = kernel(clipping.square_sums, x, largest, count=2 * x.size)
            found = run(x, largest)
            assert (
                found.tobytes()
                == clipping.square_sums.reference(x, largest, count=2 * x.size).tobytes()
            )
            assert intact(x)
