"""The table of stragglers."""

from __future__ import annotations

import pytest

from tallygrad.trainer.timeline.clock import Sync
from tallygrad.trainer.timeline.events import Span
from tallygrad.trainer.timeline.stragglers import WARMING, rank_times, table
from tallygrad.trainer.timeline.trace import RankTimeline

pytestmark = pytest.mark.usefixtures("wide")


def timeline(rank: int, computing: float, parts: int = 2, steps: int = WARMING + 2) -> RankTimeline:
    """Return steps of a second, most of which a rank computes; the first ones take ten times as
    long, the last one shows its operations. Each waits for the exchange, with a collective in it,
    and for another collective; between steps, for the loader."""
    spans = []
    for step in range(1, steps + 2):
        at, args = 100.0 * step, {"step": step}
        scale = 10.0 if step <= WARMING or step > steps else 1.0
        if step > steps:
            args["operations"] = True
        done = at + computing * scale
        spans += [
            Span("next batch", "loader", at - 0.25, at, 0, {"step": step}),
            Span(f"step {step}", "step", at, at + scale, 0, args),
            Span("exchange", "exchange", done, at + 0.9 * scale, 0, {}),
            Span("iallreduce", "collective", done, at + 0.8 * scale, 0, {}),
            Span("iallreduce", "exchange in flight", at, at + 0.8 * scale, 0, {}, True),
            Span("allreduce", "collective", at + 0.9 * scale, at + scale, 0, {}),
            Span("allreduce", "collective", at, at + scale, 1, {}),
            Span("allreduce", "collective", at + 50, at + 51, 0, {}),
        ]
    return RankTimeline(rank, f"node{rank}", parts, [Sync(0, 0, 0)], {0: "main"}, spans)


def test_times_of_a_rank() -> None:
    found = rank_times(timeline(0, 0.6))
    assert found is not None
    assert (found.step, found.computing, found.exposed) == pytest.approx((1.0, 0.6, 0.3))
    assert (found.waiting, found.loader, found.busy) == pytest.approx((0.1, 0.25, 0.85))


def test_the_first_steps_count_where_there_are_no_others() -> None:
    found = rank_times(timeline(0, 0.6, steps=2))
    assert found is not None and found.step == pytest.approx(10.0)
    assert rank_times(RankTimeline(0, "a", 1, [], {}, [])) is None


def test_the_slowest_rank_is_named() -> None:
    lines = table([timeline(0, 0.35), timeline(1, 0.8), timeline(2, 0.35)])
    assert lines[-1] == (
        "slowest: rank 1 on node1, 1050.00 ms per step for loader and computing, 40% above the mean"
        " of 3 ranks"
    )
    figures = ["1000.00", "800.00", "100.00", "100.00", "250.00"]
    assert lines[3].split() == ["1", "node1", "2", *figures]


def test_a_rank_with_more_to_do_is_excused() -> None:
    said = table([timeline(0, 0.5, parts=3), timeline(1, 0.4, parts=2)])[-1]
    assert "rank 0" in said and said.endswith("it has 3 micro-batches, others fewer")
    said = table([timeline(0, 0.5, parts=2), timeline(1, 0.4, parts=3)])[-1]
    assert "rank 0" in said and "micro-batches" not in said


def test_one_rank_has_nobody_to_compare_with() -> None:
    assert not any("slowest" in line for line in table([timeline(0, 0.5)]))
    assert table([]) == ["timeline: no step was recorded"]
