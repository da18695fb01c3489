"""What the terminal shows while a command runs: a bar, or a plain line now and then."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TextIO

from tqdm import tqdm

from ..autograd.backends import CompileStats, compile_stats, watching
from .cost.report import duration, fit, terminal_width

ROWS = 24  # of a terminal that does not tell
COMPILING = 1.0  # seconds of compiling that are no reason to say anything


def _bar(prefix: str, figures: str = "") -> str:
    """Return tqdm's format of a bar between two texts; its own `{postfix}` begins with a comma."""
    return f"{prefix} |{{bar}}| {figures}"


def _size(terminal: TextIO) -> dict[str, int | bool]:
    """Return tqdm's options for the size of a bar, which follows the terminal's. On one that tells
    no size, such as a container's, tqdm would draw nothing."""
    try:
        if all(os.get_terminal_size(terminal.fileno())):
            return {"dynamic_ncols": True}
    except OSError:
        pass
    return {"ncols": terminal_width() - 1, "nrows": ROWS}


@contextmanager
def compiling(shows: bool = True) -> Iterator[None]:
    """Show within the block that kernels are made, for commands that have no steps to show."""
    with watching(Progress(1, 0, shows, bars=False).compiling):
        yield


class Progress:
    """Shows how far `total` steps are, of which `done` are done before, in epochs of `per_epoch`.

    A bar of the epoch under way where stderr is a terminal, unless `bars` is false, else a plain
    line every so many seconds; silent where `shows` is false, as on other ranks."""

    def __init__(
        self, total: int, done: int, shows: bool, stream: TextIO | None = None, every: float = 10.0,
        per_epoch: int = 0, epochs: int = 1, bars: bool = True,
    ) -> None:  # fmt: skip
        self.total, self.done, self.shows = total, done, shows
        self.stream, self.every = stream or sys.stderr, every
        self.per_epoch, self.epochs = per_epoch or total, epochs
        self.begun = self.said = time.monotonic()
        self.images = self.steps = 0
        self.building: CompileStats | None = None  # what was shown last, and
        self.told = compile_stats()  # what was told when the compiling before it ended
        self.bar: tqdm[Any] | None = None
        if shows and bars and self.stream.isatty():
            position = done % self.per_epoch
            self.prefix = f"{position}/{self.per_epoch}"
            self.bar = tqdm(
                total=self.per_epoch, initial=position, file=self.stream,
                bar_format=_bar(self.prefix), **_size(self.stream),
            )  # fmt: skip

    def step(self, epoch: int, images: int, loss: float, metrics: str, steps: int = 1) -> None:
        """Show that more steps are done, of an epoch counted from 0, and what they came to."""
        position = self.done % self.per_epoch + steps
        self.done, self.steps = self.done + steps, self.steps + steps
        self.images += images
        if not self.shows:
            return
        self._end_of_building()
        now = time.monotonic()
        figures = f"loss {loss:.4f}, {metrics}"
        if (passed := now - self.begun) > 0:
            left = duration((self.total - self.done) * passed / self.steps)
            figures += f", {self.images / passed:,.0f} images/s, {left} left"
        name = f"epoch {epoch + 1}/{self.epochs}"
        if self.bar is not None:
            if position <= steps:
                self.bar.reset(self.per_epoch)
            self.prefix = f"{name} {position}/{self.per_epoch}"
            self.bar.bar_format = _bar(self.prefix, figures)
            self.bar.update(steps)
        elif now - self.said >= self.every:
            self.said = now
            self.say(f"{name} step {position}/{self.per_epoch}: {figures}")

    def evaluating(self, split: str, step: int, steps: int) -> None:
        """Show that a step of an evaluation is done."""
        if not self.shows:
            return
        self._end_of_building()
        line = f"evaluating on {split}: {step}/{steps}"
        now = time.monotonic()
        if self.bar is not None:
            self.bar.bar_format = _bar(self.prefix, line)
            self.bar.update(0)
        elif now - self.said >= self.every:
            self.said = now
            self.say(line)

    def epoch(self, epoch: int, splits: Mapping[str, tuple[float, str]], memory: int) -> None:
        """Tell what an epoch, counted from 1, came to: loss and metrics by split, and the most
        bytes of results, where they are counted."""
        parts = [f"{split} loss {loss:.4f} ({text})" for split, (loss, text) in splits.items()]
        parts += [f"memory {memory / 1e6:,.0f} MB"] if memory else []
        self.say(f"epoch {epoch}/{self.epochs}: {', '.join(parts)}")

    def compiling(self, state: CompileStats) -> None:
        """Show that kernels are made, once that has taken more than a second."""
        compiled, cached, seconds = (a - b for a, b in zip(state, self.told, strict=True))
        if not self.shows or seconds < COMPILING:
            return
        first, self.building = self.building is None, state
        line = f"compiling kernels: {compiled} made, {cached} from the cache"
        now = time.monotonic()
        if self.bar is not None:
            self.bar.bar_format = _bar(self.prefix, line)
            self.bar.refresh()
        elif first or now - self.said >= self.every:
            self.said = now
            self.say(line)

    def _end_of_building(self) -> None:
        """Say once how many kernels were made before this step, and in which time."""
        if self.building is not None:
            compiled, _, seconds = (a - b for a, b in zip(self.building, self.told, strict=True))
            self.say(f"{compiled} kernel{'s' * (compiled != 1)} compiled in {seconds:.1f} s")
            self.told, self.building = self.building, None
            self.begun += seconds  # so that speed and time left are those of steps

    def say(self, line: str) -> None:
        """Print a line without tearing the bar."""
        if self.bar is not None:
            self.bar.write(fit(line), file=self.stream)
        elif self.shows:
            print(fit(line), file=self.stream, flush=True)

    def close(self) -> None:
        """Leave the terminal clean."""
        if self.bar is not None:
            self.bar.close()
