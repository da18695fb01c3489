"""Checkpoints of scripts: the model, the optimizer and where the loaders are, in the format of
`tallygrad train`, which `tallygrad inspect` shows."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from ..autograd import nn
from . import session
from .components import checkpoint, state
from .data_parallel import DistributedOptimizer
from .errors import UserError
from .files import user_errors


def save(
    path: str | os.PathLike[str], model: nn.Module, optimizer: DistributedOptimizer, **values: Any
) -> None:
    """Write model, optimizer, epochs of its loaders and plain `values` to a file, whole or not at
    all; rank 0 writes, and all ranks must call it, after a whole step. UserError where it cannot be
    written, RuntimeError within a step, TypeError for values that JSON cannot hold and for an
    optimizer that is not distribute()'s."""
    _check("save", optimizer)
    _check_plain(values)
    optimizer.check_place()
    optimizer.buffers.use_means()
    copies = optimizer.buffers.state_dict()
    if session.rank() == 0:
        target = Path(path)
        with user_errors(target):
            target.parent.mkdir(parents=True, exist_ok=True)
        epochs = [loader.next_epoch for loader in optimizer.loaders]
        record = {"script": {"epochs": epochs, "values": values}, "step": optimizer.steps}
        tensors = state.capture(model, optimizer.state_dict(), copies)
        checkpoint.save(target, tensors, record)
    session.barrier()


def load(
    path: str | os.PathLike[str], model: nn.Module, optimizer: DistributedOptimizer | None = None
) -> dict[str, Any]:
    """Continue from a file of `save`, on any number of ranks: return its values. Without an
    optimizer, the model alone gets what the file holds, which may be a checkpoint of `tallygrad
    train`, too: without values. UserError, naming the first difference,
    where it is of another model or optimizer; nothing in the file runs. TypeError for an optimizer
    that is not distribute()'s."""
    if optimizer is not None:
        _check("load", optimizer)
    source = Path(path)
    held = checkpoint.load(source)
    if optimizer is None and "script" not in held.meta:
        state.load_evaluated(source, held.tensors, model)
        return {}
    script = state.recorded(source, held.meta, "script", dict)
    values, epochs = script.get("values"), script.get("epochs")
    if not isinstance(values, dict) or not isinstance(epochs, list):
        raise UserError(f"{source}: script: expected values and epochs, got {script!r:.60}")
    if optimizer is None:
        state.load_evaluated(source, held.tensors, model)
        return values
    if len(epochs) != len(optimizer.loaders) or not all(type(n) is int and n >= 0 for n in epochs):
        raise UserError(
            f"{source}: epochs: expected a number for each of {len(optimizer.loaders)} loaders, "
            f"got {epochs!r:.60}"
        )
    state.load_model(source, held.tensors, model)
    state.load_optimizer(source, held, optimizer)
    optimizer.buffers.load_state_dict(state.copies(held.tensors))
    for loader, epoch in zip(optimizer.loaders, epochs, strict=True):
        loader.next_epoch = epoch
    return values


def _check_plain(values: dict[str, Any]) -> None:
    for name, value in values.items():
        try:
            json.dumps(value)
        except (TypeError, ValueError, RuntimeError) as error:
            raise TypeError(
                f"save: {name}: expected numbers, texts, and lists and dictionaries of them, got "
                f"{type(value).__name__}"
            ) from error


def _check(what: str, optimizer: object) -> None:
    if not isinstance(optimizer, DistributedOptimizer):
        raise TypeError(
            f"{what}: expected the optimizer that distribute() returned, got "
            f"{type(optimizer).__name__}"
        )
