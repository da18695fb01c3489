"""Which rank the others wait for, from the recorded steps."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from ..cost.report import Column, fit, text_table
from .events import Span
from .trace import RankTimeline

WARMING = 3  # steps that compile and capture, which are left out where there are more
COLUMNS = (
    Column("rank"), Column("host", 5, is_text=True, least=8), Column("micro-batches", 3),
    Column("step ms"), Column("computing ms"), Column("exchange ms"), Column("waiting ms"),
    Column("loader ms", 1),
)  # fmt: skip


@dataclass(frozen=True)
class RankTimes:
    """Mean seconds per step of a rank: computing; in the exchange of gradients that is not hidden
    (`exposed`); waiting in other collectives; and, before the step, for the loader."""

    rank: int
    host: str
    micro_batches: int
    step: float
    exposed: float
    waiting: float
    loader: float

    @property
    def computing(self) -> float:
        """What is left of a step."""
        return self.step - self.exposed - self.waiting

    @property
    def busy(self) -> float:
        """What the others may have to wait for."""
        return self.computing + self.loader


def rank_times(timeline: RankTimeline) -> RankTimes | None:
    """Return the times of a rank over its recorded steps, without the first and those with single
    operations, if there are others; None without steps."""
    by_begin = sorted(timeline.spans, key=lambda span: span.begin)
    steps = [span for span in by_begin if span.kind == "step"]
    usual = [span for span in steps if not span.args.get("operations")]
    steps = usual[WARMING:] or usual or steps
    if not steps:
        return None
    main = [span for span in by_begin if span.thread == 0 and not span.flight]
    exchanges = [span for span in main if span.kind == "exchange"]
    waits = [span for span in main if span.kind == "collective"]
    outside = [span for span in waits if not _within(span, exchanges)]
    loads = {span.args["step"]: span for span in main if span.kind == "loader"}
    before = [loads[s.args["step"]] for s in steps if s.args["step"] in loads]
    count = len(steps)
    return RankTimes(
        timeline.rank, timeline.host, timeline.micro_batches, fmean(map(_length, steps)),
        sum(_length(s) for s in exchanges if _within(s, steps)) / count,
        sum(_length(s) for s in outside if _within(s, steps)) / count,
        sum(map(_length, before)) / count,
    )  # fmt: skip


def _length(span: Span) -> float:
    return span.end - span.begin


def _within(span: Span, others: Sequence[Span]) -> bool:
    """Tell whether a span lies in one of others, which follow each other in time."""
    at = bisect_right(others, span.begin, key=lambda other: other.begin) - 1
    return at >= 0 and span.end <= others[at].end


def table(timelines: Sequence[RankTimeline]) -> list[str]:
    """Return the lines of the table, and of the rank that is the slowest."""
    times = [each for each in map(rank_times, timelines) if each is not None]
    if not times:
        return ["timeline: no step was recorded"]
    rows = [
        (
            str(each.rank), each.host, str(each.micro_batches),
            *[f"{1e3 * x:.2f}" for x in (each.step, each.computing, each.exposed, each.waiting,
                                         each.loader)],
        )
        for each in times
    ]  # fmt: skip
    return [*text_table(COLUMNS, rows), *([fit(_slowest(times))] if len(times) > 1 else [])]


def _slowest(times: Sequence[RankTimes]) -> str:
    """Name the rank that computes longest, by how much, and whether it has more to do."""
    slowest = max(times, key=lambda each: each.busy)
    mean = fmean(each.busy for each in times)
    most = max(each.micro_batches for each in times)
    uneven = min(each.micro_batches for each in times) < most == slowest.micro_batches
    why = f"; it has {most} micro-batches, others fewer" if uneven else ""
    return (
        f"slowest: rank {slowest.rank} on {slowest.host}, {1e3 * slowest.busy:.2f} ms per step "
        f"for loader and computing, {100 * (slowest.busy / mean - 1):.0f}% above the mean of "
        f"{len(times)} ranks{why}"
    )
