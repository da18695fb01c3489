"""The table of element types."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

import tallygrad.autograd as ag
from tallygrad.autograd import dtypes, nn

NUMPY = [np.dtype(code) for code in "?bhilqBHILQefdg"]


@pytest.mark.parametrize("order", "=S")
@pytest.mark.parametrize("dtype", NUMPY, ids=str)
def test_types_are_what_numpy_says(dtype: np.dtype[np.generic], order: str) -> None:
    swapped = dtype.newbyteorder(order)
    assert dtypes.is_floating(swapped) == (dtype.kind == "f")
    assert dtypes.is_integer(swapped) == (dtype.kind in "iu")
    assert dtypes.is_boolean(swapped) == (dtype.kind == "b")
    row = dtypes.element_type(swapped)
    assert row.accumulator == (dtype if dtype.kind == "f" else np.int64)


def test_a_type_can_be_written_to_one_of_a_rank_as_high() -> None:
    names = ("bool", "int8", "uint64", "float16")
    ranks = [dtypes.element_type(np.dtype(name)).rank for name in names]
    assert ranks == sorted(set(ranks))


@pytest.mark.parametrize("code", ["complex64", "S3", "V2", "O"])
def test_other_types_are_refused(code: str) -> None:
    dtype = np.dtype(code)
    assert not (dtypes.is_floating(dtype) or dtypes.is_integer(dtype) or dtypes.is_boolean(dtype))
    with pytest.raises(TypeError, match="expected truth values, integers or floating"):
        dtypes.element_type(dtype)


def test_what_a_type_can_hold() -> None:
    assert dtypes.holds(np.dtype(np.uint8), 255) and not dtypes.holds(np.dtype(np.uint8), 256)
    assert not dtypes.holds(np.dtype(np.uint8), -1) and dtypes.holds(dtypes.FLOAT32, 1 << 60)
    assert not dtypes.holds(dtypes.BOOL, 1)


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("source", [np.float32, np.float64])
@pytest.mark.parametrize("target", [">f4", ">f8", "<f4", "<f8", "f2"])
def test_a_cast_keeps_the_numbers_in_any_byte_order(source: type, target: str) -> None:
    numbers = np.arange(5000, dtype=source) / 8
    cast = ag.from_numpy(numbers).to(target).numpy()
    assert cast.dtype == np.dtype(target)
    np.testing.assert_array_equal(cast, numbers.astype(target))


@pytest.mark.parametrize("thing", [ag.ones(2), nn.Linear(2, 2)], ids=["tensor", "module"])
def test_there_is_one_device(thing: Any) -> None:
    assert thing.to("cpu") is thing
    with pytest.raises(TypeError, match=r"the only device is 'cpu'.*, got 'cuda:0'$"):
        thing.to("cuda:0")


@pytest.mark.parametrize("other", ["bool", "int8", "uint8", "int64", "float32", "float64"])
@pytest.mark.parametrize("mine", ["bool", "uint8", "int64", "bfloat16", "float32", "float64"])
def test_numbers_without_axes_widen_as_in_torch(mine: str, other: str) -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    for x, w in itertools.product(((), (2,)), repeat=2):
        ours = [ag.ones(*s).to(t) for s, t in ((x, mine), (w, other))]
        theirs = [torch.ones(s, dtype=getattr(torch, t)) for s, t in ((x, mine), (w, other))]
        expected = str(torch.result_type(*theirs)).removeprefix("torch.")
        y = ag.where(ag.tensor(True), *ours)
        assert str(y.dtype) == expected and y.tolist() == np.ones(y.shape).tolist()
        if "bool" not in (mine, other):
            for name in ("add", "mul", "maximum", "remainder"):
                y, z = getattr(ag, name)(*ours), getattr(torch, name)(*theirs)
                assert str(y.dtype) == expected and y.tolist() == z.tolist(), name


def test_a_wide_number_leaves_gradients_their_types() -> None:
    x, w = ag.ones(3).requires_grad_(), ag.tensor(np.sqrt(3.0)).requires_grad_()
    y = x / w
    y.sum().backward()
    assert y.dtype == x.grad.dtype == np.float32 and w.grad.dtype == np.float64
    assert (ag.tensor([0.1]) == ag.tensor(np.float64(0.1))).tolist() == [True]
    narrow = ag.tensor(np.array([[1, 200]], np.uint8))
    assert (narrow + 300).tolist() == [[301, 500]] and (narrow[0, 0] * -1).tolist() == -1
