"""Tasks by name, from the options of a training or from what a checkpoint has on record."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from ..config import SHORT
from ..errors import UserError, nearest
from .classification import Classification
from .reconstruction import Reconstruction
from .task import Task

DEFAULT = "classification"  # of checkpoints older than tasks, too
_TASKS: dict[str, type[Any]] = {
    "classification": Classification,
    "reconstruction": Reconstruction,
}


def names() -> tuple[str, ...]:
    """Return the names of all tasks."""
    return tuple(_TASKS)


def create(name: str, options: Mapping[str, Any] | None = None) -> Task:
    """Return the task of a name. Those of the options that are fields of its dataclass are its own.
    UserError for an unknown name, and for an option that only another task has."""
    name = SHORT["task"].get(name, name)
    if name not in _TASKS:
        raise UserError(f"--task: unknown task {name!r}{nearest(name, _TASKS)}")
    options = options or {}
    own = {field.name for field in fields(_TASKS[name])}
    for other in _TASKS.values():
        for field in fields(other):
            value = options.get(field.name, field.default)
            if field.name not in own and value != field.default:
                flag = "--" + field.name.replace("_", "-")
                raise UserError(f"{flag}: expected none with --task {name}, got {value}")
    task: Task = _TASKS[name](**{key: options[key] for key in own if key in options})
    return task


def recorded_task(path: Path, config: object) -> Task:
    """Return the task that a checkpoint was trained for, by the options on its record, for
    evaluation: `classification` where they name none. UserError for an unknown one."""
    name = config.get("task", DEFAULT) if isinstance(config, Mapping) else DEFAULT
    if name not in names():
        raise UserError(f"{path}: task: expected one of {', '.join(names())}, got {name!r:.60}")
    return create(name)
