"""The trace: the format, and ranks beside one another once their clocks are corrected."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tallygrad.trainer.timeline.clock import Sync
from tallygrad.trainer.timeline.events import Recorder
from tallygrad.trainer.timeline.trace import MARK, RankTimeline, trace

PHASES = {"X": {"ts", "dur", "cat"}, "b": {"ts", "cat", "id"}, "e": {"ts", "cat", "id"}, "M": set()}


def check_format(text: str) -> list[dict[str, Any]]:
    """Return the events of a trace that holds to the Trace Event Format."""
    found = json.loads(text)
    assert text.startswith(MARK) and found["displayTimeUnit"] == "ms"
    open_pairs = set()
    for event in found["traceEvents"]:
        assert {"name", "ph", "pid", "tid"} <= event.keys(), event
        assert PHASES[event["ph"]] <= event.keys(), event
        assert type(event["pid"]) is int and type(event["tid"]) is int
        assert all(event.get(key, 0) >= 0 for key in ("ts", "dur"))
        if event["ph"] in "be":
            open_pairs ^= {(event["pid"], event["id"], event["name"])}
        if event["ph"] == "M":
            name = event["name"]
            assert {"process_name": str, "thread_name": str, "process_sort_index": int}[
                name
            ] is type(event["args"]["sort_index" if name.endswith("index") else "name"])
    assert not open_pairs
    check_rows(found["traceEvents"])
    return list(found["traceEvents"])


def check_rows(events: list[dict[str, Any]]) -> None:
    """Events of a row lie within or after one another, up to rounding; each row has a name."""
    named = {(e["pid"], e["tid"]) for e in events if e["name"] == "thread_name"}
    rows: dict[tuple[int, int], list[tuple[float, float]]] = {}
    for e in events:
        if e["ph"] == "X":
            rows.setdefault((e["pid"], e["tid"]), []).append((e["ts"], e["ts"] + e["dur"]))
    assert rows.keys() <= named
    for row in rows.values():
        stack: list[float] = []
        for begin, end in sorted(row, key=lambda x: (x[0], -x[1])):
            while stack and stack[-1] <= begin + 0.01:
                stack.pop()
            assert not stack or end <= stack[-1] + 0.01
            stack.append(end)


def of_rank(rank: int, skew: float, *spans: tuple[str, float, float]) -> RankTimeline:
    """Return what a rank recorded whose clock is ahead by `skew`."""
    recorder = Recorder()
    for name, begin, end in spans:
        recorder.add(name, "collective", begin + skew, end + skew, {"number": 1})
    sync = [Sync(skew, -skew, 1e-6)]
    timeline = RankTimeline.of(recorder, rank, f"node{rank}", 2, sync)
    return RankTimeline.from_json(json.loads(json.dumps(timeline.to_json())))


@pytest.mark.parametrize("skew", [0.0, 1234.5, -77.25])
def test_ranks_overlap_once_clocks_are_corrected(skew: float) -> None:
    """Rank 1 comes late; nobody leaves a collective before the last one has come."""
    text = trace([
        of_rank(0, 0.0, ("step", 10.0, 10.5), ("allreduce", 10.5, 10.9)),
        of_rank(1, skew, ("step", 10.1, 10.8), ("allreduce", 10.8, 10.9)),
    ])  # fmt: skip
    events = [e for e in check_format(text) if e["ph"] == "X"]
    assert min(e["ts"] for e in events) == 0
    waits = [e for e in events if e["name"] == "allreduce"]
    assert [e["pid"] for e in waits] == [0, 1]
    begins, ends = ([e["ts"] + e["dur"] * k for e in waits] for k in (0, 1))
    assert max(begins) < min(ends)
    assert begins == pytest.approx([0.5e6, 0.8e6], abs=1) and ends[0] == pytest.approx(
        ends[1], abs=1
    )
    assert json.loads(text)["otherData"]["clocks"]["rank 1"]["offset_seconds"] == -skew


def test_an_exchange_in_flight_is_a_pair_beside_the_rows() -> None:
    recorder = Recorder()
    with recorder.span("micro-batch 0", "micro-batch"):
        recorder.add("iallreduce", "exchange in flight", 1.0, 2.0, {"bytes": 8}, flight=True)
    recorder.spans = [s._replace(begin=0.0, end=1.5) if not s.flight else s for s in recorder.spans]
    text = trace([RankTimeline.of(recorder, 3, "node", 1, [Sync(0.0, 0.0, 0.0)])])
    pair = [e for e in check_format(text) if e["ph"] in "be"]
    assert [(e["ph"], e["ts"], e["pid"]) for e in pair] == [("b", 1e6, 3), ("e", 2e6, 3)]
