"""The benchmarking metrics that a report should state of model and hardware (Sze, Chen, Yang and
Emer, Proc. IEEE 105(12), 2017). An unknown metric is listed too, with what would provide it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeGuard

from ...errors import printable
from ..machines.machine import Machine
from ..price import JOULES, MACS, Price
from ..run import Run
from .model.bill import NO_SAMPLE, PhaseReport, PricedCost, SparsityReport
from .model.common import MetricReport, Metrics, ZerosReport
from .model.cost import LayerReport, Totals
from .text_table import Column, fit, name_column, text_table
from .units import quantity

PER_IMAGE = "MACs/image"
PER_IMAGE_OF = {JOULES: "J/image", MACS: "MAC energies/image"}  # by unit of energy
UNKNOWN = "unknown"
ACCURACY = "accuracy"  # the one metric whose range is known, a share
ASK_MACHINE = "--machine prices it"


class Answer(NamedTuple):
    """One inference on a machine, as far as known: the price of a forward pass on `inputs` images
    at once, the mean number of busy units, and whether known zeros compress the images."""

    machine: Machine | None
    price: Price
    inputs: int
    used: float | None = None
    coded: bool = False


def unknown(unit: str, how: str) -> MetricReport:
    """Return a metric without a value; `how` says what would provide it."""
    return MetricReport(None, unit, UNKNOWN, how)


def of_model(
    model: str, batch: int, totals: Totals, layers: Sequence[LayerReport],
    machine: Machine | None, zeros: ZerosReport | None,
) -> Metrics:  # fmt: skip
    """Return the metrics of a model's report, those of hardware from a machine if there is one."""
    coded = zeros is not None and zeros.source is not None
    price = totals.inference_price or Price()
    answer = Answer(machine, price, batch, _used(layers), coded)
    needs = "needs trained weights: `tallygrad bill RUN`"
    macs = _share(totals.inference_macs, batch)
    about_weights = "from shapes; biases are not counted"
    return Metrics(
        {
            "network": MetricReport(model, "", "exact", "by name, with the input given"),
            ACCURACY: unknown("", needs),
            "weights": MetricReport(totals.weights, "weights", "exact", about_weights),
            "nonzero_weights": unknown("weights", needs),
            "macs": MetricReport(macs, PER_IMAGE, "exact", "from shapes"),
            "nonzero_macs": unknown(PER_IMAGE, "not measured: needs the numbers of a run"),
        },
        {**_hardware(answer), **_training_energy(totals.training_price or Price(), batch)},
    )


def of_run(
    run: Run, forward: PhaseReport | None, total: PricedCost, sparsity: SparsityReport | None,
    machine: Machine | None,
) -> Metrics:  # fmt: skip
    """Return the metrics of a bill; `forward` are the forward passes of the training."""
    images, batch = max(0, run.images), _positive(run.batch_size)
    price = _for_a_batch(forward.work.price if forward else Price(), batch or 1, images)
    answer = Answer(machine, price, batch or 1)
    return Metrics(
        _model_of_run(run, forward.work.cost.macs if forward else 0, images, sparsity),
        {
            **_hardware(answer),
            **_training_energy(total.price if images else Price(), images),
            **_measured(run, batch),
            "inputs": MetricReport(images, "images", "exact", "that training saw"),
        },
    )


def _for_a_batch(price: Price, batch: int, images: int) -> Price:
    """Return the price of a batch, as its share of that of all images."""
    return price.scaled(lambda amount: amount * batch / images) if images else Price()


def _model_of_run(
    run: Run, macs: int, images: int, sparsity: SparsityReport | None
) -> dict[str, MetricReport]:
    counted = "counted in the checkpoint; biases are not"
    of_image = unknown(PER_IMAGE, "the ledger has no forward pass")
    if images and macs:
        how = "forward passes of the training"
        of_image = MetricReport(_share(macs, images), PER_IMAGE, "exact", how)
    named = isinstance(run.model, str)
    return {
        "network": MetricReport(run.model, "", "exact", "on record")
        if named
        else unknown("", "not on record"),
        run.metric: _score(run),
        "weights": MetricReport(run.weights, "weights", "exact", counted),
        "nonzero_weights": MetricReport(run.nonzero_weights, "weights", "exact", counted),
        "macs": of_image,
        "nonzero_macs": _nonzero(sparsity, of_image.value),
    }


def _score(run: Run) -> MetricReport:
    """Return the value of the task's metric, and which direction is better unless it is higher."""
    value, step = run.score, run.evaluated
    if not _is_number(value) or (run.metric == ACCURACY and not 0 <= value <= 1):
        return unknown("", "no evaluation is on record: `tallygrad eval` measures it")
    at = f" after step {step}" if isinstance(step, int) else ""
    direction = "" if run.higher_is_better else "; lower is better"
    return MetricReport(float(value), "", "measured", f"on the test images{at}{direction}")


def _nonzero(sparsity: SparsityReport | None, macs: float | None) -> MetricReport:
    """Return MACs without a zero factor, estimated from their share on the sampled steps."""
    share = sparsity.phases.get("forward", NO_SAMPLE).nonzero_share if sparsity else None
    if sparsity is None or share is None or macs is None:
        return unknown(PER_IMAGE, "not measured: no step of the run was sampled for zeros")
    how = f"their share on {sparsity.sampled_steps:,} sampled steps"
    return MetricReport(macs * share, PER_IMAGE, "measured", how)


def _share(total: int, images: int) -> int | float:
    """Return a total per image, an int where it divides evenly."""
    return total // images if total % images == 0 else total / images


def _hardware(answer: Answer) -> dict[str, MetricReport]:
    """Return the metrics of one inference on a machine."""
    machine, price, inputs = answer.machine, answer.price, answer.inputs
    if machine is None:
        return {
            "machine": unknown("", ASK_MACHINE), "bits": unknown("bit", ASK_MACHINE),
            "energy_per_inference": unknown("J", ASK_MACHINE), "power": unknown("W", ASK_MACHINE),
            "off_chip_accesses": unknown("B/image", ASK_MACHINE),
            "latency": unknown("s", ASK_MACHINE), "throughput": unknown("images/s", ASK_MACHINE),
            "on_chip_storage": unknown("B", ASK_MACHINE),
            "units_used": unknown("units", ASK_MACHINE),
            "units_present": unknown("units", ASK_MACHINE),
            "inputs": MetricReport(inputs, "images", "exact", "at once"),
        }  # fmt: skip
    bits = unknown("bit", "the machine's file tells none")
    if machine.bits is not None:
        bits = MetricReport(machine.bits, "bit", "exact", "of a word, by the machine's file")
    return {
        "machine": MetricReport(machine.name, "", "modelled", _origin(machine)),
        "bits": bits,
        **_energy(machine, price, inputs),
        "off_chip_accesses": _off_chip(machine, price, inputs, answer.coded),
        **_time(machine, price, inputs),
        **_units(machine, answer.used),
        "inputs": MetricReport(inputs, "images", "exact", "at once"),
    }


def _energy(machine: Machine, price: Price, inputs: int) -> dict[str, MetricReport]:
    if price.energy is None:
        reason = "no energy is known for these passes"
        return {"energy_per_inference": unknown("J/image", reason), "power": unknown("W", reason)}
    how = "of a forward pass"
    if machine.needs_shapes:
        how += ", layers without products left out"
    energy = MetricReport(price.energy / inputs, PER_IMAGE_OF[price.unit], "modelled", how)
    return {"energy_per_inference": energy, "power": _power(price)}


def _power(price: Price) -> MetricReport:
    if price.joules is None:
        return unknown("W", "the machine's energies are relative to a MAC")
    if not price.latency_seconds:
        return unknown("W", "the machine tells no time")
    power = price.joules / price.latency_seconds
    return MetricReport(power, "W", "modelled", "energy over latency")


def _training_energy(price: Price, images: int) -> dict[str, MetricReport]:
    if price.energy is None:
        return {}
    how = "all that training takes, for an image"
    unit = PER_IMAGE_OF[price.unit]
    return {"energy_per_trained_image": MetricReport(price.energy / images, unit, "modelled", how)}


def _origin(machine: Machine) -> str:
    """Return the source of a machine's numbers."""
    return "measured now" if machine.is_measured else "its numbers are those of its file"


def _off_chip(machine: Machine, price: Price, inputs: int, coded: bool) -> MetricReport:
    moved = price.dram_bytes
    if moved is None:
        return unknown("words/image", "the machine's traffic is not known")
    how = machine.traffic_basis(coded)
    if machine.bits is None:
        return MetricReport(moved / inputs, "B/image", "modelled", how)
    words = 8 * moved / machine.bits / inputs
    return MetricReport(words, "words/image", "modelled", how)


def _time(machine: Machine, price: Price, inputs: int) -> dict[str, MetricReport]:
    seconds = price.latency_seconds
    if not seconds:
        reason = "the machine tells no time"
        return {"latency": unknown("s", reason), "throughput": unknown("images/s", reason)}
    batch = f"of a batch of {inputs:,}"
    least, most = (", at least", ", at most") if machine.bounds_time else ("", "")
    return {
        "latency": MetricReport(seconds, "s", "modelled", f"{batch}{least}"),
        "throughput": MetricReport(inputs / seconds, "images/s", "modelled", f"{batch}{most}"),
    }


def _units(machine: Machine, used: float | None) -> dict[str, MetricReport]:
    storage = unknown("B", "the machine's file tells none")
    present = unknown("units", "the machine's file tells none")
    if machine.units is not None:
        how = "rows x columns of the machine's file"
        present = MetricReport(machine.units, "units", "exact", how)
    if machine.storage_bytes is not None:
        how = "scratchpads of all units, and the buffer"
        storage = MetricReport(machine.storage_bytes, "B", "exact", how)
    mean = unknown("units", "the machine's file tells no units")
    if used is not None:
        how = "busy, in the mean over the time of an inference"
        mean = MetricReport(used, "units", "modelled", how)
    elif machine.units is not None:
        mean = unknown("units", "needs the shapes of layers: `tallygrad cost`")
    return {"on_chip_storage": storage, "units_used": mean, "units_present": present}


def _used(layers: Sequence[LayerReport]) -> float | None:
    """Return the mean number of busy units, weighted by the time of each layer's forward pass."""
    prices = [layer.prices["forward"] for layer in layers if "forward" in layer.prices]
    known = [(p.active_pes, p.latency_seconds or 0.0) for p in prices if p.active_pes is not None]
    seconds = math.fsum(time for _, time in known)
    busy = math.fsum(units * time for units, time in known)
    return busy / seconds if seconds else None


def _measured(run: Run, batch: int | None) -> dict[str, MetricReport]:
    """Return what was measured during the run itself: throughput, latency of a step, ranks."""
    overhead = run.overhead_seconds
    seconds = run.seconds - (overhead if _is_number(overhead) else 0.0)
    images, steps, ranks = run.images, run.steps, _positive(run.ranks)
    if not images or not steps or not 0 < seconds < math.inf:
        rate = unknown("images/s", "no time is on record")
        latency = unknown("s", "no time is on record")
    else:
        size = f"steps of {batch:,} images" if batch else "steps of a size not on record"
        rate = MetricReport(images / seconds, "images/s", "measured", f"training, {size}")
        latency = MetricReport(seconds / steps, "s", "measured", f"a step of training, {size}")
    count = unknown("ranks", "not on record")
    if ranks:
        count = MetricReport(ranks, "ranks", "measured", "in the newest part of the run")
    return {"training_throughput": rate, "training_latency": latency, "ranks": count}


def _positive(value: Any) -> int | None:
    return value if type(value) is int and 0 < value < 1 << 62 else None


def _is_number(value: Any) -> TypeGuard[float]:
    return type(value) in (int, float) and -1e300 < value < 1e300


def as_text(metrics: Metrics) -> str:
    """Return a table of the known metrics, and a line for the unknown ones of each reason."""
    lines = []
    for what, entries in metrics.groups():
        rows = [
            (name, shown(m), f"{m.status}: {m.how}")
            for name, m in by_reason(entries)
            if m.status != UNKNOWN
        ]
        columns = (
            name_column(f"metrics of the {what}"),
            Column("value", is_text=True),
            Column("known how", is_text=True, wraps=True),
        )
        lines += ["", *text_table(columns, rows)] if rows else ["", f"metrics of the {what}"]
        lines += [
            fit(f"{UNKNOWN} ({m.how}): {names}")
            for names, m in by_reason(entries)
            if m.status == UNKNOWN
        ]
    return "\n".join(lines[1:])


def by_reason(entries: Mapping[str, MetricReport]) -> list[tuple[str, MetricReport]]:
    """Return the metrics with their names. Those unknown for the same reason become one entry with
    all their names."""
    names: dict[str, list[str]] = {}
    for name, m in entries.items():
        key = f"{UNKNOWN}: {m.how}" if m.status == UNKNOWN else name
        names.setdefault(key, []).append(name)
    return [(", ".join(some).replace("_", " "), entries[some[0]]) for some in names.values()]


def shown(m: MetricReport) -> str:
    """Return value and unit. A text from a file is escaped, so that it cannot steer a terminal."""
    value = m.value
    if value is None:
        return "-"
    if isinstance(value, str):
        return printable(value)
    return quantity(value, m.unit)
