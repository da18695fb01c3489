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
CASES: list[tuple[Primitive, int, dict[str, Any]]] = [  # and how many numbers it takes
    (moments.adam, 3, {**BETAS}),
    (moments.adam, 3, {**BETAS, "weight_decay": 0.1, "amsgrad": True}),
    (moments.adam, 3, {**BETAS, "weight_decay": 0.1, "decoupled": True}),
    (moments.rmsprop, 1, {"alpha": 0.9, "eps": 1e-6}),
    (moments.rmsprop, 1, {"alpha": 0.9, "eps": 1e-6, "weight_decay": 0.1, "momentum": 0.9}),
    (moments.rmsprop, 1, {"alpha": 0.9, "eps": 1e-3, "centered": True, "momentum": 0.9}),
    (moments.adagrad, 1, {"eps": 1e-6}),
    (moments.adagrad, 1, {"eps": 1e-6, "weight_decay": 0.1}),
    (moments.nadam, 4, {**BETAS, "weight_decay": 0.1}),
    (moments.adamax, 2, {**BETAS}),
    (moments.adadelta, 1, {"rho": 0.9, "eps": 1e-6}),
    (moments.asgd, 2, {"lambd": 0.1, "weight_decay": 0.1}),
    (moments.asgd, 2, {"lambd": 0.1, "averages": True}),
    (moments.rprop, 1, {"etas": (0.5, 1.2), "step_sizes": (0.3, 0.9)}),
    (moments.rprop, 1, {"etas": (0.5, 1.2), "step_sizes": (0.3, 0.9), "first": True}),
    (update.average, 1, {}),
]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("primitive", "count", "options"), CASES)
def test_steps_have_the_bits_of_the_reference(
    primitive: Primitive, count: int, options: dict[str, Any], dtype: str
) -> None:
    none = [np.zeros((), dtype)] * (primitive is not update.average)  # no narrow copy
    scalars = [np.array(0.05, dtype), *(np.array(x) for x in (0.1, 0.01, 0.02))][:count]
    slots, scalars = len(primitive.arguments) - 2 - count - len(none), [*none, *scalars]
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


@pytest.mark.parametrize(("primitive", "count", "options"), CASES[:-1])
def test_narrow_copies_get_the_new_weights(
    primitive: Primitive, count: int, options: dict[str, Any]
) -> None:
    """Rounded; neighbours of the copy, and gaps in it, stay as they are."""
    bfloat16 = pytest.importorskip("ml_dtypes").bfloat16
    scalars = [np.array(0.05, "f4"), *(np.array(x) for x in (0.1, 0.01, 0.02))][:count]
    slots = len(primitive.arguments) - 3 - count
    for size, layout, step in [
        (1, "plain", 1),
        (1337, "plain", 1),
        (530, "gaps", 1),
        (70, "plain", 2),
    ]:
        arrays = [numbers(size, dtype="float32", seed=i, layout=layout) for i in range(2 + slots)]
        for slot in arrays[2:]:
            np.abs(slot, out=slot)
        memory = np.full(size * step + 2, 7, bfloat16)
        copy, theirs = memory[1:-1:step], [x.copy() for x in arrays]
        run = kernel(primitive, *arrays, copy, *scalars, **{**primitive.defaults, **options})
        run(*arrays, copy, *scalars)
        primitive.reference(*theirs, np.zeros(()), *scalars, **options)
        for x, y in zip(arrays, theirs, strict=True):
            np.testing.assert_array_equal(x, y)
        np.testing.assert_array_equal(copy, arrays[0].astype(bfloat16))
        assert (memory == 7).sum() >= memory.size - size and memory[0] == memory[-1] == 7
