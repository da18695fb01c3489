"""What a checkpoint holds of a training, and how a training goes on from it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ...autograd import nn
from ...autograd.dtypes import BFLOAT16
from ...autograd.ledger import Ledger
from ...autograd.optim import EMA
from ..bfloat16 import BITS, as_numbers
from ..config import TrainConfig, flag
from ..cost.precision import PRECISIONS
from ..distributed.local import OUTER, WORKERS
from ..distributed.overlap import ExchangeTimes
from ..distributed.update import Update
from ..errors import UserError
from ..own_models import full_name
from ..tasks.task import TaskMetric
from .checkpoint import Checkpoint

MOST = 1 << 100  # of anything counted
SPLITS = ("test", "validation")
# What older checkpoints lack: in the state, besides all figures of validation, and in the options.
LATER = (
    "closed", "restarts", "evaluations", "best_step", "not_better", "exchange_exposed",
    "exchange_hidden",
)  # fmt: skip
LATER_OPTIONS = {
    "model_args": "", "validation": "0", "task": "classification", "optimizer": "sgd",
    "precision": "float32", "test_split": "0", "image_size": "", "image_fit": "crop",
    "image_colors": "auto",
}  # fmt: skip
# Names in checkpoints that differ from the attributes of State.
RECORDED = {"overhead_seconds": "aside", "finished_epochs": "closed"}
NO_BEST = -1.0
MODEL, OPTIMIZER, COPIES, EXCHANGE = "model/", "optimizer/", "micro_batches/", "exchange/"
SCHEDULES = "schedules"
AVERAGES = f"{OPTIMIZER}{EMA.slot}/"
MISSED = f"{OPTIMIZER}missed/"
UNMOVED = f"{OPTIMIZER}unmoved/"  # in older checkpoints: those that missed every update


@dataclass
class State:
    """Progress of a training on a task with these `metrics`, all but its tensors.

    `sums` over the current epoch: loss, each metric, samples. `seconds` so far, of which
    `overhead_seconds` for evaluation, checkpoints and tuning; those that the exchange of gradients
    took are `exchange_exposed` and `exchange_hidden`, means over the ranks. `figures` of the latest
    evaluation of each split, such as test_loss, None before it. `best` has the first metric's best
    value on the set that chooses, reached at `best_step`; `not_better` counts evaluations since.
    `finished_epochs` and `restarts` are the records that `history` reads."""

    metrics: tuple[TaskMetric, ...]
    step: int = 0
    epoch: int = 0
    step_in_epoch: int = 0
    sums: list[float] = field(default_factory=list)
    seconds: float = 0.0
    overhead_seconds: float = 0.0
    images: int = 0
    exchange_exposed: float = 0.0
    exchange_hidden: float = 0.0
    best: float = NO_BEST
    train_loss: float | None = None
    evaluated: int = -1
    evaluations: int = 0
    best_step: int = -1
    not_better: int = 0
    finished_epochs: list[dict[str, Any]] = field(default_factory=list)
    restarts: list[dict[str, Any]] = field(default_factory=list)
    figures: dict[str, float | None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.begin_epoch()
        names = ("loss", *self.metric_names)
        self.figures = {f"{split}_{name}": None for split in SPLITS for name in names}

    @property
    def metric_names(self) -> tuple[str, ...]:
        """The names of the metrics."""
        return tuple(metric.name for metric in self.metrics)

    def begin_epoch(self) -> None:
        """Count the steps and the sums of an epoch from zero."""
        self.step_in_epoch, self.sums = 0, [0.0] * (len(self.metrics) + 2)

    def end_epoch(self) -> None:
        """Begin the next epoch."""
        self.epoch += 1
        self.begin_epoch()

    def advance(self) -> None:
        """Count a step whose sums are still to come."""
        self.step += 1
        self.step_in_epoch += 1

    def count_step(self, sums: Sequence[float]) -> None:
        """Count a step with these sums of loss, metrics and samples."""
        self.advance()
        self.images += int(sums[-1])
        self.sums = [a + b for a, b in zip(self.sums, sums, strict=True)]

    def take(self, times: ExchangeTimes) -> None:
        """Count the times of exchanges."""
        self.exchange_exposed += times.exposed
        self.exchange_hidden += times.hidden

    def take_score(self, score: float) -> None:
        """Keep the score of an evaluation where it is the best so far."""
        self.not_better += 1
        if math.isnan(score):
            return
        is_first = self.best_step < 0 and self.best == NO_BEST
        if is_first or self.metrics[0].is_better(score, self.best):
            self.best, self.best_step, self.not_better = score, self.step, 0

    def forget_best(self) -> None:
        """Let the next evaluation be the best."""
        self.best, self.best_step, self.not_better = NO_BEST, -1, 0

    def speed(self, seconds: float) -> float:
        """Return the images per second of training alone, `seconds` after the start."""
        return self.images / max(seconds - self.overhead_seconds, 1e-9)

    def state_dict(self) -> dict[str, Any]:
        """Return all values under the names that checkpoints have for them."""
        values = {name: value for name, value in vars(self).items()
                  if name not in ("metrics", "figures")}  # fmt: skip
        return {RECORDED.get(name, name): value for name, value in values.items()} | self.figures

    def load_state_dict(self, record: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` returned, possibly that of an older version. ValueError for
        a value of another kind than the default's, KeyError for a missing one; then nothing is
        loaded."""
        defaults = State(self.metrics).state_dict()
        older = {n: v for n, v in defaults.items() if n in LATER or n.startswith("validation_")}
        values = {name: (older | dict(record))[name] for name in defaults}
        for name, default in defaults.items():
            _check_kind(name, values[name], default)
        sums = values["sums"]
        if len(sums) != len(defaults["sums"]) or not all(map(_is_count, sums)):
            raise ValueError(f"sums: expected {len(defaults['sums'])} numbers, got {sums!r:.60}")
        self.figures = {name: values.pop(name) for name in self.figures}
        attributes = {name: attribute for attribute, name in RECORDED.items()}
        for name, value in values.items():
            setattr(self, attributes.get(name, name), value)


def _is_count(value: object) -> bool:
    return isinstance(value, int | float) and abs(value) < MOST


def _check_kind(name: str, value: object, default: object) -> None:
    """ValueError for a value of another kind than the default's, or a number beyond all counts."""
    kinds: tuple[type, ...] = (type(default),)
    if default is None or type(default) is float:
        kinds = (int, float, type(default))
    if isinstance(value, bool) or not isinstance(value, kinds):
        kind = "a number" if float in kinds else kinds[0].__name__
        raise ValueError(f"{name}: expected {kind}, got {value!r:.60}")
    if isinstance(value, int | float) and not _is_count(value):
        raise ValueError(f"{name}: expected a number below {MOST:g} in size, got {value!r:.60}")


def capture(
    model: nn.Module,
    slots: Mapping[str, Any],
    copies: Mapping[str, NDArray[Any]],
    exchange: Mapping[str, NDArray[Any]] | None = None,
) -> dict[str, NDArray[Any]]:
    """Return all tensors by fully qualified name; `slots` is the optimizer's state.

    They are model/NAME, optimizer/SLOT/NAME, in optimizer/missed/NAME the number of updates in
    which a parameter was frozen, in optimizer/schedules/NAME the state of schedules, for the
    buffers of each micro-batch micro_batches/NAME, of a compressed exchange exchange/NAME and, of
    workers that train alone, workers/SLOT/NAME and outer/NAME."""
    tensors = {MODEL + name: value for name, value in model.state_dict().items()}
    own = dict(slots)
    tensors |= {f"{OUTER}/{name}": value for name, value in own.pop(OUTER, {}).items()}
    for prefix, some in ((OPTIMIZER, own), (f"{WORKERS}/", own.pop(WORKERS, {}))):
        for slot, values in some.items():
            if isinstance(values, Mapping):  # not the number of the step
                tensors |= {f"{prefix}{slot}/{n}": np.asarray(v) for n, v in values.items()}
    tensors |= {EXCHANGE + name: value for name, value in (exchange or {}).items()}
    return tensors | {COPIES + name: value for name, value in copies.items()}


def exchange(tensors: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Return the state of a compressed exchange from a checkpoint's tensors."""
    return _below(EXCHANGE, tensors)


def copies(tensors: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Return the buffers of each micro-batch from a checkpoint's tensors."""
    return _below(COPIES, tensors)


def schedules(tensors: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Return the state of schedules from a checkpoint's tensors."""
    return _below(f"{OPTIMIZER}{SCHEDULES}/", tensors)


def _below(prefix: str, tensors: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Return the tensors of a group, those of bfloat16 in float32 where ml_dtypes is missing."""
    return {n.removeprefix(prefix): _typed(a) for n, a in tensors.items() if n.startswith(prefix)}


def _typed(array: NDArray[Any]) -> NDArray[Any]:
    if BFLOAT16 is None or array.dtype != BITS:
        return as_numbers(array)
    return array.view(BFLOAT16)


def describe(
    state: State, config: TrainConfig, ranks: int, ledger: list[dict[str, Any]]
) -> dict[str, Any]:
    """Return the record that goes with the tensors; `ledger` is that of all ranks in JSON."""
    metric = state.metric_names[0]
    held_out = state.figures[f"validation_{metric}"]
    return {
        **state.state_dict(),
        metric: state.figures[f"test_{metric}"] if held_out is None else held_out,
        "model": full_name(config.model, config.model_args),
        "dataset": config.dataset,
        "seed": config.seed,
        "ranks": ranks,
        "config": config.to_json(),
        "ledger": ledger,
    }


def restore(
    path: Path,
    checkpoint: Checkpoint,
    config: TrainConfig,
    model: nn.Module,
    update: Update,
    state: State,
) -> None:
    """Load a checkpoint into a training. UserError where it is of another one, naming what differs
    with both values."""
    meta = checkpoint.meta
    options = LATER_OPTIONS | recorded(path, meta, "config", dict)
    if name := config.difference(options):
        raise UserError(
            f"{flag(name)}: expected {options.get(name)} as in {path}, got {getattr(config, name)}"
        )
    load_model(path, checkpoint.tensors, model)
    load_optimizer(path, checkpoint, update)
    try:
        state.load_state_dict(meta)
    except (KeyError, ValueError, TypeError) as error:
        raise UserError(f"{path}: cannot be resumed from: {_line(error)}") from error


class Restorable(Protocol):
    """An optimizer, or an update by one."""

    @property
    def slots(self) -> tuple[str, ...]:
        """What it keeps for each element."""

    def load_state_dict(self, state: dict[str, Any], /) -> None:
        """Go on from a state. ValueError where it does not fit."""


def load_optimizer(path: Path, checkpoint: Checkpoint, update: Restorable) -> None:
    """Load a checkpoint's optimizer. UserError where it does not fit."""
    tensors, meta = checkpoint.tensors, checkpoint.meta
    slots = {slot: _below(f"{OPTIMIZER}{slot}/", tensors) for slot in update.slots}
    workers = {slot: _below(f"{WORKERS}/{slot}/", tensors) for slot in update.slots}
    others = {OUTER: _below(f"{OUTER}/", tensors), WORKERS: workers}
    try:
        missed = dict.fromkeys(_below(UNMOVED, tensors), meta["step"]) | _below(MISSED, tensors)
        update.load_state_dict({"step": meta["step"], **slots, "missed": missed, **others})
    except (KeyError, ValueError, TypeError) as error:
        raise UserError(f"{path}: cannot be resumed from: {_line(error)}") from error


def recorded(path: Path, meta: dict[str, Any], name: str, kind: type) -> Any:
    """Return an entry of a checkpoint's record. UserError where it is missing or another type, and
    for a number that counts nothing."""
    value = meta.get(name)
    if not isinstance(value, kind) or (isinstance(value, int | float) and not abs(value) < MOST):
        raise UserError(
            f"{path}: {name}: expected {kind.__name__}, got {value!r:.60}; "
            "is it a checkpoint of `tallygrad train`?"
        )
    return value


def recorded_choice(config: object, option: str, choices: Sequence[str]) -> str:
    """Return one of an option's choices among the options on record, the first where there is
    none."""
    name = config.get(option) if isinstance(config, Mapping) else None
    return str(name) if name in choices else choices[0]


def recorded_precision(config: object) -> str:
    """Return the precision among the options on record, float32 where there is none."""
    return recorded_choice(config, "precision", PRECISIONS)


def read_ledger(path: Path, meta: dict[str, Any]) -> Ledger:
    """Return the ledger in a checkpoint's record. UserError where it is none."""
    try:
        ledger = Ledger.from_json(recorded(path, meta, "ledger", list))
        counts = chain(
            [ledger.sampled_steps],
            *[(*row.cost, row.stashed, row.peak) for row in ledger.rows()],
            *ledger.sampled.values(),
        )
        if any(abs(count) > MOST for count in counts):
            raise ValueError(f"expected counts up to {MOST}, got more")
        return ledger
    except (KeyError, ValueError, TypeError, OverflowError) as error:
        raise UserError(f"{path}: ledger: cannot be read: {_line(error)}") from error


def _line(error: Exception) -> str:
    """Return the first lines of a message as one: what does not fit, and the first instance."""
    return " ".join(str(error.args[0] if error.args else error).splitlines()[:2])


def load_evaluated(path: Path, tensors: Mapping[str, NDArray[Any]], model: nn.Module) -> bool:
    """Load what evaluations of a training use: the average of the weights if there is one, which
    is returned, and the model's other tensors. UserError where anything does not fit."""
    averages = _below(AVERAGES, tensors)
    load_model(path, {**tensors, **{MODEL + name: a for name, a in averages.items()}}, model)
    return bool(averages)


def load_model(path: Path, tensors: Mapping[str, NDArray[Any]], model: nn.Module) -> None:
    """Load a checkpoint's model tensors; every name and shape must fit, or UserError."""
    try:
        model.load_state_dict(_below(MODEL, tensors))
    except (KeyError, ValueError) as error:
        raise UserError(f"{path}: {_line(error)}") from error
