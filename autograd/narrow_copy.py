"""A narrow copy of the weights in a flat buffer, which mixed precision reads in their place.

The optimizer's update writes it in the same pass as the weights. Whatever else changes these leaves
it behind: it is renewed as a whole before it is read again."""

from __future__ import annotations

from functools import partial

from .array import Array, Spec
from .backends import computes
from .context import current, using
from .deferred import lock
from .dtypes import FLOAT32, DType
from .ledger import Ledger
from .ops.shape import full
from .ops.update import store

SCOPE = "optimizer"  # what its work is filed under


class NarrowCopy:
    """The copy of a flat buffer: None until somebody reads it. `version` is that of the weights
    whose numbers it has, `is_read` whether it was read since the last update, `views` are its parts
    by the weights' places and shapes."""

    __slots__ = ("array", "is_read", "version", "views")

    def __init__(self) -> None:
        self.array: Array | None = None
        self.version, self.is_read = -1, False
        self.views: dict[tuple[int, Spec], Array] = {}

    def view(self, weights: Array) -> Array:
        """Return the part that belongs to a view of the weights."""
        assert self.array is not None
        key = weights.offset, weights.spec
        if key not in self.views:
            self.views[key] = self.array.view(weights.offset, weights.shape)
        return self.views[key]

    def is_current(self, weights: Array) -> bool:
        """Tell whether it has the numbers of the whole flat buffer. Where others may write to the
        weights unseen, nobody knows."""
        storage = weights.storage
        trusted = storage.owned or not weights.has_numbers
        return self.array is not None and trusted and self.version == storage.version


def narrow_form(weights: Array, dtype: DType) -> Array | None:
    """Return weights of a flat buffer in a narrow type, rounded; None of all others, and of those
    whose memory is known outside of the engine."""
    copy, owner = weights.storage.narrow, weights.owner
    if copy is None or weights.offset < 0 or weights.dtype != FLOAT32:
        return None
    if owner.has_numbers and not computes():
        shape_alone = Array(Spec(weights.shape, dtype), None)
        shape_alone.storage.persistent = True
        return shape_alone
    if owner.has_numbers and not owner.storage.owned:
        return None
    observer = current().observer
    if observer is None:
        renew(owner, dtype, False)
    else:
        observer.reads_narrow(owner, partial(renew, owner, dtype))
    return copy.view(weights)


def renew(weights: Array, dtype: DType, observed: bool) -> None:
    """Bring the copy of a flat buffer up to date, by a call that is `observed` or not. The first
    numbers that it gets are no part of a step's work: they are not counted. On the meta backend,
    the copy of weights that have numbers stays as it is."""
    copy = weights.storage.narrow
    if copy is None or (weights.has_numbers and not computes()):
        return
    with lock:  # or two threads write it
        copy.is_read = True
        if copy.is_current(weights):
            return
        with using(phase="update", scope=SCOPE, tape=None):
            if copy.array is None:
                with using(ledger=Ledger(), observer=None):
                    copy.array = full(shape=(weights.spec.size,), dtype=dtype, value=0.0)
                    copy.array.storage.persistent = True
                    store(copy.array, weights)
            elif not observed:
                with using(observer=None):
                    store(copy.array, weights)
            if observed:
                store(copy.array, weights)
        copy.version = weights.storage.version
