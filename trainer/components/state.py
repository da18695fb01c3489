"""What a checkpoint holds of a training, and how a training goes on from it."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...autograd import nn
from ...autograd.ledger import Ledger
from ...autograd.optim import SGD
from ..config import TrainConfig
from ..errors import UserError

MOST = 1 << 100  # of anything counted
# What checkpoints of before do not have, in the state and in the options.
LATER = (
    "closed", "restarts", "evaluations", "validation_loss", "validation_accuracy", "best_step",
    "not_better",
)  # fmt: skip
LATER_OPTIONS = {"validation": "0"}
# Names in checkpoints that differ from the attributes of State.
RECORDED = {"overhead_seconds": "aside", "finished_epochs": "closed"}
MODEL, VELOCITY, COPIES = "model/", "optimizer/velocity/", "micro_batches/"


@dataclass
class State:
    """Progress of a training, all but its tensors: steps in all and in the current epoch, sums over
    that epoch (loss, correct, samples), seconds so far and those of them spent on evaluation,
    checkpoints and tuning, the best accuracy (on the validation set, where there is one) and its
    step, evaluations done, those since the best, and the records that `history` reads:
    `finished_epochs` and `restarts`."""

    step: int = 0
    epoch: int = 0
    step_in_epoch: int = 0
    sums: list[float] = field(default_factory=lambda: [0.0, 0.0, 0.0])
    seconds: float = 0.0
    overhead_seconds: float = 0.0
    images: int = 0
    best: float = -1.0
    train_loss: float | None = None
    test_loss: float | None = None
    test_accuracy: float | None = None
    evaluated: int = -1
    evaluations: int = 0
    validation_loss: float | None = None
    validation_accuracy: float | None = None
    best_step: int = -1
    not_better: int = 0
    finished_epochs: list[dict[str, Any]] = field(default_factory=list)
    restarts: list[dict[str, Any]] = field(default_factory=list)

    @property
    def accuracy(self) -> float | None:
        """The last accuracy on the set that chooses the best: validation's where there is one."""
        held_out = self.validation_accuracy
        return self.test_accuracy if held_out is None else held_out

    def state_dict(self) -> dict[str, Any]:
        """Return all values under the names that checkpoints have for them."""
        return {RECORDED.get(name, name): value for name, value in vars(self).items()}


def capture(
    model: nn.Module, optimizer: SGD, copies: dict[str, NDArray[Any]]
) -> dict[str, NDArray[Any]]:
    """Return all tensors by fully qualified name; `copies` are the buffers of each micro-batch."""
    tensors = {MODEL + name: value for name, value in model.state_dict().items()}
    velocity = optimizer.state_dict()["velocity"]
    tensors |= {VELOCITY + name: value for name, value in velocity.items()}
    return tensors | {COPIES + name: value for name, value in copies.items()}


def copies(tensors: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Return the buffers of each micro-batch from a checkpoint's tensors."""
    return {n.removeprefix(COPIES): a for n, a in tensors.items() if n.startswith(COPIES)}


def describe(state: State, config: TrainConfig, ranks: int, ledger: Ledger) -> dict[str, Any]:
    """Return the record that goes with the tensors."""
    return {
        **state.state_dict(),
        "accuracy": state.accuracy,
        "model": config.model,
        "dataset": config.dataset,
        "seed": config.seed,
        "ranks": ranks,
        "config": config.to_json(),
        "ledger": ledger.to_json(),
    }


def restore(
    path: Path,
    tensors: dict[str, NDArray[Any]],
    meta: dict[str, Any],
    config: TrainConfig,
    model: nn.Module,
    optimizer: SGD,
) -> State:
    """Load tensors and record into a training. UserError where the checkpoint is of another one,
    naming what differs with both values."""
    held = LATER_OPTIONS | recorded(path, meta, "config", dict)
    for name, mine in config.identity().items():
        if held.get(name) != mine:
            flag = "--" + name.replace("_", "-")
            raise UserError(f"{path}: made with {flag} {held.get(name)}, this run has {mine}")
    load_model(path, tensors, model)
    names = [n for n in tensors if n.startswith(VELOCITY)]
    velocity = {n.removeprefix(VELOCITY): tensors[n] for n in names}
    try:
        optimizer.load_state_dict({"step": meta["step"], "velocity": velocity})
        return _state(meta)
    except (KeyError, ValueError, TypeError) as error:
        raise UserError(f"{path}: not a checkpoint to go on from: {_line(error)}") from error


def recorded(path: Path, meta: dict[str, Any], name: str, kind: type) -> Any:
    """Return an entry of a checkpoint's record. UserError where it is missing or another type, and
    for a number that counts nothing."""
    value = meta.get(name)
    if not isinstance(value, kind) or (isinstance(value, int | float) and not abs(value) < MOST):
        raise UserError(
            f"{path}: {name} on record is {value!r:.60}, expected {kind.__name__}: "
            "not a checkpoint of `train`"
        )
    return value


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
            raise ValueError(f"a count of more than {MOST}")
        return ledger
    except (KeyError, ValueError, TypeError, OverflowError) as error:
        raise UserError(f"{path}: ledger on record cannot be read: {_line(error)}") from error


def _state(meta: dict[str, Any]) -> State:
    """Return the State on record. ValueError for a value of another kind than the default's."""
    defaults = State().state_dict()
    values = {name: defaults[name] for name in LATER} | meta
    state = State(**{name: values[RECORDED.get(name, name)] for name in vars(State())})
    for name, default in defaults.items():
        value = values[name]
        kinds = (int,) if type(default) is int else (int, float, type(default))
        counts = isinstance(value, int | float)
        if isinstance(value, bool) or not isinstance(value, kinds) or (
            counts and not abs(value) < MOST
        ):
            raise ValueError(f"{name} is {value!r:.60}")
    if len(state.sums) != 3 or not all(
        isinstance(x, int | float) and abs(x) < MOST for x in state.sums
    ):
        raise ValueError(f"sums is {state.sums!r:.60}")
    return state


def _line(error: Exception) -> str:
    """Return the first lines of a message as one: what does not fit, and the first instance."""
    return " ".join(str(error.args[0] if error.args else error).splitlines()[:2])


def load_model(path: Path, tensors: dict[str, NDArray[Any]], model: nn.Module) -> None:
    """Load a checkpoint's model tensors; every name and shape must fit, or UserError."""
    held = {n.removeprefix(MODEL): a for n, a in tensors.items() if n.startswith(MODEL)}
    try:
        model.load_state_dict({n: np.asarray(a) for n, a in held.items()})
    except (KeyError, ValueError) as error:
        raise UserError(f"{path}: {_line(error)}") from error
