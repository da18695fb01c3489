"""What `train` tells before its first step and after its last."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from shlex import join
from typing import Any

from ..autograd import get_num_threads, nn
from ..datasets import Source
from . import build
from .build import Data
from .config import TrainConfig, flag
from .cost.report import short
from .distributed.comm import Comm
from .tasks.task import Task, TaskMetric


def header(
    config: TrainConfig, model: nn.Module, data: Data, comm: Comm, backend: str, folder: Path
) -> list[str]:
    """Return what is about to be trained, on what, and where it is kept."""
    values = sum(p.size for p in model.parameters())
    sets = [data.train.dataset, *([data.validation.dataset] if data.validation else [])]
    samples = ", ".join(_samples(one) for one in (*sets, data.test.dataset))
    shape = "x".join(map(str, data.train.dataset.input_shape))
    threads = get_num_threads()
    parts = data.train.sampler.parts
    rest = comm.size - parts
    idle = [f"idle     {rest} rank{'s'[: rest > 1]}, for lack of micro-batches ({parts})"]
    return [
        f"model    {config.model}, {short(values)} parameters, {_types(config)}",
        f"data     {config.dataset}: {samples}; {shape}, {len(data.train.dataset.classes)} classes",
        f"ranks    {comm.size} x {threads} thread{'s' if threads > 1 else ''}, MPI "
        f"{comm.library}, backend {backend}",
        *([f"bf16     {build.narrow_arithmetic(backend)}"] if config.precision == "bf16" else []),
        *(idle if rest > 0 else []),
        f"folder   {folder}",
    ]


def _types(config: TrainConfig) -> str:
    return "bfloat16 and float32" if config.precision == "bf16" else config.dtype


def _samples(data: Source) -> str:
    return f"{len(data):,} {data.split}"


def outcome(result: Mapping[str, Any], task: Task, folder: Path) -> list[str]:
    """Return what a training came to, from its result, and how to go on."""
    metrics = [f"{m.name} {m.text(result[f'test_{m.name}'])}" for m in task.metrics]
    return [
        f"test {', '.join(metrics)}, loss {result['test_loss']:.4f}",
        *_best(result, task.metrics[0]),
        f"{result['images_per_second']:,.0f} images/s, {result['wall_seconds']:.1f} s",
        f"checkpoint    {result['checkpoint']}",
        f"log           {folder}/log.jsonl",
        f"evaluate      tallygrad eval {folder}",
    ]


def continuation(step: int, config: TrainConfig, ranks: int, folder: Path) -> str:
    """Return where a run was stopped, and the command that goes on: it must give anew what a
    checkpoint does not keep."""
    words = ["tallygrad", "train", "--out", str(folder), "--resume", "auto"]
    for name in ("max_steps", "threads"):
        value = getattr(config, name)
        words += [flag(name), str(value)] if value else []
    shared = ", on any number of ranks" if ranks > 1 else ""
    return f"stopped at step {step}; continue with `{join(words)}`{shared}"


def _best(result: Mapping[str, Any], metric: TaskMetric) -> list[str]:
    """Return lines on the best checkpoint by a metric, none where it is the last and was chosen
    fairly."""
    name, text = metric.name, metric.text
    step, best = result.get("best_step", -1), result.get(f"best_{name}")
    if step < 0 or best is None:
        return []
    if f"validation_{name}" in result:
        tested = result.get(f"best_test_{name}")
        shown = "not tested" if tested is None else f"test {name} {text(tested)}"
        return [f"best          step {step:,}, validation {name} {text(best)}: {shown}"]
    if step == result["steps"]:
        return []
    return [
        f"best          step {step:,}, test {name} {text(best)}, chosen on the test set, so",
        "              too good: --validation 5000 holds training images out to choose it",
    ]
