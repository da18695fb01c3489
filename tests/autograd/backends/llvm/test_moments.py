"""Steps of optimizers: the bits of the NumPy references on every target, whatever the layout, and
nowhere outside of their arrays."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("llvmlite")

from tallygrad.autograd.ops import moments, update
from tallygrad.autograd.primitive import Primitive

from .test_elementwise import intact, kernel, numbers, target  # noqa: F401  (a fixture)

BETAS = {"betas": (0.9, 0.99), "eps": 1e-6}
CASES: list[tuple[Primitive, int, dict[str, Any]]] = [
    (moments.adam, 3, {**BETAS}),
    (moments.adam, 3, {**BETAS, "weight_decay": 0.1, "amsgrad": True}),
    (moments.adam, 3, {**BETAS, "weight_decay": 0.1, "decoupled": True}),
    (moments.rmsprop, 3, {"alpha": 0.9, "eps": 1e-6}),
    (moments.rmsprop, 3, {"alpha": 0.9, "eps": 1e-6, "weight_decay": 0.1, "momentum": 0.9}),
    (moments.rmsprop, 3, {"alpha": 0.9, "eps": 1e-3, "centered": True, "momentum": 0.9}),
    (moments.adagrad, 1, {"eps": 1e-6}),
    (moments.adagrad, 1, {"eps": 1e-6, "weight_decay": 0.1}),
    (update.average, 0, {}),
]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("primitive", "slots", "options"), CASES)
def test_steps_have_the_bits_of_the_reference(
    primitive: Primitive, slots: int, options: dict[str, Any], dtype: str
) -> None:
    scalars = [np.array(0.05, dtype), np.array(0.1), np.array(0.01)]
    scalars = scalars if primitive is moments.adam else scalars[:1]
    for shape, layout in [((1,), "plain"), ((1337,), "gaps"), ((5, 17), "turned")]:
        arrays = [numbers(*shape, dtype=dtype, seed=i, layout=layout) for i in range(2 + slots)]
        for slot in arrays[2:]:
            np.abs(slot, out=slot)
        theirs = [x.copy() for x in arrays]
        run = kernel(primitive, *arrays, *scalars, **{**primitive.defaults, **options})
        for _ in range(2):
            run(*arrays, *scalars)
            primitive.reference(*theirs, *scalars, **options)
        for x, y in zip(arrays, theirs, strict=True):
            np.testing.assert_array_equal(x, y)
            assert intact(x)
        for number in scalars:  # it may change from step to step
            number *= 0.5
