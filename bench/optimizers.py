"""Optimizers beside torch's: how far apart weights are after 50 steps, in float64 and float32, and
the time of an update of float32 weights, and of clipping by the norm, on one thread."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from importlib import import_module
from math import isqrt
from typing import Any

import numpy as np

from tallygrad.autograd import Ledger, context, from_numpy, optim, tensor
from tallygrad.autograd.nn import Parameter
from tallygrad.autograd.nn.utils import clip_grad_norm_
from tallygrad.autograd.testing.optimizers import (
    OF_MATRICES,
    SAMPLES,
    SHAPES,
    OptimizerSample,
    difference,
)

from .measure import Contender, Times, interleave
from .options import BenchParser, counted
from .ours import choose_backend

OWN = ("LARS", "LAMB")  # which torch lacks
TYPES = ("float64", "float32")


def run(arguments: Sequence[str]) -> int:
    """Compare, and print a table."""
    options = parse(arguments)
    notes: list[str] = []
    backend = choose_backend(options.backend, notes)
    torch: Any = None
    try:
        torch = import_module("torch")
    except ImportError:
        notes.append("no comparison with torch: it is not installed")
    for note in notes:
        print(note)
    print("| optimizer | float64 | float32 | ms | torch, ms |\n|---|---|---|---|---|")
    for sample in (*SAMPLES, *OF_MATRICES, *(OptimizerSample(name, {}) for name in OWN)):
        both = torch if sample.name not in OWN else None
        figures = [f"{difference(sample, both, d):.1e}" if both else "" for d in TYPES]
        with context.using(backend=backend, ledger=Ledger()):
            times = measure(sample, both, options)
        show(str(sample), figures, times)
    with context.using(backend=backend, ledger=Ledger()):
        show("clip_grad_norm_", ["", ""], measure_clipping(torch, options))
    return 0


def show(name: str, figures: Sequence[str], times: dict[str, Times]) -> None:
    """Print a row of the table; what there is no figure for stays empty."""
    ms = [f"{times[who].median:.2f}" if who in times else "" for who in ("ours", "torch")]
    print(f"| `{name}` | " + " | ".join([*figures, *ms]) + " |", flush=True)


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Parse the command line. Errors end the process with status 2 and one line."""
    parser = BenchParser("python -m bench optimizers", description=__doc__, allow_abbrev=False)
    add = parser.add_argument
    add("--parameters", type=counted, default=1_000_000, metavar="N",
        help="weights of an update (default: 1,000,000)")  # fmt: skip
    add("--backend", help="Tallygrad's (default: llvm if it loads, otherwise numpy)")
    add("--rounds", type=counted, default=9, metavar="N", help="rounds (default: 9)")
    return parser.parse_args(arguments)


def measure(sample: OptimizerSample, torch: Any, options: argparse.Namespace) -> dict[str, Times]:
    """Return the times of an update, ours and torch's fastest, in float32."""
    rows = 1 if sample.shapes == SHAPES else isqrt(options.parameters)
    numbers = drawn(options, rows)
    contenders = [Contender("ours", ours(sample, *numbers))]
    if torch:
        torch.set_num_threads(1)
        contenders.append(Contender("torch", theirs(sample, torch, *numbers)))
    return interleave(contenders, options.rounds, 0.0)


def drawn(options: argparse.Namespace, rows: int = 1) -> Any:
    """Return weights and a gradient, matrices of so many rows."""
    shape = (2, rows, options.parameters // rows)
    return np.random.default_rng(0).standard_normal(shape, np.float32)


def measure_clipping(torch: Any, options: argparse.Namespace) -> dict[str, Times]:
    """Return the times of clipping a gradient by its norm, ours and torch's."""
    weights, gradient = drawn(options)
    p = Parameter(tensor(weights))
    p.deliver(from_numpy(gradient))
    contenders = [Contender("ours", lambda: clip_grad_norm_(p, 1e9))]
    if torch:
        t = torch.nn.Parameter(torch.tensor(weights))
        t.grad = torch.tensor(gradient)
        contenders.append(Contender("torch", lambda: torch.nn.utils.clip_grad_norm_([t], 1e9)))
    return interleave(contenders, options.rounds, 0.0)


def ours(sample: OptimizerSample, weights: Any, gradient: Any) -> Callable[[], object]:
    """Return our update."""
    p = Parameter(tensor(weights.copy()))
    made = getattr(optim, sample.name)([p], lr=1e-3, **sample.settings)
    p.deliver(from_numpy(gradient))
    return lambda: made.step()


def theirs(
    sample: OptimizerSample, torch: Any, weights: Any, gradient: Any
) -> Callable[[], object]:
    """Return torch's update, in one fused kernel where it has one."""
    p = torch.nn.Parameter(torch.tensor(weights))
    p.grad = torch.tensor(gradient)
    make = getattr(torch.optim, sample.name)
    try:
        made = make([p], lr=1e-3, fused=True, **sample.settings)
    except (TypeError, RuntimeError):
        made = make([p], lr=1e-3, **sample.settings)
    return lambda: made.step()
