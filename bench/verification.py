"""Training steps with `--verify-every K` and without, K at a time and in turn, on ranks with a core
each. A verified step does forward and backward twice, which makes 1/K of the time of K steps."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import partial
from statistics import median

from tallygrad.trainer.distributed.comm import Comm
from tallygrad.trainer.distributed.failures.guard import guard

from .cases import Case
from .options import BenchParser, counted
from .ranks import in_turn, several
from .scaling import WARMING, add_cases, ours, repeat

MARGIN = 0.02  # what verification may cost beyond the second computation


def run(arguments: Sequence[str]) -> int:
    """Measure, and print a table on rank 0. UsageError on one rank."""
    options = parse(arguments)
    comm, load = several("verification")
    if comm.rank == 0:
        print(f"{comm.size} ranks; {comm.library}; load {load:.1f} before")
        print("case               K  step ms  verified  overhead (median, min)  bar")
    with guard(comm):
        for case in options.cases:
            for every in options.every:
                times = measure(comm, case, every, options.rounds)
                if comm.rank == 0:
                    print(row(case, every, *times), flush=True)
    return 0


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Parse the command line. Errors end the process with status 2 and one line."""
    parser = BenchParser("python -m bench verification", description=__doc__, allow_abbrev=False)
    add = parser.add_argument
    add_cases(parser)
    add("--every", type=_numbers, default=(10, 100), metavar="K,L",
        help="steps of which one is verified (default: 10,100)")  # fmt: skip
    add("--rounds", type=counted, default=9, metavar="N", help="rounds (default: 9)")
    return parser.parse_args(arguments)


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(counted(word.strip()) for word in text.split(","))


def measure(comm: Comm, case: Case, every: int, rounds: int) -> tuple[list[float], list[float]]:
    """Return the seconds of a step in each round, of so many steps without a verified one and of
    as many with one."""
    steps = {str(k): ours(comm, case, verify_every=k, compare_every=0) for k in (0, every)}
    for step in steps.values():  # until its next round begins with the step after a verified one
        repeat(step, -(-WARMING // every) * every)
    works = {name: partial(repeat, step, every) for name, step in steps.items()}
    plain, verified = in_turn(comm, works, rounds, warming=1).values()
    return [t / every for t in plain], [t / every for t in verified]


def row(case: Case, every: int, plain: list[float], verified: list[float]) -> str:
    """Return the row of a table: milliseconds of a step (medians), the overhead as the median of
    each round's and as that of the fastest rounds, and what it may be."""
    ratio = median(b / a for a, b in zip(plain, verified, strict=True)) - 1
    least = min(verified) / min(plain) - 1
    times = f"{1e3 * median(plain):8.3f} {1e3 * median(verified):9.3f}"
    return f"{case.name:16} {every:3} {times} {ratio:15.1%} {least:7.1%} {1 / every + MARGIN:5.0%}"
