"""Terms that a model adds to the loss of its task, such as a divergence or a penalty."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from .tensor import Tensor

_terms: ContextVar[list[Tensor] | None] = ContextVar("tallygrad_added_losses", default=None)


def add_loss(term: Tensor) -> None:
    """Add a term (0-d), a mean over the samples as losses are, to the loss of whoever runs the
    model and collects terms: `tallygrad train`, `eval`, `cost` and so on. ValueError for another
    shape."""
    if term.shape:
        raise ValueError(f"add_loss: expected a term of shape (), got {term.shape}")
    terms = _terms.get()
    if terms is not None:
        terms.append(term)


@contextmanager
def added_losses() -> Iterator[list[Tensor]]:
    """Collect the terms that models add within the block:

    with added_losses() as terms:
        loss = sum(terms, mse_loss(model(x), x))
    """
    terms: list[Tensor] = []
    token = _terms.set(terms)
    try:
        yield terms
    finally:
        _terms.reset(token)
