"""Using what was trained: evaluation and prediction from a checkpoint."""

from __future__ import annotations

import json
import math
import os
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from ..autograd import backends, context, from_numpy, no_grad
from ..datasets import Dataset
from ..datasets.loader import Normalise
from . import build, config
from .components.checkpoint import CheckpointFolder, load, newest_checkpoint, verify
from .components.evaluate import evaluate, make_eval_step
from .components.state import load_model, recorded
from .distributed.agreement import agree, work_facts
from .distributed.comm import Comm, SerialComm
from .distributed.sync import Reducer
from .errors import NotFinite, UserError, show, warn
from .images import read_images
from .numbers import whole_number
from .progress import Progress, compiling
from .tasks.registry import recorded_task


def find(path: Path) -> Path:
    """Return the checkpoint itself, or of a run folder the best one that verifies, else the newest.
    UserError for none."""
    best = CheckpointFolder(path / "checkpoints").best_path
    if os.path.isdir(path) and best.exists():
        try:
            verify(best)
            return best
        except UserError as error:
            warn(error)
    return newest_checkpoint(path)


class Trained:
    """A checkpoint with its model, rebuilt from the record in it, and a data set of its kind."""

    def __init__(self, path: str, dataset: str, split: str, data_dir: str, comm: Comm) -> None:
        self.path = find(Path(path))
        checkpoint = load(self.path)
        self.digest = checkpoint.digest
        options = recorded(self.path, checkpoint.meta, "config", dict)
        name = dataset or recorded(self.path, checkpoint.meta, "dataset", str)
        before = str(options.get("data_dir") or "")
        if not data_dir and before and not dataset:
            if os.path.isdir(before):
                data_dir = before
            elif comm.rank == 0:
                warn(f"--data-dir {before} is gone")
        self.data = self._load(name, split, data_dir, comm, options)
        self.dtype = np.dtype("float64" if options.get("dtype") == "float64" else "float32")
        conv = options.get("conv")
        conv = conv if conv in config.CHOICES["conv"] else "auto"
        self.backend = build.choose_backend(comm, str(options.get("backend")), conv=conv)
        parts = options.get("micro_batches")
        self.micro_batches = parts if isinstance(parts, int) and parts > 0 else 1
        self.task = recorded_task(self.path, options)
        kind = recorded(self.path, checkpoint.meta, "model", str)
        self.model = build.create_model(kind, self.data, self.dtype)
        load_model(self.path, checkpoint.tensors, self.model)
        self.model.eval()

    def facts(self) -> dict[str, object]:
        """Return what is applied to what, which must be the same on all ranks."""
        checkpoint = {f"digest of {self.path}": self.digest}
        return checkpoint | work_facts(self.backend, self.data)

    def _load(
        self, name: str, split: str, data_dir: str, comm: Comm, options: dict[str, Any]
    ) -> Dataset:
        """Return a split; "validation" is the part of the training set that the run held out."""
        if split != "validation":
            return build.load_split(name, split, data_dir, comm)
        train = build.load_split(name, "train", data_dir, comm)
        part, seed = str(options.get("validation", "0")), options.get("seed")
        try:
            validation = build.hold_out(train, part, seed if isinstance(seed, int) else 0)[1]
        except ValueError as error:
            raise UserError(f"{self.path}: validation on record: {error}") from error
        if validation is None:
            raise UserError(f"--split validation: {self.path} was trained without --validation")
        return validation


def evaluate_checkpoint(
    comm: Comm,
    checkpoint: str,
    dataset: str,
    split: str,
    data_dir: str,
    batch_size: int,
    as_json: bool,
) -> None:
    """Print loss and accuracy of a checkpoint over a split: the same bits on any number of ranks up
    to the micro-batches it was trained with, beyond that to rounding."""
    if batch_size < 1:
        raise UserError(f"--batch-size: {batch_size} is less than 1")
    trained = Trained(checkpoint, dataset, split, data_dir, comm)
    agree(comm, trained.facts)
    loader = build.test_loader(
        trained.data,
        batch_size,
        rank=comm.rank,
        size=comm.size,
        dtype=trained.dtype,
        micro_batches=trained.micro_batches,
    )
    with context.using(backend=trained.backend):
        task = trained.task
        eval_step = make_eval_step(trained.model, task)
        progress = Progress(len(loader), 0, comm.rank == 0)
        with closing(progress), backends.watching(progress.compiling):
            reducer = Reducer(comm, fixed=True)
            loss, *totals, count = evaluate(eval_step, task, loader, reducer, progress)
    if not math.isfinite(loss):
        raise NotFinite(f"{trained.path}: loss is {loss / count} over {int(count)} samples")
    figures: dict[str, Any] = {
        "checkpoint": str(trained.path),
        "dataset": trained.data.name,
        "split": split,
        "samples": int(count),
    }
    texts: dict[str, str] = {}
    for metric, total in zip(task.metrics, totals, strict=True):
        figures |= {metric.count: int(total)} if metric.count else {}
        figures[metric.name], texts[metric.name] = total / count, metric.text(total / count)
    figures["loss"], texts["loss"] = loss / count, f"{loss / count:.4f}"
    if comm.rank == 0:
        lines = [f"{name:<11}{texts.get(name, value)}" for name, value in figures.items()]
        show(_dump(figures) if as_json else "\n".join(lines))


def predict(
    checkpoint: str,
    images: str,
    samples: str,
    dataset: str,
    split: str,
    data_dir: str,
    as_json: bool,
) -> None:
    """Print the most likely class of each image of a file, or of samples, with its probability."""
    if images and samples:
        raise UserError(f"--samples {samples}: are of the data set, got images of {images} too")
    trained = Trained(checkpoint, dataset, split, data_dir, SerialComm())
    if images:
        pixels, labels = read_images(Path(images), trained.data.input_shape), None
        numbers = list(range(len(pixels)))
    else:
        numbers = ranges(samples or "0-9", len(trained.data))
        pixels, labels = trained.data.images[numbers], trained.data.labels[numbers]
    x = Normalise(trained.data, trained.dtype)(pixels.transpose(0, 2, 3, 1))
    rows = []
    with compiling(), no_grad(), context.using(backend=trained.backend, phase="evaluate"):
        for start in range(0, len(x), 256):
            part = from_numpy(x[start : start + 256].transpose(0, 3, 1, 2))
            rows.append(trained.task.answers(trained.model(part), part).numpy())
    for i, (number, row) in enumerate(zip(numbers, np.concatenate(rows), strict=True)):
        label = None if labels is None else int(labels[i])
        values, text = trained.task.prediction(row, trained.data, label)
        if as_json:
            print(_dump({"index": number, **values}))
        else:
            show(f"{number:>6}  {text}")


def _dump(value: Any) -> str:
    return json.dumps(value, allow_nan=False)


def ranges(text: str, size: int) -> list[int]:
    """Return the numbers that `0-9,17` names. UserError for a malformed one or one out of range."""
    numbers: list[int] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        low, high = whole_number(first), whole_number(last if dash else first)
        if low is None or high is None:
            raise UserError(f"--samples {text}: {part!r} is neither a number nor a range")
        if not low <= high < size or high - low >= size:
            raise UserError(f"--samples {text}: {part} does not fit a data set of {size}")
        numbers += range(low, high + 1)
    return numbers
