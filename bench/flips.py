"""Injected bit flips: `python -m bench flips` trains with `--verify-every 1` on several ranks,
flips a bit per step (see `flipping`), and counts those that were found, named and repaired."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from typing import Any

from tallygrad.launch import mpirun

from .options import BenchParser, counted

WARMING = 3  # steps without flips, in which kernels compile and messages are counted
TIMEOUT = 900.0  # seconds of a training
DURING = ("before branch", "after branch", "after other branch", "before update", "after update",
          "before second update", "after second update")  # fmt: skip
PLACES = {
    "weights": ("rest", *DURING),
    "optimizer": ("rest", *DURING),
    "gradients": ("after branch", "after other branch", "before update"),
    "statistics": ("rest", "after branch", "after other branch"),
    "activations": ("forward", "saved", "input"),
    "messages": ("message",),
}
COLUMNS = ("kind", "flips", "no effect", "found", "rank", "layer", "repaired", "missed")


@dataclass(frozen=True)
class Flip:
    """A bit to flip on a rank in a step, counted from 1: what (`kind`), when (`place`), and which
    element and bit; `call` chooses among messages."""

    step: int
    kind: str
    place: str
    rank: int
    index: int
    bit: int
    call: int


@dataclass(frozen=True)
class Series:
    """Trainings that differ in their flips only. `share` is their part of all flips."""

    config: dict[str, Any]
    kinds: Sequence[str]
    share: float


# Captured steps call no module, so activations are flipped in those of NumPy.
SERIES = (
    Series({"model": "lenet", "backend": "auto", "batch_size": 16},
           ("weights", "optimizer", "gradients", "messages"), 0.6),
    Series({"model": "lenet", "backend": "numpy", "batch_size": 8}, ("activations",), 0.2),
    Series({"model": "resnet20", "backend": "numpy", "batch_size": 4},
           ("activations", "statistics", "messages", "weights"), 0.2),
)  # fmt: skip
COMMON = {"dataset": "digits", "micro_batches": 4, "verify_every": 1, "compare_every": 0,
          "overlap": "none", "threads": 1, "log_every": 1 << 30, "lr": 0.01}  # fmt: skip


def plan(kinds: Sequence[str], count: int, ranks: int, random: Random) -> list[Flip]:
    """Return random flips, one per step."""
    flips = []
    for step in range(WARMING + 1, WARMING + count + 1):
        kind = kinds[step % len(kinds)]
        place = random.choice(PLACES[kind])
        numbers = random.randrange(ranks), random.randrange(1 << 40), random.randrange(64)
        flips.append(Flip(step, kind, place, *numbers, random.randrange(1 << 20)))
    return flips


def train(series: Series, ranks: int, flips: Sequence[Flip], steps: int) -> list[dict[str, Any]]:
    """Train with these flips; return what each step came to."""
    launcher = mpirun.find_mpirun()
    openmpi = mpirun.is_openmpi(launcher)
    with tempfile.TemporaryDirectory() as name:
        file, out = Path(name) / "plan.json", Path(name) / "out.jsonl"
        config = {**COMMON, **series.config, "epochs": steps}
        content = {"config": config, "steps": steps, "out": str(out)}
        file.write_text(json.dumps({**content, "flips": [asdict(flip) for flip in flips]}))
        line = mpirun.start_line(launcher, openmpi, ranks, None)
        line += [sys.executable, "-m", "bench.flipping", str(file)]
        env = {**mpirun.environment(openmpi), "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        root = Path(__file__).parent.parent
        done = subprocess.run(line, env=env, cwd=root, timeout=TIMEOUT, stdin=subprocess.DEVNULL,
                              capture_output=True, text=True)  # fmt: skip
        if done.returncode:
            raise SystemExit(f"flips: a training ended with {done.returncode}:\n{done.stderr}")
        return [json.loads(text) for text in out.read_text().splitlines()]


@dataclass(frozen=True)
class Verdict:
    """What became of a flip. `effect`: whether it changed a bit of a step or of what is sealed."""

    flip: Flip
    tensor: str
    lines: Sequence[str]
    repaired: bool

    @property
    def found(self) -> bool:
        """Whether a fault was reported."""
        return bool(self.lines)

    @property
    def missed(self) -> bool:
        """Whether a step differs, and nobody said so."""
        return not self.found and not self.repaired

    @property
    def rank(self) -> bool:
        """Whether the rank, and no other, was named."""
        named = {int(number) for line in self.lines for number in re.findall(r"rank (\d+)", line)}
        return named == {self.flip.rank}

    @property
    def layer(self) -> bool:
        """Whether the layer was named."""
        names = map(re.escape, filter(None, self.tensor.split(" or ")))
        found = re.compile("|".join(rf"(?<![\w.]){name}(?!\w)" for name in names) or r"\Z.")
        return any(found.search(line) for line in self.lines)


def judge(
    flips: Sequence[Flip], sound: Sequence[dict[str, Any]], flipped: Sequence[dict[str, Any]]
) -> Iterator[Verdict]:
    """Yield what became of each flip, up to one after which the training is another one."""
    for flip in flips:
        clean, step = sound[flip.step - 1], flipped[flip.step - 1]
        tensor = step["done"][flip.rank]
        verdict = Verdict(flip, tensor, step["lines"], clean["state"] == step["state"])
        if tensor or verdict.found:
            yield verdict
        if not verdict.repaired:
            return


def table(verdicts: Sequence[Verdict]) -> list[str]:
    """Return the counts by kind."""
    rows: list[tuple[str, ...]] = [COLUMNS]
    for kind in (*PLACES, "all"):
        mine = [v for v in verdicts if kind in (v.flip.kind, "all")]
        found = [v for v in mine if v.found]
        counts = Counter({
            "flips": len(mine), "found": len(found), "missed": sum(v.missed for v in mine),
            "no effect": sum(not v.found and v.repaired for v in mine),
            "rank": sum(v.rank for v in found), "layer": sum(v.layer for v in found),
            "repaired": sum(v.repaired for v in found),
        })  # fmt: skip
        rows.append((kind, *[str(counts[column]) for column in COLUMNS[1:]]))
    return ["".join(f"{cell:>12}" for cell in row) for row in rows]


def measure(series: Series, ranks: int, count: int, random: Random) -> list[Verdict]:
    """Return what became of so many flips."""
    flips = plan(series.kinds, count, ranks, random)
    steps = WARMING + count + 1
    sound = train(series, ranks, [], steps)
    if any(step["lines"] for step in sound):
        raise SystemExit("flips: faults were reported without any flip")
    return [*judge(flips, sound, train(series, ranks, flips, steps))]


def run(arguments: Sequence[str]) -> int:
    """Flip bits and print the table; return 1 where a flip was missed or not repaired."""
    parser = BenchParser("python -m bench flips", description=__doc__, allow_abbrev=False)
    parser.add_argument("--ranks", type=counted, nargs="+", default=[2, 4], help="numbers of ranks")
    parser.add_argument("--flips", type=counted, default=1000, help="flips in all (default: 1000)")
    parser.add_argument("--seed", type=int, default=0, help="seed of what is flipped")
    parser.add_argument("--show", action="store_true", help="print what was reported of each flip")
    options = parser.parse_args(arguments)
    random, everything = Random(options.seed), []
    for ranks in options.ranks:
        verdicts: list[Verdict] = []
        for series in SERIES:
            count = max(1, round(series.share * options.flips / len(options.ranks)))
            verdicts += measure(series, ranks, count, random)
        print(f"{ranks} ranks", *table(verdicts), sep="\n", flush=True)
        everything += verdicts
    for v in everything if options.show else ():
        print(v.flip, v.tensor, *v.lines, sep="\n    ")
    print("all", *table(everything), sep="\n")
    return int(not all(v.repaired for v in everything))
