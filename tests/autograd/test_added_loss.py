"""Terms that models add to a loss: who collects them, and their gradients."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

import tallygrad.autograd as ag


def penalised(x: ag.Tensor) -> ag.Tensor:
    y = x * 3.0
    ag.add_loss((y * y).sum())
    return y


def test_the_innermost_block_collects() -> None:
    x = ag.ones(2)
    penalised(x)  # nobody does
    with ag.added_losses() as outer:
        penalised(x)
        with ag.added_losses() as inner:
            penalised(x * 2.0)
        penalised(x)
    assert [term.item() for term in outer] == [18.0, 18.0]
    assert [term.item() for term in inner] == [72.0]


def test_a_term_is_one_number() -> None:
    with pytest.raises(ValueError, match=r"^add_loss: expected a term of shape \(\), got \(2,\)$"):
        ag.add_loss(ag.ones(2))


@pytest.mark.parametrize(
    "run", [penalised, lambda x: ag.checkpoint(penalised, x),
            lambda x: ag.checkpoint(lambda x: (penalised(x), x), x)[0]]
)  # fmt: skip
def test_gradients_of_terms(run: Callable[[ag.Tensor], ag.Tensor]) -> None:
    x = ag.tensor([1.0, 2.0], requires_grad=True)
    with ag.added_losses() as terms:
        loss = sum(terms, run(x).sum())
    loss.backward()
    assert loss.item() == 54.0
    np.testing.assert_array_equal(x.grad.numpy(), [21.0, 39.0])


def test_a_checkpoint_without_gradients_adds_terms() -> None:
    with ag.added_losses() as terms:
        ag.checkpoint(penalised, ag.ones(2))
    assert [term.item() for term in terms] == [18.0]
