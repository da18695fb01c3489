"""The training loop: epochs, steps and micro-batches. What is trained is in `setup`, what is kept
in `components.record`; the loop assumes no loss, metric or optimizer, and no number of ranks."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ..autograd import backends, context, memory_in_use
from ..datasets import Batch
from . import build, summary
from .components import history
from .components.evaluate import Evaluator
from .components.logs import RunFolder
from .components.passes import Passes
from .components.record import Listener, RunRecord
from .components.state import State
from .components.verified_steps import Verification
from .config import TrainConfig
from .distributed.buffers import total
from .distributed.comm import Comm
from .distributed.local import LocalUpdate
from .distributed.verification.gradients import Rows
from .errors import NotFinite
from .progress import Progress
from .setup import Recipe, assemble
from .stop import Stop, Stopped
from .tasks.task import Task
from .timeline.timeline import Timeline


class Training:
    """A training on this rank, new or resumed from the checkpoint `source`: `run()` does it all.
    Every rank builds the same and then takes the weights of rank 0. `data` and `recipe` stand in
    for the data set, model, task and optimizer that the options name."""

    def __init__(
        self,
        config: TrainConfig,
        comm: Comm,
        folder: RunFolder,
        source: Path | None = None,
        data: build.Data | None = None,
        stop: Stop | None = None,
        recipe: Recipe | None = None,
        listeners: Sequence[Listener] = (),
    ) -> None:
        self.config, self.comm = config, comm
        self.stop, self.stopped = stop or Stop(), False
        self.parts = assemble(config, comm, data, recipe)
        self.state = State(self.parts.task.metrics)
        self.record = RunRecord(config, comm, folder, self.parts, self.state, source, listeners)
        self.ended = False  # on the wish of a listener
        self.evaluator = Evaluator(self.parts, self.state, self.stop, config.precision, config.tta)
        self.verification = Verification(config, comm, self.parts, self.state)
        self.timeline = Timeline(config, comm, folder, self.parts)
        self.passes = Passes(
            config, self.parts, self.state, self.record, self.timeline, self.verification.inputs
        )
        self.last = min(self.parts.planned, config.max_steps or self.parts.planned)
        self.lr = 0.0
        self.synchronised = 0  # the last step after which ranks exchanged what they have
        self.rows: Rows | None = None  # sums since then, of workers that train alone
        self.progress = Progress(self.last, 0, folder.writes, bars=False)

    def run(self) -> dict[str, Any]:
        """Train to the end; return the result, which is also the last file to be written. Where
        the run was `stopped`, or has no more to do, nothing is trained or returned but what is on
        record."""
        if self.record.latest is not None:
            self.record.load(self.record.latest)
            if self.finished() and (result := self.record.complete(self.last)):
                return result
        self.record.open()
        self.open_progress()
        try:
            # Overflow ends the run as a loss that is not finite; NumPy need not warn besides.
            with (
                np.errstate(over="ignore", invalid="ignore", divide="ignore"),
                backends.watching(self.progress.compiling),
                context.using(backend=self.parts.backend, ledger=self.record.ledger),
            ):
                self.tune()
                self.timeline.open(self.last - self.state.step)
                self.stop.finish_steps()  # before this a signal ends the run at once
                self.train()
                best = {} if self.stopped else self.test()
                self.timeline.close()
                if self.stopped:
                    self.record.log("stop", self.lr)
                    self.record.copies.remove()  # the checkpoint is newer
                    return {}
        finally:
            self.progress.close()
        return self.record.finish(best)

    def train(self) -> None:
        """Train until the run is finished or stopped."""
        self.synchronised = self.state.step
        try:
            if self.due():  # the run was stopped in an evaluation
                self.end_epoch()
                self.record.save()
            while not (self.stopped or self.finished()):
                self.epoch()
        except Stopped:
            self.stopped = True
            self.record.save()

    def test(self) -> dict[str, Any]:
        """Do the last evaluations, all from the checkpoint at the end; return what there is to say
        of the best checkpoint."""
        try:
            if self.state.evaluated != self.state.step:
                self.evaluator.validate(self.progress)
            restore_best = partial(self.record.restore_best, self.progress)
            return self.evaluator.test(self.progress, restore_best)
        except Stopped:
            self.stopped = True
            return {}

    def epoch(self) -> None:
        """Train the rest of an epoch, up to the last step at most."""
        now, data, every = self.state, self.parts.data.train, self.config.checkpoint_every
        copies = self.config.memory_copy_every
        batches = data.epoch(now.epoch, now.step_in_epoch)
        for batch in self.timeline.batches(batches, now.step):
            before = self.synchronised
            with self.timeline.step(now.step + 1):
                sums = self.step(batch)
            if not sums:
                continue
            loss, *metrics = [x / sums[-1] for x in sums[:-1]]
            shown = self.parts.task.show(metrics)
            self.progress.step(now.epoch, int(sums[-1]), loss, shown, now.step - before)
            is_end = now.step_in_epoch == len(data)
            if self.due():
                self.end_epoch()
            finished = self.finished()
            # All ranks ask here, after the same step, so that all stop after the same one.
            self.stopped = self.stop.agreed(self.comm) and not finished
            if is_end or finished or self.stopped or passed(every, before, now.step):
                self.record.save()
            elif passed(copies, before, now.step):
                self.record.copy()
            if finished or self.stopped:
                return

    def step(self, batch: Batch) -> list[float]:
        """Do one step; return the sums of loss, metrics and samples over all ranks: of workers that
        train alone nothing until they are synchronised, and then the sums since the last time."""
        now, parts = self.state, self.parts
        self.lr = parts.update.rates[0]
        self.comm.journal.step, self.comm.journal.activity = now.step + 1, "training"
        found = self.alone(batch, parts.local) if parts.local else self.gradients(batch)
        if (
            self.passes.samples_zeros() and self.comm.rank == 0
        ):  # one step, however many ranks share it
            self.record.ledger.sampled_steps += 1
        if found is None:
            now.advance()
            return []
        sums: list[float] = found.tolist()
        loss, *metrics = [x / sums[-1] for x in sums[:-1]]
        if not math.isfinite(loss):
            raise NotFinite(
                f"loss: expected a finite number at step {now.step + 1} of epoch {now.epoch + 1}, "
                f"got {loss}; try a smaller --lr than {self.config.lr}"
            )
        with self.timeline.span("update", "update"):
            (parts.local.synchronise if parts.local else self.verification.update)()
        now.count_step(sums)
        before, self.synchronised = self.synchronised, now.step
        self.verification.compare(before)
        if passed(self.config.log_every, before, now.step):
            figures = dict(zip(now.metric_names, metrics, strict=True))
            self.record.log("step", self.lr, loss=loss, **figures)
        return sums

    def alone(self, batch: Batch, local: LocalUpdate) -> Rows | None:
        """Do a step of each worker of this rank; where all are to be synchronised after it, return
        the sums of loss, metrics and samples since the last time, (n,)."""
        jobs = [partial(self.passes.micro_batch, part) for part in batch.parts()]
        rows = np.zeros((len(jobs), len(self.parts.task.metrics) + 2))
        for i, job in enumerate(jobs):
            self.parts.buffers.use(i)
            local.use(i)
            with self.timeline.span(f"micro-batch {i}", "micro-batch"):
                rows[i] = job()
            local.step()
        if not jobs:
            local.skip()
        self.rows = rows if self.rows is None else self.rows + rows
        now, after = self.state, self.state.step_in_epoch + 1
        is_last = after == len(self.parts.data.train) or now.step + 1 == self.last
        if not is_last and after % self.config.local_steps:
            return None
        rows, self.rows = self.rows, None
        return total(rows, self.parts.reducer)

    def gradients(self, batch: Batch) -> Rows:
        """Leave the gradients of a step, summed over the ranks, and return the sums of loss,
        metrics and samples, (n,)."""
        parts = self.parts
        if self.verification.due():
            return self.verification.gradients(batch, self.passes.verified)
        parts.overlap.begin()
        rows = self.passes.run(batch, parts.sync, parts.buffers.use)
        # First every rank ends its buckets: one without samples starts them only here, and ranks
        # must come to their collectives in one order.
        with self.timeline.span("exchange", "exchange"):
            parts.sync.wait()
        parts.overlap.step()
        return total(rows, parts.reducer)

    def due(self) -> bool:
        """Tell whether an epoch, or the run, has come to its end and is still to be evaluated."""
        now = self.state
        is_last = now.step == self.last and now.step_in_epoch > 0 and now.evaluated != now.step
        return now.step_in_epoch == len(self.parts.data.train) or is_last

    def end_epoch(self) -> None:
        """Evaluate where it is due and log the epoch's figures; begin the next one at its end."""
        now, task = self.state, self.parts.task
        *sums, count = now.sums
        now.train_loss, *metrics = [x / count for x in sums]
        names = ("train_loss", *(f"train_{name}" for name in now.metric_names))
        figures = dict(zip(names, (now.train_loss, *metrics), strict=True))
        is_planned = (now.epoch + 1) % self.config.eval_every == 0
        if now.step == self.last or is_planned:
            figures |= self.evaluator.validate(self.progress)
        memory = memory_in_use().peak
        now.take(self.parts.overlap.take())
        figures |= history.exchange_of(now)
        asked = self.record.log("epoch", self.lr, **figures, memory_peak=memory)
        if self.record.listeners:
            answer = np.array(int(asked))
            self.comm.allreduce(answer, "max")
            self.ended = bool(answer)
        self.progress.epoch(now.epoch + 1, by_split(figures, task), memory)
        if now.step_in_epoch == len(self.parts.data.train):
            # An evaluation at --max-steps would make a resumed run another one.
            if is_planned and (line := self.parts.plateaus.observe(figures)):
                self.progress.say(line)
            now.end_epoch()

    def finished(self) -> bool:
        """Tell whether the last step is done, `--patience` evaluations brought no better one, or a
        listener wants to end."""
        is_last = self.state.step >= self.last or self.ended
        return is_last or 0 < self.config.patience <= self.state.not_better

    def tune(self) -> None:
        """Search for the fastest kernels; the time counts as overhead."""
        begun, parts = time.monotonic(), self.parts
        with build.mixed(self.config.precision):
            build.tune(parts.backend, self.comm, parts.model, parts.task, parts.data)
        self.state.overhead_seconds += time.monotonic() - begun

    def open_progress(self) -> None:
        """Say what is about to be trained, and show how far it is from now on."""
        parts, latest, folder = self.parts, self.record.latest, self.record.folder
        args = self.config, parts.model, parts.data, self.comm, parts.backend, folder.path
        for line in (*summary.header(*args), *parts.hierarchy.lines):
            self.progress.say(line)
        if latest is not None:
            self.progress.say(f"resumed from step {self.state.step} ({latest.name})")
        self.progress = Progress(
            self.last, self.state.step, folder.writes,
            per_epoch=len(parts.data.train), epochs=self.config.epochs,
        )  # fmt: skip


def passed(every: int, before: int, step: int) -> bool:
    """Tell whether a multiple of `every`, 0 for never, is among the steps after `before`."""
    return every > 0 and step // every > before // every


def by_split(figures: Mapping[str, float], task: Task) -> dict[str, tuple[float, str]]:
    """Return the losses and the metrics, as the task shows them, of the splits among figures."""
    names = {"train": "train", "validation": "val", "test": "test"}
    result = {}
    for split, short in names.items():
        if f"{split}_loss" in figures:
            metrics = [figures[f"{split}_{metric.name}"] for metric in task.metrics]
            result[short] = figures[f"{split}_loss"], task.show(metrics)
    return result
