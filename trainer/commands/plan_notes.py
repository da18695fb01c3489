"""What `tallygrad plan` takes for granted, in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..cost.cluster.micro_batches import split
from ..cost.cluster.network import Network
from ..cost.cluster.scaling import LATEST, Row
from ..cost.cluster.step_time import StepTimes
from .plan import PlanRequest

STEP = (
    "a step of the trainer on one thread a rank: loading, augmenting, forward, backward, exchange, "
    "update; without evaluation, checkpoints and log"
)


def assumptions(
    request: PlanRequest, network: Network, times: StepTimes, found: Mapping[str, Sequence[Row]]
) -> list[str]:
    """Return what a plan takes for granted; `found` are its rows by scaling."""
    batch = request.options.batch
    notes = [STEP, f"computing was measured on {times.source}; images are random"]
    splits = [row.split for some in found.values() for row in some]
    most = max(each.busy for each in splits)
    busy, wanted = times.busiest(), network.busy(most)
    if (turns := network.turns(most)) > 1:
        notes.append(f"up to {turns} ranks take turns on a core, each from start to end")
    notes.append(f"and with {busy} busy ranks on the host")
    if wanted > busy:
        notes[-1] += f"; that {wanted} of a host slow each other down no more is assumed"
    if 0.5 ** (1 / max(each.working for each in splits)) > LATEST:
        notes.append(f"a rank waits for steps up to the {100 * LATEST:.0f}th percentile, no later")
    if network.between is None and request.most > network.per_host:
        notes.append(
            "the link between hosts is unknown: taken as that inside a host, which it hardly is; "
            "--network tells"
        )
    if request.options.compress != "none":
        notes.append("compressing was measured here, on one thread; no exchange hides it")
    if request.options.shard_optimizer:
        notes.append("--shard-optimizer: computing includes the update of all weights on each rank")
    if request.options.sync_batch_norm:
        notes.append("--sync-batch-norm: computing is that of plain batch norm")
    notes += _micro_batches(request)
    alone = split(batch, 1, 1, request.options.micro_batches)
    needed = max(each.size for each in [alone, *splits])
    if needed > times.largest():
        notes.append(
            f"steps were measured up to {times.largest()} images, for want of time; up to "
            f"{needed} they follow in a straight line"
        )
    if any(row.efficiency > 1 for row in found.get("strong", ())):
        notes.append("an efficiency over 100%: fewer images of a rank took less time an image here")
    skipped = [p for p in request.ranks if p > batch]
    if skipped and request.options.scaling != "weak":
        notes.append(f"{skipped[0]} ranks and more cannot share {batch} images")
    return notes


def _micro_batches(request: PlanRequest) -> list[str]:
    """Return what is to be said of micro-batches, nothing where each rank has one."""
    count = request.options.micro_batches
    idle = [p for p in request.ranks if p > count]
    if not count:
        return []
    more = [f"--micro-batches: of {idle[0]} ranks and more, {count} compute"] if idle else []
    return ["--micro-batches: those of a rank take as long as the largest one each", *more]
