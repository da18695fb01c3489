"""Who watches the calls that dispatch makes, to make them again later."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from .array import Array
    from .ledger import Cost, Ledger
    from .nn.module import Module
    from .primitive import CallInfo, Primitive
    from .tensor import Tensor


class Dispatched(NamedTuple):
    """A call: attributes in the order in which the primitive declares them, arguments and results,
    what it is filed under and in which ledger."""

    primitive: Primitive
    attrs: tuple[Any, ...]
    info: CallInfo
    args: Sequence[Array]
    made: Sequence[Array]
    key: tuple[str, str, str, str, Cost]
    ledger: Ledger


class Changes:
    """Counts how often an attribute of any module was set, so that a look at one number tells that
    there is nothing to look for."""

    count = 0


class Observer:
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

    def add(self, call: Dispatched) -> None:
        """Take down a call."""
        if call.ledger is not self.ledger:
            self.refuse("changes the ledger; do so around the call")
        if not call.primitive.writes:
            return
        roots = {id(a.root): a.root for a in (call.args[i] for i in call.primitive.writes)}
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

    def reads(self, tensor: Tensor) -> None:
        """Hear that a call, or what is no call, reads a tensor."""

    def called(self, module: Module) -> None:
        """Hear that a module is called."""

    def deliver(self, leaf: Tensor) -> None:
        """Hear that a leaf is about to get its gradient."""

    def announce(self, leaf: Tensor) -> None:
        """Tell those who wait for a leaf's gradient that it is final."""


MAKES = "makes of numbers; make it outside"
