"""`tallygrad models`: the models that there are, or own ones: input, classes, parameters, MACs."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..cost.report import Column, name_column, text_table
from ..errors import show
from . import flags
from .chosen_model import choose

if TYPE_CHECKING:
    from ..cost.workload import Work
    from .chosen_model import ChosenModel

LESS_MEMORY = "free some memory"
COLUMNS = (
    name_column("model"), Column("input"), Column("classes"), Column("parameters"),
    Column("MACs per image"),
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class ModelsOptions:
    """The options of `tallygrad models`."""

    models: list[str]
    model_args: str
    input: str
    classes: int
    as_json: bool


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the models to show, and how to print them."""
    parser.add_argument(
        "models", nargs="*", metavar="MODEL",
        help="name, FILE.py:NAME or package.module:NAME (default: all of Tallygrad's)",
    )  # fmt: skip
    flags.add_model_args(parser)
    flags.add_shape(parser)
    flags.add_json(parser)


def run(values: Mapping[str, Any]) -> int:
    """Print models, by default at the size that each was made for. UserError for unknown ones."""
    options = ModelsOptions(**values)
    from ...autograd import models

    how = (options.model_args, options.input, options.classes)
    chosen = [choose(name, *how) for name in options.models or sorted(models.names())]
    rows = [_row(model, model.count(1, training=False)) for model in chosen]
    if options.as_json:
        print(json.dumps(rows, indent=1))
    else:
        show("\n".join(text_table(COLUMNS, [_cells(row) for row in rows])))
    return 0


def _row(model: ChosenModel, work: Work) -> dict[str, Any]:
    return {
        "model": model.name,
        "input": [*model.input],
        "classes": model.classes,
        "parameters": work.parameters,
        "macs": work.phase("forward").macs,
    }


def _cells(row: Mapping[str, Any]) -> list[str]:
    numbers = (row["parameters"], row["macs"])
    shape = "x".join(map(str, row["input"]))
    return [row["model"], shape, str(row["classes"] or "-"), *(f"{n:,}" for n in numbers)]
