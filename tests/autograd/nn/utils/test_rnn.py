"""Sequences of several lengths, as torch lays them side by side."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tallygrad.autograd as ag
from tallygrad.autograd import nn
from tallygrad.autograd.nn.utils.rnn import pad_sequence, unpad_sequence


@pytest.mark.parity
@pytest.mark.parametrize("shape", [(), (2,), (2, 3)])
@pytest.mark.parametrize(
    "options", [{}, {"batch_first": True, "padding_value": -1.5}, {"padding_side": "left"}]
)
def test_sequences_lie_as_in_torch(shape: tuple[int, ...], options: dict[str, Any]) -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    rng = np.random.default_rng(0)
    numbers = [rng.standard_normal((length, *shape)) for length in (3, 1, 4)]
    mine, theirs = ([t.tensor(n, requires_grad=True) for n in numbers] for t in (ag, torch))
    y, z = pad_sequence(mine, **options), torch.nn.utils.rnn.pad_sequence(theirs, **options)
    assert (y.detach().numpy() == z.detach().numpy()).all()
    (y * y).sum().backward()
    (z * z).sum().backward()
    for a, b in zip(mine, theirs, strict=True):
        assert a.grad is not None and (a.grad.numpy() == b.grad.numpy()).all()


def test_they_come_apart_again() -> None:
    rows = [ag.arange(n) for n in (3, 1, 2)]
    for first in (False, True):
        back = unpad_sequence(pad_sequence(rows, first), ag.tensor([3, 1, 2]), first)
        assert [x.tolist() for x in back] == [x.tolist() for x in rows]
    assert nn.utils.rnn.pad_sequence is pad_sequence


@pytest.mark.parametrize(("call", "said"), [
    (lambda: pad_sequence([]), "pad_sequence: expected at least one sequence, got none"),
    (lambda: pad_sequence([ag.ones(1)], padding_side="up"), "expected padding_side 'left' or"),
])  # fmt: skip
def test_what_cannot_be_padded(call: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        call()
