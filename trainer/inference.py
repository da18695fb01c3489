"""Using what was trained: evaluation and prediction from a checkpoint."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..autograd import backends, context, from_numpy, nn, no_grad
from ..datasets import Reading, Source
from ..datasets.formats.pictures import decode, is_picture
from ..datasets.loader import Normalise
from ..datasets.source import Pixels
from . import build, config, user_code
from .commands.checkpoints import CheckpointOptions
from .components.checkpoint import CheckpointFolder, load, newest_checkpoint, verify
from .components.evaluate import evaluate, make_eval_step
from .components.state import load_evaluated, recorded, recorded_choice, recorded_precision
from .components.views import check_views, mean_output
from .distributed.agreement import agree, model_facts, work_facts
from .distributed.comm import Comm, SerialComm
from .errors import NotFinite, UserError, show, warn
from .images import read_images
from .numbers import whole_number
from .own_models import named_again
from .progress import Progress, compiling
from .quantized import Figures, calibrated, compare
from .tasks.registry import recorded_task
from .user_code import names_code, same

PREDICTED = 256  # images that are predicted at a time


def find(path: Path) -> Path:
    """Return the checkpoint itself, or of a run folder the best one that verifies, else the newest.
    UserError where there is none."""
    best = CheckpointFolder(path / "checkpoints").best_path
    if os.path.isdir(path) and best.exists():
        try:
            verify(best)
            return best
        except UserError as error:
            warn(error)
    return newest_checkpoint(path)


class Trained:
    """A checkpoint with its model and task, rebuilt from the record in it, and data to apply it to:
    by default the data set that it was trained on."""

    def __init__(self, options: CheckpointOptions, comm: Comm) -> None:
        self.path = find(Path(options.checkpoint))
        checkpoint = load(self.path)
        self.digest = checkpoint.digest
        trained_with = recorded(self.path, checkpoint.meta, "config", dict)
        self.dataset = options.dataset or recorded(self.path, checkpoint.meta, "dataset", str)
        if names_code(self.dataset) and not options.dataset:
            raise UserError(
                f"--dataset: expected {self.dataset}, which {self.path} was trained on, got none; "
                "code runs only where you name it"
            )
        self.folder = options.data_dir
        if not self.folder and not options.dataset:
            self.folder = _recorded_folder(trained_with, warns=comm.rank == 0)
        self.reading = _reading(self.path, checkpoint.meta, trained_with, options.dataset)
        self.data = self._load(options.split, comm, trained_with)
        self.dtype = np.dtype(_choice(trained_with, "dtype"))
        self.is_int8 = options.precision == "int8"
        self.precision = _precision(
            options.precision, recorded_precision(trained_with), str(self.dtype)
        )
        self.tta = options.tta or _choice(trained_with, "tta")
        # What activations of integers are scaled for.
        self.calibration = [self._trained_on(comm, trained_with)] if self.is_int8 else []
        conv = _choice(trained_with, "conv")
        self.backend = build.choose_backend(comm, str(trained_with.get("backend")), conv=conv)
        parts = trained_with.get("micro_batches")
        self.micro_batches = parts if isinstance(parts, int) and parts > 0 else 1
        self.task = recorded_task(self.path, trained_with)
        kind = recorded(self.path, checkpoint.meta, "model", str)
        digest = str(trained_with.get("model_sha256", ""))
        name = named_again(kind, options.model, digest, str(self.path), warns=comm.rank == 0)
        self.model = build.create_model(name, self.data, self.dtype)
        self.averaged = load_evaluated(self.path, checkpoint.tensors, self.model)
        build.check_output(self.model, self.task, self.data, self.dtype)
        check_views(self.tta, self.task, self.data)
        if self.precision == "bf16" and not self.is_int8:
            build.mixed(self.precision)  # a UserError where it is not to be had
            nn.keep_narrow_weights(self.model)
        self.model.eval()

    @property
    def computed_in(self) -> str:
        """The precision that a user reads: float64, float32, bf16 or int8."""
        if self.is_int8:
            return "int8"
        return self.precision if self.dtype == np.float32 else str(self.dtype)

    def facts(self) -> dict[str, object]:
        """Return what is applied to what, which must be the same on all ranks."""
        checkpoint = {f"digest of {self.path}": self.digest}
        data = work_facts(self.backend, self.data, *self.calibration)
        return checkpoint | user_code.facts() | data

    def int8_model(self, comm: Comm) -> nn.Module:
        """Return the model with int8 layers, calibrated on images of the training set: that of rank
        0 on all ranks."""
        (train,) = self.calibration
        model = calibrated(self.model, train, self.dtype)
        agree(comm, lambda: model_facts(model))
        for buffer in model.buffers():
            numbers = np.array(buffer.numpy(), order="C")
            comm.bcast(numbers)
            buffer.copy_(from_numpy(numbers))
        return model

    def _splits(self, split: str, comm: Comm) -> dict[str, Source]:
        return build.load_splits(self.dataset, (split,), self.folder, comm, self.reading)

    def _load(self, split: str, comm: Comm, trained_with: dict[str, Any]) -> Source:
        """Return a split; "validation" is the part of the training set that the run held out, else
        that of the data set."""
        if split != "validation":
            return self._splits(split, comm)[split]
        _, validation = self._divided(comm, trained_with)
        if validation is None:
            raise UserError(
                f"--split: expected train or test, got validation: {self.path} was trained without "
                "--validation"
            )
        return validation

    def _trained_on(self, comm: Comm, trained_with: dict[str, Any]) -> Source:
        """Return the training set without what the run held out; of another data set, all of it."""
        if same(self.dataset, str(trained_with.get("dataset"))):
            return self._divided(comm, trained_with)[0]
        return self._splits("train", comm)["train"]

    def _divided(self, comm: Comm, trained_with: dict[str, Any]) -> tuple[Source, Source | None]:
        """Return what the run trained on, and what it validated with, if it did."""
        found = self._splits("train", comm)
        part, seed = str(trained_with.get("validation", "0")), trained_with.get("seed")
        try:
            seed = seed if isinstance(seed, int) else 0
            train, validation = build.hold_out(found["train"], part, seed)
        except ValueError as error:
            raise UserError(f"{self.path}: --validation on record: {error}") from error
        return train, validation or found.get("validation")


def _reading(
    path: Path, meta: Mapping[str, Any], trained_with: Mapping[str, Any], other: str
) -> Reading:
    """Return how own data sets are read for a model: as in its training, with the classes, mean and
    std on record. An `other` data set without a test set is one itself."""
    names = ("dataset", "test_split", "image_size", "image_fit", "image_colors", "data_memory")
    known = {name: trained_with[name] for name in names if name in trained_with}
    again = {"dataset": other} if other else {}
    how = build.reading(config.resume(again, known))
    classes = meta.get("class_names")
    if classes is None:  # of an earlier version
        return how
    if not isinstance(classes, list) or not all(isinstance(name, str) for name in classes):
        raise UserError(f"{path}: class_names: expected a list of names, got {classes!r:.60}")
    mean, std = (_numbers(path, meta, name) for name in ("mean", "std"))
    share = None if other and not same(other, str(known.get("dataset"))) else how.test_split
    return replace(how, classes=tuple(classes), moments=(mean, std), test_split=share)


def _numbers(path: Path, meta: Mapping[str, Any], name: str) -> tuple[float, ...]:
    """Return a list of numbers on record. UserError where it is none, or a deviation is not above
    0."""
    values = meta.get(name)
    low = 0 if name == "std" else -math.inf
    if not isinstance(values, list) or not all(
        type(x) in (int, float) and math.isfinite(x) and x > low for x in values
    ):
        raise UserError(f"{path}: {name}: expected finite numbers, got {values!r:.60}")
    return tuple(map(float, values))


def _precision(asked: str, own: str, dtype: str) -> str:
    """Return the precision of what stays floating-point: the one `asked` for, "" being that of the
    training. UserError for one beside float64."""
    if asked and dtype != "float32":
        raise UserError(f"--precision: expected none for a checkpoint in {dtype}, got {asked}")
    return "float32" if asked == "int8" else asked or own


def _choice(trained_with: Mapping[str, Any], option: str) -> str:
    return recorded_choice(trained_with, option, config.CHOICES[option])


def _recorded_folder(trained_with: Mapping[str, Any], warns: bool) -> str:
    """Return the --data-dir on record if it is still there, else ""; say so in the latter case."""
    folder = str(trained_with.get("data_dir") or "")
    if not folder or os.path.isdir(folder):
        return folder
    if warns:
        warn(f"--data-dir {folder} is gone")
    return ""


def evaluate_checkpoint(
    comm: Comm, options: CheckpointOptions, batch_size: int, as_json: bool
) -> None:
    """Print loss and metrics of a checkpoint over a split: the same bits on any number of ranks up
    to the micro-batches it was trained with, beyond that to rounding."""
    if batch_size < 1:
        raise UserError(f"--batch-size: expected at least 1, got {batch_size}")
    trained = Trained(options, comm)
    agree(comm, trained.facts)
    loader = build.test_loader(
        trained.data,
        batch_size,
        rank=comm.rank,
        size=comm.size,
        dtype=trained.dtype,
        micro_batches=trained.micro_batches,
    )
    progress = Progress(len(loader), 0, comm.rank == 0)

    def evaluated(model: nn.Module) -> Figures:
        eval_step = make_eval_step(model, trained.task, trained.precision, trained.tta)
        return _figures(trained, evaluate(eval_step, trained.task, loader, comm, progress))

    computing = context.using(backend=trained.backend)
    with computing, closing(progress), backends.watching(progress.compiling):
        figures = evaluated(trained.model)
        if trained.is_int8:
            figures = compare(trained.task, figures, evaluated, trained.int8_model(comm))
    if comm.rank == 0:
        _show(trained, options, figures, as_json)


def _figures(trained: Trained, sums: Sequence[float]) -> Figures:
    """Return what an evaluation came to, from its sums of loss, metrics and samples. NotFinite, on
    all ranks alike, for a loss that is none."""
    loss, *totals, count = sums
    if not math.isfinite(loss):
        raise NotFinite(
            f"{trained.path}: expected a finite loss, got {loss / count} over {int(count)} samples"
        )
    figures: Figures = {"samples": (int(count), str(int(count)))}
    for metric, total in zip(trained.task.metrics, totals, strict=True):
        if metric.count:
            figures[metric.count] = int(total), str(int(total))
        figures[metric.name] = total / count, metric.text(total / count)
    return figures | {"loss": (loss / count, f"{loss / count:.4f}")}


def _show(trained: Trained, options: CheckpointOptions, figures: Figures, as_json: bool) -> None:
    """Print what was evaluated, and what came out."""
    about = {
        "checkpoint": str(trained.path), "dataset": trained.data.name, "split": options.split,
        "precision": trained.computed_in, **({} if trained.tta == "none" else {"tta": trained.tta}),
        **({"weights": "moving average"} if trained.averaged else {}),
    }  # fmt: skip
    if as_json:
        show(_dump(about | {name: value for name, (value, _) in figures.items()}))
        return
    lines = about | {name: text for name, (_, text) in figures.items()}
    width = max(10, *map(len, lines))
    show("\n".join(f"{name:<{width}} {text}" for name, text in lines.items()))


def predict(options: CheckpointOptions, images: str, samples: str, as_json: bool) -> None:
    """Print what a checkpoint's task predicts for each image of a file, or for samples of a split,
    such as the most likely class and its probability."""
    if images and samples:
        raise UserError(f"--samples: expected none with images of a file, got {samples}")
    trained = Trained(options, SerialComm())
    labels = None
    if images:
        pixels = _pixels(Path(images), trained)
        indices = list(range(len(pixels)))
    else:
        indices = ranges(samples or "0-9", len(trained.data))
        pixels = trained.data.read(np.array(indices))
        labels = trained.data.labels[indices]
    for i, (index, answer) in enumerate(zip(indices, _answers(trained, pixels), strict=True)):
        label = None if labels is None else int(labels[i])
        values, text = trained.task.prediction(answer, trained.data, label)
        if as_json:
            print(_dump({"index": index, **values}))
        else:
            show(f"{index:>6}  {text}")


def _pixels(path: Path, trained: Trained) -> Pixels:
    """Return the images of a file (N, H, W, C); a picture is brought to the model's size."""
    channels, *size = trained.data.input_shape
    floats = trained.data.read(np.arange(1)).dtype != np.uint8
    if is_picture(path.name) and channels in (1, 3) and not floats:
        height, width = size
        return decode(path, (height, width), trained.reading.fit, channels == 3)[None]
    return read_images(path, trained.data.input_shape, floats).transpose(0, 2, 3, 1)


def _answers(trained: Trained, pixels: Pixels) -> NDArray[Any]:
    """Return the task's answer for each image (N, H, W, C), some images at a time."""
    x = Normalise(trained.data, trained.dtype)(pixels)
    rows = []
    computing = context.using(backend=trained.backend, phase="evaluate")
    with compiling(), no_grad(), computing, build.mixed(trained.precision):
        model = trained.int8_model(SerialComm()) if trained.is_int8 else trained.model
        for start in range(0, len(x), PREDICTED):
            part = from_numpy(x[start : start + PREDICTED].transpose(0, 3, 1, 2))
            rows.append(trained.task.answers(mean_output(model, part, trained.tta), part).numpy())
    answers: NDArray[Any] = np.concatenate(rows)
    return answers


def _dump(value: Any) -> str:
    return json.dumps(value, allow_nan=False)


def ranges(text: str, size: int) -> list[int]:
    """Return the numbers that `0-9,17` names. UserError for a malformed one or one out of range."""
    numbers: list[int] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        low, high = whole_number(first), whole_number(last if dash else first)
        if low is None or high is None:
            raise UserError(f"--samples: expected numbers and ranges, such as 0-9,17, got {text!r}")
        if not low <= high < size:
            raise UserError(f"--samples: expected rising ranges within 0-{size - 1}, got {part}")
        numbers += range(low, high + 1)
    return numbers
