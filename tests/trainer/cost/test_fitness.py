"""Plans from calibrations that other work on the host disturbed: recorded ones, no load needed."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tallygrad.trainer.cli import main
from tallygrad.trainer.cost.cluster.fitness import bounds, faults
from tallygrad.trainer.cost.cluster.network import Exchange, Network, as_toml
from tallygrad.trainer.cost.cluster.step_time import Step, StepTimes
from tallygrad.trainer.cost.cluster.traffic import Link

LINK = Link(1e-6, 1e20)
NETWORK = Network("two cores", "", "", 2, 0, LINK, LINK, Exchange(1e20))


def step(batch: int, busy: int, ms: list[float], rounds: list[float] | None = None) -> Step:
    """Return a step by quantiles and medians of rounds, in milliseconds."""
    seconds, middles = (tuple(1e-3 * x for x in some) for some in (ms, rounds or []))
    return Step(batch, busy, seconds, 0.8 * seconds[0], (0.4 * seconds[0],) * 2, middles)


def compute(*steps: Step) -> StepTimes:
    return StepTimes("lenet", (1, 28, 28), 10, "recorded", ("b", "a"), (600_000, 400_000), steps)


QUIET = compute(
    step(16, 1, [9.8, 10, 10.4], [10, 10.1, 9.9]),
    step(128, 1, [78, 80, 83], [80, 79.5, 80.5]),
    step(16, 2, [10.8, 11, 12], [11, 11.2, 10.8]),
    step(128, 2, [87, 90, 94], [91, 89, 90]),
)
# The host was busy while a rank alone was measured, while few images were, in one round.
ALONE = replace(QUIET, steps=(QUIET.steps[0], step(128, 1, [96, 110, 140]), *QUIET.steps[2:]))
FEW = compute(step(16, 1, [8, 8, 8]), step(2, 2, [3, 4, 40]), step(16, 2, [11, 12, 12.5]))
ROUND = replace(QUIET, steps=(*QUIET.steps[:3], step(128, 2, [60, 75, 97], [61, 67, 97])))
MORE = replace(QUIET, steps=(step(16, 1, [100, 110, 120]), *QUIET.steps[1:]))

Planned = Callable[..., dict[str, Any]]


@pytest.fixture
def planned(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Planned:
    """Return a function that plans from a recorded calibration, as JSON says it."""

    def plan(held: StepTimes, *words: str, batch: int = 128) -> dict[str, Any]:
        (file := tmp_path / "recorded.toml").write_text(as_toml(NETWORK, held))
        line = ["plan", "lenet", "--ranks", "1,8,64,512", "--network", str(file), *words]
        assert main([*line, "--batch", str(batch), "--json"]) == 0
        found = dict(json.loads(capsys.readouterr().out))
        assert main([*line, "--batch", str(batch)]) == 0
        return {**found, "text": capsys.readouterr().out}

    return plan


def possible(rows: list[dict[str, Any]]) -> bool:
    return all(row["waiting_seconds"] >= 0 and 0 < row["efficiency"] <= 1 for row in rows)


def test_a_fit_calibration_has_no_ranges(planned: Planned) -> None:
    found = planned(QUIET)
    assert found["calibration"] == {"fit": True, "faults": []} and possible(found["plans"]["weak"])
    for row in found["plans"]["weak"]:
        assert row["step_seconds_range"] is row["efficiency_range"] is None
    assert "unfit" not in found["text"]
    assert found["plans"]["weak"][1]["efficiency"] == pytest.approx(80 / 90, rel=0.05)


@pytest.mark.parametrize(
    ("held", "fault"),
    [
        (ALONE, "128 images on one rank took 110 ms, 128 images on each of 2 ranks took 90 ms"),
        (ROUND, "rounds of 128 images on each of 2 ranks took from 61 to 97 ms"),
        (MORE, "16 images on one rank took 110 ms, 128 images on one rank took 80 ms"),
    ],
)
@pytest.mark.parametrize("scaling", ["weak", "strong"])
def test_an_unfit_calibration_gives_ranges(
    held: StepTimes, fault: str, scaling: str, planned: Planned
) -> None:
    found = planned(held, "--scaling", scaling)
    assert found["calibration"]["fit"] is False and fault in found["calibration"]["faults"]
    assert f"unfit calibration: {found['calibration']['faults'][0]}" in " ".join(
        found["text"].split()
    )
    rows = found["plans"][scaling]
    assert possible(rows) or scaling == "strong"
    for row in rows:
        (quick, slow), (least, most) = row["step_seconds_range"], row["efficiency_range"]
        assert quick <= row["step_seconds"] <= slow and least <= row["efficiency"] <= most
        assert row["ranks"] > 1 or least == most == 1
        assert least > 0 and (most <= 1 or scaling == "strong") and row["waiting_seconds"] >= 0


def test_the_truth_lies_within_the_range(planned: Planned) -> None:
    """A rank alone was measured to take 110 ms, on a quiet host it takes 80."""
    true, disturbed = (planned(held)["plans"]["weak"] for held in (QUIET, ALONE))
    for right, row in zip(true, disturbed, strict=True):
        if row["ranks"] > 1:
            low, high = row["efficiency_range"]
            assert low <= right["efficiency"] <= high == 1
            low, high = row["step_seconds_range"]
            assert low <= right["step_seconds"] <= high


def test_what_lies_beyond_the_calibration_stays_in_order(planned: Planned) -> None:
    """The slowest of the steps on two images were stragglers: beyond 16 images a line through them
    falls below that of the median."""
    found = planned(FEW)
    assert possible(found["plans"]["weak"])
    waits = [row["waiting_seconds"] for row in found["plans"]["weak"]]
    assert waits == sorted(waits) and waits[1] > 0
    seconds = FEW.at(128, 2).seconds
    assert [*seconds] == sorted(seconds)
    assert seconds[1] / seconds[0] == pytest.approx(12 / 11)


def test_a_rank_among_busy_ones_is_no_faster(planned: Planned) -> None:
    """Less than what calls a calibration unfit, but still no efficiency over 100%."""
    steps = (*QUIET.steps[:2], step(16, 2, [9.5, 9.7, 10]), step(128, 2, [75, 77, 80]))
    held = replace(QUIET, steps=steps)
    found = planned(held)
    assert found["calibration"]["fit"] and possible(found["plans"]["weak"])
    assert held.at(128, 2).quantile(0.5) == held.at(128, 1).quantile(0.5) == 0.080


def test_superlinear_scaling_is_told(planned: Planned) -> None:
    """Fewer images of a rank may take less time each, in its caches: that is no fault."""
    held = compute(step(16, 1, [8, 8, 8]), step(128, 1, [80, 80, 80]), step(16, 2, [8, 8, 8]))
    found = planned(held, "--scaling", "strong")
    assert found["calibration"]["fit"] and found["plans"]["strong"][1]["efficiency"] > 1
    assert any(note.startswith("an efficiency over 100%") for note in found["notes"])


def test_bounds_are_the_ends_of_the_rounds() -> None:
    assert faults(QUIET) == []
    low, high = bounds(ROUND)
    assert low.steps[3].quantile(0.5) == pytest.approx(0.075 * 61 / 75)
    assert high.steps[3].quantile(0.5) == pytest.approx(0.075 * 97 / 75)
    assert low.steps[1].quantile(0.5) == low.steps[3].quantile(0.5)  # alone, it takes no longer
    assert high.steps[1].quantile(0.5) == pytest.approx(0.0805)
