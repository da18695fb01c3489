"""Deferred execution and fusion.

A result that only the next call reads need not go through memory: that call may take the operands
of the result instead, and do both calls in one pass. A backend says which calls are deferred, and
which can be fused with pending calls before them. A pending result is realized as soon as anybody
else asks for its numbers, and before one of its operands is overwritten."""

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
# Which operands of a call a fused kernel makes in passing: None for one that it reads, else the
# same for the operands of the pending call behind it.
Inlined = tuple["Inlined | None", ...]


class Recorder(Protocol):
    """Records the computations of a thread, so that they can be replayed.

    `spoiled`: what was pending there was computed elsewhere, or the other way round."""

    spoiled: bool

    def compute(self, kernel: Kernel, values: Sequence[NDArray]) -> Any:
        """Call a kernel and record it."""


recorders: dict[int, Recorder] = {}  # by thread


def compute(kernel: Kernel, values: Sequence[NDArray]) -> Any:
    """Call a kernel. All numbers are computed here, so that a recorder sees every kernel."""
    recorder = recorders.get(get_ident()) if recorders else None
    return kernel(*values) if recorder is None else recorder.compute(kernel, values)


MAX_DEPTH = 5  # pending calls in a row
MAX_PENDING = 256  # pending arrays
# Held while anybody looks at or changes which arrays are pending, and while one is computed: two
# threads that read one array must not both compute it. Reentrant, since a pending call's operands
# may be pending themselves.
lock = RLock()
_pending_arrays: list[ref[Array]] = []


class Signature(NamedTuple):
    """A pending call as a backend sees it: the call, and the signatures of its operands.

    An operand that has its numbers has the signature None."""

    call: Call
    operands: tuple[Signature | None, ...]


class Fused(NamedTuple):
    """A kernel for a call and for the pending calls behind some of its operands.

    It is given the operands of those calls in their place. After the result it returns the numbers
    of the arrays at `also_made`, paths from an argument to an operand of its pending call, and so
    on."""

    kernel: Kernel
    inlined: Inlined
    also_made: tuple[tuple[int, ...], ...] = ()


class Call:
    """A kernel for arguments of certain shapes.

    `fuse(call, signatures)` finds a kernel that also does the pending calls behind the arguments,
    None if there is none; without `fuse`, the arguments are always realized. `target` is what the
    backend compiled the kernel for."""

    __slots__ = ("attrs", "fuse", "fused", "kernel", "name", "specs", "target")

    def __init__(
        self,
        name: str,
        specs: tuple[Spec, ...],
        attrs: dict[str, Any],
        kernel: Kernel,
        fuse: Callable[[Call, tuple[Signature | None, ...]], Fused | None] | None = None,
        target: Any = None,
    ) -> None:
        self.name, self.specs, self.attrs = name, specs, attrs
        self.kernel, self.fuse, self.target = kernel, fuse, target
        self.fused: Recent[tuple[Signature | None, ...], Fused | None] = Recent(WAYS)

    def run(self, args: tuple[Array, ...]) -> Any:
        """Compute the results, in one pass with the pending calls behind the arguments if a kernel
        can."""
        if self.fuse is not None and any([a.storage.pending is not None for a in args]):
            fused, operands = self._find_fused(args)
            if fused is not None:
                others = [_follow(args, path) for path in fused.also_made]
                result = compute(fused.kernel, [a.value for a in operands])
                if not others:
                    return result
                result, *values = result
                for a, value in zip(others, values, strict=True):
                    a.receive(value)
                return result
        values = [a.value if a._value is None else a._value for a in args]
        return compute(self.kernel, values)

    def _find_fused(self, args: tuple[Array, ...]) -> tuple[Fused | None, list[Array]]:
        """Return the fused kernel, None if there is none, and its operands.

        All operands are found before any is computed, since computing one might realize another."""
        with lock:
            signatures = _signatures(args)
            try:
                fused = self.fused[signatures]
            except KeyError:
                fused = self.fuse(self, signatures) if self.fuse and any(signatures) else None
                self.fused[signatures] = fused
            return fused, [*_inline(args, fused.inlined)] if fused else []


class DeferralPlan(NamedTuple):
    """How a call is deferred.

    `immediate` computes its other results at once, None if it has none; the result at `output` is
    left to `tail`, whose `operands` are those of the arguments and then the results at these
    indices. The operands in `must_own` must belong to the engine alone, since anybody else could
    change them unnoticed; the others are copied where they do not. At most `max_depth` calls are
    pending in a row, this one included. Of calls that are `alone`, one of a kind is pending at a
    time, so that unread ones do not keep the memory of their operands."""

    tail: Call
    operands: tuple[int, ...]
    must_own: tuple[int, ...]
    output: int = 0
    immediate: Call | None = None
    max_depth: int = MAX_DEPTH
    alone: bool = False


class Pending:
    """A call that has not run, for the one array that it will compute.

    The ledger counted it when it was made, like any other, whether its numbers are ever read or
    not."""

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


def defer(
    array: Array, call: Call, operands: tuple[Array, ...], max_depth: int = MAX_DEPTH,
    alone: bool = False,
) -> None:  # fmt: skip
    """Leave an array without numbers to a call that runs when somebody reads it.

    If that makes more than `max_depth` pending calls in a row, the operands of the call before it
    are realized; if it is `alone`, the one of its kind before it."""
    with lock:
        if alone:
            here = recorders.get(get_ident())
            for before in _alive():
                pending = before.storage.pending
                if (
                    pending is not None
                    and pending.call.name == call.name
                    and pending.recorder is here
                ):
                    before.realize()
        for a in operands:
            if _depth(a) >= max_depth and a.storage.pending is not None:
                for b in a.storage.pending.operands:
                    b.realize()
        array.storage.pending = Pending(call, operands)
        _pending_arrays.append(ref(array))
        if len(_pending_arrays) > MAX_PENDING:
            # Whoever keeps so many unread keeps the memory of their operands alive, too. Half of
            # them go at once, so that the list is not searched again for each new one.
            compute_all(MAX_PENDING // 2)


def _depth(array: Array) -> int:
    """Return how many calls are pending for an array, one behind the other."""
    pending = array.storage.pending
    return 0 if pending is None else 1 + max(map(_depth, pending.operands))


def realize_readers(storage: Storage) -> None:
    """Compute all pending calls that read a storage, which is about to be written to."""
    if _pending_arrays:
        with lock:
            for array in _alive():
                if array.storage.pending is not None and array.storage.pending.reads(storage):
                    array.realize()


def compute_all(but: int = 0) -> None:
    """Compute all pending calls but the `but` newest ones; those of another thread's recording
    stay."""
    with lock:
        here = recorders.get(get_ident())
        alive = _alive()
        for array in alive[: len(alive) - but]:
            if array.storage.pending is not None and array.storage.pending.recorder is here:
                array.realize()


def _alive() -> list[Array]:
    """Return the arrays that are pending, and drop the others from the list."""
    alive = [(r, a) for r in _pending_arrays if (a := r()) is not None and a.storage.pending]
    _pending_arrays[:] = [r for r, _ in alive]
    return [array for _, array in alive]


def _signatures(args: tuple[Array, ...]) -> tuple[Signature | None, ...]:
    """Return the signatures of arguments: None for those that have their numbers."""
    calls = [a.storage.pending for a in args]
    return tuple([None if c is None else Signature(c.call, _signatures(c.operands)) for c in calls])


def _follow(args: tuple[Array, ...], path: tuple[int, ...]) -> Array:
    """Return an argument, or an array behind its pending call."""
    first, *indices = path
    a = args[first]
    for i in indices:
        assert a.storage.pending is not None
        a = a.storage.pending.operands[i]
    return a


def _inline(args: tuple[Array, ...], inlined: Inlined) -> Iterator[Array]:
    """Yield the arguments; in place of those that are inlined, their operands."""
    for a, inner in zip(args, inlined, strict=True):
        if inner is None or a.storage.pending is None:
            yield a
        else:
            yield from _inline(a.storage.pending.operands, inner)
