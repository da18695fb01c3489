"""Updates of bfloat16 weights, gradients and slots: computed in float32 and rounded once, as by the
references, on every target and in any layout."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("llvmlite", reason="llvmlite is not installed")
pytest.importorskip("ml_dtypes", reason="ml_dtypes is not installed")

import tallygrad.autograd as ag
from tallygrad.autograd import context, nn, optim
from tallygrad.autograd.array import Spec
from tallygrad.autograd.backends.reference import reference
from tallygrad.autograd.ledger import Ledger
from tallygrad.autograd.ops import update
from tallygrad.autograd.primitive import Primitive

from .test_elementwise import OPTIONS, intact, kernel, numbers, target  # noqa: F401  (a fixture)
from .test_moments import CASES

LAYOUTS = [((1,), "plain"), ((1337,), "gaps"), ((1337,), "plain"), ((5, 17), "turned")]


def both(
    primitive: Primitive, arrays: list[np.ndarray], scalars: list[np.ndarray], **attrs: Any
) -> list[np.ndarray]:
    """Run the kernel on arrays, and return what the reference makes of copies."""
    theirs = [x.copy() for x in arrays]
    specs = tuple(Spec(x.shape, x.dtype) for x in (*arrays, *scalars))
    call = reference(primitive, specs, attrs).call
    assert call is not None
    run = kernel(primitive, *arrays, *scalars, **attrs)
    for _ in range(2):
        run(*arrays, *scalars)
        call.kernel(*theirs, *scalars)
    return theirs


@pytest.mark.parametrize(("primitive", "count", "options"), CASES)
@pytest.mark.parametrize(("shape", "layout"), LAYOUTS)
def test_steps_have_the_bits_of_the_reference(
    primitive: Primitive, count: int, options: dict[str, Any], shape: tuple[int, ...], layout: str
) -> None:
    none = [np.zeros((), "f4")] * (primitive is not update.average)  # no narrow copy
    scalars = [np.array(x, "f4") for x in (0.05, 0.1, 0.01, 0.02)][:count]
    slots = len(primitive.arguments) - 2 - count - len(none)
    arrays = [numbers(*shape, dtype="bfloat16", seed=i, layout=layout) for i in range(2 + slots)]
    for slot in arrays[2:]:
        np.abs(slot, out=slot)
    attrs = {**primitive.defaults, **options}
    theirs = both(primitive, arrays, [*none, *scalars], **attrs)
    for x, y in zip(arrays, theirs, strict=True):
        np.testing.assert_array_equal(x.view(np.uint16), y.view(np.uint16))
        assert intact(x)


@pytest.mark.parametrize("options", OPTIONS, ids=lambda o: "-".join(map(str, o.values())))
@pytest.mark.parametrize(("shape", "layout"), LAYOUTS)
def test_sgd(options: dict[str, float], shape: tuple[int, ...], layout: str) -> None:
    arrays = [numbers(*shape, dtype="bfloat16", seed=i, layout=layout) for i in range(3)]
    theirs = both(update.sgd, arrays, [np.zeros((), "f4"), np.array(0.05, "f4")], **options)
    for x, y in zip(arrays, theirs, strict=True):
        np.testing.assert_array_equal(x.view(np.uint16), y.view(np.uint16))
        assert intact(x)


@pytest.mark.parametrize("primitive", [update.accumulate, update.store])
@pytest.mark.parametrize("layout", ["plain", "turned", "gaps", "last"])
@pytest.mark.parametrize("shape", [(37, 45), (50, 3, 3, 3)])
def test_gradients_are_stored_and_added(
    primitive: Primitive, layout: str, shape: tuple[int, ...]
) -> None:
    slot = numbers(*shape, dtype="bfloat16")
    g = numbers(*shape, dtype="bfloat16", seed=1, layout=layout)
    (expected, _) = both(primitive, [slot, g], [])
    np.testing.assert_array_equal(slot, expected)
    assert intact(slot) and intact(g)


@pytest.mark.parametrize("backend", ["numpy", "llvm"])
def test_rates_are_not_rounded(backend: str) -> None:
    """1.005 is 1.0078125 in bfloat16: 200 times that are 201.5625, which is rounded to 202."""
    with context.using(backend=backend, ledger=(ledger := Ledger())):
        p = nn.Parameter(ag.full((5000,), 0.0, dtype="bfloat16"))
        sgd = optim.SGD([p], lr=1.005)
        p.deliver(ag.full((5000,), 200.0, dtype="bfloat16"))
        sgd.step()
        assert p.dtype == ag.bfloat16 and set(p.float().tolist()) == {-201.0}
    assert {key[3] for key in ledger.calls if key[2] == "sgd"} == {backend}
