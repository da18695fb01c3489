"""What a run leaves behind: its folder's files."""

from __future__ import annotations

import csv
import io
import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..files import collect_temporaries, regular_file, user_errors, write_whole
from ..lock import Lock
from ..parsing import parse_json

EXCHANGE = ("exchange_exposed_seconds", "exchange_hidden_seconds")


def columns(metrics: Sequence[str]) -> tuple[str, ...]:
    """Return the columns of metrics.csv for a task with these metrics."""
    train, test, validation = (
        [f"{split}_{name}" for name in ("loss", *metrics)]
        for split in ("train", "test", "validation")
    )
    times = "images_per_second", "seconds"
    return ("epoch", "step", "lr", *train, *test, *times, *validation, *EXCHANGE)


class RunFolder:
    """Writes the files of a run, as long as its `lock` is held. Ranks other than the first hold
    one that writes nothing (`writes=False`), so that nobody asks who is who."""

    def __init__(self, path: Path, writes: bool, lock: Lock | None = None) -> None:
        self.path = path
        self.writes = writes
        self.lock = lock
        self.columns = columns(())  # until a run sets those of its task

    @property
    def checkpoints(self) -> Path:
        """Where the checkpoints lie."""
        return self.path / "checkpoints"

    def open(self, resumes: bool) -> None:
        """Make the folder. UserError where that fails, or where another run lies in it and this
        one does not resume it."""
        if not self.writes:
            return
        with user_errors(self.path):
            names = self.holds()
            if names and not resumes:
                raise UserError(
                    f"--out: expected a folder without a run, got {self.path}, which has "
                    f"{names[0]}; continue it with --resume auto, or name another folder"
                )
            self.checkpoints.mkdir(parents=True, exist_ok=True)
            collect_temporaries(self.path)

    def check(self) -> None:
        """Raise UserError where another run has taken the folder over."""
        if self.lock is not None:
            self.lock.check()

    def holds(self) -> list[str]:
        """Return the names of files that show that a run lies here."""
        checkpoints = [p.name for p in sorted(self.checkpoints.glob("*.h5"))]
        return [n for n in ("log.jsonl", "result.json") if (self.path / n).exists()] + checkpoints

    def write_json(self, name: str, content: Any) -> None:
        """Write a whole JSON file."""
        if self.writes:
            self.check()
            write_whole(self.path / name, json.dumps(content, indent=1, allow_nan=False) + "\n")

    def touch(self, name: str) -> None:
        """Renew the time of a file: a launcher takes that as a sign that the run is complete."""
        if self.writes:
            with user_errors(self.path / name):
                os.utime(self.path / name)

    def rewind(self, step: int, epochs: int) -> list[dict[str, Any]]:
        """Drop lines of the log beyond a step, epochs that were not whole, the old result: what
        a killed run did after its last checkpoint is done again. Return the events beyond it."""
        log, result = self.path / "log.jsonl", self.path / "result.json"
        if not self.writes or not log.exists():
            return []
        beyond = self.events(step)
        with user_errors(log):
            text = _read(log)
            lines = [line for line in text.splitlines() if _until(line, step, epochs)]
            write_whole(log, "".join(f"{line}\n" for line in lines))
        with user_errors(result):
            result.unlink(missing_ok=True)
        closed = [e for e in map(json.loads, lines) if e["event"] == "epoch"]
        write_whole(self.path / "metrics.csv", self._table(closed))
        return beyond

    def events(self, step: int) -> list[dict[str, Any]]:
        """Return the events beyond a step that log.jsonl tells of, without half a line that a
        killed run may leave."""
        try:
            lines = _read(self.path / "log.jsonl").splitlines()
        except OSError:
            return []
        return [event for line in lines if (event := _event(line)) and event["step"] > step]

    def read_json(self, name: str) -> Any:
        """Return what a JSON file of an earlier run holds, None where there is none."""
        try:
            return parse_json(_read(self.path / name), finite=True)
        except (OSError, ValueError):
            return None

    def log(self, event: Mapping[str, Any]) -> None:
        """Append an event to log.jsonl, and an epoch's figures to metrics.csv too."""
        if not self.writes:
            return
        self.check()
        self._append("log.jsonl", json.dumps(event, allow_nan=False) + "\n")
        if event["event"] == "epoch":
            new = not (self.path / "metrics.csv").exists()
            self._append("metrics.csv", self._table([event], head=new))

    def _append(self, name: str, text: str) -> None:
        with user_errors(self.path / name), (self.path / name).open("a", encoding="utf-8") as out:
            out.write(text)

    def _table(self, epochs: Iterable[Mapping[str, Any]], head: bool = True) -> str:
        """Return the rows of metrics.csv for epochs of the log."""
        rows = [[event.get(name, "") for name in self.columns] for event in epochs]
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([*([self.columns] if head else []), *rows])
        return text.getvalue()


def _read(path: Path) -> str:
    """Return a file's text. OSError where it is none."""
    with regular_file(path) as file:
        return file.read().decode("utf-8", errors="replace")


def _until(line: str, step: int, epochs: int) -> bool:
    """Tell whether a line is whole (a killed run may leave half of one) and stays true."""
    try:
        event = parse_json(line)
        last = epochs if event["event"] == "epoch" else epochs + 1
        return bool(event["step"] <= step and event["epoch"] <= last)
    except (ValueError, KeyError, TypeError):
        return False


def _event(line: str) -> dict[str, Any] | None:
    """Return a line of the log, None where it is not one."""
    try:
        event = parse_json(line)
        numbers = event["step"], event.get("seconds", 0.0)
        known = all(isinstance(n, int | float) and math.isfinite(n) for n in numbers)
        return event if known else None
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError):
        return None
