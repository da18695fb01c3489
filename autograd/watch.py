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
    """Is told of each call, and of what a function does besides. `inputs` are what the function is
    given, `created` arrays that come from no call, `stashes` what the tape keeps, as the ledger
    files it, `written` the memory that calls write to."""

    training = False  # whether gradients may be recorded

    def __init__(self, inputs: Sequence[Array], ledger: Ledger) -> None:
        self.ledger = ledger
        self.inputs = {id(a.root) for a in inputs}
        self.written: dict[int, Array] = {}
        self.created: list[Array] = []
        self.stashes: list[tuple[tuple[str, str, str, str], int]] = []

    def add(
        self, primitive: Primitive, known: Known, args: Sequence[Array], made: Sequence[Array],
        key: Any, ledger: Ledger,
    ) -> None:  # fmt: skip
        """Take down a call and what it is filed under."""
        if ledger is not self.ledger:
            self.refuse("changes the ledger; do so around the call")
        if not primitive.writes:
            return
        roots = {id(args[i].root): args[i].root for i in primitive.writes}
        if not roots.keys().isdisjoint({id(a) for a in self.created}):
            self.refuse(f"writes to a tensor that it {MAKES}")
        self.written.update(roots)

    @property
    def writes_inputs(self) -> bool:
        """Whether a call wrote to what the function is given."""
        return not self.written.keys().isdisjoint(self.inputs)

    def refuse(self, what: str) -> None:
        """Hear that the function does what its calls would not do again: RuntimeError."""
        raise RuntimeError(f"trace: the function {what}")

    def deliver(self, leaf: Tensor) -> None:
        """Hear that a leaf is about to get its gradient."""

    def announce(self, leaf: Tensor) -> None:
        """Tell those who wait for a leaf's gradient that it is final."""


MAKES = "makes of numbers; make it outside"
