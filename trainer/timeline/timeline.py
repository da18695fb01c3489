"""The timeline of a training, while it runs and at its end."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from ...autograd import Ledger
from ...datasets import Batch
from ..components.logs import RunFolder
from ..config import AUTO, TrainConfig
from ..distributed.comm import Comm
from ..errors import UserError
from ..files import OutputFile
from ..setup import Parts
from .clock import Sync, synchronise
from .events import Recorder
from .operations import observing
from .stragglers import table
from .trace import MARK, RankTimeline, trace

NOTHING: AbstractContextManager[None] = nullcontext()


class Timeline:
    """Records the first steps of a training and all its evaluations and checkpoints, if the options
    ask for it; else every method returns at once. The last recorded step shows its operations."""

    def __init__(self, config: TrainConfig, comm: Comm, folder: RunFolder, parts: Parts) -> None:
        self.comm, self.parts = comm, parts
        self.recorder = Recorder() if config.timeline else None
        self.left = config.timeline_steps
        self.lines: list[str] = []
        self._syncs: list[Sync] = []
        name = folder.path / "timeline.json" if config.timeline == AUTO else config.timeline
        self._file = OutputFile("--timeline", Path(name), "a timeline", MARK)
        self._writes = folder.writes

    def open(self, steps: int) -> None:
        """Begin to record a run of so many steps. All ranks must call it. UserError where the file
        cannot be written."""
        if self.recorder is None:
            return
        self.left = min(self.left, steps)
        fault = b""
        if self._writes:
            try:
                self._file.check()
            except UserError as error:
                fault = str(error).encode()
        if fault := self.comm.bcast_bytes(fault):
            raise UserError(fault.decode())
        self._syncs.append(synchronise(self.comm))
        self.recorder.details = True
        self.comm.journal.recorder = self.recorder
        self.parts.data.train.around = self._loading

    def close(self) -> None:
        """Write the trace of all ranks (rank 0), and leave the table in `lines`. All ranks must
        call it."""
        if self.recorder is None:
            return
        self.comm.journal.recorder = None
        self._syncs.append(synchronise(self.comm))
        mine = RankTimeline.of(
            self.recorder, self.comm.rank, socket.gethostname(),
            len(self.parts.data.train.sampler.mine), self._syncs,
        )  # fmt: skip
        texts = self.comm.gather_bytes(json.dumps(mine.to_json()).encode())
        if self._writes:
            ranks = [RankTimeline.from_json(json.loads(text)) for text in texts]
            self._file.write(trace(ranks) + "\n")
            self.lines = [*table(ranks), f"timeline: {self._file.path}"]

    def span(self, name: str, kind: str, **args: Any) -> AbstractContextManager[None]:
        """Record a block of a recorded step."""
        if self.recorder is None or not self.recorder.details:
            return NOTHING
        return self.recorder.span(name, kind, **args)

    def step(self, number: int) -> AbstractContextManager[None]:
        """Record a block as a step, counted from 1; the steps after the last one pass by."""
        if self.recorder is None or not self.recorder.details:
            return NOTHING
        if not self.left:
            self.recorder.details = False
            return NOTHING
        self.left -= 1
        args = {"operations": True} if self.shows_operations() else {}
        return self.recorder.span(f"step {number}", "step", step=number, **args)

    def shows_operations(self) -> bool:
        """Tell whether the current step is the last recorded one."""
        return self.recorder is not None and self.recorder.details and not self.left

    def operations(self, ledger: Ledger) -> AbstractContextManager[None]:
        """Record the operations of a block, where they are to be shown."""
        if self.recorder is None or not self.shows_operations():
            return NOTHING
        return observing(ledger, self.recorder)

    def batches(self, batches: Iterable[Batch], step: int) -> Iterator[Batch]:
        """Yield batches, and record how long each is waited for; the first is that of a step."""
        source = iter(batches)
        while True:
            step += 1
            with self.span("next batch", "loader", step=step):
                batch = next(source, None)
            if batch is None:
                return
            yield batch

    def _loading(self) -> AbstractContextManager[None]:
        return self.span("prepare batch", "prepare")
