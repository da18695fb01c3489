"""What a run leaves behind: its folder's files, and what the terminal shows meanwhile."""

from __future__ import annotations

import csv
import io
import json
import math
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO

from tqdm import tqdm

from ..autograd.backends import Building
from .errors import UserError
from .files import user_errors, write_whole

COMPILING = 1.0  # seconds of compiling that are no reason to say anything

COLUMNS = (
    "epoch", "step", "lr", "train_loss", "train_accuracy", "test_loss", "test_accuracy",
    "images_per_second", "seconds",
)  # fmt: skip


class RunFolder:
    """Writes the files of a run. Ranks other than the first hold one that writes nothing
    (`writes=False`), so that nobody asks who is who."""

    def __init__(self, path: Path, writes: bool) -> None:
        self.path = path
        self.writes = writes

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
            held = self.holds()
            if held and not resumes:
                raise UserError(
                    f"--out {self.path}: holds a run already ({held[0]}); "
                    "go on with it by --resume auto, or name another folder"
                )
            self.checkpoints.mkdir(parents=True, exist_ok=True)

    def holds(self) -> list[str]:
        """Return the names of files that show that a run lies here."""
        found = [p.name for p in sorted(self.checkpoints.glob("*.h5"))]
        return [n for n in ("log.jsonl", "result.json") if (self.path / n).exists()] + found

    def write_json(self, name: str, content: Any) -> None:
        """Write a whole JSON file."""
        if self.writes:
            write_whole(self.path / name, json.dumps(content, indent=1, allow_nan=False) + "\n")

    def rewind(self, step: int, epochs: int) -> list[dict[str, Any]]:
        """Drop lines of the log beyond a step, epochs that were not whole, the old result: what
        a killed run did after its last checkpoint is done again. Return the events beyond it."""
        log = self.path / "log.jsonl"
        if not self.writes or not log.exists():
            return []
        beyond = self.events(step)
        with user_errors(log):
            text = log.read_text("utf-8", errors="replace")
            lines = [line for line in text.splitlines() if _until(line, step, epochs)]
            write_whole(log, "".join(f"{line}\n" for line in lines))
            (self.path / "result.json").unlink(missing_ok=True)
        closed = [e for e in map(json.loads, lines) if e["event"] == "epoch"]
        write_whole(self.path / "metrics.csv", _table([COLUMNS, *map(_cells, closed)]))
        return beyond

    def events(self, step: int) -> list[dict[str, Any]]:
        """Return the events beyond a step that log.jsonl tells of, without half a line that a
        killed run may leave."""
        try:
            lines = (self.path / "log.jsonl").read_text("utf-8", errors="replace").splitlines()
        except OSError:
            return []
        return [event for line in lines if (event := _event(line)) and event["step"] > step]

    def read_json(self, name: str) -> Any:
        """Return what a JSON file of an earlier run holds, None where there is none."""
        try:
            return json.loads((self.path / name).read_text("utf-8"))
        except (OSError, ValueError):
            return None

    def log(self, event: Mapping[str, Any]) -> None:
        """Append an event to log.jsonl, and an epoch's figures to metrics.csv too."""
        if not self.writes:
            return
        self._append("log.jsonl", json.dumps(event, allow_nan=False) + "\n")
        if event["event"] == "epoch":
            head = [] if (self.path / "metrics.csv").exists() else [COLUMNS]
            self._append("metrics.csv", _table([*head, _cells(event)]))

    def _append(self, name: str, text: str) -> None:
        with user_errors(self.path / name), (self.path / name).open("a", encoding="utf-8") as out:
            out.write(text)


def _until(line: str, step: int, epochs: int) -> bool:
    """Tell whether a line is whole (a killed run may leave half of one) and stays true."""
    try:
        event = json.loads(line)
        last = epochs if event["event"] == "epoch" else epochs + 1
        return bool(event["step"] <= step and event["epoch"] <= last)
    except (ValueError, KeyError, TypeError):
        return False


def _event(line: str) -> dict[str, Any] | None:
    """Return a line of the log, None where it is not one."""
    try:
        event = json.loads(line)
        numbers = event["step"], event.get("seconds", 0.0)
        known = all(isinstance(n, int | float) and math.isfinite(n) for n in numbers)
        return event if known else None
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError):
        return None


def _cells(event: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(event.get(name, "") for name in COLUMNS)


def _table(rows: list[tuple[Any, ...]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


class Progress:
    """A bar where stderr is a terminal, else a plain line now and then; silent on other ranks."""

    def __init__(
        self, total: int, done: int, shows: bool, stream: TextIO = sys.stderr, every: float = 10.0
    ) -> None:
        self.total, self.done, self.shows = total, done, shows
        self.stream, self.every = stream, every
        self.begun = self.said = time.monotonic()
        self.images = 0
        self.building: Building | None = None  # what was shown last, and
        self.told = Building(0, 0, 0.0)  # what was told when the compiling before it ended
        self.bar: tqdm[Any] | None = None
        if shows and stream.isatty():
            self.bar = tqdm(total=total, initial=done, unit="step", file=stream, smoothing=0.1)

    def step(self, epoch: int, images: int, loss: float, accuracy: float) -> None:
        """Show that one more step is done."""
        self.done += 1
        self.images += images
        if not self.shows:
            return
        self._end_of_building()
        now = time.monotonic()
        speed = self.images / max(now - self.begun, 1e-9)
        if self.bar is not None:
            figures = f"{speed:,.0f} images/s, loss {loss:.4f}, accuracy {accuracy:.2%}"
            self.bar.set_postfix_str(figures, refresh=False)
            self.bar.set_description(f"epoch {epoch + 1}", refresh=False)
            self.bar.update()
        elif now - self.said >= self.every:
            self.said = now
            rate = self.images and (now - self.begun) / self.images * images
            left = (self.total - self.done) * rate
            self.say(
                f"epoch {epoch + 1}, step {self.done}/{self.total}: {speed:,.0f} images/s, "
                f"loss {loss:.4f}, accuracy {accuracy:.2%}, {left:,.0f} s left"
            )

    def compiling(self, state: Building) -> None:
        """Show that kernels are made, once that has taken more than a second."""
        made, cached, seconds = (a - b for a, b in zip(state, self.told, strict=True))
        if not self.shows or seconds < COMPILING:
            return
        first, self.building = self.building is None, state
        line = f"compiling kernels: {made} made, {cached} from the cache"
        now = time.monotonic()
        if self.bar is not None:
            self.bar.set_postfix_str(line)
        elif first or now - self.said >= self.every:
            self.said = now
            self.say(line)

    def _end_of_building(self) -> None:
        """Say once how many kernels were made before this step, and in which time."""
        if self.building is not None:
            made, _, seconds = (a - b for a, b in zip(self.building, self.told, strict=True))
            self.say(f"{made} kernels compiled in {seconds:.1f} s")
            self.told, self.building = self.building, None

    def say(self, line: str) -> None:
        """Print a line without tearing the bar."""
        if self.bar is not None:
            self.bar.write(line, file=self.stream)
        elif self.shows:
            print(line, file=self.stream, flush=True)

    def close(self) -> None:
        """Leave the terminal clean."""
        if self.bar is not None:
            self.bar.close()
