"""The training loop: forward, backward, exchange, update, over and over."""

from __future__ import annotations

import json
import math
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..autograd import (
    Ledger,
    OutOfMemory,
    Tensor,
    backends,
    context,
    cross_entropy,
    from_numpy,
    memory_in_use,
    trace,
)
from ..autograd.capture.sparsity import Sparsity
from ..autograd.random import keyed
from ..datasets import Batch, Loader
from . import build, provenance, summary
from .components import history, state
from .components.checkpoint import CheckpointFolder
from .components.checkpoint import load as load_checkpoint
from .components.evaluate import StepOutput, evaluate, make_eval_step, num_correct, sums
from .components.logs import RunFolder
from .components.resume import settle
from .config import TrainConfig, parse_every, parse_size
from .cost.report.ledger import training_macs
from .distributed.agreement import agree, work_facts
from .distributed.comm import Comm
from .distributed.sync import GradientSync, MicroBatchBuffers, Reducer, share, total
from .errors import NotFinite, UserError
from .progress import Progress
from .stop import Stop

RESULT = {
    "test_accuracy", "test_loss", "train_loss", "epochs", "steps", "ranks", "images_per_second",
    "wall_seconds", "macs", "checkpoint",
}  # fmt: skip


class Training:
    """A training on this rank, new or going on from the checkpoint `source`: `run()` does it all.
    Every rank builds the same and then takes the weights of rank 0. `data` stands in for the data
    set that the options name."""

    def __init__(
        self,
        config: TrainConfig,
        comm: Comm,
        folder: RunFolder,
        source: Path | None = None,
        data: build.Data | None = None,
        stop: Stop | None = None,
    ) -> None:
        self.config, self.comm, self.folder = config, comm, folder
        data = data or build.load_data(config, comm)
        self.data, self.train_data, self.test_data = data, data.train, data.test
        self.choosing_data = data.validation or data.test  # what chooses the best
        self.dtype = np.dtype(config.dtype)
        self.sampling = parse_every(config.sparsity)
        self.backend = build.choose_backend(
            comm, config.backend, config.target, config.conv, config.tune
        )
        splits = [x.dataset for x in (data.train, data.validation, data.test) if x]
        agree(comm, lambda: work_facts(self.backend, *splits))
        build.limit_memory(self.backend, parse_size(config.memory_limit))
        self.model = build.create_model(config.model, data.train.dataset, self.dtype, config.seed)
        self.flat = build.flatten_parameters(self.model, data.train.dataset, self.dtype)
        self.steps_per_epoch = len(self.train_data)
        self.planned = config.epochs * self.steps_per_epoch
        self.optimizer = build.create_optimizer(config, self.model, self.flat, self.planned)
        self.reducer = Reducer(comm, fixed=comm.size <= config.micro_batches)
        self.parts = self.train_data.sampler.mine
        bucket = int(config.bucket_mb * 1e6)
        self.train_step = trace(self.forward_backward, training=True)
        self.eval_step = make_eval_step(self.model)
        self.sync = GradientSync(self.flat, self.reducer, bucket, len(self.parts))
        whole = self.train_data.sampler.parts
        self.buffers = MicroBatchBuffers(self.model, self.reducer, self.parts, whole)
        self.checkpoints = CheckpointFolder(folder.checkpoints, config.keep_checkpoints)
        self.state = state.State()
        self.ledger = Ledger()
        self.earlier = Ledger()
        self.begun = time.monotonic()
        self.latest = source
        self.total = Ledger()
        self.lr = 0.0
        self.copies: dict[str, NDArray[Any]] = {}
        self.stop, self.stopped = stop or Stop(), False
        self.progress = Progress(self.planned, 0, folder.writes, bars=False)

    def run(self) -> dict[str, Any]:
        """Train from the beginning or from a checkpoint to the end; return the result, which is
        also the last file to be written. Where the run was `stopped`, there is none."""
        if self.latest is not None:
            self.go_on(self.latest)
        last = min(self.planned, self.config.max_steps or self.planned)
        done = self.done(last)
        if done:
            return done
        self.prepare()
        self.tell()
        self.progress = progress = Progress(
            last, self.state.step, self.folder.writes,
            per_epoch=self.steps_per_epoch, epochs=self.config.epochs,
        )  # fmt: skip
        # Numbers that overflow are told as a loss that is not finite, not as NumPy's warnings.
        quiet = np.errstate(over="ignore", invalid="ignore", divide="ignore")
        try:
            with (
                quiet,
                backends.watching(progress.compiling),
                context.using(backend=self.backend, ledger=self.ledger),
            ):
                self.tune()
                self.stop.finish_steps()
                while not self.stopped and self.state.step < last and not self.exhausted():
                    self.epoch(last, progress)
                if self.stopped:
                    self.log("stop")
                    return {}
                if self.state.evaluated != self.state.step:
                    self.validate()
                best = self.test()
        finally:
            progress.close()
        return self.finish(best)

    def epoch(self, last: int, progress: Progress) -> None:
        """Do the rest of an epoch, up to a last step at most."""
        now, every = self.state, self.config.checkpoint_every
        for batch in self.train_data.epoch(now.epoch, now.step_in_epoch):
            loss, correct, count = self.step(batch)
            progress.step(now.epoch, int(count), loss / count, correct / count)
            ends, stops = now.step_in_epoch == self.steps_per_epoch, now.step == last
            if ends or stops:
                self.end_epoch(progress, whole=ends, final=stops)
                stops = stops or self.exhausted()
            self.stopped = self.stop.agreed(self.comm) and not stops
            if ends or stops or self.stopped or (every and now.step % every == 0):
                self.save()
            if stops or self.stopped:
                return

    def step(self, batch: Batch) -> tuple[float, float, float]:
        """Do one step; return the sums of loss, correct and samples over all ranks."""
        now = self.state
        self.lr = self.optimizer.rates[0]
        rows = np.zeros((len(self.parts), 3))
        for i, part in enumerate(batch.parts()):
            if i:
                self.sync.set_aside()
            self.buffers.use(i)
            if len(part.labels):
                with keyed(part.indices, self.config.seed, now.step):
                    rows[i] = self.fitting_backward(part)
        # Every rank first ends its buckets: one without a share starts them only here, and ranks
        # must come to their collectives in one order.
        self.sync.wait()
        loss, right, count = total(rows, self.reducer).tolist()
        if not math.isfinite(loss):
            raise NotFinite(
                f"loss is {loss / count} at step {now.step + 1} of epoch {now.epoch + 1} "
                f"with --lr {self.config.lr}: try a smaller one"
            )
        self.optimizer.step()
        self.optimizer.zero_grad()
        if self.sampled() and self.comm.rank == 0:  # a step is one, however many ranks share it
            self.ledger.sampled_steps += 1
        now.step += 1
        now.step_in_epoch += 1
        now.images += int(count)
        now.sums = [a + b for a, b in zip(now.sums, (loss, right, count), strict=True)]
        if now.step % self.config.log_every == 0:
            self.log("step", loss=loss / count, accuracy=right / count)
        return loss, right, count

    def fitting_backward(self, batch: Batch) -> tuple[float, float, float]:
        """Run `backward`; UserError where its results do not fit the limit of memory."""
        try:
            return self.backward(batch)
        except OutOfMemory as error:
            kept = build.stashed(self.model, self.train_data, len(batch.labels))
            raise build.memory_error(error, "--batch-size", self.config.batch_size, kept) from error

    def backward(self, batch: Batch) -> tuple[float, float, float]:
        """Run forward and backward on a micro-batch. The gradient is seeded with its share of the
        batch, so that the sum over all is that of the mean over the whole batch."""
        self.model.train()
        count = len(batch.labels)
        share = np.asarray(count / batch.total, self.dtype)
        given = (from_numpy(a) for a in (batch.images, batch.labels, share))
        watch = Sparsity(self.ledger, [self.flat.data]) if self.sampled() else None
        with context.using(observer=watch) if watch else nullcontext():
            return sums(self.train_step(*given), count)

    def sampled(self) -> bool:
        """Tell whether zeros are counted in the step under way, which is not repeated then."""
        return bool(self.sampling) and (self.state.step + 1) % self.sampling == 0

    def forward_backward(self, images: Tensor, labels: Tensor, share: Tensor) -> StepOutput:
        """Compute the loss, the number of correct samples and the gradients of all weights."""
        logits = self.model(images)
        loss = cross_entropy(logits, labels, label_smoothing=self.config.label_smoothing)
        right = num_correct(logits, labels)
        loss.backward(share)
        return loss, right

    def end_epoch(self, progress: Progress, whole: bool, final: bool) -> None:
        """End an epoch: evaluate where it is due, log its figures."""
        now = self.state
        loss, correct, count = now.sums
        due = final or (now.epoch + 1) % self.config.eval_every == 0
        now.train_loss = loss / count
        figures: dict[str, Any] = {"train_loss": now.train_loss, "train_accuracy": correct / count}
        if due:
            figures |= self.validate()
        memory = memory_in_use().peak
        self.log("epoch", **figures, memory_peak=memory)
        progress.epoch(now.epoch + 1, figures, memory)
        if whole:
            now.epoch, now.step_in_epoch, now.sums = now.epoch + 1, 0, [0.0, 0.0, 0.0]

    def validate(self) -> dict[str, float]:
        """Evaluate on the set that chooses the best checkpoint; return loss and accuracy under the
        names that the log has for them."""
        now, split = self.state, self.choosing_data.dataset.split
        self.buffers.use_means()
        loss, accuracy = self.evaluate(self.choosing_data)
        figures = {f"{split}_loss": loss, f"{split}_accuracy": accuracy}
        vars(now).update(figures, evaluated=now.step)
        now.not_better += 1
        if accuracy > now.best:
            now.best, now.best_step, now.not_better = accuracy, now.step, 0
        return figures

    def evaluate(self, data: Loader) -> tuple[float, float]:
        """Return mean loss and accuracy over a set."""
        now, begun = self.state, time.monotonic()
        try:
            self.model.eval()
            loss, right, count = evaluate(self.eval_step, data, self.reducer, self.progress)
        except OutOfMemory as error:
            raise build.memory_error(error, "--eval-batch-size", data.sampler.batch_size) from error
        if not math.isfinite(loss):
            split = data.dataset.split
            raise NotFinite(f"{split} loss is {loss / count} after step {now.step}: lower --lr")
        now.evaluations += 1
        now.overhead_seconds += time.monotonic() - begun
        return loss / count, right / count

    def exhausted(self) -> bool:
        """Tell whether `--patience` evaluations in a row brought no better one."""
        return 0 < self.config.patience <= self.state.not_better

    def test(self) -> dict[str, Any]:
        """Evaluate on the test set, which had no part in the training where there is a validation
        set: last weights, then best ones, which replace them. Return what there is to tell."""
        now, found = self.state, {}
        if self.choosing_data is not self.test_data:
            self.buffers.use_means()
            now.test_loss, now.test_accuracy = self.evaluate(self.test_data)
            of_best: float | None = now.test_accuracy
            if now.best_step != now.step:
                of_best = self.evaluate(self.test_data)[1] if self.take_best() else None
            found["validation_accuracy"] = now.validation_accuracy
            found["best_test_accuracy"] = of_best
        return {"best_accuracy": now.best, "best_step": now.best_step, **found}

    def take_best(self) -> bool:
        """Take the weights and buffers of the best checkpoint, which rank 0 reads for all; false
        where it cannot be read."""
        best, said = self.checkpoints.best_path, b""
        if self.folder.writes:
            try:
                state.load_model(best, load_checkpoint(best).tensors, self.model)
                said = b"read"
            except UserError as error:
                self.progress.say(f"warning: {error}: the best is not tested")
        if not self.comm.bcast_bytes(said):
            return False
        share([self.flat.data, *[b.data for b in self.model.buffers()]], self.comm)
        return True

    def save(self) -> None:
        """Write a checkpoint (rank 0); all ranks take part in merging the ledgers."""
        now, begun = self.state, time.monotonic()
        self.buffers.use_means()
        copies = self.buffers.capture()
        if not np.isfinite(self.flat.data.value).all():
            raise NotFinite(f"weights are not finite after step {now.step}: try a smaller --lr")
        now.seconds += self.elapsed()
        best = now.evaluated == now.step == now.best_step
        ledger = self.merged_ledger()
        if now.epoch and not now.step_in_epoch:  # which one has just ended
            now.finished_epochs.append(history.epoch_of(now, ledger))
        if self.folder.writes:
            self.folder.check()
            record = state.describe(now, self.config, self.comm.size, ledger)
            data = self.train_data.dataset
            record |= {"input": [*data.input_shape], "classes": len(data.classes)}
            tensors = state.capture(self.model, self.optimizer, copies)
            self.latest = self.checkpoints.save(now.step, tensors, record, best=best)
            self.folder.write_json("ledger.json", ledger.to_json())
        now.overhead_seconds += time.monotonic() - begun

    def merged_ledger(self) -> Ledger:
        """Return the ledger over all ranks and over the runs this one goes on from (rank 0)."""
        ledger = self.earlier.copy()
        for text in self.comm.gather_bytes(json.dumps(self.ledger.to_json()).encode()):
            ledger.merge(Ledger.from_json(json.loads(text)))
        return ledger

    def elapsed(self) -> float:
        """Return the seconds since the last call."""
        before, self.begun = self.begun, time.monotonic()
        return self.begun - before

    def log(self, event: str, **figures: Any) -> None:
        """Write one line of the log."""
        now = self.state
        seconds = now.seconds + time.monotonic() - self.begun
        speed = now.images / max(seconds - now.overhead_seconds, 1e-9)
        self.folder.log({
            "event": event, "step": now.step, "epoch": now.epoch + 1, "lr": self.lr, **figures,
            "images_per_second": speed, "seconds": seconds,
        })  # fmt: skip

    def prepare(self) -> None:
        """Open the folder, share the weights."""
        self.folder.open(resumes=bool(self.config.resume))
        settle(self.folder, self.config, self.state)
        with context.using(backend=self.backend, ledger=self.ledger):
            share([self.flat.data, *[b.data for b in self.model.buffers()]], self.comm)
        self.buffers.restore(self.copies)
        self.folder.write_json("config.json", self.config.to_json())
        if self.folder.writes:
            before = self.folder.read_json("provenance.json")
            facts = provenance.collect(self.comm, self.config.seed)
            resumed = str(self.latest) if self.latest else None
            facts |= {"backend": self.backend, "resumed_from": resumed, "before": before}
            self.folder.write_json("provenance.json", facts)
        self.begun = time.monotonic()

    def tell(self) -> None:
        """Say what is about to be trained."""
        args = self.config, self.model, self.data, self.comm, self.backend, self.folder.path
        for line in summary.header(*args):
            self.progress.say(line)
        if self.latest is not None:
            self.progress.say(f"resumed from step {self.state.step} ({self.latest.name})")

    def tune(self) -> None:
        """Have the fastest kernels found, which counts as overhead."""
        begun = time.monotonic()
        build.tune(self.backend, self.comm, self.model, self.data)
        self.state.overhead_seconds += time.monotonic() - begun

    def done(self, last: int) -> dict[str, Any]:
        """Return the result of a run that is complete already, which stays as it is; else nothing.
        UserError where a new folder would stay empty."""
        if self.latest is None or (self.state.step < last and not self.exhausted()):
            return {}
        if self.latest.resolve().parent != self.folder.checkpoints.resolve():
            raise UserError(
                f"{self.latest}: at step {self.state.step} of {last}, nothing is left to train; "
                "give more --epochs or --max-steps"
            )
        held = self.folder.read_json("result.json") if self.comm.rank == 0 else None
        result = held if _is_result(held) else {}
        if result:
            print(f"{self.folder.path}: complete at step {self.state.step}", file=sys.stderr)
            self.folder.touch("result.json")
        self.total = self.merged_ledger()
        return dict(json.loads(self.comm.bcast_bytes(json.dumps(result).encode())))

    def go_on(self, source: Path) -> None:
        """Load a checkpoint. One of another folder brings no best: this folder has none yet."""
        held = load_checkpoint(source)
        agree(self.comm, lambda: {f"digest of {source}": held.digest})
        self.state = state.restore(
            source, held.tensors, held.meta, self.config, self.model, self.optimizer
        )
        self.copies = state.copies(held.tensors)
        ledger = state.read_ledger(source, held.meta)
        if self.comm.rank == 0:
            self.earlier = ledger
        if not self.checkpoints.best_path.exists():
            self.state.best, self.state.best_step, self.state.not_better = -1.0, -1, 0

    def finish(self, found: dict[str, Any]) -> dict[str, Any]:
        """Write the result: the record that the run is complete."""
        now = self.state
        ledger = self.merged_ledger()
        peaks = self.comm.gather_bytes(str(memory_in_use().peak).encode())
        result = {
            "test_accuracy": now.test_accuracy,
            "test_loss": now.test_loss,
            "train_loss": now.train_loss,
            "epochs": now.epoch,
            "steps": now.step,
            "ranks": self.comm.size,
            "images_per_second": now.images / max(now.seconds - now.overhead_seconds, 1e-9),
            "wall_seconds": now.seconds,
            "macs": ledger.total().macs,
            "training_macs": training_macs(ledger.by("phase")),
            "checkpoint": str(self.latest),
            "memory_peak": max([0, *map(int, peaks)]),
            **found,
        }
        self.folder.write_json("ledger.json", ledger.to_json())
        self.folder.write_json("result.json", result)
        self.total = ledger
        return result


def _is_result(held: Any) -> bool:
    """Tell whether a file holds a result: all figures are there, and are numbers."""
    if not isinstance(held, dict) or not held.keys() >= RESULT:
        return False
    figures = (value for name, value in held.items() if name != "checkpoint" and value is not None)
    return all(type(value) in (int, float) for value in figures) and None not in map(
        held.get, RESULT
    )
