"""Calls that wait for their reader. A result that only the next call reads need not go through
memory: that call may take what the result would be made of, and do both in one pass.

A backend says which calls may wait and which calls can be joined with the ones before them. Numbers
are computed as soon as anybody else asks for them, and before an operand is written over.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from threading import RLock, get_ident
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol
from weakref import ref

from .recent import WAYS, Recent

if TYPE_CHECKING:
    from .array import Array, NDArray, Spec
    from .storage import Storage

Kernel = Callable[..., Any]
# Which operands of a call are not to be read but to be made in passing: None for one that is read,
# else the same for the operands of the call behind it.
Opened = tuple["Opened | None", ...]


class Recorder(Protocol):
    """Takes down the computations of a thread, so that they can be repeated. `spoiled`: what waited
    there was computed elsewhere, or the other way round."""

    spoiled: bool

    def compute(self, kernel: Kernel, values: Sequence[NDArray]) -> Any:
        """Call a kernel and take it down."""


recorders: dict[int, Recorder] = {}  # by thread


def compute(kernel: Kernel, values: Sequence[NDArray]) -> Any:
    """Call a kernel: all numbers are made here."""
    recorder = recorders.get(get_ident()) if recorders else None
    return kernel(*values) if recorder is None else recorder.compute(kernel, values)


DEEP = 5  # calls that wait in a row at most
MANY = 256  # arrays that wait at most
# Held while it is settled who waits for what, and while what waits is computed.
lock = RLock()
_waiting: list[ref[Array]] = []


class Sign(NamedTuple):
    """What a backend is told of a call that waits: of itself, and of those among its operands
    that wait in their turn (None: numbers)."""

    call: Call
    operands: tuple[Sign | None, ...]


class Joined(NamedTuple):
    """A kernel for a call and for what some of its operands wait for: it is given the operands of
    those in their place. Behind the result it returns the numbers of other arrays that it makes:
    each is told by the place of an argument, of an operand of what that waits for, and so on."""

    kernel: Kernel
    opened: Opened
    makes: tuple[tuple[int, ...], ...] = ()


class Call:
    """A kernel for arguments of certain shapes. `join(call, signs)` finds a kernel that does what
    the arguments wait for as well, None where there is none; without a `join`, never. `machine` is
    what the backend made the kernel for."""

    __slots__ = ("attrs", "join", "joined", "kernel", "machine", "name", "specs")

    def __init__(
        self,
        name: str,
        specs: tuple[Spec, ...],
        attrs: dict[str, Any],
        kernel: Kernel,
        join: Callable[[Call, tuple[Sign | None, ...]], Joined | None] | None = None,
        machine: Any = None,
    ) -> None:
        self.name, self.specs, self.attrs = name, specs, attrs
        self.kernel, self.join, self.machine = kernel, join, machine
        self.joined: Recent[tuple[Sign | None, ...], Joined | None] = Recent(WAYS)

    def run(self, args: tuple[Array, ...]) -> Any:
        """Compute the results, with what the arguments wait for in the same pass if that can be."""
        if self.join is not None and any([a.storage.pending is not None for a in args]):
            joined, operands = self._joined(args)
            if joined is not None:
                others = [_found(args, path) for path in joined.makes]
                result = compute(joined.kernel, [a.value for a in operands])
                if not others:
                    return result
                result, *made = result
                for a, value in zip(others, made, strict=True):
                    a.receive(value)
                return result
        values = [a.value if a._value is None else a._value for a in args]
        return compute(self.kernel, values)

    def _joined(self, args: tuple[Array, ...]) -> tuple[Joined | None, list[Array]]:
        """Return the kernel that takes in what the arguments wait for, None where there is none,
        and its operands: all are found before any is computed, which might compute another."""
        with lock:
            signs = _signs(args)
            try:
                joined = self.joined[signs]
            except KeyError:
                joined = self.join(self, signs) if self.join and any(signs) else None
                self.joined[signs] = joined
            return joined, [*_opened(args, joined.opened)] if joined else []


class Later(NamedTuple):
    """How a call may wait: `now` makes its other results, None where there are none; the result
    at `output` waits for `tail`, whose operands are those arguments and results. `large` are the
    operands that must not be anybody's but the engine's, who could change them unseen; of others, a
    copy is kept. No more than `deep` calls wait in a row, this one included."""

    tail: Call
    operands: tuple[int, ...]
    large: tuple[int, ...]
    output: int = 0
    now: Call | None = None
    deep: int = DEEP


class Deferred:
    """A call that waits, for the one array that it will make. It is counted when it is made, as
    any other, whether its numbers are read or not."""

    __slots__ = ("call", "operands", "recorder")

    def __init__(self, call: Call, operands: tuple[Array, ...]) -> None:
        self.call, self.operands = call, operands
        self.recorder = recorders.get(get_ident()) if recorders else None

    def run(self) -> NDArray:
        """Compute the numbers."""
        if recorders or self.recorder is not None:
            here = recorders.get(get_ident())
            for recorder in (here, self.recorder) if here is not self.recorder else ():
                if recorder is not None:
                    recorder.spoiled = True
        value: NDArray = self.call.run(self.operands)
        return value

    def reads(self, storage: Storage) -> bool:
        """Tell whether the call reads the memory of an array."""
        return any(a.storage is storage for a in self.operands)


def wait(array: Array, call: Call, operands: tuple[Array, ...], deep: int = DEEP) -> None:
    """Let an array without numbers wait for a call. Where it would be more than `deep` in a row,
    what the last one before it reads is computed."""
    with lock:
        for a in operands:
            if _depth(a) >= deep and a.storage.pending is not None:
                for b in a.storage.pending.operands:
                    b.realize()
        array.storage.pending = Deferred(call, operands)
        _waiting.append(ref(array))
        if len(_waiting) > MANY:
            # Whoever keeps so many unread would keep their operands too.
            compute_all(MANY // 2)


def _depth(array: Array) -> int:
    """Return how many calls an array waits for, one behind the other."""
    waits = array.storage.pending
    return 0 if waits is None else 1 + max(map(_depth, waits.operands))


def settle(storage: Storage) -> None:
    """Compute what is made from the memory of an array, which is about to be written."""
    if _waiting:
        with lock:
            for array in _still_waiting():
                if array.storage.pending is not None and array.storage.pending.reads(storage):
                    array.realize()


def compute_all(but: int = 0) -> None:
    """Compute all that waits, `but` for so many newest ones; nothing of another's recording."""
    with lock:
        here = recorders.get(get_ident())
        alive = _still_waiting()
        for array in alive[: len(alive) - but]:
            if array.storage.pending is not None and array.storage.pending.recorder is here:
                array.realize()


def _still_waiting() -> list[Array]:
    """Return the arrays that wait, and strike the others off."""
    alive = [(r, array) for r in _waiting if (array := r()) is not None and array.storage.pending]
    _waiting[:] = [r for r, _ in alive]
    return [array for _, array in alive]


def _signs(args: tuple[Array, ...]) -> tuple[Sign | None, ...]:
    """Return what a backend is told of arguments: None for those that have their numbers."""
    waits = [a.storage.pending for a in args]
    return tuple([None if w is None else Sign(w.call, _signs(w.operands)) for w in waits])


def _found(args: tuple[Array, ...], path: tuple[int, ...]) -> Array:
    """Return an argument, or what lies behind what it waits for."""
    first, *rest = path
    a = args[first]
    for i in rest:
        assert a.storage.pending is not None
        a = a.storage.pending.operands[i]
    return a


def _opened(args: tuple[Array, ...], opened: Opened) -> Iterator[Array]:
    """Yield the arguments, and in the place of those that are opened, their operands."""
    for a, inner in zip(args, opened, strict=True):
        if inner is None or a.storage.pending is None:
            yield a
        else:
            yield from _opened(a.storage.pending.operands, inner)
