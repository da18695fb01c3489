"""Weights that keep what mixed precision rounds them to, for inference."""

from __future__ import annotations

from typing import TypeVar

from .. import context
from ..dtypes import FLOAT32
from ..functional.create import zeros
from ..ledger import Ledger
from ..narrow_copy import NarrowCopy
from ..ops.update import store
from .module import Module

__all__ = ["keep_narrow_weights"]

M = TypeVar("M", bound=Module)


def keep_narrow_weights(model: M) -> M:
    """Move the float32 parameters of a model to memory with a narrow copy, for inference within
    `autocast`, and return the model.

    The copy is made when it is first read, and again after a weight changed; no call, traced or
    not, casts weights, and the ledger counts no casts. Results are the same bits. It takes half as
    much memory again as all weights. Weights that an optimizer has laid into a flat buffer have
    such a copy already and stay where they are, and so do those of other types.
    """
    parameters = [
        p for p in model.parameters() if p.dtype == FLOAT32 and p.array.storage.narrow is None
    ]
    with context.using(ledger=Ledger(), tape=None):
        home = zeros(sum(p.size for p in parameters), dtype=FLOAT32).array.own()
        home.storage.narrow = NarrowCopy()
        offset = 0
        for p in parameters:
            place = home.view(offset, p.shape)
            store(place, p.array)
            p.rebind(place)
            offset += p.size
    return model
