"""The work of `tallygrad plan`: measure what the network file leaves open, predict, and report."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import NamedTuple, TypeAlias

from ..calibration import measure as calibrate
from ..calibration.host import load as load_machine
from ..calibration.result import Calibration, CalibrationTask
from ..cost.cluster.compression import Compression, parse_compress
from ..cost.cluster.fitness import faults
from ..cost.cluster.network import Network, as_toml
from ..cost.cluster.network import load as load_network
from ..cost.cluster.scaling import Row, memory, predict, rows, rows_between
from ..cost.cluster.step_time import StepTimes
from ..cost.cluster.transfers import ExchangeSettings
from ..cost.machines.machine import Machine
from ..cost.price import Price
from ..cost.pricing import cost_report
from ..cost.report.model.plan import CheckReport, PlanReport, PlanRow
from ..cost.workload import Work
from ..distributed.comm import SerialComm
from ..errors import UserError
from ..threads import HostCores
from .plan import PlanOptions, PlanRequest
from .plan_notes import assumptions
from .ranks import Start

PATIENCE = 600.0  # seconds beyond those of measuring, for code that is compiled once
WorkOf: TypeAlias = Callable[[int], Work]  # by images of a rank


class Basis(NamedTuple):
    """What a plan rests on: the network, the step times, measured steps to check the predictions
    against, and notes on where they come from."""

    network: Network
    times: StepTimes
    checks: Sequence[CheckReport] = ()
    notes: Sequence[str] = ()


def plan(request: PlanRequest, start: Start | None, why: str) -> PlanReport:
    """Return the plan. `start` runs a command on ranks of this host; without it, for the reason
    `why`, no link can be measured. UserError for what the network or the machine does not allow."""
    options, model = request.options, request.model

    @cache
    def work(batch: int) -> Work:
        return model.count(batch, training=True)

    work(1)  # a model that does not exist is refused before anything is measured
    machine = _machine(options.machine, model.precision)
    energy = _energy(machine, work) if machine else None
    basis = _basis(request, start, why)
    if file := options.saved:
        file.write(as_toml(basis.network, basis.times))
    unfit = faults(basis.times)
    found = _rows(request, basis, _exchange(options, work(1)), is_range=bool(unfit))
    return PlanReport(
        model=model.name,
        batch=options.batch,
        input=model.input,
        classes=model.classes,
        precision=model.precision,
        bucket_mb=options.bucket_mb,
        machine=options.machine or None,
        network=basis.network,
        faults=unfit,
        notes=[
            *basis.notes,
            *assumptions(request, basis.network, basis.times, found),
            *_note(machine),
        ],
        checks=basis.checks,
        plans={
            scaling: [
                PlanRow(
                    row,
                    memory(
                        work(row.split.size),
                        row.ranks if options.shard_optimizer else 1,
                        options.local_steps > 0,
                        row.split.most,
                    ),
                    energy(row) if energy else None,
                )
                for row in some
            ]
            for scaling, some in found.items()
        },
    )


def _exchange(options: PlanOptions, work: Work) -> ExchangeSettings:
    """Return what the options have ranks exchange. UserError where the model has none of it."""
    if not options.sync_batch_norm:
        return options.exchange
    if not work.norms:
        raise UserError(
            f"--sync-batch-norm: expected a model with batch norm, got {work.model}; leave the "
            "option out"
        )
    return options.exchange._replace(norms=work.norms)


def _rows(
    request: PlanRequest, basis: Basis, exchange: ExchangeSettings, is_range: bool
) -> dict[str, list[Row]]:
    """Return predictions by scaling, as ranges if `is_range`."""
    options, scaled = request.options, rows_between if is_range else rows
    if options.compress != "none":
        exchange = exchange._replace(compression=_compression(request, basis.times))
    return {
        name: scaled(
            basis.times, basis.network, request.ranks, options.batch, name, exchange
        )
        for name in request.scalings
    }  # fmt: skip


def _compression(request: PlanRequest, times: StepTimes) -> Compression:
    """Return how gradients are compressed, and how long that takes, as measured here."""
    from ..calibration.compression import measure

    model = request.model
    return measure(
        parse_compress(request.options.compress), model.name, model.input, model.classes,
        times.parameters, request.options.exchange.bucket_bytes,
    )  # fmt: skip


def _basis(request: PlanRequest, start: Start | None, why: str) -> Basis:
    """Return network and step times from the file of `--network`, and what it leaves open from a
    calibration here."""
    name, model = request.options.network, request.model
    network, times = Network("this host", "measured here", cores=_cores()), None
    if name != "calibrate":
        network, times = load_network(name)
    if per_host := request.options.ranks_per_host:
        network = replace(network, per_host=per_host)
    _check_room(network, request.ranks)
    if times is not None and not times.fits(
        model.name, model.input, model.classes, model.precision
    ):
        times = None
    if times is not None and network.known:
        return Basis(network, times, notes=[f"network and steps were not measured here: {name}"])
    if not network.known and start is None:
        raise UserError(f"--network {name}: no link inside a host, and {why}")
    return _measured(request, network, times, start)


def _measured(
    request: PlanRequest, network: Network, times: StepTimes | None, start: Start | None
) -> Basis:
    """Return the basis with what was open taken from a calibration on this host."""
    task = _task(request)
    result = _calibrate(task, request.most, start)
    here, measured = result.network(), result.step_times(task, _cpu())
    checks = [_checked(check, measured, here, request) for check in result.measured.checks]
    notes = []
    if len(checks) < len(task.checks):
        notes.append("not every step could be checked: it takes ranks, and --seconds")
    return Basis(network.completed(here), times or measured, checks, notes)


def _checked(
    check: CheckReport, times: StepTimes, here: Network, request: PlanRequest
) -> CheckReport:
    """Return a measured step of this host, exchanged as `train` does by default, beside what the
    calibration alone predicts."""
    size, share = check.ranks, check.batch_per_rank
    default = ExchangeSettings(request.options.exchange.bucket_bytes)
    predicted = predict(times, here, size, share * size, default).seconds
    return check._replace(predicted_seconds=predicted)


def _task(request: PlanRequest) -> CalibrationTask:
    """Return what to measure: the plan's images of a rank, and a few smaller numbers, between which
    times are interpolated."""
    options, model, batch = request.options, request.model, request.options.batch
    shares = {1, min(batch, 2), max(batch // 8, 1), batch}
    if parts := options.micro_batches:
        shares.add(-(-batch // parts))
    checks = []
    if "strong" in request.scalings:
        share = -(-batch // local_ranks(request.most))
        shares.add(share)
        checks.append(share)
    if "weak" in request.scalings:
        checks.append(batch)
    wanted = tuple(dict.fromkeys(checks)) if options.check else ()
    return CalibrationTask(
        model.name, model.input, model.classes, tuple(sorted(shares)), wanted, options.bucket_mb,
        options.seconds, model.precision,
    )  # fmt: skip


def local_ranks(most: int) -> int:
    """Return how many ranks measure here: one per core and at most `most`, but two at least, since
    a link takes two."""
    return max(2, min(_cores(), most))


def _cores() -> int:
    """Return the cores of this host that ranks may take."""
    cores = HostCores.here(os.environ)
    return min(cores.mask, cores.cores)


def _calibrate(task: CalibrationTask, most: int, start: Start | None) -> Calibration:
    """Return what ranks of this host find, or this process alone where none can be started."""
    if start is None:
        return calibrate.measure(SerialComm(), task)
    with tempfile.TemporaryDirectory(prefix="tallygrad-plan-") as name:
        folder = Path(name)
        (folder / calibrate.TASK).write_text(json.dumps(task._asdict()), "utf-8")
        command = ["plan", task.model, "--worker", name]
        status = start(local_ranks(most), command, task.seconds + PATIENCE)
        if status or not (folder / calibrate.RESULT).exists():
            raise UserError(f"plan: the ranks that measure ended with status {status}")
        return Calibration.from_json(json.loads((folder / calibrate.RESULT).read_text("utf-8")))


def _cpu() -> str:
    """Return the processor's name."""
    for line in HostCores.here(os.environ).cpuinfo.splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return "a processor without a name"


def _check_room(network: Network, ranks: Sequence[int]) -> None:
    """UserError for more ranks than a network has room for."""
    room = network.count * network.per_host
    for p in ranks:
        if network.count and p > room:
            raise UserError(
                f"--ranks: expected at most {room}, {network.count} hosts of {network.per_host} in "
                f"{network.name}, got {p}"
            )


def _machine(name: str, precision: str) -> Machine | None:
    """Return a machine as it computes in a precision, None for "". UserError for a machine without
    energies."""
    machine = load_machine(name, precision).at(precision) if name else None
    if machine and not machine.has_energy:
        raise UserError(f"--machine {name}: {machine.note}")
    return machine


def _note(machine: Machine | None) -> list[str]:
    if machine is None or not machine.precision_note:
        return []
    return [f"{machine.name}: {machine.precision_note}"]


def _energy(machine: Machine, work: WorkOf) -> Callable[[Row], Price]:
    """Return the function that gives a step's energy on all ranks, without messages."""

    @cache
    def rank(batch: int) -> Price:
        return cost_report(work(batch), machine=machine).totals.training_price or Price()

    def step(row: Row) -> Price:
        parts = row.split.parts
        share, more = divmod(row.images, parts)
        few = rank(share)
        many = rank(share + 1) if more else few
        if few.energy is None or many.energy is None:
            return Price()
        energy = (parts - more) * few.energy + more * many.energy
        if parts != row.ranks and not machine.needs_shapes:  # each rank updates once
            energy += (row.ranks - parts) * (machine.price(work(1).phase("update")).energy or 0.0)
        return Price(energy, unit=few.unit)

    return step
