"""`python -m bench network`: what `plan` predicts for a network, beside steps over that network.

Network namespaces of this host are the hosts, with one rank each; `tc` gives their links a rate.
Ranks measure messages between neighbours, additions, steps without messages, exchanges alone, and
whole steps. Predictions take nothing from the latter two. All ranks measure at once, because they
share the cores of this host, as hosts do not.
"""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple, NoReturn

from tallygrad.launch import mpirun
from tallygrad.trainer.commands.chosen_model import ChosenModel, ModelOptions
from tallygrad.trainer.cost.cluster.network import Exchange, Network
from tallygrad.trainer.cost.cluster.scaling import predict
from tallygrad.trainer.cost.cluster.step_time import Step, StepTimes
from tallygrad.trainer.cost.cluster.traffic import Link
from tallygrad.trainer.cost.cluster.transfers import ExchangeSettings
from tallygrad.trainer.cost.report.text_table import Column, text_table
from tallygrad.trainer.errors import UserError

from .hosts import Hosts, why_not
from .network_rank import RESULT, TASK, Result, Task
from .options import BenchParser

UNITS = {"kbit": 1e3, "mbit": 1e6, "gbit": 1e9}
PAYLOAD = 1448 / 1514  # of a full frame of TCP as `tc` counts it: without preamble, sum and gap
BURST = 1e-3  # seconds of a link's rate that pass unhindered after a pause; with less, `tc` is late
TIMEOUT = 300.0  # seconds of a job
BOUND = 0.9  # share of the rate that messages reach unless the cores are too slow for it
COLUMNS = (
    Column("rate", is_text=True), Column("ranks"), Column("model", is_text=True),
    Column("images", order=3), Column("limited by", order=2, is_text=True),
    Column("exchange ms"), Column("predicted exchange ms"), Column("compute ms", order=1),
    Column("step ms"), Column("predicted step ms"),
    Column("error of exchange %"), Column("error of step %"),
)  # fmt: skip


class Compared(NamedTuple):
    """What was measured over links of a rate beside the predictions for exchange and step."""

    rate: str
    ranks: int
    model: str
    batch: int
    measured: Result
    exchange: float
    step: float

    @property
    def error(self) -> float:
        """The predicted step over the measured one, less 1."""
        return self.step / self.measured.step - 1

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {**self._asdict(), "measured": self.measured._asdict(), "error": self.error}

    @property
    def limit(self) -> str:
        """What bounded long messages: "links", or the "cores" that all hosts here share."""
        return "links" if self.measured.bandwidth > BOUND * bandwidth(self.rate) else "cores"


def bandwidth(rate: str) -> float:
    """Return the bytes of data per second at a rate as `tc` writes it. UserError for another."""
    for unit, factor in UNITS.items():
        number = rate.removesuffix(unit)
        if number != rate and number.isdecimal() and int(number):
            return PAYLOAD * int(number) * factor / 8
    raise UserError(f"--rates: expected such as 100mbit or 10gbit, got {rate!r}")


def compare(rate: str, found: Result, task: Task, ranks: int) -> Compared:
    """Return a measured step beside the prediction for hosts of one rank with links of that
    rate."""
    link = Link(found.latency, found.bandwidth)
    network = Network("", "", "", 1, 0, link, link, Exchange(found.reduction))
    step = Step(task.batch, 1, (found.compute,), found.compute, (0.0,) * len(found.bytes))
    times = StepTimes(
        task.model, task.input, task.classes, "", found.parameters, found.bytes, (step,)
    )
    settings = ExchangeSettings(int(task.bucket_mb * 1e6), overlap="none")
    row = predict(times, network, ranks, task.batch * ranks, settings)
    return Compared(rate, ranks, task.model, task.batch, found, row.communication, row.seconds)


def measure(ranks: int, rate: str, task: Task, folder: Path) -> Result:
    """Measure with ranks on hosts of their own. UserError if they fail, or another way than the
    links was taken."""
    (folder / TASK).write_text(json.dumps(task._asdict()), "utf-8")
    (folder / RESULT).unlink(missing_ok=True)
    with Hosts(ranks, folder / "hosts", rate, burst=_burst(rate)) as made:
        env = {**mpirun.environment(openmpi=True), **made.environment}
        command = _command(made, ranks, folder)
        subprocess.run(command, env=env, check=False, stdout=sys.stderr, timeout=TIMEOUT)
        sent = made.sent(made.names[0])
    if not (folder / RESULT).exists():
        raise UserError(f"the {ranks} ranks wrote no result")
    found = Result(**json.loads((folder / RESULT).read_text("utf-8")))
    if sent < sum(found.bytes):
        raise UserError(f"only {sent} bytes crossed a link: the MPI took another way")
    return found


def _burst(rate: str) -> str:
    """Return what links of a rate let pass faster after a pause, as `tc` writes it."""
    return f"{int(bandwidth(rate) * BURST) + 16_000}b"


def _command(made: Hosts, ranks: int, folder: Path) -> list[str]:
    program = mpirun.find_mpirun()
    openmpi = mpirun.is_openmpi(program)
    names = ",".join(f"{name}:1" for name in made.names)
    line = mpirun.command_line(program, openmpi, ranks, names, [])
    line = line[: line.index(sys.executable)]  # what follows is the trainer
    if not openmpi and "-localhost" not in line:
        line += ["-localhost", made.head]
    return [*line, sys.executable, "-m", "bench.network_rank", str(folder)]


def rows(options: argparse.Namespace, folder: Path) -> Iterator[Compared]:
    """Yield a row for each model, number of ranks and rate."""
    for model in options.models:
        chosen = ModelOptions(model=model, batch=options.batch, input="", classes=0).resolve()
        for ranks in options.ranks:
            task = _task(chosen, options)
            for rate in options.rates:
                yield compare(rate, measure(ranks, rate, task, folder), task, ranks)


def _task(model: ChosenModel, options: argparse.Namespace) -> Task:
    seconds, megabytes = options.seconds, options.bucket_mb
    return Task(model.name, model.input, model.classes, options.batch, megabytes, seconds)


def cells(row: Compared) -> list[str]:
    """Return the texts of a row."""
    found = row.measured
    times = found.exchange, row.exchange, found.compute, found.step, row.step
    errors = row.exchange / found.exchange - 1, row.error
    return [
        row.rate, str(row.ranks), row.model, str(row.batch), row.limit,
        *[f"{1e3 * t:.1f}" for t in times], *[f"{100 * error:+.1f}" for error in errors],
    ]  # fmt: skip


def _parser() -> BenchParser:
    about = "Compare plan's predictions with steps between network namespaces. Needs root."
    parser = BenchParser("python -m bench network", description=about, allow_abbrev=False)
    add = parser.add_argument
    add("--models", type=_words, default=["lenet"], metavar="A,B", help="models (default: lenet)")
    add("--batch", type=int, default=1, metavar="N", help="images a rank and step (default: 1)")
    add("--ranks", type=_counts, default=[2, 3, 4, 8], metavar="P,P", help="default: 2,3,4,8")
    add("--rates", type=_words, default=["1gbit", "10gbit"], metavar="R,R",
        help="rates of the links (default: 1gbit,10gbit)")  # fmt: skip
    add("--bucket-mb", type=float, default=1.0, help="as in train (default: 1)")
    add("--seconds", type=float, default=8.0, metavar="S", help="per measurement (default: 8)")
    add("--json", type=Path, metavar="FILE", help="also write the rows to a file")
    return parser


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",")]


def _counts(text: str) -> list[int]:
    counts = [int(word) for word in _words(text)]
    if min(counts) < 2:
        raise argparse.ArgumentTypeError(f"expected numbers of ranks from 2 up, got {text!r}")
    return counts


def run(arguments: Sequence[str]) -> int:
    """Print the table and write `--json`, with the rows that there are where an error or a signal
    ends this early. UserError for what cannot be done."""
    options = _parser().parse_args(arguments)
    found: list[Compared] = []
    [*map(bandwidth, options.rates)]
    if why := why_not():
        raise UserError(why)
    signal.signal(signal.SIGTERM, _end)
    try:
        with tempfile.TemporaryDirectory(prefix="tallygrad-network-") as name:
            for row in rows(options, Path(name)):
                print(*cells(row), file=sys.stderr, flush=True)
                found.append(row)
    except subprocess.TimeoutExpired as error:
        raise UserError(f"the ranks took more than {error.timeout:g} s") from error
    finally:
        if found:
            print("\n".join(text_table(COLUMNS, [cells(row) for row in found])))
        if options.json and found:
            text = json.dumps([row.to_json() for row in found], indent=1)
            options.json.write_text(f"{text}\n", "utf-8")
    return 0


def _end(number: int, frame: FrameType | None) -> NoReturn:
    """End this process in order: what was made is removed on the way."""
    sys.exit(128 + number)
