"""Storage: the memory under an array and its views, and what is known about it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .array import Spec
    from .deferred import Pending
    from .narrow_copy import NarrowCopy


class Storage:
    """Memory that one array owns and its views share. It holds no reference to either.

    `version` grows with each write that a primitive declares. `owned`: only the engine has the
    memory, so nobody can write to it unnoticed. `persistent`: it exists whether the tape needs it
    or not, like that of leaves. `saved_by` counts the records that need it. `pending` is the call
    whose result it will hold, None where the numbers are there. `spec` is that of the owner.
    `narrow`: the narrow copy of a flat buffer of weights."""

    __slots__ = (
        "__weakref__", "narrow", "owned", "pending", "persistent", "saved_by", "spec", "version",
    )  # fmt: skip

    def __init__(self, spec: Spec) -> None:
        self.spec = spec
        self.version = 0
        self.owned = False
        self.persistent = False
        self.saved_by = 0
        self.pending: Pending | None = None
        self.narrow: NarrowCopy | None = None
