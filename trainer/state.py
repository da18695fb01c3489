"""What a checkpoint holds of a training, and how a training goes on from it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..autograd import nn
from ..autograd.ledger import Ledger
from ..autograd.optim import SGD
from .config import TrainConfig
from .errors import UserError

MODEL, VELOCITY = "model/", "optimizer/velocity/"


@dataclass
class State:
    """Where a training stands, besides its tensors: steps done in all, in the epoch under way, sums
    over that epoch (loss, hits, samples), seconds so far, best accuracy."""

    step: int = 0
    epoch: int = 0
    step_in_epoch: int = 0
    sums: list[float] = field(default_factory=lambda: [0.0, 0.0, 0.0])
    seconds: float = 0.0
    images: int = 0
    best: float = -1.0
    train_loss: float | None = None
    test_loss: float | None = None
    test_accuracy: float | None = None
    evaluated: int = -1


def capture(model: nn.Module, optimizer: SGD) -> dict[str, NDArray[Any]]:
    """Return all tensors by fully qualified name."""
    tensors = {MODEL + name: value for name, value in model.state_dict().items()}
    velocity = optimizer.state_dict()["velocity"]
    return tensors | {VELOCITY + name: value for name, value in velocity.items()}


def describe(state: State, config: TrainConfig, ranks: int, ledger: Ledger) -> dict[str, Any]:
    """Return the record that goes with the tensors."""
    return {
        **vars(state),
        "accuracy": state.test_accuracy,
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
    held = meta.get("config", {})
    for name, mine in config.identity().items():
        if held.get(name) != mine:
            flag = "--" + name.replace("_", "-")
            raise UserError(f"{path}: made with {flag} {held.get(name)}, this run has {mine}")
    load_model(path, tensors, model)
    try:
        names = [n for n in tensors if n.startswith(VELOCITY)]
        velocity = {n.removeprefix(VELOCITY): tensors[n] for n in names}
        optimizer.load_state_dict({"step": meta["step"], "velocity": velocity})
        known = {name: meta[name] for name in vars(State())}
    except (KeyError, ValueError, TypeError) as error:
        raise UserError(f"{path}: not a checkpoint to go on from: {error}") from error
    return State(**known)


def load_model(path: Path, tensors: dict[str, NDArray[Any]], model: nn.Module) -> None:
    """Load a checkpoint's model tensors; every name and shape must fit, or UserError."""
    held = {n.removeprefix(MODEL): a for n, a in tensors.items() if n.startswith(MODEL)}
    wanted = model.state_dict()
    try:
        model.load_state_dict({n: np.asarray(a) for n, a in held.items()})
    except (KeyError, ValueError) as error:
        lines = str(error.args[0] if error.args else error).splitlines()
        raise UserError(f"{path}: not of this model ({len(wanted)} tensors): {lines[0]}") from error
