"""The history of a run for its bill: epochs, restarts, and what ranks exchanged."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

from ....autograd.ledger import Cost, Ledger
from ..run import EpochRecord, RestartRecord, Run
from .model.bill import (
    CollectiveReport,
    EpochReport,
    PricedCost,
    RestartReport,
    RestartsReport,
)

# Bytes and messages are those of these algorithms; what an MPI library really sends is not visible.
COLLECTIVES = {
    "allreduce": "ring; in a fixed order all-to-all and allgather, which send as much",
    "allreduce_hierarchical": "through shared memory in a node (sends nothing); ring among nodes",
    "allreduce_half": "16 bits: all-to-all and allgather",
    "allreduce_top_k": "the largest numbers: allgather over a ring",
    "allreduce_low_rank": "factors of matrices: two allreduces over a ring",
    "broadcast": "binomial tree",
}
Priced: TypeAlias = Callable[[Mapping[str, Cost]], PricedCost]


def collectives(ledger: Ledger) -> list[CollectiveReport]:
    """Return calls, bytes and messages by collective and by what was exchanged, summed over all
    ranks."""
    return [
        CollectiveReport(
            row.key.primitive, row.key.scope, row.calls, row.cost.bytes_sent, row.cost.messages,
            COLLECTIVES[row.key.primitive],
        )
        for row in ledger.rows()
        if row.key.primitive in COLLECTIVES
    ]  # fmt: skip


def epochs(records: Sequence[EpochRecord], priced: Priced) -> list[EpochReport]:
    """Return the work and the time of each complete epoch by itself."""
    return [
        EpochReport(
            e.epoch, e.step, e.images, e.seconds, e.overhead_seconds, priced(e.phases),
            {name: priced({name: cost}) for name, cost in e.phases.items()},
            e.exchange_exposed, e.exchange_hidden,
        )
        for e in records
    ]  # fmt: skip


def step(ledger: Ledger, steps: int, lost: int) -> dict[str, Cost]:
    """Return the cost of `lost` training steps by phase, as a share of the `steps` in the ledger.
    Evaluation is left out, and so are exchanges at the start and for checkpoints."""
    costs: dict[str, Cost] = {}
    for (scope, phase), cost in ledger.sums(lambda key: key.scope_and_phase).items():
        shares_state = scope in ("weights", "buffers") and phase == "communicate"
        if phase != "evaluate" and not shares_state:
            costs[phase] = costs.get(phase, Cost()).plus(cost)
    return {name: _scaled(cost, lost, steps) for name, cost in costs.items()}


def evaluation(ledger: Ledger, evaluations: int, lost: int) -> Cost:
    """Return the cost of `lost` evaluations, as a share of the `evaluations` in the ledger."""
    whole = ledger.total(lambda key: key.phase == "evaluate" and key.scope != "metrics")
    return _scaled(whole, lost, evaluations)


def _scaled(cost: Cost, part: int, whole: int) -> Cost:
    return Cost(*[n * part // whole for n in cost]) if whole else Cost()


def restarts(records: Sequence[RestartRecord], run: Run, priced: Priced) -> RestartsReport:
    """Return a lower bound of the work that restarts lost: lost steps at the run's average cost."""
    lost_work = step(run.ledger, run.steps, sum(r.at_least for r in records))
    repeated = sum(r.evaluations for r in records)
    lost_work["evaluate"] = evaluation(run.ledger, run.evaluations, repeated)
    each = [
        RestartReport(
            r.step, r.reached, r.log_every, r.evaluations, r.seconds, r.at_least, r.at_most
        )
        for r in records
    ]
    return RestartsReport(priced({n: cost for n, cost in lost_work.items() if any(cost)}), each)
