"""What a plan returns: a function of arrays, and what the backend has to know of it."""

from __future__ import annotations

from collections.abc import Callable
from threading import Lock
from typing import Any


class Executable:
    """A function of arrays, `run`, and what the backend has to know of it.

    `native`: compiled functions do all of its arithmetic, on memory of its arguments, of
    `memory.empty`, or its own, so that calling these functions again is calling it again. A call in
    which that does not hold adds to `LayoutStats`.

    `executed` is the number of multiplications that a call executes; None if it is what the ledger
    counts. `keeps` is what must live as long as the executable, such as an array whose address
    `run` uses.
    """

    __slots__ = ("executed", "keeps", "native", "run")

    def __init__(
        self,
        run: Callable[..., Any],
        *,
        native: bool = False,
        executed: int | None = None,
        keeps: Any = None,
    ) -> None:
        self.run, self.native, self.executed, self.keeps = run, native, executed, keeps

    def __call__(self, *arrays: Any) -> Any:
        return self.run(*arrays)


class Placeable(Executable):
    """A native executable whose result can be written where it belongs: `into` takes that array,
    then the same ones."""

    __slots__ = ("into",)

    def __init__(self, run: Callable[..., Any], into: Callable[..., None]) -> None:
        super().__init__(run, native=True)
        self.into = Executable(into, native=True)


class OneAtATime(Executable):
    """An executable with a lock: no two of its calls run at the same time."""

    __slots__ = ("_lock",)

    def __init__(self, run: Callable[..., Any], *, native: bool = False, keeps: Any = None) -> None:
        super().__init__(run, native=native, keeps=keeps)
        self._lock = Lock()

    def __call__(self, *arrays: Any) -> Any:
        with self._lock:
            return self.run(*arrays)
