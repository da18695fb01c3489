"""The course of a run for its bill: epochs, restarts, and what ranks exchanged."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

from ....autograd.ledger import Cost, Ledger
from ..run import EpochRecord, RestartRecord
from .model.bill import (
    CollectiveReport,
    EpochReport,
    PricedCost,
    RestartReport,
    RestartsReport,
)

# Bytes and messages are those of these algorithms: what a library of MPI does is not observable.
COLLECTIVES = {
    "allreduce": "ring; in a fixed order all-to-all and allgather, which send as much",
    "broadcast": "binomial tree",
}
Priced: TypeAlias = Callable[[Mapping[str, Cost]], PricedCost]


def collectives(ledger: Ledger) -> list[CollectiveReport]:
    """Return calls, bytes and messages of each collective and of what it exchanged, all ranks
    together."""
    return [
        CollectiveReport(
            row.key.primitive, row.key.scope, row.calls, row.cost.bytes_sent, row.cost.messages,
            COLLECTIVES[row.key.primitive],
        )
        for row in ledger.rows()
        if row.key.primitive in COLLECTIVES
    ]  # fmt: skip


def epochs(records: Sequence[EpochRecord], priced: Priced) -> list[EpochReport]:
    """Return what each whole epoch took by itself."""
    return [
        EpochReport(
            e.epoch, e.step, e.images, e.seconds, e.overhead_seconds, priced(e.phases),
            {name: priced({name: cost}) for name, cost in e.phases.items()},
        )
        for e in records
    ]  # fmt: skip


def step(ledger: Ledger, steps: int, lost: int) -> dict[str, Cost]:
    """Return what `lost` steps of training cost by phase, where the ledger has `steps` of them:
    without evaluation and without what is exchanged at a start and for a checkpoint."""
    costs: dict[str, Cost] = {}
    for (scope, phase), cost in ledger.sums(lambda key: key.scope_and_phase).items():
        shares_state = scope in ("weights", "buffers") and phase == "communicate"
        if phase != "evaluate" and not shares_state:
            costs[phase] = costs.get(phase, Cost()).plus(cost)
    return {name: _scaled(cost, lost, steps) for name, cost in costs.items()}


def evaluation(ledger: Ledger, evaluations: int, lost: int) -> Cost:
    """Return what `lost` evaluations cost, where the ledger has `evaluations` of them."""
    whole = ledger.total(lambda key: key.phase == "evaluate" and key.scope != "metrics")
    return _scaled(whole, lost, evaluations)


def _scaled(cost: Cost, part: int, of: int) -> Cost:
    return Cost(*[n * part // of for n in cost]) if of else Cost()


def restarts(
    records: Sequence[RestartRecord], ledger: Ledger, steps: int, evaluations: int, priced: Priced
) -> RestartsReport:
    """Return what was computed and lost, at least: steps at the average cost of the run's."""
    lost_work = step(ledger, steps, sum(r.at_least for r in records))
    repeated = sum(r.evaluations for r in records)
    lost_work["evaluate"] = evaluation(ledger, evaluations, repeated)
    each = [
        RestartReport(
            r.step, r.reached, r.log_every, r.evaluations, r.seconds, r.at_least, r.at_most
        )
        for r in records
    ]
    return RestartsReport(priced({n: cost for n, cost in lost_work.items() if any(cost)}), each)
