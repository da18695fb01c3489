"""Functions that advance together, one at a time: none goes on from a meeting before all are there.

Each runs on a thread of its own, since Python cannot leave a call and come back to it otherwise,
but only while the caller waits for it: nothing happens at the same time, and the order is fixed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextvars import ContextVar, copy_context
from queue import SimpleQueue
from threading import Thread
from typing import Any, Generic, TypeVar

T = TypeVar("T")  # what functions bring to a meeting
R = TypeVar("R")


class _Left(BaseException):
    """Ends a function whose fellows cannot go on."""


class _Met(Generic[T]):
    def __init__(self, value: T) -> None:
        self.value = value


class _Ended(Generic[R]):
    def __init__(self, result: R) -> None:
        self.result = result


class _Seat(Generic[T, R]):
    """A function on a thread of its own, in the context of whoever made it."""

    def __init__(self, function: Callable[[], R]) -> None:
        self._function = function
        self._answers: SimpleQueue[T | _Left | None] = SimpleQueue()
        self._news: SimpleQueue[_Met[T] | _Ended[R] | BaseException] = SimpleQueue()
        run = copy_context().run
        self._thread = Thread(target=run, args=(self._run,), name="tallygrad-lockstep", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        _seat.set(self)
        try:
            self._await()
            self._news.put(_Ended(self._function()))
        except BaseException as error:
            self._news.put(error)

    def _await(self) -> Any:
        answer = self._answers.get()
        if isinstance(answer, _Left):
            raise answer
        return answer

    def meet(self, value: T) -> T:
        """Bring a value to the meeting; return what it came to. Called on this thread."""
        self._news.put(_Met(value))
        result: T = self._await()
        return result

    def advance(self, answer: T | None) -> _Met[T] | _Ended[R]:
        """Let the function go on, up to its next meeting or its end; raise what it raises."""
        self._answers.put(answer)
        news = self._news.get()
        if isinstance(news, BaseException):
            raise news
        return news

    def leave(self) -> None:
        """End the thread."""
        self._answers.put(_Left())
        self._thread.join()


_seat: ContextVar[_Seat[Any, Any] | None] = ContextVar("tallygrad_lockstep", default=None)


class LockStep(Generic[T]):
    """Runs functions that meet. `join` makes of the values that they bring, one each in the order
    of the functions, the one that all of them get; it runs on the caller's thread."""

    def __init__(self, join: Callable[[Sequence[T]], T]) -> None:
        self._join = join

    def meet(self, value: T) -> T:
        """Return what comes of this function's value and of those of its fellows."""
        seat: _Seat[T, Any] | None = _seat.get()
        return self._join([value]) if seat is None else seat.meet(value)

    def run(self, functions: Sequence[Callable[[], R]], before: Callable[[int], None]) -> list[R]:
        """Return the results of functions; `before` is called with the number of each one that is
        about to go on. RuntimeError where one ends while another comes to a meeting."""
        if len(functions) == 1:  # needs no thread
            before(0)
            return [functions[0]()]
        seats: list[_Seat[T, R]] = [_Seat(function) for function in functions]
        try:
            return self._advance(seats, before)
        finally:
            for seat in seats:
                seat.leave()

    def _advance(self, seats: Sequence[_Seat[T, R]], before: Callable[[int], None]) -> list[R]:
        answer: T | None = None
        while True:
            news = []
            for number, seat in enumerate(seats):
                before(number)
                news.append(seat.advance(answer))
            values = [each.value for each in news if isinstance(each, _Met)]
            if not values:
                return [each.result for each in news if isinstance(each, _Ended)]
            if len(values) < len(news):
                raise RuntimeError(
                    f"lockstep: expected all of {len(news)} functions at a meeting, got "
                    f"{len(values)}; they must come to the same ones"
                )
            answer = self._join(values)
