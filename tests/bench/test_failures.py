"""What the benches of failures report, from what they saw. No process is started here."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tallygrad.trainer.errors import UserError


@pytest.fixture(scope="module")
def load(bench_package: Any) -> Callable[[str], Any]:
    """Return load(name): a module of the benches."""
    return lambda name: import_module(f"bench.{name}")


def test_a_storm_is_reported(load: Callable[[str], Any], tmp_path: Path) -> None:
    restarts = [{"step": 10, "reached": 12}, {"step": 20, "reached": 20}, {"step": 30}]
    restarts[2]["reached"] = 37
    (tmp_path / "restarts.json").write_text(json.dumps(restarts))
    storm = SimpleNamespace(kills=[(15.0, 2), (30.0, 0), (45.0, 2)], step=300, seconds=60.0)
    lines = load("storm").report(tmp_path, storm, 75.2, 0.14, "no process has this").splitlines()
    assert lines == [
        "kills 3: 1 of rank 0, 2 of rank 2; restarts 3",
        "steps lost to a kill: 7 at most, 9 in all: [2, 0, 7]",
        "storm: 300 steps in 60 s, goodput 70.0%",
        "run: 75 s; processes left: 0",
    ]


@pytest.mark.parametrize("log", [None, "", '{"event": "start"}\n'])
def test_a_storm_over_a_run_that_takes_no_step_is_reported(
    load: Callable[[str], Any], tmp_path: Path, log: str | None
) -> None:
    if log is not None:
        (tmp_path / "log.jsonl").write_text(log)
    storm = load("storm").Storm("no process has this", tmp_path, 0.01, 0.02, 0)
    storm._thread.join()
    lines = load("storm").report(tmp_path, storm, 1.0, 0.14, "no process has this").splitlines()
    assert lines[1] == "steps lost to a kill: 0 at most, 0 in all: []"
    assert lines[2] == "storm: 0 steps in 0 s, goodput 0.0%"


def test_the_undisturbed_step_is_that_after_the_first_quarter(
    load: Callable[[str], Any], tmp_path: Path
) -> None:
    seconds = [9.0, 10.0, 10.5, 11.0, 11.5, 12.0, 12.5, 13.0]
    events = [{"event": "step", "step": 4 * i, "seconds": s} for i, s in enumerate(seconds, 1)]
    lines = [json.dumps(event) for event in [*events, {"event": "epoch"}]]
    (tmp_path / "log.jsonl").write_text("\n".join(lines) + '\n{"event": "st')
    assert load("storm").step_seconds(tmp_path) == 0.5 / 4


def ended(load: Callable[[str], Any], name: str, **others: Any) -> Any:
    seen = {"seconds": 2.0, "status": 4, "message": "rank 1 ended", "left": 0, "left_seconds": 0.0,
            "segments": 0, "same_bits": True}  # fmt: skip
    return load("trial").Ended(name=name, **{**seen, **others})


def test_a_fault_has_a_row_and_its_messages(load: Callable[[str], Any]) -> None:
    name = "SIGKILL of rank 1"
    results = [
        ended(load, name),
        ended(load, name, seconds=4.0, left=2, left_seconds=1.5),
        ended(load, name, seconds=3.0, status=1, message="a traceback", same_bits=False),
        ended(load, "SIGTERM", status=75, message="stopped"),
    ]
    head, _, *rows = load("faults").summarize(results).splitlines()
    assert head.startswith("| fault | trials | seconds: median, most |")
    assert rows == [
        f"| {name} | 3 | 3.0, 4.0 | 1, 4 | 2, 1.5 s | 0 | 2 of 3 |",
        "| SIGTERM | 1 | 2.0, 2.0 | 75 | 0, 0 s | 0 | 1 of 1 |",
        f"- {name}: rank 1 ended",
        f"- {name}: a traceback",
        "- SIGTERM: stopped",
    ]


def test_what_is_not_as_it_must_be_is_named(load: Callable[[str], Any]) -> None:
    patience = load("trial").PATIENCE
    results = [
        ended(load, "link down", left=2, left_seconds=patience - 1),
        ended(load, "link down", left=2, left_seconds=patience),
        ended(load, "SIGKILL of rank 1", status=0, segments=3),
        ended(load, "SIGTERM", status=75, same_bits=False, resumed="no checkpoint"),
    ]
    assert load("faults").failures(results) == [
        f"link down: 2 processes left for {patience:g} s",
        "SIGKILL of rank 1: status: expected 4, got 0; 3 segments of shared memory left",
        "SIGTERM: other bits once resumed no checkpoint",
    ]


def test_faults_that_cannot_be_made_here_are_named(
    load: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(load("faults"), "why_not", lambda: "network namespaces need root")
    with pytest.raises(UserError, match=r"^link down: network namespaces need root; choose others"):
        load("faults").run(["--only", "link down", "--only", "SIGTERM"])


def row(load: Callable[[str], Any]) -> Any:
    network, rank = load("network"), load("network_rank")
    task = rank.Task("lenet", (1, 28, 28), 10, 4, 1.0, 1.0)
    found = rank.Result(1e-3, 9.5e5, 1e9, 0.02, 0.5, 0.6, ("a",), (3_000_000,))
    return network.compare("8mbit", found, task, 2)


@pytest.mark.parametrize("error", [UserError("no result"), KeyboardInterrupt(), None])
def test_rows_outlive_what_ends_a_comparison(
    load: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Any,
    error: BaseException | None,
) -> None:  # fmt: skip
    network, file = load("network"), tmp_path / "rows.json"

    def rows(*_: Any) -> Iterator[Any]:
        yield row(load)
        if error:
            raise error
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(network, "rows", rows)
    monkeypatch.setattr(network, "why_not", lambda: "")
    before = signal.getsignal(signal.SIGTERM)
    try:
        with pytest.raises(type(error) if error else SystemExit):
            network.run(["--json", str(file)])
    finally:
        signal.signal(signal.SIGTERM, before)
    (found,) = json.loads(file.read_text())
    assert found["rate"] == "8mbit" and "+430.6" in capsys.readouterr().out


def test_rows_of_an_earlier_comparison_stay_where_there_are_no_others(
    load: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def rows(*_: Any) -> Iterator[Any]:
        raise UserError("no result")
        yield

    network, file = load("network"), tmp_path / "rows.json"
    file.write_text("[1]")
    monkeypatch.setattr(network, "rows", rows)
    monkeypatch.setattr(network, "why_not", lambda: "")
    before = signal.getsignal(signal.SIGTERM)
    try:
        with pytest.raises(UserError, match="no result"):
            network.run(["--json", str(file)])
    finally:
        signal.signal(signal.SIGTERM, before)
    assert file.read_text() == "[1]"


def test_hosts_that_cannot_be_made_are_removed(
    load: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    hosts, calls = load("hosts"), list[str]()

    def run(*words: str) -> None:
        calls.append(" ".join(words))
        if words[:2] == ("ip", "-n"):
            raise OSError("no address")

    monkeypatch.setattr(hosts, "_run", run)
    monkeypatch.setattr(hosts, "ETC", tmp_path)
    made = hosts.Hosts(1, tmp_path / "hosts")
    with pytest.raises(OSError, match="no address"), made:
        raise AssertionError
    added = [c.split()[3] for c in calls if c.startswith("ip netns add")]
    assert added and f"ip netns del {added[0]}" in calls
    assert f"ip link del {added[0]}o" in calls and not [*tmp_path.glob("tg*")]
