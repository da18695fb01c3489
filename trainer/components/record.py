"""What a run keeps on its way: its log, its ledger over ranks and resumes, checkpoints and, last,
the result, which says that the run is complete."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ...autograd import Ledger, context, memory_in_use
from .. import provenance, user_code
from ..config import AUTO, TrainConfig
from ..cost.report.ledger import training_macs
from ..distributed.agreement import agree
from ..distributed.comm import Comm
from ..distributed.overlap import ExchangeTimes
from ..distributed.sync import share
from ..errors import NotFinite, UserError, warn
from ..progress import Progress
from ..setup import Parts
from . import history, state
from .checkpoint import CheckpointFolder
from .checkpoint import load as load_checkpoint
from .logs import RunFolder, columns
from .memory_copies import MemoryCopies
from .packed import load_state, pack
from .resume import settle
from .state import State

RESULT = {
    "test_loss", "train_loss", "epochs", "steps", "ranks", "images_per_second", "wall_seconds",
    "macs", "checkpoint",
}  # fmt: skip


Listener: TypeAlias = Callable[[Mapping[str, Any]], object]


class RunRecord:
    """Keeps the state of a training in its folder, and takes it from there again. `ledger` counts
    this rank's work of this run; `latest` is the newest checkpoint, or the one to resume from."""

    def __init__(
        self,
        config: TrainConfig,
        comm: Comm,
        folder: RunFolder,
        parts: Parts,
        state: State,
        source: Path | None,
        listeners: Sequence[Listener] = (),
    ) -> None:
        self.config, self.comm, self.folder = config, comm, folder
        self.parts, self.state, self.latest = parts, state, source
        self.listeners = listeners
        self.checkpoints = CheckpointFolder(folder.checkpoints, config.keep_checkpoints)
        self.copies = MemoryCopies(comm, folder, config.memory_copy_every)
        self.ledger, self.earlier, self.total = Ledger(), Ledger(), Ledger()
        self._copies: dict[str, NDArray[Any]] = {}
        self._begun = time.monotonic()
        folder.columns = columns(state.metric_names)

    def load(self, source: Path) -> None:
        """Load a checkpoint. One of another folder brings no best: this folder has none yet."""
        checkpoint = load_state(source)
        agree(self.comm, lambda: {f"digest of {source}": checkpoint.digest})
        model, update = self.parts.model, self.parts.update
        state.restore(source, checkpoint, self.config, model, update, self.state)
        self.parts.plateaus.load(source, state.schedules(checkpoint.tensors))
        self._copies = state.copies(checkpoint.tensors)
        self._load_residuals(source, state.exchange(checkpoint.tensors))
        ledger = state.read_ledger(source, checkpoint.meta)
        if self.comm.rank == 0:
            self.earlier = ledger
        if not self.checkpoints.best_path.exists():
            self.state.forget_best()

    def _load_residuals(self, source: Path, exchange: Mapping[str, NDArray[Any]]) -> None:
        sync, config = self.parts.sync, self.config
        if config.local_steps or config.verify_every == 1:  # no step adds anything to exact sums
            if exchange and self.comm.rank == 0:
                warn(f"{source}: residuals of its --compress are dropped")
            return
        (sync.compressor or sync.residuals).load_state_dict(exchange)

    def open(self) -> None:
        """Open the folder, give all ranks the weights of rank 0, start the clock."""
        self.folder.open(resumes=bool(self.config.resume))
        self.comm.journal.folder = self.folder.path / "watchdog"
        settle(self.folder, self.config, self.state)
        with context.using(backend=self.parts.backend, ledger=self.ledger):
            self._share_model()
        self.parts.buffers.load_state_dict(self._copies)
        if self.parts.local:
            self.parts.local.begin()
        self.folder.write_json("config.json", self.config.to_json())
        self.copies.open(self.state.step, goes_on=self.config.resume == AUTO)
        if self.folder.writes:
            before = self.folder.read_json("provenance.json")
            facts = provenance.collect(self.comm, self.config.seed)
            resumed = str(self.latest) if self.latest else None
            facts |= {"backend": self.parts.backend, "resumed_from": resumed, "before": before}
            facts["code"] = user_code.loaded()
            self.folder.write_json("provenance.json", facts)
        self._begun = time.monotonic()

    def log(self, event: str, lr: float, **figures: Any) -> bool:
        """Write one line of the log, and tell the listeners; return whether one of them returned
        True."""
        now = self.state
        seconds = now.seconds + time.monotonic() - self._begun
        line = {
            "event": event, "step": now.step, "epoch": now.epoch + 1, "lr": lr, **figures,
            "images_per_second": now.speed(seconds), "seconds": seconds,
        }  # fmt: skip
        self.folder.log(line)
        return True in [listener(line) is True for listener in self.listeners]

    def save(self) -> None:
        """Write a checkpoint (rank 0). All ranks call it: they merge buffers and ledgers."""
        with self.comm.journal.doing("checkpoint"):
            self._save()

    def _save(self) -> None:
        now, begun = self.state, time.monotonic()
        tensors, record = self._content()
        if self.folder.writes:
            record["ledger"] = Ledger.from_json(record["ledger"]).to_json()
            best = now.evaluated == now.step == now.best_step
            self.latest = self.checkpoints.save(now.step, tensors, record, best=best)
            self.folder.write_json("ledger.json", record["ledger"])
        now.overhead_seconds += time.monotonic() - begun

    def copy(self) -> None:
        """Keep the state in the memory of two hosts. All ranks call it, as `save`."""
        with self.comm.journal.doing("checkpoint"):
            begun = time.monotonic()
            tensors, record = self._content()
            data = pack(tensors, record) if self.folder.writes else None
            self.copies.store(self.state.step, data)
            self.state.overhead_seconds += time.monotonic() - begun

    def _content(self) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        """Return the tensors and the record of a checkpoint, whose ledger is not merged yet; on
        ranks other than the first, which only take part, empty ones."""
        now, parts = self.state, self.parts
        parts.buffers.use_means()
        copies, slots = parts.buffers.state_dict(), parts.update.state_dict()
        exchange = (parts.sync.compressor or parts.sync.residuals).state_dict()
        if not np.isfinite(parts.flat.data.value).all():
            raise NotFinite(
                f"weights: expected finite numbers after step {now.step}, got infinity or NaN; "
                "try a smaller --lr"
            )
        now.seconds += self._elapsed()
        entries = self._gather()
        if now.epoch and not now.step_in_epoch:  # an epoch has just ended
            now.finished_epochs.append(history.epoch_of(now, Ledger.from_json(entries)))
        if not self.folder.writes:
            return {}, {}
        self.folder.check()
        record = state.describe(now, self.config, self.comm.size, entries)
        data = parts.data.train.dataset
        record |= {"input": [*data.input_shape], "classes": len(data.classes)}
        record |= {"class_names": data.classes, "mean": data.mean, "std": data.std}
        slots[state.SCHEDULES] = parts.plateaus.state_dict()
        return state.capture(parts.model, slots, copies, exchange), record

    def restore_best(self, progress: Progress) -> bool:
        """Take the weights and buffers of the best checkpoint, which rank 0 reads for all; false
        where it cannot be read."""
        path, answer = self.checkpoints.best_path, b""
        if self.folder.writes:
            try:
                state.load_evaluated(path, load_checkpoint(path).tensors, self.parts.model)
                answer = b"read"
            except UserError as error:
                progress.say(f"warning: {error}: the best is not tested")
        if not self.comm.bcast_bytes(answer):
            return False
        self._share_model()
        return True

    def merged_ledger(self) -> Ledger:
        """Return the ledger over all ranks and over the runs that this one continues (rank 0)."""
        return Ledger.from_json(self._gather())

    def _gather(self) -> list[dict[str, Any]]:
        """Return the entries of `merged_ledger`, several for one key perhaps, and count the times
        of exchanges (rank 0). One gather, in which only rank 0 waits."""
        mine = json.dumps([self.parts.overlap.share(), self.ledger.to_json()]).encode()
        entries = self.earlier.to_json()
        for text in self.comm.gather_bytes(mine):
            times, ledger = json.loads(text)
            self.state.take(ExchangeTimes(*times))
            entries += ledger
        return entries

    def complete(self, last: int) -> dict[str, Any]:
        """Return the result of a run that was complete before, which stays as it is. UserError
        where a new folder would stay empty."""
        assert self.latest is not None
        if self.latest.resolve().parent != self.folder.checkpoints.resolve():
            raise UserError(
                f"{self.latest}: at step {self.state.step} of {last}, nothing is left to train; "
                "raise --epochs or --max-steps"
            )
        stored = self.folder.read_json("result.json") if self.comm.rank == 0 else None
        result = stored if is_result(stored, self.state.metric_names) else {}
        if result:
            print(f"{self.folder.path}: complete at step {self.state.step}", file=sys.stderr)
            self.folder.touch("result.json")
        self.total = self.merged_ledger()
        return dict(json.loads(self.comm.bcast_bytes(json.dumps(result).encode())))

    def finish(self, best: dict[str, Any]) -> dict[str, Any]:
        """Write the result, with what there is to say of the best checkpoint."""
        now, ledger = self.state, self.merged_ledger()
        now.seconds += self._elapsed()  # overheads since the last checkpoint are counted, too
        peak, slots = np.array([memory_in_use().peak]), np.array([self.parts.update.nbytes])
        self.comm.allreduce(peak, "max")
        self.comm.allreduce(slots, "max")
        result = {
            **{f"test_{name}": now.figures[f"test_{name}"] for name in now.metric_names},
            "test_loss": now.figures["test_loss"],
            "train_loss": now.train_loss,
            "epochs": now.epoch,
            "steps": now.step,
            "ranks": self.comm.size,
            "images_per_second": now.speed(now.seconds),
            "wall_seconds": now.seconds,
            "macs": ledger.total().macs,
            "training_macs": training_macs(ledger.by("phase")),
            "checkpoint": str(self.latest),
            "memory_peak": int(peak[0]),
            "optimizer_bytes": int(slots[0]),
            **best,
        }
        self.folder.write_json("ledger.json", ledger.to_json())
        self.folder.write_json("result.json", result)  # last: it says that the run is complete
        self.copies.remove()
        self.total = ledger
        return result

    def _share_model(self) -> None:
        arrays = [self.parts.flat.data, *[b.array for b in self.parts.model.buffers()]]
        share(arrays, self.comm)

    def _elapsed(self) -> float:
        """Return the seconds since the last call."""
        before, self._begun = self._begun, time.monotonic()
        return self._begun - before


def is_result(content: Any, metrics: tuple[str, ...]) -> bool:
    """Tell whether a file holds a result: all figures are there, and are numbers."""
    required = RESULT | {f"test_{name}" for name in metrics}
    if not isinstance(content, dict) or not content.keys() >= required:
        return False
    figures = (v for name, v in content.items() if name != "checkpoint" and v is not None)
    return all(type(v) in (int, float) for v in figures) and None not in map(content.get, required)
