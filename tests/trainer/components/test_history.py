"""What a run remembers of its course."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tallygrad.trainer.components import history
from tallygrad.trainer.components.history import Restart
from tallygrad.trainer.errors import UserError

CLOSED = {"epoch": 1, "step": 1, "images": 1, "seconds": 1.0, "aside": 0.0, "phases": {}}


EPOCH = "closed: expected a finished epoch, got {"


@pytest.mark.parametrize(("step", "events", "every", "least", "most", "evaluations"), [
    (10, [], 20, 0, 10, 0),  # died before its next line: any step up to it
    (10, [{"step": 20}], 20, 10, 30, 0),
    (10, [{"step": 20}, {"step": 25, "test_loss": 1.0}], 20, 15, 30, 1),
    (0, [{"step": 3, "seconds": 9.0}], 1, 3, 4, 0),
    (7, [{"step": 9, "train_loss": 1.0}], 1, 2, 3, 0),
])  # fmt: skip
def test_what_a_log_tells_of_lost_steps(
    step: int, events: list[dict[str, Any]], every: int, least: int, most: int, evaluations: int
) -> None:
    held = history.lost_work(events, step, 4.0, every)
    (restart,) = history.restarts(Path("x.h5"), [held])
    assert (restart.at_least, restart.at_most) == (least, most)
    assert restart.evaluations == evaluations
    assert restart.seconds == (5.0 if events and "seconds" in events[0] else 0.0)


@pytest.mark.parametrize(("read", "held", "said"), [
    (history.restarts, 5, "restarts: expected a list, got 5"),
    (history.restarts, [{"step": 1}], "restarts: expected a restart, got {'step': 1}"),
    (history.restarts, [[]], "restarts: expected a restart, got []"),
    (history.restarts, [Restart(1, 2, 0, 0, 0.0)._asdict()], "expected at least 1, got 0"),
    (history.restarts, [Restart(1, 10**400, 1, 0, 0.0)._asdict()], "restarts: expected a restart"),
    (history.epochs, [CLOSED | {"phases": {"forward": [10**40]}}], EPOCH),
    (history.epochs, [CLOSED | {"seconds": float("nan")}], EPOCH),
    (history.epochs, {}, "closed: expected a list, got {}"),
    (history.epochs, [{"epoch": 1, "phases": 3}], EPOCH),
    (history.epochs, [{"epoch": 1, "phases": {"forward": ["x"]}}], EPOCH),
])  # fmt: skip
def test_a_record_that_is_none(read: Any, held: Any, said: str) -> None:
    with pytest.raises(UserError) as caught:
        read(Path("x.h5"), held)
    assert str(caught.value).startswith("x.h5: ") and said in str(caught.value)
