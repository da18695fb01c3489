"""A run as its folder or a checkpoint has it on record, for its bill."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ..bfloat16 import as_numbers
from ..cost.run import Run
from ..errors import UserError
from ..own_models import named_again
from ..tasks.registry import recorded_task
from . import history
from .checkpoint import load, newest_checkpoint
from .logs import RunFolder
from .state import MODEL, MOST, read_ledger, recorded, recorded_precision


def read(path: Path, code: str | None = None) -> Run:
    """Return the run of a folder or a checkpoint. Its model can be made unless `code` is None: "",
    or the name of what an own model is made by. UserError where there is none, or no ledger."""
    file = newest_checkpoint(path)
    checkpoint = load(file)
    meta = checkpoint.meta
    steps, epoch = (recorded(file, meta, name, int) for name in ("step", "epoch"))
    images, within = (recorded(file, meta, name, int) for name in ("images", "step_in_epoch"))
    weights = [a for name, a in checkpoint.tensors.items() if name.startswith(MODEL) and a.ndim > 1]
    config, metric, model = meta.get("config"), _metric(meta), meta.get("model")
    if code is not None and isinstance(model, str):
        digest = config.get("model_sha256") if isinstance(config, dict) else ""
        model = named_again(model, code, f"{digest}", str(file))
    run = Run(
        source=str(file),
        ledger=read_ledger(file, meta),
        steps=steps,
        epochs=epoch * steps / (steps - within) if epoch and steps > within else None,
        images=images,
        seconds=recorded(file, meta, "seconds", float),
        evaluations=_evaluations(meta.get("evaluations", 0)),
        each_epoch=history.epochs(file, meta.get("closed", [])),
        restarts=history.restarts(file, meta.get("restarts", [])),
        weights=sum(a.size for a in weights),
        nonzero_weights=sum(int(np.count_nonzero(as_numbers(a))) for a in weights),
        batch_size=config.get("batch_size") if isinstance(config, dict) else None,
        overhead_seconds=meta.get("aside"),
        model=model,
        input=meta.get("input"),
        classes=meta.get("classes"),
        metric=metric,
        higher_is_better=_higher_is_better(file, config, metric),
        score=meta.get(metric),
        evaluated=meta.get("evaluated"),
        ranks=meta.get("ranks"),
        precision=recorded_precision(config),
        exchange_exposed=_seconds(meta.get("exchange_exposed")),
        exchange_hidden=_seconds(meta.get("exchange_hidden")),
    )
    return _with_folder(run, file, meta, path) if os.path.isdir(path) else run


def _metric(meta: Mapping[str, Any]) -> str:
    """Return the name of the metric that chose the best checkpoint: besides test_NAME, the record
    has the value that chose under the bare name."""
    names = [name.removeprefix("test_") for name in meta if name.startswith("test_")]
    return next((name for name in names if name in meta), "accuracy")


def _higher_is_better(file: Path, config: object, metric: str) -> bool:
    """Return the direction of a metric, as the task on record defines it; up where it does not."""
    try:
        task = recorded_task(file, config)
    except UserError:  # a task that this version does not have: its ledger can still be billed
        return True
    return all(one.higher_is_better for one in task.metrics if one.name == metric)


def _evaluations(count: Any) -> int:
    """Return the number of evaluations on record, 0 where there is none."""
    return count if type(count) is int and 0 < count < MOST else 0


def _seconds(value: Any) -> float:
    """Return the seconds on record, 0 where there are none."""
    return float(value) if type(value) in (int, float) and 0 <= value < MOST else 0.0


def _with_folder(run: Run, file: Path, meta: dict[str, Any], path: Path) -> Run:
    """Return a run with what its folder knows besides the checkpoint: newer restarts, and steps
    beyond the checkpoint."""
    folder, log = RunFolder(path, writes=False), path / "restarts.json"
    newer = history.restarts(log, folder.read_json(log.name) or [])
    every = recorded(file, meta, "config", dict).get("log_every") or 1
    lost = history.lost_work(folder.events(run.steps), run.steps, run.seconds, every)
    unsaved = [r for r in history.restarts(file, [lost]) if r.at_least]
    return replace(run, restarts=max(run.restarts, newer, key=len), unsaved=unsaved)
