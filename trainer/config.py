"""Options of a training: defaults, under a TOML file, under the flags of the command line."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import MISSING, Field, asdict, dataclass, fields
from math import inf, isfinite
from pathlib import Path
from typing import Any

from . import recipes
from .cost.cluster.compression import parse_compress
from .cost.precision import PRECISIONS
from .errors import UserError, nearest
from .optimizer_options import OF_SCHEDULES, SCHEDULES, OptimizerOptions
from .optimizer_options import option as _option
from .parser import MOST
from .threads import MOST_THREADS
from .user_code import names_code, same
from .values import (
    digits,
    parse_every,
    parse_hash,
    parse_image_size,
    parse_part,
    parse_share,
    parse_signals,
    parse_size,
    parse_time,
)

AUTO = "auto"
OF_THIS_RUN = {
    "out", "resume", "threads", "max_steps", "stop_before", "preempt_signals", "collective_timeout",
    "timeline", "timeline_steps", "on_lost_rank",
}  # fmt: skip
CODE = ("model", "dataset")  # options that may name code
UPDATES = {item.name for item in fields(OptimizerOptions)}
# What a resumed run must share with the run that it goes on with.
IDENTITY = (
    "model", "model_args", "dataset", "test_split", "image_size", "image_fit", "image_colors",
    "task", "batch_size", "optimizer", "dtype", "precision", "seed", "validation",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class TrainConfig(OptimizerOptions):
    """Everything that decides what a training does; the same fields whatever the number of ranks.
    Names are those of the flags and of the TOML file's keys, with `_` for `-`."""

    model: str = _option(
        "lenet",
        "model, by name (`tallygrad models` lists them), or your own: FILE.py:NAME or "
        "package.module:NAME, a class or a function",
    )
    model_args: str = _option(
        "", "options of the model, such as option=B,width=32", metavar="KEY=VALUE,..."
    )
    model_sha256: str = _option(
        "",
        "train only with this SHA-256, or its first digits, of the file of an own model; any: also "
        "resume with a changed file",
        metavar="HEX|any",
        parse=parse_hash,
        such="8 to 64 hexadecimal digits or any",
    )
    dataset: str = _option(
        "digits",
        "digits (drawn, needs no files), mnist, fashion-mnist, cifar10 or cifar100; or your own: a "
        "folder of images, FILE.npz, FILE.h5 or code (FILE.py:NAME)",
        metavar="NAME|PATH",
    )
    task: str = _option(
        "classification",
        "training objective; reconstruction, or reconstruct: an autoencoder returns its input "
        "images",
    )
    data_dir: str = _option("", "folder to search first for data files", metavar="FOLDER")
    test_split: str = _option(
        "0",
        "share of your own data set's samples that become its test set, such as 0.2; 0: it has one",
        metavar="SHARE",
        numbers=True,
        parse=parse_share,
        such="a share, such as 0.2",
    )
    image_size: str = _option(
        "",
        "size of the images of your own data set, such as 32 or 32x48 (height x width)",
        metavar="SIZE",
        numbers=True,
        parse=parse_image_size,
        such="a size in pixels, such as 32 or 32x48 (height x width)",
    )
    image_fit: str = _option(
        "crop",
        "how images of other sizes get --image-size; crop: scaled to cover it, then the middle; "
        "resize: scaled in both directions",
    )
    image_colors: str = _option(
        "auto", "colours of the images of your own data set; auto: rgb if any of them has colours"
    )
    data_memory: str = _option(
        "512MB",
        "images of your own data set up to which they are held in memory; others are read when "
        "they are needed, with the same results",
        metavar="SIZE",
        parse=parse_size,
        such="a size, such as 500MB or 2GB",
    )
    epochs: int = _option(1, "passes over the training set", low=1)
    batch_size: int = _option(64, "images per step, split across ranks", low=1)
    micro_batches: int = _option(
        0,
        "parts of a batch, summed in a fixed order: any number of ranks gives bit-identical "
        "results; 0: one per rank, and at least two",
        low=0,
    )
    label_smoothing: float = _option(
        0.0, "share of each label that is spread over all classes", low=0, high=1
    )
    augment: str = _option(
        "standard",
        "random changes of training images, in this order: some of standard (crop and flip for "
        "CIFAR, else nothing), crop, reflect, flip, vflip, alternate, cutout, resized, rotate, "
        "brightness and contrast, perhaps with a number, such as crop=4,flip,cutout=8; or none",
        metavar="NAME,...",
    )
    dtype: str = _option("float32", "element type of weights, activations and gradients")
    precision: str = _option(
        "float32",
        "bf16: activations, their gradients and products in bfloat16; weights, sums, statistics "
        "and loss stay float32",
    )
    seed: int = _option(0, "seed of weights, order, augmentation and dropout", low=0)
    out: str = _option("", "run folder (default: runs/MODEL-DATASET-TIME)", metavar="FOLDER")
    resume: str = _option(
        "", "auto: the newest valid checkpoint in --out; or a checkpoint file", metavar="auto|FILE"
    )
    checkpoint_every: int = _option(
        0, "steps between checkpoints; 0: only at the end of epochs", low=0
    )
    memory_copy_every: int = _option(
        0, "steps between copies of the state in the memory of two hosts; 0: none", low=0
    )
    keep_checkpoints: int = _option(
        3, "number of newest checkpoints to keep, besides the best", low=1
    )
    max_steps: int = _option(0, "stop after N steps in total; 0: after --epochs", low=0)
    eval_every: int = _option(
        1, "epochs between evaluations; the last epoch is always evaluated", low=1
    )
    validation: str = _option(
        "0",
        "training samples to hold out, which choose the best checkpoint and stop early; 0: none, "
        "the test set chooses",
        metavar="N|SHARE",
        numbers=True,
        parse=parse_part,
        such="a number of samples or a share, such as 5000 or 0.1",
    )
    patience: int = _option(0, "stop after N evaluations without a better metric; 0: never", low=0)
    tta: str = _option(
        "none",
        "evaluate the mean of the outputs for several views of each image; flip: it and its mirror "
        "image; translate: both, also shifted by a pixel",
    )
    eval_batch_size: int = _option(0, "images per evaluation step; 0: as in training", low=0)
    log_every: int = _option(20, "steps between lines of log.jsonl", low=1)
    threads: int = _option(
        0,
        "threads per rank; 0: the host's cores, divided among its ranks",
        low=0,
        high=MOST_THREADS,
    )
    backend: str = _option("auto", "backend; auto: llvm if llvmlite is installed, otherwise numpy")
    target: str = _option(
        "host", "instruction set that llvm compiles for; host: that of this processor"
    )
    conv: str = _option(
        "auto", "convolution algorithm of llvm; auto: Winograd in float32 where it is faster"
    )
    tune: str = _option("off", "search for the fastest convolution tiles before training")
    memory_limit: str = _option(
        "0",
        "memory for results per rank, such as 500MB or 2GB; 0: no limit",
        metavar="SIZE",
        parse=parse_size,
        such="a size, such as 500MB or 2GB",
    )
    sparsity: str = _option(
        "off",
        "count zeros and non-zero MACs on every K-th step",
        metavar="every=K",
        parse=parse_every,
        such="off or every=K with K at least 1, such as every=100",
    )
    timeline: str = _option(
        "",
        "write what all ranks do when as a trace for chrome://tracing or Perfetto; auto: "
        "timeline.json in the run folder",
        metavar="auto|FILE",
    )
    timeline_steps: int = _option(
        50,
        "steps that --timeline shows, from the first on; the last with its operations",
        low=1,
        high=10_000,
    )
    bucket_mb: float = _option(
        1.0, "size of the gradient buckets that ranks exchange, in MB", low=0.001
    )
    overlap: str = _option(
        "auto",
        "what drives the exchange of gradients during the backward pass; auto: the fastest",
    )
    hierarchical: str = _option(
        "auto",
        "sum gradients within each node through shared memory, then among nodes; auto: where "
        "nodes have several ranks each, if possible with the same bits",
    )
    shard_optimizer: bool = _option(
        False, "split the optimizer's state and its update among the ranks"
    )
    compress: str = _option(
        "none",
        "exchange gradients compressed, with error feedback: bf16, fp16, topk=SHARE or "
        "powersgd=RANK",
        metavar="SCHEME",
        parse=parse_compress,
        such="none, bf16, fp16, topk=SHARE or powersgd=RANK, such as topk=0.01 or powersgd=4",
    )
    local_steps: int = _option(
        0, "steps that each micro-batch's worker trains alone before all average; 0: none", low=0
    )
    outer_lr: float = _option(1.0, "learning rate of the step from that average", low=0.0)
    outer_momentum: float = _option(
        0.0, "Nesterov momentum of the step from that average", low=0.0, high=1.0
    )
    sync_batch_norm: bool = _option(
        False, "normalise by the statistics of the whole batch, over all ranks"
    )
    verify_every: int = _option(
        0, "do every N-th step twice, on different ranks, and compare the bits; 0: never", low=0
    )
    on_corruption: str = _option(
        "continue", "after a verified step differed and was repeated: continue or stop"
    )
    compare_every: int = _option(
        100, "steps between comparisons of the weights of all ranks; 0: never", low=0
    )
    collective_timeout: float = _option(
        60.0, "seconds to wait for a rank that shows no sign of life", low=1.0
    )
    on_lost_rank: str = _option(
        "end",
        "when a rank has ended: end the job, or shrink it to the others, which resume from the "
        "newest checkpoint (Open MPI)",
    )
    preempt_signals: str = _option(
        "TERM,USR1,USR2",
        "signals that end the run after its step, with a checkpoint and status 75",
        metavar="NAME,...",
        parse=parse_signals,
        such="signals, such as TERM,USR1",
    )
    stop_before: str = _option(
        "auto",
        "end in the same way before a time: 2h (from the start), 18:30, 2030-01-31T18:30; "
        "auto: the end of the Slurm job, if known; never",
        metavar="TIME",
        parse=parse_time,
        such="a time, such as 2h, 18:30 or 2030-01-31T18:30",
    )

    def micro_batches_on(self, ranks: int) -> int:
        """Return the number of micro-batches of a step on so many ranks."""
        return self.micro_batches or max(2, ranks)

    def difference(self, recorded: Mapping[str, Any]) -> str:
        """Return the first option in which a run that goes on with a recorded one must not differ
        from that, but does; "" where there is none."""
        pairs = ((name, getattr(self, name), recorded.get(name)) for name in IDENTITY)
        return next((name for name, *values in pairs if not _alike(name, *values)), "")

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)


VALUES = {str: "NAME", int: "N", float: "X"}
WIDEST = 40  # characters of choices that stand in the usage line; more stand in the option's help
CHOICES = {
    "task": ("classification", "reconstruction"),
    "on_corruption": ("continue", "stop"),
    "on_lost_rank": ("end", "shrink"),
    "overlap": ("auto", "none", "poll", "thread"),
    "hierarchical": ("auto", "on", "off"),
    "schedule": SCHEDULES,
    "image_fit": ("crop", "resize"),
    "image_colors": ("auto", "grey", "rgb"),
    "dtype": ("float32", "float64"),
    "precision": PRECISIONS,
    "backend": ("auto", "llvm", "numpy"),
    "conv": ("auto", "direct", "winograd"),
    "tta": ("none", "flip", "translate"),
    "tune": ("off", "fast", "full"),
    "target": ("host", "amx", "avx512", "avx2", "sse", "neon"),
}
SHORT = {"task": {"reconstruct": "reconstruction"}}  # other words for choices


def flag(name: str) -> str:
    """Return the flag of a field."""
    return "--" + name.replace("_", "-")


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add `--config FILE` and a flag for each field; one that is not given leaves no trace."""
    text = "TOML file with option names as keys, or the config.json of a run"
    parser.add_argument("--config", metavar="FILE", help=text)
    text = f"options of a training whose result is known: {', '.join(recipes.names())}"
    parser.add_argument("--recipe", metavar="NAME", help=text)
    updates = parser.add_argument_group("optimizer")
    for item in fields(TrainConfig):
        group = updates if item.name in UPDATES else parser
        shown = "" if item.default in ("", None) else f" (default: {item.default})"
        text = (item.metadata["help"] + shown).replace("%", "%%")
        name = flag(item.name)
        if isinstance(item.default, bool):
            on_off = argparse.BooleanOptionalAction
            group.add_argument(name, action=on_off, help=text, default=argparse.SUPPRESS)
        else:
            kind = _kind(item)
            value = item.metadata.get("metavar") or VALUES[kind]
            if item.name in CHOICES:
                value = "{" + ",".join(CHOICES[item.name]) + "}"
                if len(value) > WIDEST:
                    value, text = "NAME", f"{text}: {', '.join(CHOICES[item.name])}"
            group.add_argument(name, type=kind, help=text, metavar=value, default=argparse.SUPPRESS)


def gather(file: str | None, flags: Mapping[str, Any], recipe: str | None = None) -> dict[str, Any]:
    """Merge recipe < file < flags into values by field name. With another optimizer, the recipe's
    options of the optimizer are left out. UserError for an unknown key, naming the nearest known
    one, a key given twice, a value of another type, or one out of range."""
    known = {item.name: item for item in fields(TrainConfig)}
    values = _of_file(Path(file), known) if file else {}
    if file:
        refuse_code(values, flags, file)
    for name, value in flags.items():
        values[name] = _checked(known[name], value, flag(name))
    usual = _of_file(recipes.recipe(recipe), known) if recipe else {}
    its = usual.get("optimizer", TrainConfig.optimizer)
    if values.get("optimizer", its) != its:
        usual = {name: value for name, value in usual.items() if name not in UPDATES}
    return usual | values


def _of_file(file: Path, known: Mapping[str, Field[Any]]) -> dict[str, Any]:
    """Return the options of a file by field name."""
    values: dict[str, Any] = {}
    for key, value in recipes.read_options(file).items():
        name = key.replace("-", "_")
        if name not in known:
            raise UserError(f"{file}: unknown key {key!r}{nearest(name, known)}")
        if name in values:
            raise UserError(f"{file}: {key}: expected once, got it twice, with - and with _")
        if value is not None or known[name].default is not None:  # a setting that was lacking
            values[name] = _checked(known[name], value, f"{file}: {key}")
    return values


def resume(chosen: Mapping[str, Any], recorded: Mapping[str, Any]) -> TrainConfig:
    """Return the options of a run that goes on: those of the run before, under those given now.
    Where it stops, where it writes and its threads are this run's own."""
    names = {item.name for item in fields(TrainConfig)} - OF_THIS_RUN
    known = {item.name: item for item in fields(TrainConfig)}
    if chosen.get("optimizer", recorded.get("optimizer")) != recorded.get("optimizer"):
        names -= UPDATES  # it will be refused
    if chosen.get("schedule", recorded.get("schedule")) != recorded.get("schedule"):
        names -= {*OF_SCHEDULES}
    inherited = {
        name: _checked(known[name], value, f"checkpoint: {name}")
        for name, value in recorded.items()
        if name in names and (value is not None or known[name].default is not None)
    }
    if not same(inherited.get("model", ""), chosen.get("model", inherited.get("model", ""))):
        inherited.pop("model_args", None)
    return TrainConfig(**{**inherited, **chosen})


def _alike(name: str, mine: object, recorded: object) -> bool:
    """Compare an option of two runs; own data and code may have moved to another folder."""
    if name in CODE and isinstance(mine, str) and isinstance(recorded, str):
        return same(mine, recorded) or (
            name == "dataset" and Path(mine).name == Path(recorded).name
        )
    return mine == recorded


def refuse_code(read: Mapping[str, Any], named: Mapping[str, Any], where: str) -> None:
    """UserError for code that a file names, and the command line does not: see `user_code`."""
    for name in CODE:
        if names_code(value := read.get(name, "")) and name not in named:
            raise UserError(
                f"{flag(name)}: expected {value} on the command line, as in {where}, got none; "
                "code runs only where you name it"
            )


def _kind(item: Field[Any]) -> Any:
    """Return the type of a field's values."""
    assert item.default is not MISSING
    return item.metadata.get("kind", type(item.default))


def _checked(item: Field[Any], value: Any, name: str) -> Any:
    """Return a value of the field's type within its limits."""
    kind = _kind(item)
    if kind is float and type(value) is int:
        value = float(value) if abs(value) < 2**1000 else inf
    if kind is str and "numbers" in item.metadata and type(value) in (int, float):
        value = f"{value}"
    if type(value) is not kind:
        raise UserError(f"{name}: expected {kind.__name__}, got {value!r}")
    low, high = item.metadata.get("low"), item.metadata.get("high")
    if kind is int and abs(value) >= MOST:
        raise UserError(f"{name}: expected less than {MOST}, got {digits(value)}")
    if kind is float and not isfinite(value):
        raise UserError(f"{name}: expected a finite number, got {value}")
    if (low is not None and value < low) or (high is not None and value > high):
        allowed = f"at least {low}" if high is None else f"{low} to {high}"
        raise UserError(f"{name}: expected {allowed}, got {value}")
    if "parse" in item.metadata:
        try:
            item.metadata["parse"](value)
        except ValueError as error:
            such = item.metadata["such"]
            raise UserError(f"{name}: expected {such}, got {value!r:.60}") from error
    value = SHORT.get(item.name, {}).get(value, value)
    choices = CHOICES.get(item.name, ())
    if choices and value not in choices:
        raise UserError(f"{name}: unknown value {value!r}{nearest(value, choices)}")
    return value
