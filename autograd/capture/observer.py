"""Observers: told of each call that dispatch makes, to replay it later or to measure it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

if TYPE_CHECKING:
    from ..array import Array
    from ..ledger import Cost, Ledger
    from ..nn.module import Module
    from ..primitive import CallInfo, Primitive
    from ..storage import Storage
    from ..tensor import Tensor


# Brings a narrow copy of weights up to date, as an observed call or not.
Renewal: TypeAlias = Callable[[bool], None]


class Dispatched(NamedTuple):
    """A call that was made.

    It has its attributes in the order in which the primitive declares them, its arguments and
    results, its key in the ledger, and that ledger."""

    primitive: Primitive
    attrs: tuple[Any, ...]
    info: CallInfo
    args: Sequence[Array]
    results: Sequence[Array]
    key: tuple[str, str, str, str, Cost]
    ledger: Ledger


class Changes:
    """Counts how often an attribute of any module was set.

    While the number stays, no guard needs to look at a module."""

    count = 0


class Observer:
    """Told of each call, and of what a function does besides, within `context.using(observer=...)`.

    `inputs` are the storages of the function's arguments, `created` arrays that come from no
    call, `stashes` what the tape saves, as the ledger files it, `written` the memory that calls
    write to."""

    training = False  # whether gradients may be recorded

    def __init__(self, inputs: Sequence[Array], ledger: Ledger) -> None:
        self.ledger = ledger
        self.inputs = {id(a.storage) for a in inputs}
        self.written: dict[int, Storage] = {}
        self.created: list[Array] = []
        self.stashes: list[tuple[tuple[str, str, str, str], int]] = []

    def add(self, call: Dispatched) -> None:
        """Observe a call."""
        if call.ledger is not self.ledger:
            self.refuse("changes the ledger; do so around the call")
        if not call.primitive.writes:
            return
        written = [call.args[i].storage for i in call.primitive.writes]
        if self.has_created(written):
            self.refuse(f"writes to a tensor that it {FROM_NUMBERS}")
        self.written.update((id(s), s) for s in written)

    def has_created(self, storages: Iterable[Storage]) -> bool:
        """Tell whether some of the memory comes from no call."""
        return not {id(s) for s in storages}.isdisjoint({id(a.storage) for a in self.created})

    @property
    def writes_inputs(self) -> bool:
        """Whether a call wrote to an argument of the function."""
        return not self.written.keys().isdisjoint(self.inputs)

    def refuse(self, what: str) -> None:
        """Reject what a replay of the function's calls would not repeat: RuntimeError."""
        raise RuntimeError(f"trace: the function {what}")

    def reads(self, tensor: Tensor) -> None:
        """Observe that a tensor is read, by a call or otherwise."""

    def gives(self, tensor: Tensor) -> None:
        """Observe that a tensor is made on the memory of one that is read."""

    def reads_narrow(self, weights: Array, renew: Renewal) -> None:
        """Observe that the narrow copy of a flat buffer is about to be read, and renew it."""
        renew(False)

    def has_written(self, a: Array) -> bool:
        """Tell whether a call has written to the memory of an array."""
        return id(a.storage) in self.written

    def called(self, module: Module) -> None:
        """Observe that a module is called."""

    def deliver(self, leaf: Tensor) -> None:
        """Observe that a leaf is about to get its gradient."""

    def announce(self, leaf: Tensor) -> None:
        """Call a leaf's `post_grad_hooks`, or not: its gradient is final."""


class PassiveObserver(Observer):
    """Measures the calls of a function without changing what the function may do: it may record
    gradients, and nothing is refused, since nothing is replayed."""

    training = True

    def __init__(self, ledger: Ledger) -> None:
        super().__init__((), ledger)

    def refuse(self, what: str) -> None:
        """Accept everything."""

    def announce(self, leaf: Tensor) -> None:
        """Call the hooks of a final gradient."""
        leaf.announce()


FROM_NUMBERS = "makes of numbers; make it outside"
