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
from .config import CODE, TrainConfig, flag
from .cost.report import short
from .distributed.comm import Comm
from .own_models import full_name
from .tasks.task import Task, TaskMetric
from .user_code import names_code


def header(
    config: TrainConfig, model: nn.Module, data: Data, comm: Comm, backend: str, folder: Path
) -> list[str]:
    """Return what is about to be trained, on what, and where it is kept."""
    values = sum(p.size for p in model.parameters())
    sets = [data.train.dataset, *([data.validation.dataset] if data.validation else [])]
    samples = ", ".join(_samples(one) for one in (*sets, data.test.dataset))
    shape = "x".join(map(str, data.train.dataset.input_shape))
    threads, name = get_num_threads(), full_name(config.model, config.model_args)
    parts = data.train.sampler.parts
    rest = comm.size - parts
    idle = [f"idle     {rest} rank{'s'[: rest > 1]}, for lack of micro-batches ({parts})"]
    return [
        f"model    {name}, {short(values)} parameters, {_types(config)}",
        f"data     {config.dataset}: {samples}; {shape}, {len(data.train.dataset.classes)} classes",
        f"ranks    {comm.size} x {threads} thread{'s' if threads > 1 else ''}, MPI "
        f"{comm.library}, backend {backend}",
        *([f"bf16     {build.narrow_arithmetic(backend)}"] if config.precision == "bf16" else []),
        *([f"weights  evaluated: their moving average, decay {config.ema}"] if config.ema else []),
        *(idle if rest > 0 else []),
        f"folder   {folder}",
    ]


def _types(config: TrainConfig) -> str:
    return "bfloat16 and float32" if config.precision == "bf16" else config.dtype


def _samples(data: Source) -> str:
    return f"{len(data):,} {data.split}"


def outcome(result: Mapping[str, Any], config: TrainConfig, task: Task, folder: Path) -> list[str]:
    """Return what a training came to, from its result, and how to go on."""
    metrics = [f"{m.name} {m.text(result[f'test_{m.name}'])}" for m in task.metrics]
    return [
        f"test {', '.join(metrics)}, loss {result['test_loss']:.4f}",
        *_best(result, task.metrics[0]),
        f"{result['images_per_second']:,.0f} images/s, {result['wall_seconds']:.1f} s",
        f"checkpoint    {result['checkpoint']}",
        f"log           {folder}/log.jsonl",
        f"evaluate      {join(['tallygrad', 'eval', str(folder), *_code(config)])}",
    ]


def continuation(step: int, config: TrainConfig, ranks: int, folder: Path) -> str:
    """Return where a run was stopped, and the command that goes on: it must give anew what a
    checkpoint does not keep."""
    words = ["tallygrad", "train", "--out", str(folder), "--resume", "auto"]
    words += _code(config)
    for name in ("max_steps", "threads"):
        value = getattr(config, name)
        words += [flag(name), str(value)] if value else []
    shared = ", on any number of ranks" if ranks > 1 else ""
    return f"stopped at step {step}; continue with `{join(words)}`{shared}"


def _code(config: TrainConfig) -> list[str]:
    """Return the options of a command that have to name the run's code again."""
    values = {name: getattr(config, name) for name in CODE}
    return [w for n, v in values.items() if names_code(v) for w in (flag(n), v)]


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
