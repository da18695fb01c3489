"""Products and parts of matrices, einsum's equations, and tensors from nothing, at their edges."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tallygrad.autograd as ag
from tallygrad.autograd import context
from tallygrad.autograd.methods import algebra

X, V = ag.ones(2, 3), ag.ones(3)


def test_functions_are_methods_too() -> None:
    assert [n for n in algebra.__all__ if not callable(getattr(ag.Tensor, n, None))] == []
    assert set(algebra.__all__) <= set(ag.__all__)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: ag.mm(X, V), "mm: expected (a, b) and (b, c), got (2, 3) and (3,)"),
        (lambda: ag.mm(X, X), "mm: expected (a, b) and (b, c), got (2, 3) and (2, 3)"),
        (lambda: ag.mv(X, X), "mv: expected (a, b) and (b,), got (2, 3) and (2, 3)"),
        (lambda: ag.dot(X, V), "dot: expected (b,) and (b,), got (2, 3) and (3,)"),
        (lambda: ag.outer(X, V), "outer: expected (a,) and (b,), got (2, 3) and (3,)"),
        (lambda: ag.tril(V), "tril: expected matrices (.., a, b), got shape (3,)"),
        (
            lambda: ag.diag(ag.ones(1, 1, 1)),
            "diag: expected a vector or a matrix, got shape (1, 1, 1)",
        ),
        (lambda: ag.diagonal(X, 0, 1, -1), "diagonal: expected two axes, got 1 and -1"),
        (
            lambda: ag.einsum("i+j", X),
            "einsum: expected an equation such as 'ij,jk->ik', got 'i+j'",
        ),
        (lambda: ag.einsum("ij,j", X), "einsum: expected 2 operands for 'ij,j', got 1"),
        (
            lambda: ag.einsum("ij->ik", X),
            "einsum: expected each axis of the result once, and in an operand, got 'ij->ik'",
        ),
        (
            lambda: ag.einsum("ij->ii", X),
            "einsum: expected each axis of the result once, and in an operand, got 'ij->ii'",
        ),
        (lambda: ag.meshgrid(X), "meshgrid: expected vectors, got shapes [(2, 3)]"),
        (
            lambda: ag.meshgrid(V, indexing="yx"),
            "meshgrid: expected indexing 'ij' or 'xy', got 'yx'",
        ),
    ],
)
def test_wrong_arguments(call: Callable[[], Any], said: str) -> None:
    with pytest.raises(ValueError) as caught:
        call()
    assert str(caught.value) == said


def test_a_factor_of_zero_hides_what_is_no_number() -> None:
    y = ag.addmm(X * float("nan"), X, ag.ones(3, 3), beta=0)
    assert (y.numpy() == 3).all()


@pytest.mark.parametrize("offset", range(-5, 6))
def test_diagonals_beyond_the_corners(offset: int) -> None:
    x = np.arange(12.0).reshape(3, 4)
    y = ag.tensor(x).diag(offset)
    np.testing.assert_array_equal(y.numpy(), np.diagonal(x, offset))
    for function in ("tril", "triu"):
        expected = getattr(np, function)(x, offset)
        np.testing.assert_array_equal(getattr(ag.tensor(x), function)(offset).numpy(), expected)


def test_operands_of_einsum_in_a_list() -> None:
    assert ag.einsum("ij,j->i", [X, V]).tolist() == [3.0, 3.0]
    whole = ag.einsum("ij,ij->ij", X, ag.tensor([[2.0], [3.0]]))  # an extent of 1 is broadcast
    assert whole.tolist() == [[2.0] * 3, [3.0] * 3]


def test_tensors_from_nothing() -> None:
    assert ag.eye(2, 3).tolist() == [[1, 0, 0], [0, 1, 0]] and ag.eye(2).shape == (2, 2)
    np.testing.assert_allclose(ag.linspace(0, 1, 5).numpy(), [0, 0.25, 0.5, 0.75, 1])
    np.testing.assert_allclose(ag.logspace(0, 2, 3, 2.0).numpy(), [1, 2, 4])
    x = ag.full_like(ag.zeros(2, dtype="int64"), 3)
    assert x.tolist() == [3, 3] and x.dtype == np.int64
    assert ag.zeros_like(x, dtype="float32").dtype == ag.ones_like(X).dtype == np.float32
    assert ag.ones_like(X, requires_grad=True).requires_grad and ag.empty(2, 3).shape == (2, 3)
    rows, columns = ag.meshgrid(ag.arange(2), ag.arange(3))
    assert rows.tolist() == [[0] * 3, [1] * 3] and columns.tolist() == [[0, 1, 2]] * 2
    assert V.broadcast_to((2, 3)).shape == (2, 3)


def test_one_hot() -> None:
    x = ag.tensor([[0, 2], [1, 0]])
    y = ag.one_hot(x)
    assert y.shape == (2, 2, 3) and y.dtype == np.int64 and y.tolist()[0] == [[1, 0, 0], [0, 0, 1]]
    assert ag.one_hot(x, 5).shape == (2, 2, 5)
    with pytest.raises(IndexError, match=r"^one_hot: expected positions in \[0, 2\), got 2$"):
        ag.one_hot(x, 2)
    with pytest.raises(TypeError, match=r"^one_hot: expected positions as integers, got float32$"):
        ag.one_hot(V, 2)
    with context.using(backend="meta"):
        assert ag.one_hot(x, 4).shape == (2, 2, 4)
