"""The timelines of all ranks as one trace in the Trace Event Format, which chrome://tracing and
Perfetto read: a process per rank, a row per thread."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .clock import Sync, corrected
from .events import Recorder, Span

MARK = '{"otherData": {"generator": "tallygrad"'  # what such files begin with


@dataclass(frozen=True)
class RankTimeline:
    """What a rank has recorded, with the names of its threads by number, comparisons of its clock
    with that of rank 0, the number of spans that were not kept, and how many micro-batches of each
    step are its own."""

    rank: int
    host: str
    micro_batches: int
    syncs: Sequence[Sync]
    threads: Mapping[int, str]
    spans: Sequence[Span]
    dropped: int = 0

    @classmethod
    def of(
        cls, recorder: Recorder, rank: int, host: str, micro_batches: int, syncs: Sequence[Sync]
    ) -> RankTimeline:
        """Return what a recorder has, with times on rank 0's clock."""
        spans = [
            span._replace(begin=corrected(span.begin, syncs), end=corrected(span.end, syncs))
            for span in recorder.spans
        ]
        return cls(rank, host, micro_batches, syncs, recorder.threads, spans, recorder.dropped)

    def to_json(self) -> list[Any]:
        """Return plain values, compact: there may be many."""
        threads = list(self.threads.items())
        fields = self.rank, self.host, self.micro_batches, self.syncs, threads, self.spans
        return [*fields, self.dropped]

    @classmethod
    def from_json(cls, fields: list[Any]) -> RankTimeline:
        """Return what `to_json` made plain."""
        rank, host, micro_batches, syncs, threads, spans, dropped = fields
        return cls(
            rank, host, micro_batches, [Sync(*sync) for sync in syncs], dict(threads),
            [Span(*span) for span in spans], dropped,
        )  # fmt: skip


def trace(ranks: Sequence[RankTimeline]) -> str:
    """Return the trace of all ranks as JSON, beginning with `MARK`; it begins at time 0."""
    start = min((span.begin for each in ranks for span in each.spans), default=0.0)
    events = [event for each in ranks for event in _events(each, start)]
    clocks = {
        f"rank {each.rank}": {
            "host": each.host,
            "offset_seconds": each.syncs[0].offset,
            "error_seconds": max(sync.error for sync in each.syncs),
            "spans_not_kept": each.dropped,
        }
        for each in ranks
    }
    other = {"generator": "tallygrad", "clocks": clocks}
    return json.dumps({"otherData": other, "displayTimeUnit": "ms", "traceEvents": events})


def _events(rank: RankTimeline, start: float) -> Iterator[dict[str, Any]]:
    """Yield the events of a rank: names of its rows first."""
    pid = rank.rank
    yield _name("process_name", pid, 0, f"rank {pid} on {rank.host}")
    yield {"ph": "M", "name": "process_sort_index", "pid": pid, "tid": 0,
           "args": {"sort_index": pid}}  # fmt: skip
    for number, name in rank.threads.items():
        yield _name("thread_name", pid, number, name)
    for index, span in enumerate(rank.spans):
        event = {"name": span.name, "cat": span.kind, "pid": pid, "tid": span.thread}
        begin, end = 1e6 * (span.begin - start), 1e6 * (span.end - start)
        if span.flight:
            pair = {**event, "id": f"{pid}.{index}"}
            yield {**pair, "ph": "b", "ts": round(begin, 3), "args": span.args}
            yield {**pair, "ph": "e", "ts": round(end, 3)}
        else:
            times = {"ts": round(begin, 3), "dur": round(end - begin, 3)}
            yield {**event, "ph": "X", **times, "args": span.args}


def _name(what: str, pid: int, tid: int, name: str) -> dict[str, Any]:
    return {"ph": "M", "name": what, "pid": pid, "tid": tid, "args": {"name": name}}
