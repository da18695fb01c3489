"""What is said of work that did not come out twice alike."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tallygrad.trainer.distributed.verification.corruption import Corrupted
from tallygrad.trainer.distributed.verification.trial import (
    ATTEMPTS,
    BranchNames,
    GradientTrial,
    UpdateTrial,
    settle,
)

NAMES = BranchNames(["b.weight", "a.weight"], ["statistics of a.mean", "statistics of b.mean"])
STATE = ["weights of b.weight", "weights of a.weight"]


def gradients(**changes: Any) -> GradientTrial:
    """Return the trial of three ranks: two parameters, figures, two statistics, three pieces of
    sums of gradients (columns 3 to 5) and of figures (6 to 8). Some entries of some tables differ.
    Pieces of the two sums are not the same."""
    rows = np.arange(15, dtype=np.uint64).reshape(3, 5)
    sums = np.tile(np.arange(9, dtype=np.uint64), (3, 1))
    sums_again = sums + np.repeat(np.array([0, 7], np.uint64), [3, 6])
    tables = {"own": rows, "again": rows.copy(), "sums": sums, "sums_again": sums_again}
    tables["changed"] = np.full(3, -1, np.int64)
    for name, index in changes.items():
        tables[name][index] += np.array(1, tables[name].dtype)
    return GradientTrial(NAMES, STATE, **tables)


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"own": (1, 0)}, "rank 1: wrong gradient of b.weight"),
        ({"own": (1, [0, 1])}, "rank 1: wrong gradient of b.weight and 1 more"),
        ({"again": (1, 1)}, "rank 0: wrong gradient of a.weight"),
        ({"own": (2, 2)}, "rank 2: wrong loss and metrics"),
        ({"own": (2, [0, 1, 2])}, "rank 2: wrong loss and metrics and 2 gradients"),
        ({"again": (2, [0, 2, 4])}, "rank 1: wrong statistics of b.mean and 1 gradient"),
        ({"changed": 2, "own": (2, 0)}, "rank 2: weights of b.weight changed"),
        ({"sums": (0, [1, 4])}, "rank 0: wrong sum of gradients of a.weight"),
        ({"sums": (slice(3), [0, 1, 5])}, "rank 2: wrong sum of gradients of b.weight and 1 more"),
        ({"sums": ([0, 1, 0, 1], [1, 1, 5, 5])}, "rank 2: wrong sum of gradients of a.weight"),
        ({"sums_again": (2, [0, 3])}, "rank 2: wrong sum of gradients of b.weight"),
        ({"sums": (1, [2, 6])}, "rank 1: wrong sum of loss and metrics"),
        ({"sums": (slice(3), [2, 7])}, "rank 1: wrong sum of loss and metrics"),
        ({"sums_again": (slice(3), [2, 6])}, "rank 0: wrong sum of loss and metrics"),
        ({"sums": (2, 1)}, "rank 2: wrong sum of gradients of a.weight"),
        ({"sums": (1, 4)}, "nothing that can be named"),
    ],
)  # fmt: skip
def test_a_fault_is_named_in_the_light_of_a_sound_trial(
    changes: dict[str, Any], fault: str
) -> None:
    bad, good = gradients(**changes), gradients()
    assert good.is_sound and not bad.is_sound
    assert bad.faults(good) == [fault]


def test_a_trial_is_read_from_rows() -> None:
    """Of each rank: own, that of the next one, what changed, sums, and sums again."""
    good = gradients()
    again = np.roll(good.again, -1, axis=0)
    changed = good.changed.view(np.uint64)[:, None]
    rows = np.concatenate([good.own, again, changed, good.sums, good.sums_again], axis=1)
    found = GradientTrial.of(NAMES, STATE, rows)
    assert found.is_sound and found.faults(good) == ["nothing that can be named"]
    for name in ("own", "again", "changed", "sums", "sums_again"):
        assert getattr(found, name).tolist() == getattr(good, name).tolist()


def update(sharded: bool, **changes: Any) -> UpdateTrial:
    """Return the trial of three ranks: weights of two parameters, and two slots; if each rank
    updates a share of its own, three digests of shares follow."""
    row = np.arange(7 if sharded else 4, dtype=np.uint64)
    rows = np.stack([row, row, row])
    if sharded:
        rows[:, 2:4] += np.arange(3, dtype=np.uint64)[:, None]
    tables = {"once": rows, "again": rows.copy()}
    for name, index in changes.items():
        tables[name][index] += np.uint64(1)
    state = [*STATE, "velocity of b.weight", "velocity of a.weight"]
    return UpdateTrial(state, shared=2 if sharded else 4, **tables)


@pytest.mark.parametrize(
    ("sharded", "changes", "fault"),
    [
        (False, {"once": (1, [1, 3])}, "rank 1: wrong update of weights of a.weight"),
        (False, {"again": (2, 2)}, "rank 2: wrong update of velocity of b.weight"),
        (False, {"once": (1, 0), "again": (1, 0)}, "rank 1: wrong update of weights of b.weight"),
        (True, {"once": (1, 2)}, "rank 1: wrong update of velocity of b.weight"),
        (True, {"once": ([0, 1, 2, 1, 0, 1, 2], [1, 1, 1, 2, 5, 5, 5])},
         "rank 1: wrong update of weights of a.weight"),
        (True, {"once": (slice(3), [1, 6])}, "rank 2: wrong update of weights of a.weight"),
        (True, {"again": ([0, 1, 0, 1], [1, 1, 6, 6])},
         "rank 2: wrong update of weights of a.weight"),
        (True, {"again": (0, [1, 6])}, "rank 0: wrong update of weights of a.weight"),
        (True, {"once": (0, 6)}, "rank 0: wrong update of weights"),
    ],
)  # fmt: skip
def test_a_wrong_update_is_named(sharded: bool, changes: dict[str, Any], fault: str) -> None:
    bad, good = update(sharded, **changes), update(sharded)
    assert good.is_sound and not bad.is_sound
    assert bad.faults(good) == [fault]


def test_the_first_sound_trial_counts() -> None:
    trials, told = [gradients(own=(1, 0)), gradients(again=(1, 1)), gradients()], []
    assert settle(lambda number: trials[number], told.append) is trials[2]
    assert told == ["rank 1: wrong gradient of b.weight", "rank 0: wrong gradient of a.weight"]


@pytest.mark.parametrize(
    ("trial", "said"),
    [
        (gradients(own=(0, 1)), "rank 0 and rank 2: other gradient of a.weight from the same"),
        (gradients(changed=1), "rank 1: weights of b.weight changed"),
        (gradients(sums=(1, 0)), "ranks come to different sums of gradients of b.weight"),
        (gradients(sums_again=(slice(3), 2)), "ranks come to different sums of loss and metrics"),
        (gradients(sums=(1, 4)), "ranks come to different sums of a piece"),
        (update(False, once=(1, 2)), "rank 1: velocity of b.weight after the update"),
        (update(False, once=(1, 2), again=(1, 2)), "ranks hold different velocity of b.weight"),
        (update(True, once=(1, 1), again=(1, 1)), "ranks hold different weights of a.weight"),
        (update(True, once=(1, 5), again=(1, 5)), "ranks hold different weights"),
    ],
)
def test_a_fault_that_stays_ends_the_run(trial: Any, said: str) -> None:
    numbers: list[int] = []

    def attempt(number: int) -> Any:
        numbers.append(number)
        return trial

    with pytest.raises(Corrupted, match=f"{ATTEMPTS} attempts: {said}"):
        settle(attempt, pytest.fail)
    assert numbers == [*range(ATTEMPTS)]
