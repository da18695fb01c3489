"""Sparsity: an observer that counts zeros in the factors of products.

MACs whose factors are both non-zero are counted by the non-zero rules that primitives declare."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from ..array import Array
from ..ledger import Ledger, SparsitySample
from ..nonzeros import Factor
from ..storage import Storage
from .observer import Dispatched, PassiveObserver


class Sparsity(PassiveObserver):
    """Counts zeros in each call with MACs, and files them in the ledger's samples.

    It reads numbers and changes none; deferred calls have the same bits when it realizes them one
    by one. `weights` are arrays whose memory holds weights; what a backward sweep computes is a
    gradient; everything else is an activation. Use a new one for each sweep."""

    def __init__(self, ledger: Ledger, weights: Iterable[Array] = ()) -> None:
        super().__init__(ledger)
        self.weights = {id(a.storage): a.storage for a in weights}
        self.gradients: set[int] = set()

    def add(self, call: Dispatched) -> None:
        """Count a call."""
        *names, cost = call.key
        for a in call.results:
            if a.base is None:  # the id may have been that of other memory before
                sweeps = names[1].startswith("backward")
                (self.gradients.add if sweeps else self.gradients.discard)(id(a.storage))
        # Only products have factors whose zeros save work.
        if not cost.macs:
            return
        rule = call.primitive.nonzero_rule
        if rule is None:
            sample = SparsitySample(calls=1, uncounted=cost.macs)
        else:
            attrs = dict(zip(call.primitive.defaults, call.attrs, strict=True))
            products = rule(call.args, call.results, attrs)
            nonzero = sum(product.macs for product in products)
            sample = SparsitySample(calls=1, macs=cost.macs, nonzero=nonzero)
            for factor in (f for p in products for f in (p.left, p.right)):
                sample = sample.plus(self._zeros(factor))
        self.ledger.sample((names[0], names[1], names[2], names[3]), sample)

    def _holds_weights(self, storage: Storage) -> bool:
        """Tell whether memory holds weights, or a narrow copy of them."""
        copies = (s.narrow.array for s in self.weights.values() if s.narrow)
        return id(storage) in self.weights or any(a and a.storage is storage for a in copies)

    def _zeros(self, factor: Factor) -> SparsitySample:
        """Return the numbers of a factor and the zeros among them, by what they are."""
        storage, size = factor.array.storage, factor.nonzero.size
        zeros = size - int(np.count_nonzero(factor.nonzero))
        if factor.weights or self._holds_weights(storage):
            return SparsitySample(weights=size, weight_zeros=zeros)
        if id(storage) in self.gradients:
            return SparsitySample(gradients=size, gradient_zeros=zeros)
        return SparsitySample(activations=size, activation_zeros=zeros)
