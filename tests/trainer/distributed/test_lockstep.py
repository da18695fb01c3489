"""Functions that advance together: order, meetings, errors."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

import pytest

from tallygrad.autograd import context
from tallygrad.trainer.distributed.lockstep import LockStep


def running() -> set[str]:
    return {t.name for t in threading.enumerate() if "lockstep" in t.name}


@pytest.mark.parametrize("count", [1, 3])
def test_none_goes_on_from_a_meeting_before_all_are_there(count: int) -> None:
    seen: list[object] = []
    turns: list[int] = []

    def join(values: Sequence[int]) -> int:
        seen.append(("join", [*values], threading.current_thread() is threading.main_thread()))
        return sum(values)

    together = LockStep(join)

    def job(number: int) -> Callable[[], int]:
        def run() -> int:
            first = together.meet(number + 1)
            seen.append((number, first))
            return together.meet(10 * first + number)

        return run

    results = together.run([job(n) for n in range(count)], turns.append)
    first = sum(range(1, count + 1))
    seconds = [10 * first + n for n in range(count)]
    assert results == [sum(seconds)] * count
    assert seen == [
        ("join", [*range(1, count + 1)], True),
        *[(n, first) for n in range(count)],
        ("join", seconds, True),
    ]
    assert turns == ([0] if count == 1 else [*range(count)] * 3)
    assert not running()


def test_functions_run_in_the_context_of_the_caller() -> None:
    together = LockStep(lambda values: values[0])
    with context.using(scope="here", phase="evaluate"):
        jobs = [lambda: (context.current().scope, together.meet(context.current().phase))] * 2
        assert together.run(jobs, lambda n: None) == [("here", "evaluate")] * 2


@pytest.mark.parametrize("failing", [0, 1, 2])
def test_an_error_ends_the_others(failing: int) -> None:
    ended: list[int] = []

    def job(number: int) -> Callable[[], None]:
        def run() -> None:
            try:
                together.meet(0)
                if number == failing:
                    raise KeyError("mine")
                together.meet(0)
            finally:
                ended.append(number)

        return run

    together = LockStep(lambda values: 0)
    with pytest.raises(KeyError, match="mine"):
        together.run([job(n) for n in range(3)], lambda n: None)
    assert sorted(ended) == [0, 1, 2] and not running()


def test_an_error_of_the_meeting_ends_all() -> None:
    def join(values: Sequence[int]) -> int:
        raise OSError("no network")

    together = LockStep(join)
    with pytest.raises(OSError, match="no network"):
        together.run([lambda: together.meet(1)] * 2, lambda n: None)
    assert not running()


def test_a_function_that_ends_early_is_told() -> None:
    together = LockStep(sum)
    with pytest.raises(RuntimeError, match="expected all of 2 functions at a meeting, got 1"):
        together.run([lambda: together.meet(1), lambda: 0], lambda n: None)
    assert not running()
