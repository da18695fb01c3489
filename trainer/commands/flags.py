"""Flags that several commands have."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from ..config import CHOICES
from ..cost.precision import INFERENCE, PRECISIONS
from ..cost.report.markup import MARK
from ..errors import UserError
from ..files import OutputFile
from ..numbers import whole_number
from ..parser import integer
from .chosen_model import OPTIMIZER


def add_json(parser: argparse.ArgumentParser) -> None:
    """Add `--json`."""
    parser.add_argument("--json", dest="as_json", action="store_true", help="print JSON")


def add_checkpoint(parser: argparse.ArgumentParser) -> None:
    """Add a checkpoint, the data set to apply it to, and `--threads`."""
    parser.add_argument(
        "checkpoint", help="checkpoint, or run folder: its best, otherwise its newest"
    )
    add_code(parser)
    parser.add_argument("--dataset", default="", help="data set (default: that of the training)")
    parser.add_argument("--split", default="test", choices=("train", "validation", "test"),
                        help="validation: held out in training (default: test)")  # fmt: skip
    parser.add_argument("--data-dir", default="", help="folder to search first for data files")
    parser.add_argument(
        "--precision", default="", choices=INFERENCE,
        help="int8: products of 8-bit integers (default: that of the training)",
    )  # fmt: skip
    parser.add_argument(
        "--tta", default="", choices=CHOICES["tta"],
        help="average the outputs for several views of each image (default: as in the training)",
    )  # fmt: skip
    parser.add_argument(
        "--threads",
        type=integer,
        default=0,
        help="threads per rank; 0: the host's cores, divided among its ranks",
    )


def add_model(
    parser: argparse.ArgumentParser, batch: int, precisions: Sequence[str] = PRECISIONS
) -> None:
    """Add the options of `models.ModelOptions`; `batch` is the default of `--batch`."""
    parser.add_argument(
        "model", help="name of a model, such as resnet20, or FILE.py:NAME or package.module:NAME"
    )
    add_model_args(parser)
    parser.add_argument("--batch", type=integer, default=batch, help="images per step")
    add_shape(parser)
    add_precision(parser, precisions)


def add_shape(parser: argparse.ArgumentParser) -> None:
    """Add `--input` and `--classes`."""
    parser.add_argument(
        "--input", default="", metavar="C,H,W", help="image shape (default: the model's)"
    )
    parser.add_argument("--classes", type=integer, default=0, help="classes (default: the model's)")


def add_model_args(parser: argparse.ArgumentParser) -> None:
    """Add `--model-args`."""
    parser.add_argument(
        "--model-args", default="", metavar="KEY=VALUE,...", help="options of the model"
    )


def add_code(parser: argparse.ArgumentParser) -> None:
    """Add `--model` to a command that reads a checkpoint."""
    parser.add_argument(
        "--model", default="", metavar="FILE.py:NAME",
        help="code of an own model again: a checkpoint runs none by itself",
    )  # fmt: skip


def add_optimizer(parser: argparse.ArgumentParser) -> None:
    """Add `--optimizer`."""
    parser.add_argument(
        "--optimizer", default="", help=f"of --training, by name (default: {OPTIMIZER})"
    )


def add_precision(parser: argparse.ArgumentParser, choices: Sequence[str] = PRECISIONS) -> None:
    """Add `--precision`."""
    parser.add_argument(
        "--precision", default="float32", choices=choices,
        help="bf16: activations, their gradients and products in bfloat16"
        + "; int8: products of 8-bit integers, in inference" * ("int8" in choices)
        + " (default: float32)",
    )  # fmt: skip


def optimizer(name: str, training: bool) -> str:
    """Return the optimizer of `--optimizer`, the default where it is "". UserError for one without
    `--training`."""
    if name and not training:
        raise UserError(f"--optimizer: expected --training too, got {name}")
    return name or OPTIMIZER


def add_page(parser: argparse.ArgumentParser) -> None:
    """Add `--html` and `--force`."""
    parser.add_argument("--html", default="", metavar="FILE", help="also write a page with charts")
    add_force(parser)


def add_force(parser: argparse.ArgumentParser) -> None:
    """Add `--force`."""
    parser.add_argument(
        "--force",
        action="store_true",
        help="let an option replace a file that Tallygrad did not write",
    )


def page_file(html: str, force: bool) -> OutputFile | None:
    """Return the file of `--html`, None where it is "". UserError where no page may be written."""
    if not html:
        return None
    file = OutputFile("--html", Path(html), "a page", MARK, force)
    file.check()
    return file


def numbers(flag: str, text: str, most: int) -> list[int]:
    """Return the whole numbers of a list such as "1,2,4" in ascending order. UserError for
    anything else."""
    found = set()
    for part in text.split(","):
        number = whole_number(part.strip())
        if number is None or not 1 <= number <= most:
            raise UserError(f"{flag}: expected whole numbers from 1 to {most}, got {part!r:.60}")
        found.add(number)
    return sorted(found)
