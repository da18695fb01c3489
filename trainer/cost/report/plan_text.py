"""The plan of a step on many ranks as text."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ..cluster.allreduce import FIXED_ORDER
from ..cluster.network import Network
from ..cluster.scaling import Row
from ..precision import named
from ..price import MACS
from .model.plan import CheckReport, PlanReport, PlanRow
from .text_table import Column, fit, text_table
from .units import short

SHOWN = 3  # faults of a calibration in the text
COLUMNS = (
    Column("ranks"), Column("allreduce", 4, is_text=True), Column("hosts", 6),
    Column("images a rank", 5), Column("step ms"), Column("compute ms", 2), Column("waiting ms", 2),
    Column("exposed ms", 2), Column("exchange ms", 3), Column("by MPI ms", 3),
    Column("efficiency %"), Column("images/s", 1), Column("memory", 3),
)  # fmt: skip


def as_text(report: PlanReport) -> str:
    """Return a table for each scaling, the checks, and the assumptions of the plan."""
    lines, model = _unfit(report.faults), named(report.model, report.precision)
    for scaling, rows in report.plans.items():
        scope = "for each rank" if scaling == "weak" else "for all ranks"
        what = f"{model}, {report.batch} images {scope} ({scaling} scaling)"
        priced = [Column(_energy_head(rows[0]), 1)] if report.machine and rows else []
        table = text_table([*COLUMNS, *priced], [_cells(row) for row in rows])
        lines += [fit(what), *table, ""]
    lines += [fit(_check(check)) for check in report.checks]
    return "\n".join([*lines, *map(fit, [*_network(report.network), *report.notes])])


def _energy_head(row: PlanRow) -> str:
    return "energy in MACs" if row.price and row.price.unit == MACS else "J"


def _unfit(faults: Sequence[str]) -> list[str]:
    """Return what makes a calibration unfit, and the way out; nothing where it is fit."""
    if not faults:
        return []
    more = [f"and {len(faults) - SHOWN} more (--json)"] if len(faults) > SHOWN else []
    listed = "; ".join([*faults[:SHOWN], *more])
    return [
        fit(f"unfit calibration: {listed}. Other work troubled the host, so times and efficiencies "
            "are ranges; measure again while it is idle."), "",
    ]  # fmt: skip


def _cells(planned: PlanRow) -> tuple[str, ...]:
    row = planned.row
    steps = row.seconds_range or (row.seconds,)
    shares = row.efficiency_range or (row.efficiency,)
    energy = planned.price.energy if planned.price else None
    return (
        str(row.ranks), row.algorithm, str(row.hosts), str(row.batch),
        _range(f"{1e3 * seconds:.2f}" for seconds in steps),
        *[f"{1e3 * seconds:.2f}" for seconds in _times(row)],
        _range(f"{100 * share:.1f}" for share in shares),
        _range(short(row.images / seconds) for seconds in reversed(steps)),
        f"{short(planned.memory.total)}B",
        *([] if energy is None else [short(energy)]),
    )  # fmt: skip


def _times(row: Row) -> tuple[float, ...]:
    return row.compute, row.waiting, row.exposed, row.communication, row.mpi


def _range(ends: Iterable[str]) -> str:
    """Return equal texts as one, others as a range."""
    return "-".join(dict.fromkeys(ends))


def _check(check: CheckReport) -> str:
    return (
        f"check: {check.ranks} ranks here, {check.batch_per_rank} images a rank: predicted "
        f"{1e3 * check.predicted_seconds:.2f} ms, measured {1e3 * check.seconds:.2f} ms "
        f"({check.steps} steps), error {100 * check.error:+.1f}%"
    )


def _network(network: Network) -> list[str]:
    """Return lines on the links and the exchange, as far as known."""
    links = (("inside", network.inside), ("between", network.between))
    lines = [
        f"{where} hosts: {1e6 * link.latency:.2f} us, {1e-9 * link.bandwidth:.3g} GB/s "
        f"({link.source})"
        for where, link in links
        if link
    ]
    if network.exchange is not None:
        held = network.exchange
        lines.append(
            f"a rank adds {1e-9 * held.reduction:.3g} GB/s; inside a host, MPI's allreduce takes "
            f"{held.factor:.2f} times as long as by formula, a sum in fixed order "
            f"{held.slowness(FIXED_ORDER):.2f} times; {100 * held.overlap:.0f}% of an exchange "
            "goes on while ranks compute"
        )
    return [*lines, network.note] if network.note else lines
