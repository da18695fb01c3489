"""The table of element types."""

from __future__ import annotations

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
