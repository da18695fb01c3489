"""Recordings of calls, replayed without Python: the addresses of compiled functions and their
arguments, in a table that a compiled loop walks.

A replay works on the same memory again, which is why a recording has memory of its own. Calls that
are not native, above all NumPy's, stay calls of Python between two walks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import groupby
from threading import get_ident
from types import TracebackType
from typing import Any, TypeAlias

import numpy as np

from .... import deferred
from ....array import NDArray
from ....dtypes import COMPUTED
from ..compiler import jit
from ..compiler.isa.targets import Target
from ..kernels.sweep import copied
from ..kernels.walk import ENTRY, walk
from .executable import Executable
from .layout import address, layout_stats, plain
from .memory import Arena, SystemMemory, empty, pool

Recorded: TypeAlias = tuple[int, tuple[int | None, ...]]
Step: TypeAlias = Callable[[], Any]


class NativeRecording:
    """Records what this thread computes within a `with` block.

    `replay()` computes it again on the same memory: copy results that are still needed. Arrays that
    the block made lose their numbers, unless `hold` keeps them. A recording `beside` another shares
    its memory; the two must not be replayed at the same time. `spoiled`: something was computed
    elsewhere, which a replay would lack.
    """

    def __init__(self, target: Target, beside: NativeRecording | None = None) -> None:
        self.arena: Arena = Arena() if beside is None else beside.arena
        self.walk = jit.build(walk, target)
        self._copy = _copying(target)
        self.spoiled = False
        self.calls: list[Recorded | Step] = []
        self.steps: list[Step] = []
        self.retained: dict[int, Any] = {}

    def __enter__(self) -> NativeRecording:
        self._begin()
        return self

    def _begin(self) -> None:
        me = get_ident()
        pool.open(self.arena)
        deferred.recorders[me], jit.notes[me] = self, self._note

    def _end(self) -> None:
        me = get_ident()
        del deferred.recorders[me], jit.notes[me]
        pool.close()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._end()
        self.steps = [*self._steps()] if kind is None else []
        self.arena.taken.clear()
        self.calls.clear()

    def _note(self, code: int, arguments: tuple[int | None, ...], engine: Any) -> None:
        self.calls.append((code, arguments))
        self.retained[id(engine)] = engine

    def compute(self, kernel: Callable[..., Any], values: Sequence[NDArray]) -> Any:
        """Call a kernel and record it: as addresses if it is native, else as a call of Python."""
        if kernel is np.copy:  # what `primitive` copies operands with; a native one can be walked
            kernel = self._copy
        # Blocks that this call takes are those behind `before`.
        taken = self.arena.taken
        mark, moves, before = len(self.calls), layout_stats.read(), len(taken)
        result = kernel(*values)
        if isinstance(kernel, Executable) and kernel.native and layout_stats.read() == moves:
            for value in (kernel, *values, *_leaves(result)):
                self._hold_foreign(value)
            return result
        # It is called again as a whole, and calls these functions itself: they are not walked.
        del self.calls[mark:]
        result = _as_arrays(result)
        results = [*_leaves(result)]
        if result is None or not all(_is_view(r, values) for r in results):
            self.calls.append(partial(_call_again, kernel, values, results, taken[before:]))
        return result

    def effect(self, step: Step) -> None:
        """Call a function now, without recording what it computes; each replay calls it at the same
        point."""
        self._end()
        try:
            step()
        finally:
            self._begin()
        self.calls.append(step)

    def hold(self, value: NDArray) -> None:
        """Keep the numbers of an array that the recording made: its memory is not reused."""
        self.retained[id(value)] = value

    def owns(self, value: Any) -> bool:
        """Tell whether an array lies in the recording's memory."""
        while isinstance(value, np.ndarray) and value.base is not None:
            value = value.base
        return getattr(value, "home", None) is self.arena

    def _hold_foreign(self, value: Any) -> None:
        """Keep a kernel, or an array whose memory is not the recording's own."""
        if not self.owns(value):
            self.retained[id(value)] = value

    def _steps(self) -> Iterator[Step]:
        """Yield the steps of a replay: walks, and calls of Python between them."""
        for _, group in groupby(self.calls, lambda step: isinstance(step, tuple)):
            recorded: list[Recorded] = []
            for step in group:
                if isinstance(step, tuple):
                    recorded.append(step)
                else:
                    yield step
            if recorded:
                yield self._walk(recorded)

    def _walk(self, recorded: list[Recorded]) -> Step:
        """Return the step that calls functions with their arguments, from a table."""
        table = np.zeros((len(recorded), ENTRY), np.uint64)
        for row, (code, arguments) in zip(table, recorded, strict=True):
            row[:2] = code, len(arguments)
            # The table is without signs; negative steps are their two's complement.
            row[2 : 2 + len(arguments)] = [(a or 0) % (1 << 64) for a in arguments]
        self.hold(table)
        return partial(self.walk, address(table), len(recorded))

    def replay(self) -> None:
        """Compute all of it again."""
        for step in self.steps:
            step()


def keep_foreign(values: Sequence[NDArray]) -> None:
    """Let the recording of this thread, if there is one, keep what a native call makes in passing:
    a replay works on it too, and only blocks of the arena outlive the call by themselves."""
    recorder = deferred.recorders.get(get_ident()) if deferred.recorders else None
    if isinstance(recorder, NativeRecording):
        for value in values:
            recorder._hold_foreign(value)


def _copying(target: Target) -> Executable:
    """Return an executable that copies natively, so that a copy can be walked too."""

    def copy(x: NDArray) -> NDArray:
        y = empty(x.shape, x.dtype)
        function = jit.build(copied, target, x.dtype.name) if x.dtype in COMPUTED else None
        if function is None or not x.size:
            layout_stats.fallbacks += 1
            y[...] = x
        else:
            x = plain(x)
            function(address(x), address(y), x.size)
        return y

    return Executable(copy, native=True)


def _leaves(result: Any) -> Iterator[Any]:
    """Yield the arrays of a kernel's result, which may be none, one, or tuples of them."""
    if isinstance(result, tuple):
        for part in result:
            yield from _leaves(part)
    elif result is not None:
        yield result


def _as_arrays(result: Any) -> Any:
    """Return a result whose numbers are arrays."""
    if isinstance(result, tuple):
        return tuple(map(_as_arrays, result))
    return None if result is None else np.asarray(result)


def _is_view(result: NDArray, values: Sequence[NDArray]) -> bool:
    """Tell whether a result shares memory with an argument: then there is nothing to copy on
    replay."""
    return any(np.may_share_memory(result, v) for v in values)


def _call_again(
    kernel: Callable[..., Any], values: Sequence[NDArray], results: Sequence[NDArray],
    memory: list[SystemMemory],
) -> None:  # fmt: skip
    """Call a kernel again in the same memory, and copy its results to those of the first call,
    unless they lie there already."""
    pool.again(memory)
    try:
        outputs = kernel(*values)
    finally:
        pool.end()
    for old, new in zip(results, _leaves(outputs), strict=True):
        there = type(new) is np.ndarray and address(old) == address(new)
        if not there and not _is_view(old, values):
            old[...] = new
