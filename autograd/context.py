"""The one piece of ambient state: which backend computes, what for, where, and on which tape.

It is a ContextVar, so threads and asynchronous tasks have their own."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar, Token
from functools import wraps
from inspect import isgeneratorfunction
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple, ParamSpec, TypeAlias, TypeVar
from weakref import WeakKeyDictionary

from .ledger import Ledger

if TYPE_CHECKING:
    from .array import Array
    from .capture.observer import Observer
    from .dtypes import DType
    from .tape import Tape
    from .tensor import Tensor

P = ParamSpec("P")
R = TypeVar("R")
PHASES = (
    "forward",
    "recompute",
    "backward_data",
    "backward_weights",
    "update",
    "communicate",
    "evaluate",
)


class Cast(NamedTuple):
    """The numbers of an array, as they were in a version of its memory, in another type."""

    version: int
    result: Array


Casts: TypeAlias = "WeakKeyDictionary[Array, Cast]"  # as long as their arrays are in use
_NO_CASTS: Casts = WeakKeyDictionary()  # outside of `autocast`, where nothing is added


class Context:
    """Immutable state of one thread of control.

    `backend`: its name; `phase`: one of PHASES; `scope`: the module path; `tape`: None for
    inference; `ledger`: where dispatch counts; `observer`: None, or who is told of each call;
    `autocast`: None, or the narrow type of mixed precision; `casts`: the weights that were cast to
    it, by their arrays."""

    __slots__ = ("autocast", "backend", "casts", "ledger", "observer", "phase", "scope", "tape")

    def __init__(
        self,
        backend: str,
        phase: str,
        scope: str,
        tape: Tape | None,
        ledger: Ledger,
        observer: Observer | None = None,
        autocast: DType | None = None,
        casts: Casts | None = None,
    ) -> None:
        self.backend = backend
        self.phase = phase
        self.scope = scope
        self.tape = tape
        self.ledger = ledger
        self.observer = observer
        self.autocast = autocast
        self.casts = _NO_CASTS if casts is None else casts

    def replace(self, **changes: Any) -> Context:
        """Return a copy with some fields changed. It shares casts of weights as long as the same
        ledger, observer and backend would see them, and from the outermost `autocast` inwards."""
        state = self.within(self.scope)
        for name, value in changes.items():
            setattr(state, name, value)
        if self.autocast is None or not changes.keys() <= {"autocast", "tape"}:
            state.casts = _NO_CASTS if state.autocast is None else WeakKeyDictionary()
        return state

    def within(self, scope: str) -> Context:
        """Return a copy with another scope."""
        return Context(
            self.backend, self.phase, scope, self.tape, self.ledger, self.observer, self.autocast,
            self.casts,
        )  # fmt: skip

    def inside(self, name: str) -> Context:
        """Return a copy with a name, if it is not empty, appended to the scope."""
        if not name:
            return self
        return self.within(f"{self.scope}.{name}" if self.scope else name)


_state: ContextVar[Context] = ContextVar("tallygrad")
# A ContextVar's value does not pass on to new threads: they start with this one.
_initial: Context | None = None


def current() -> Context:
    """Return the context of this thread of control."""
    state = _state.get(_initial)
    if state is None:
        raise RuntimeError("tallygrad.autograd was not imported as a package")
    return state


def start(tape: Tape, backend: str) -> None:
    """Give every thread its first context; called once, when the package is imported."""
    global _initial
    _initial = Context(backend, "forward", "", tape, Ledger())


def start_with(backend: str) -> None:
    """Change the backend of the first context, for all threads. RuntimeError within a block that
    has a context of its own."""
    global _initial
    state = current()
    if state is not _initial:
        raise RuntimeError(
            "set_backend: expected a call outside of blocks such as no_grad() and using(), got one "
            "inside"
        )
    _initial = state.replace(backend=backend)


def enter(state: Context) -> Token[Context]:
    """Make `state` current; pass the token to `leave`."""
    return _state.set(state)


def leave(token: Token[Context]) -> None:
    """Undo an `enter`."""
    _state.reset(token)


def not_replayable(what: str) -> None:
    """Tell the observer, if any, that a function does what a replay of its calls would not
    repeat."""
    observer = current().observer
    if observer is not None:
        observer.refuse(f"{what}, which its calls would not do again")


def reads_numbers() -> None:
    """Tell the observer, if any, that Python reads numbers, on which later calls may depend."""
    not_replayable("reads a tensor's numbers")


def created(a: Array) -> Array:
    """Tell the observer, if any, of an array that comes from no call, and return it."""
    observer = current().observer
    if observer is not None:
        observer.created.append(a)
    return a


def reads(tensor: Tensor) -> None:
    """Tell the observer, if any, that a tensor's array is read by other means than a call."""
    observer = current().observer
    if observer is not None:
        observer.reads(tensor)


def gives(tensor: Tensor) -> None:
    """Tell the observer, if any, of a new tensor on the memory of one that is read."""
    observer = current().observer
    if observer is not None:
        observer.gives(tensor)


class using:
    """Change fields of the context within a `with` block: `with using(phase="evaluate"): ...`.

    Blocks nest, and one object may be entered several times."""

    __slots__ = ("changes", "tokens")

    def __init__(self, **changes: Any) -> None:
        self.changes = changes
        self.tokens: list[Token[Context]] = []

    def __enter__(self) -> Context:
        state = current().replace(**self.changes)
        self.tokens.append(enter(state))
        return state

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        leave(self.tokens.pop())


def in_block(block: Callable[[], using], function: Callable[P, R]) -> Callable[P, R]:
    """Return a function that runs in a block of its own each time. TypeError for a generator."""
    if isgeneratorfunction(function):
        raise TypeError(f"{function.__name__} is a generator: use a with block inside it")

    @wraps(function)
    def inside(*args: P.args, **kwargs: P.kwargs) -> R:
        with block():
            return function(*args, **kwargs)

    return inside


class scope(using):
    """Append a name to the scope: nested modules give `stage1.0.conv1`."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    def __enter__(self) -> Context:
        state = current().inside(self.name)
        self.tokens.append(enter(state))
        return state
