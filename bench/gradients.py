"""Gradients in bf16 beside those in float32, with the weights of a run, over batches of its
training images, and the same of torch under autocast where it is installed.

With g a batch's gradient in float32, d what bf16 adds to it, and sums over batches: `scale` is
1 + sum g d / sum g g, `error` is sqrt(sum d d / sum g g), and `common` is |sum d| / sqrt(sum d d):
1 where the errors of batches have nothing in common, as where rounding has no bias, and the root of
the number of batches where all are the same. The last line has, as `error`, what g differs by from
its mean over the batches.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from itertools import islice
from math import nan, sqrt
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from tallygrad.autograd import Ledger, autocast, context, cross_entropy, from_numpy
from tallygrad.autograd.nn import Module
from tallygrad.datasets import DataError, Loader, load
from tallygrad.trainer.components import checkpoint
from tallygrad.trainer.components.state import MODEL, recorded

from .cases import CLASSES, MODELS, Case
from .options import BenchParser, UsageError, counted
from .ours import choose_backend, create

Arrays: TypeAlias = dict[str, npt.NDArray[Any]]
# Images (N, C, H, W), labels (N,) and whether to compute in bf16; gradients by parameter.
Gradients: TypeAlias = Callable[[npt.NDArray[Any], npt.NDArray[Any], bool], Arrays]


@dataclass
class Sums:
    """Sums over batches, of one weight or, added up, of all: of g g, g d, d d, and |sum d|^2."""

    exact: float = 0.0
    inner: float = 0.0
    error: float = 0.0
    common: float = 0.0

    def add(self, other: Sums) -> None:
        """Count another weight's sums, too."""
        for name in vars(self):
            setattr(self, name, getattr(self, name) + getattr(other, name))

    def figures(self) -> tuple[float, float, float]:
        """Return scale, error and common; NaN for a weight without gradients or errors."""
        if not self.exact or not self.error:
            return nan, nan, nan
        scale = 1 + self.inner / self.exact
        return scale, sqrt(self.error / self.exact), sqrt(self.common / self.error)


def run(arguments: Sequence[str]) -> int:
    """Compare, and print a table."""
    options = parse(arguments)
    notes: list[str] = []
    backend = choose_backend(options.backend, notes)
    file = checkpoint.newest_checkpoint(options.run)
    saved = checkpoint.load(file)
    case, weights = case_of(file, saved.meta), weights_of(saved.tensors)
    config = recorded(file, saved.meta, "config", dict)
    try:
        data = load(str(config.get("dataset")), "train")
    except DataError as error:
        raise UsageError(str(error)) from None
    model = create(case).train()
    model.load_state_dict({name: from_numpy(a) for name, a in weights.items()})
    computing = {"": ours(model, backend)}
    try:
        computing["torch "] = theirs(case, weights)
    except ImportError:
        notes.append("no comparison with torch: it is not installed")
    for note in notes:
        print(note)
    loader = Loader(data, options.batch_size, drop_last=True)
    if len(loader) < options.batches:
        raise UsageError(f"--batches: expected at most {len(loader)}, got {options.batches}")
    batches = [(b.images, b.labels) for b in islice(loader.epoch(0), options.batches)]
    tables = [compare(gradients, batches) for gradients in computing.values()]
    matrices = [name for name, a in weights.items() if a.ndim > 1]
    for line in report(list(computing), tables, matrices):
        print(line)
    return 0


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Return the options. Errors end the process with status 2 and one line."""
    parser = BenchParser("python -m bench gradients", description=__doc__, allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    add = parser.add_argument
    add("run", type=Path, metavar="RUN", help="a run's folder or a checkpoint, of a model of bench")
    add("--batches", type=counted, default=24, metavar="N", help="batches (default: 24)")
    add("--batch-size", type=counted, default=64, metavar="N", help="images of each (default: 64)")
    add("--backend", help="Tallygrad's (default: llvm if it loads, otherwise numpy)")
    return parser.parse_args(arguments)


def case_of(file: Path, meta: dict[str, Any]) -> Case:
    """Return the case of the model on record. UsageError for one that the benchmarks lack."""
    model, classes = meta.get("model"), meta.get("classes")
    if model not in MODELS or classes != CLASSES:
        expected = f"expected {', '.join(MODELS)} with {CLASSES} classes"
        raise UsageError(f"{file}: {expected}, got {model} with {classes}")
    return Case(str(model), 1, (*recorded(file, meta, "input", list),))


def weights_of(tensors: Mapping[str, npt.NDArray[Any]]) -> Arrays:
    """Return the model's arrays by name."""
    return {n.removeprefix(MODEL): a for n, a in tensors.items() if n.startswith(MODEL)}


def ours(model: Module, backend: str) -> Gradients:
    """Return what computes gradients with a model of Tallygrad."""

    def gradients(images: npt.NDArray[Any], labels: npt.NDArray[Any], narrow: bool) -> Arrays:
        model.zero_grad()
        with context.using(backend=backend, ledger=Ledger()):
            with autocast(enabled=narrow):
                loss = cross_entropy(model(from_numpy(images)), from_numpy(labels))
            loss.backward()
            return {n: p.grad.numpy() for n, p in model.named_parameters() if p.grad is not None}

    return gradients


def theirs(case: Case, weights: Arrays) -> Gradients:
    """Return what computes gradients with torch's model of the same weights. ImportError where it
    is not installed."""
    models = import_module(".torch_models", __package__)
    torch = models.torch
    torch.set_num_threads(1)
    model = models.create(case).train()
    model.load_state_dict({n: torch.from_numpy(a) for n, a in weights.items()}, strict=False)

    def gradients(images: npt.NDArray[Any], labels: npt.NDArray[Any], narrow: bool) -> Arrays:
        model.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=narrow):
            scores = model(torch.from_numpy(images))
            loss = models.functional.cross_entropy(scores, torch.from_numpy(labels))
        loss.backward()
        return {n: p.grad.numpy() for n, p in model.named_parameters()}

    return gradients


def compare(
    gradients: Gradients, batches: Sequence[tuple[npt.NDArray[Any], npt.NDArray[Any]]]
) -> tuple[dict[str, Sums], float]:
    """Return the sums of each weight, and what gradients in float32 differ by between batches, as
    a share of them."""
    sums: dict[str, Sums] = {}
    drift: Arrays = {}
    mean: Arrays = {}
    for images, labels in batches:
        exact, rounded = (
            {n: a.astype(np.float64) for n, a in gradients(images, labels, narrow).items()}
            for narrow in (False, True)
        )
        for name, g in exact.items():
            d = rounded[name] - g
            one = Sums(float((g * g).sum()), float((g * d).sum()), float((d * d).sum()))
            sums.setdefault(name, Sums()).add(one)
            drift[name] = drift.get(name, 0.0) + d
            mean[name] = mean.get(name, 0.0) + g / len(batches)
    for name, d in drift.items():
        sums[name].common = float((d * d).sum())
    squares = sum(one.exact for one in sums.values())
    shared = sum(float((a * a).sum()) for a in mean.values()) * len(batches)
    return sums, sqrt(max(squares - shared, 0) / squares)


def report(
    names: Sequence[str], tables: Sequence[tuple[dict[str, Sums], float]], rows: Collection[str]
) -> Iterator[str]:
    """Yield the lines of a table: the parameters in `rows`, all of them, what batches differ by."""
    heads = [f"{who}{what}" for who in names for what in ("scale", "error", "common")]
    yield f"| gradient of | {' | '.join(heads)} |\n|---|{'---|' * len(heads)}"
    every = [Sums() for _ in tables]
    for name in tables[0][0]:
        for total, (sums, _) in zip(every, tables, strict=True):
            total.add(sums[name])
        if name in rows:
            yield _row(name, [sums[name] for sums, _ in tables])
    yield _row("all parameters", every)
    yield "batches differ by " + ", ".join(
        f"{who}{apart:.3f}" for who, (_, apart) in zip(names, tables, strict=True)
    )


def _row(name: str, sums: Sequence[Sums]) -> str:
    columns = [f"{a:.4f} | {b:.4f} | {c:.2f}" for a, b, c in (one.figures() for one in sums)]
    return f"| {name} | {' | '.join(columns)} |"
