"""Inference in float32 and in int8, of models and of single convolutions, in turn, on one thread.
The time of int8 has the rounding of its input."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from tallygrad.autograd import Tensor, context, from_numpy, no_grad, quantize, trace
from tallygrad.autograd.nn import Conv2d, Module

from .cases import CASES
from .measure import Contender, Times, interleave
from .options import BenchParser, chosen_cases, counted
from .ours import batch, choose_backend, create

DEFAULT = tuple(case for case in CASES.values() if "infer" in case.modes)
# Images, channels, extent, filters and taps of convolutions: those of ResNet-20 and ResNet-18.
LAYERS = (
    (128, 16, 32, 16, 3), (128, 32, 16, 32, 3), (128, 64, 8, 64, 3), (16, 64, 56, 64, 3),
    (16, 128, 28, 128, 3), (16, 256, 14, 256, 3), (16, 512, 7, 512, 3), (16, 64, 56, 128, 1),
)  # fmt: skip


def run(arguments: Sequence[str]) -> int:
    """Measure, and print a table."""
    options = parse(arguments)
    notes: list[str] = []
    backend = choose_backend(options.backend, notes)
    for note in notes:
        print(note)
    print(f"{'':32}float32 ms   int8 ms  ratio (medians, minima)")
    for case in options.cases:
        images = batch(case)[0]
        times = measure(create(case).eval(), images, backend, options)
        print(row(case.name, times), flush=True)
    for n, channels, extent, filters, taps in LAYERS if options.layers else ():
        shape = (n, extent, extent, channels)
        images = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
        layer = Conv2d(channels, filters, taps, padding=taps // 2)
        times = measure(layer, images.transpose(0, 3, 1, 2), backend, options)
        name = f"{n} x {channels} x {extent}x{extent}, {filters} of {taps}x{taps}"
        print(row(name, times), flush=True)
    return 0


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Parse the command line. Errors end the process with status 2 and one line."""
    parser = BenchParser("python -m bench int8", description=__doc__, allow_abbrev=False)
    add = parser.add_argument
    add("--cases", type=chosen_cases, default=DEFAULT, metavar="A,B",
        help="cases, or models for all of theirs (default: all)")  # fmt: skip
    add("--layers", action="store_true", help="also time single convolutions")
    add("--backend", help="Tallygrad's (default: llvm if it loads, otherwise numpy)")
    add("--rounds", type=counted, default=9, metavar="N", help="rounds (default: 9)")
    return parser.parse_args(arguments)


def measure(
    model: Module, images: npt.NDArray[np.float32], backend: str, options: argparse.Namespace
) -> dict[str, Times]:
    """Return the times of a traced model in float32 and in int8."""
    x = from_numpy(images)

    def contender(name: str, step: Callable[..., Tensor]) -> Contender:
        return Contender(name, lambda: step(x).numpy())

    with context.using(backend=backend), no_grad():
        both = contender("float32", trace(model)), contender("int8", trace(quantize(model, [x])))
        return interleave(both, options.rounds, 0.0)


def row(name: str, times: dict[str, Times]) -> str:
    """Return the row of a table: medians, and how many times as fast int8 is."""
    exact, ours = times["float32"], times["int8"]
    ratios = exact.median / ours.median, exact.min / ours.min
    return f"{name:30}{exact.median:12.3f}{ours.median:10.3f} {ratios[0]:6.2f} {ratios[1]:6.2f}"
