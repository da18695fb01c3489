"""Operations beside torch's: the largest differences of results and gradients from torch's, by
family of the operation samples, in float64 and float32. Numbers above 1 differ by a share of them.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from importlib import import_module
from typing import Any

from tallygrad.autograd.testing.parity import differences
from tallygrad.autograd.testing.samples import FAMILIES, samples

from .options import BenchParser, UsageError
from .ours import choose_backend

TYPES = ("float64", "float32")


def run(arguments: Sequence[str]) -> int:
    """Compare, and print a table."""
    options = parse(arguments)
    notes: list[str] = []
    backend = choose_backend(options.backend, notes)
    try:
        torch: Any = import_module("torch")
    except ImportError:
        raise UsageError("expected torch to compare with, got none installed") from None
    torch.set_num_threads(1)
    torch.backends.mkldnn.enabled = False
    for note in notes:
        print(note)
    parts = [f"{what}, {dtype}" for dtype in TYPES for what in ("results", "gradients")]
    print(f"| operations | samples | {' | '.join(parts)} |\n|---|---|" + "---|" * len(parts))
    for family in options.families or FAMILIES:
        rows = [row for row in samples(family) if row.torch]
        pairs = [[differences(row, torch, d, backend) for row in rows] for d in TYPES]
        figures = [max(column) for each in pairs for column in zip(*each, strict=True)]
        print(f"| {family} | {len(rows)} | {' | '.join(f'{f:.1e}' for f in figures)} |", flush=True)
    return 0


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Parse the command line. Errors end the process with status 2 and one line."""
    parser = BenchParser("python -m bench operations", description=__doc__, allow_abbrev=False)
    add = parser.add_argument
    add("families", nargs="*", metavar="FAMILY", help=f"{', '.join(FAMILIES)} (default: all)")
    add("--backend", help="Tallygrad's (default: llvm if it loads, otherwise numpy)")
    options = parser.parse_args(arguments)
    for name in options.families:
        if name not in FAMILIES:
            parser.error(f"FAMILY: expected one of {', '.join(FAMILIES)}, got {name}")
    return options
