"""Options of a training: defaults, under a TOML file, under the flags of the command line."""

from __future__ import annotations

import argparse
import tomllib
from collections.abc import Mapping
from dataclasses import MISSING, Field, asdict, dataclass, field, fields
from difflib import get_close_matches
from math import isfinite
from pathlib import Path
from typing import Any, NoReturn

from .errors import UserError

AUTO = "auto"


def _option(default: Any, text: str, **limits: Any) -> Any:
    return field(default=default, metadata={"help": text, **limits})


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Everything that decides what a training does; the same fields whatever the number of ranks.
    Names are those of the flags and of the TOML file's keys, with `_` for `-`."""

    model: str = _option("lenet", "model by name")
    dataset: str = _option("digits", "data set by name; digits is built in")
    data_dir: str = _option("", "folder to look for the data set in first")
    epochs: int = _option(1, "passes over the training set", low=1)
    batch_size: int = _option(64, "images of one step, shared out among the ranks", low=1)
    lr: float = _option(0.02, "learning rate at its height", low=0.0)
    momentum: float = _option(0.9, "momentum", low=0.0, high=1.0)
    nesterov: bool = _option(False, "Nesterov's momentum")
    weight_decay: float = _option(5e-4, "weight decay", low=0.0)
    schedule: str = _option("cosine", "constant, step, cosine or one-cycle")
    warmup_steps: int = _option(0, "steps over which the learning rate rises from zero", low=0)
    label_smoothing: float = _option(0.0, "share of a label spread over all classes", low=0, high=1)
    augment: str = _option("standard", "standard (what suits the data set) or none")
    dtype: str = _option("float32", "float32 or float64")
    seed: int = _option(0, "seed of weights, order, augmentation and dropout", low=0)
    out: str = _option("", "run folder; one named after model, data set and time by default")
    resume: str = _option("", "auto (newest checkpoint of --out that verifies) or a file")
    checkpoint_every: int = _option(0, "steps between checkpoints; 0: each epoch's end only", low=0)
    keep_checkpoints: int = _option(3, "newest checkpoints to keep, besides the best", low=1)
    max_steps: int = _option(0, "stop after so many steps in all; 0: after the epochs", low=0)
    eval_every: int = _option(1, "epochs between evaluations; the last is always", low=1)
    eval_batch_size: int = _option(0, "images of one evaluation step; 0: as in training", low=0)
    log_every: int = _option(20, "steps between lines of log.jsonl", low=1)
    threads: int = _option(0, "threads of a rank; 0: cores of the host / its ranks", low=0)
    backend: str = _option("numpy", "numpy")
    bucket_mb: float = _option(1.0, "gradient bytes exchanged at a time, in MB", low=0.001)

    def identity(self) -> dict[str, Any]:
        """Return the options that a resumed run must share with the run it goes on with."""
        names = ("model", "dataset", "batch_size", "dtype", "seed")
        return {name: getattr(self, name) for name in names}

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)


CHOICES = {
    "schedule": ("constant", "step", "cosine", "one-cycle"),
    "augment": ("standard", "none"),
    "dtype": ("float32", "float64"),
    "backend": ("numpy",),
}


class Parser(argparse.ArgumentParser):
    """An argument parser whose complaint is one line and that takes no abbreviations."""

    commands: Any

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(allow_abbrev=False, **kwargs)

    def error(self, message: str) -> NoReturn:
        """Raise UserError."""
        raise UserError(f"{message} (see {self.prog} --help)")


def flag(name: str) -> str:
    """Return the flag of a field."""
    return "--" + name.replace("_", "-")


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add `--config FILE` and a flag for each field; one that is not given leaves no trace."""
    parser.add_argument("--config", metavar="FILE", help="TOML file with the same names as keys")
    for item in fields(TrainConfig):
        text = f"{item.metadata['help']} (default: {item.default!r})"
        if item.default is True or item.default is False:
            parser.add_argument(
                flag(item.name), action=argparse.BooleanOptionalAction, help=text,
                default=argparse.SUPPRESS,
            )  # fmt: skip
        else:
            kind = type(item.default)
            parser.add_argument(
                flag(item.name), type=kind, help=text.replace("%", "%%"),
                default=argparse.SUPPRESS, metavar=kind.__name__.upper(),
            )  # fmt: skip




def load(file: str | None, flags: Mapping[str, Any]) -> TrainConfig:
    """Merge defaults < file < flags. UserError for an unknown key, naming the nearest known one, a
    value of another type, or one out of range."""
    merged = {**_read(Path(file)), **flags} if file else dict(flags)
    known = {item.name: item for item in fields(TrainConfig)}
    values = {}
    for key, value in merged.items():
        name = key.replace("-", "_")
        if name not in known:
            raise UserError(f"{file}: unknown key {key!r}{nearest(name, known)}")
        values[name] = _checked(known[name], value, key if key not in flags else flag(name))
    return TrainConfig(**values)


def nearest(name: str, known: Mapping[str, Any] | tuple[str, ...]) -> str:
    """Return `; did you mean 'x'?` for the nearest known name, or a list of all."""
    close = get_close_matches(name, list(known), 1, 0.5)
    return f"; did you mean {close[0]!r}?" if close else f"; there are {', '.join(known)}"


def _read(file: Path) -> dict[str, Any]:
    try:
        with file.open("rb") as stream:
            content = tomllib.load(stream)
    except OSError as error:
        raise UserError(f"--config {file}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"--config {file}: not TOML: {error}") from error
    for key, value in content.items():
        if isinstance(value, dict):
            raise UserError(f"{file}: [{key}] is a table; keys stand at the top level")
    return content


def _checked(item: Field[Any], value: Any, name: str) -> Any:
    """Return a value of the field's type within its limits."""
    assert item.default is not MISSING
    kind = type(item.default)
    if kind is float and type(value) is int:
        value = float(value)
    if type(value) is not kind:
        raise UserError(f"{name}: expected {kind.__name__}, got {value!r}")
    low, high = item.metadata.get("low"), item.metadata.get("high")
    if kind is float and not isfinite(value):
        raise UserError(f"{name}: {value} is not a finite number")
    if low is not None and value < low:
        raise UserError(f"{name}: {value} is less than {low}")
    if high is not None and value > high:
        raise UserError(f"{name}: {value} is more than {high}")
    choices = CHOICES.get(item.name, ())
    if choices and value not in choices:
        raise UserError(f"{name}: unknown value {value!r}{nearest(value, choices)}")
    return value
