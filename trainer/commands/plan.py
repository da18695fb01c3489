"""`tallygrad plan`: what a step takes on more ranks than there are here."""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from ..calibration import measure as calibrate
from ..calibration.host import load as load_machine
from ..config import integer
from ..cost.cluster.allreduce import ALGORITHMS
from ..cost.cluster.fitness import faults
from ..cost.cluster.network import MARK, Network, as_toml
from ..cost.cluster.network import load as load_network
from ..cost.cluster.scaling import LATEST, SCALINGS, Row, memory, predict, scale, scale_between
from ..cost.cluster.step_time import StepTimes
from ..cost.price import Price
from ..cost.pricing import cost_report
from ..cost.report.model.plan import CheckReport, PlanReport, PlanRow
from ..cost.report.plan_text import as_text
from ..cost.workload import Work, count
from ..distributed.comm import SerialComm, expected_size
from ..errors import UserError, nearest, show
from ..files import OutputFile
from ..numbers import whole_number
from ..threads import Machine as Cores
from . import flags
from .cost import input_and_classes
from .ranks import Start, launcher, meet

LESS_MEMORY = "take a smaller --batch"

MOST_SECONDS = 20.0
MOST_RANKS = 1 << 20
PATIENCE = 600.0  # seconds beyond those of measuring, for code that is compiled once
STEP = (
    "a step of the trainer on one thread a rank: loading, augmenting, forward, backward, exchange, "
    "update; without evaluation, checkpoints and log"
)


class Plan(NamedTuple):
    """All that is needed to print: rows by scaling, and what they rest on."""

    network: Network
    times: StepTimes
    rows: dict[str, list[Row]]
    checks: list[CheckReport]
    unfit: list[str]  # what disagrees within the calibration
    notes: list[str]


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the model, the ranks to plan for, what joins them, and how to print the plan."""
    parser.add_argument("--ranks", default="1,2,4,8,16,32,64", metavar="P,P,..", help="how many")
    parser.add_argument(
        "--network", default="calibrate", metavar="NAME|FILE", help="what joins hosts, or all of it"
    )
    parser.add_argument("--ranks-per-host", type=integer, default=0, help="default: the network's")
    parser.add_argument("--scaling", default="weak", choices=("weak", "strong", "both"),
                        help="weak: --batch is a rank's; strong: that of all")  # fmt: skip
    parser.add_argument(
        "--algorithm", default="auto", help="of the allreduce; default: the fastest, by formula"
    )
    parser.add_argument("--bucket-mb", type=float, default=1.0, help="as in train")
    parser.add_argument("--machine", default="", help="joules of a step on a machine, as in cost")
    parser.add_argument("--seconds", type=float, default=16.0, help="to measure for, at most 20")
    parser.add_argument("--save", default="", metavar="FILE", help="keep the calibration, as TOML")
    parser.add_argument(
        "--check",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="hold the plan against measured steps of this host (default: yes)",
    )
    flags.add_json(parser)
    parser.add_argument("--worker", default="", help=argparse.SUPPRESS)
    flags.add_model(parser, batch=64)
    flags.add_force(parser)


def run(options: Mapping[str, Any]) -> int:
    """Print a plan, or measure as one of the ranks that another process's plan started; return the
    exit status."""
    if options["worker"]:
        with meet("plan", 1, options, LESS_MEMORY) as (comm, _):
            calibrate.worker(comm, Path(options["worker"]))
        return 0
    return print_plan(options, *launcher())


def print_plan(options: Mapping[str, Any], start: Start | None, why: str = "") -> int:
    """Print a plan. `start` runs a command on ranks of this machine; without it, for the reason
    `why`, no link can be measured. UserError for options that do not fit."""
    shape, classes = input_and_classes(options)
    ranks = _ranks(options["ranks"])
    scalings = SCALINGS if options["scaling"] == "both" else (options["scaling"],)
    _check(options, ranks, scalings)

    @cache
    def work(batch: int) -> Work:
        try:
            return count(options["model"], batch, shape, classes, training=True)
        except ValueError as error:
            raise UserError(str(error)) from error

    work(1)  # before anything is measured
    energy = _energy(options["machine"], work)
    plan = _plan(options, ranks, scalings, start, why)
    report = _report(options, plan, work, energy)
    show(json.dumps(report.to_json(), indent=1) if options["as_json"] else as_text(report))
    return 0


def _ranks(text: str) -> list[int]:
    """Return numbers of ranks in ascending order. UserError for what is none."""
    counts = set()
    for part in text.split(","):
        ranks = whole_number(part.strip())
        if ranks is None or not 1 <= ranks <= MOST_RANKS:
            raise UserError(f"--ranks: {part!r:.60} is no number of ranks from 1 to {MOST_RANKS}")
        counts.add(ranks)
    return sorted(counts)


def _check(options: Mapping[str, Any], ranks: Sequence[int], scalings: Sequence[str]) -> None:
    algorithm, seconds = options["algorithm"], options["seconds"]
    if algorithm not in ("auto", *ALGORITHMS):
        known = ("auto", *ALGORITHMS)
        raise UserError(f"--algorithm: unknown value {algorithm!r}{nearest(algorithm, known)}")
    if not 0 < seconds <= MOST_SECONDS:
        raise UserError(f"--seconds: {seconds} is not above 0 and at most {MOST_SECONDS:g}")
    if not 0.001 <= options["bucket_mb"] < 1e6:
        raise UserError(f"--bucket-mb: {options['bucket_mb']} is less than 0.001, or no size")
    if options["ranks_per_host"] < 0:
        raise UserError(f"--ranks-per-host: {options['ranks_per_host']} is less than 0")
    if scalings == ("strong",) and ranks[0] > options["batch"]:
        raise UserError(f"--ranks: {ranks[0]} ranks cannot share --batch {options['batch']}")
    if file := _saved(options):
        file.check()
    if expected_size() is not None:
        raise UserError("plan: it starts ranks by itself; run it without mpirun")


def _plan(
    options: Mapping[str, Any], ranks: Sequence[int], scalings: Sequence[str],
    start: Start | None, why: str,
) -> Plan:  # fmt: skip
    """Measure what the network file leaves open, and predict."""
    network, times = Network("this host", "measured here"), None
    if options["network"] != "calibrate":
        network, times = load_network(options["network"])
    if options["ranks_per_host"]:
        network = replace(network, per_host=options["ranks_per_host"])
    _room(network, ranks)
    if times is not None and not times.fits(options["model"], *input_and_classes(options)):
        times = None
    notes, checks = [f"nothing was measured here: all is from {options['network']}"], []
    if not network.known or times is None:
        if not network.known and start is None:
            raise UserError(f"--network {options['network']}: no link inside a host, and {why}")
        task = _task(options, ranks, scalings)
        result = _calibrate(task, max(ranks), start)
        here, measured = calibrate.network(result), calibrate.step_times(result, task, _cpu())
        checks = [_checked(check, measured, here, options) for check in result.get("checks", ())]
        network, times, notes = network.completed(here), times or measured, []
        if len(checks) < len(task.checks):
            notes.append("not every step could be checked: it takes ranks, and --seconds")
    if file := _saved(options):
        file.write(as_toml(network, times))
    settings = _least(options), options["algorithm"]
    unfit = faults(times)
    rows = {
        name: (scale_between if unfit else scale)(
            times, network, ranks, options["batch"], name, *settings
        )
        for name in scalings
    }
    notes += _notes(network, times, ranks, options, rows.get("strong", ()))
    return Plan(network, times, rows, checks, unfit, notes)


def _saved(options: Mapping[str, Any]) -> OutputFile | None:
    """Return the file of `--save`, if one is wanted."""
    if not options["save"]:
        return None
    return OutputFile("--save", Path(options["save"]), "a network", MARK, options["force"])


def _least(options: Mapping[str, Any]) -> int:
    """Return the bytes of a bucket, as the trainer reads the option."""
    return int(options["bucket_mb"] * 1e6)


def _checked(
    measured: Mapping[str, Any], times: StepTimes, here: Network, options: Mapping[str, Any]
) -> CheckReport:
    """Return a measured step of this host beside what the calibration alone predicts."""
    check = CheckReport(**measured)
    size, share = check.ranks, check.batch_per_rank
    settings = _least(options), options["algorithm"]
    predicted = predict(times, here, size, share, share * size, *settings).seconds
    return check._replace(predicted_seconds=predicted)


def _task(
    options: Mapping[str, Any], ranks: Sequence[int], scalings: Sequence[str]
) -> calibrate.Task:
    """Return what to measure: a rank's images of the plan, and few that lines run between."""
    shape, classes = input_and_classes(options)
    batch, size = options["batch"], local_ranks(max(ranks))
    shares = {1, min(batch, 2), max(batch // 8, 1), batch}
    checks = []
    if "strong" in scalings:
        shares.add(-(-batch // size))
        checks.append(-(-batch // size))
    if "weak" in scalings:
        checks.append(batch)
    wanted = tuple(dict.fromkeys(checks)) if options["check"] else ()
    return calibrate.Task(
        options["model"], shape, classes, tuple(sorted(shares)), wanted, options["bucket_mb"],
        options["seconds"],
    )  # fmt: skip


def local_ranks(most: int) -> int:
    """Return how many ranks measure here: two at least, else as many as cores, at most `most`."""
    cores = Cores.here(os.environ)
    return max(2, min(cores.mask, cores.cores, most))


def _calibrate(task: calibrate.Task, most: int, start: Start | None) -> dict[str, Any]:
    """Return what ranks of this machine find, or this process alone where none can be started."""
    if start is None:
        return calibrate.measure(SerialComm(), task)
    with tempfile.TemporaryDirectory(prefix="tallygrad-plan-") as name:
        folder = Path(name)
        (folder / calibrate.TASK).write_text(json.dumps(task._asdict()), "utf-8")
        command = ["plan", task.model, "--worker", name]
        status = start(local_ranks(most), command, task.seconds + PATIENCE)
        if status or not (folder / calibrate.RESULT).exists():
            raise UserError(f"plan: the ranks that measure ended with status {status}")
        return dict(json.loads((folder / calibrate.RESULT).read_text("utf-8")))


def _cpu() -> str:
    """Return the processor's name."""
    for line in Cores.here(os.environ).cpuinfo.splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return "a processor without a name"


def _room(network: Network, ranks: Sequence[int]) -> None:
    """UserError for more ranks than a network has room for."""
    for p in ranks:
        if network.count and p > network.count * network.per_host:
            raise UserError(
                f"--ranks: {p} ranks, but {network.name} has {network.count} hosts of "
                f"{network.per_host}"
            )


def _notes(
    network: Network, times: StepTimes, ranks: Sequence[int], options: Mapping[str, Any],
    strong: Sequence[Row],
) -> list[str]:  # fmt: skip
    """Return what a plan takes for granted."""
    notes = [STEP, f"computing was measured on {times.source}; images are random"]
    busy, wanted = times.busiest(), min(max(ranks), network.per_host)
    notes.append(f"and with {busy} busy ranks on the host")
    if wanted > busy:
        notes[-1] += f"; that {wanted} of a host slow each other down no more is assumed"
    if 0.5 ** (1 / max(ranks)) > LATEST:
        notes.append(f"a rank waits for steps up to the {100 * LATEST:.0f}th percentile, no later")
    if network.between is None and max(ranks) > network.per_host:
        notes.append(
            "the link between hosts is unknown: taken as that inside a host, which it hardly is; "
            "--network tells"
        )
    if options["batch"] > times.largest():
        notes.append(
            f"steps were measured up to {times.largest()} images, for want of time; up to "
            f"{options['batch']} they follow in a straight line"
        )
    if any(row.efficiency > 1 for row in strong):
        notes.append("an efficiency over 100%: fewer images of a rank took less time an image here")
    skipped = [p for p in ranks if p > options["batch"]]
    if skipped and options["scaling"] != "weak":
        notes.append(f"{skipped[0]} ranks and more cannot share {options['batch']} images")
    return notes


def _energy(machine: str, work: Callable[[int], Work]) -> Callable[[Row], Price] | None:
    """Return what tells a step's energy on all ranks, on a machine, if one is named; messages are
    not in it."""
    if not machine:
        return None
    priced = load_machine(machine)
    if not priced.has_energy:
        raise UserError(f"--machine: {priced.note}")

    @cache
    def rank(batch: int) -> Price:
        return cost_report(work(batch), machine=priced).totals.training_price or Price()

    def step(row: Row) -> Price:
        share, more = divmod(row.images, row.ranks)
        few = rank(share)
        many = rank(share + 1) if more else few
        if few.energy is None or many.energy is None:
            return Price()
        energy = (row.ranks - more) * few.energy + more * many.energy
        return Price(energy, unit=few.unit)

    return step


def _report(
    options: Mapping[str, Any],
    plan: Plan,
    work: Callable[[int], Work],
    energy: Callable[[Row], Price] | None,
) -> PlanReport:
    def row(one: Row) -> PlanRow:
        return PlanRow(one, memory(work(one.batch)), energy(one) if energy else None)

    shape, classes = input_and_classes(options)
    return PlanReport(
        model=options["model"],
        batch=options["batch"],
        input=shape,
        classes=classes,
        bucket_mb=options["bucket_mb"],
        machine=options["machine"] or None,
        network=plan.network,
        faults=plan.unfit,
        notes=plan.notes,
        checks=plan.checks,
        plans={scaling: [row(one) for one in rows] for scaling, rows in plan.rows.items()},
    )
