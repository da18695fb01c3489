"""Who watches the calls that dispatch makes, to make them again later."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .array import Array
    from .ledger import Ledger
    from .primitive import Known, Primitive
    from .tensor import Tensor


class Watch:
    """Is told of each call, and of what a function does besides. `created` are arrays that come
    from no call, `stashes` what the tape keeps, as the ledger files it."""

    training = False  # whether gradients may be recorded

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self.created: list[Array] = []
        self.stashes: list[tuple[tuple[str, str, str, str], int]] = []

    def add(
        self, primitive: Primitive, known: Known, args: Sequence[Array], made: Sequence[Array],
        key: Any, ledger: Ledger,
    ) -> None:  # fmt: skip
        """Take down a call and what it is filed under."""
        if ledger is not self.ledger:
            self.refuse("changes the ledger; do so around the call")
        created = {id(a) for a in self.created}
        if any(id(args[i].root) in created for i in primitive.writes):
            self.refuse(f"writes to a tensor that it {MAKES}")

    def refuse(self, what: str) -> None:
        """Hear that the function does what its calls would not do again: RuntimeError."""
        raise RuntimeError(f"trace: the function {what}")

    def deliver(self, leaf: Tensor) -> None:
        """Hear that a leaf is about to get its gradient."""

    def announce(self, leaf: Tensor) -> None:
        """Tell those who wait for a leaf's gradient that it is final."""


MAKES = "makes of numbers; make it outside"
