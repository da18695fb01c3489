"""What a report should tell of a model and of hardware: the benchmarking metrics of Sze, Chen,
Yang and Emer, Proc. IEEE 105(12), 2017. What is not known is said, with what would tell it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple, TypeGuard

import numpy as np
from numpy.typing import NDArray

from ...components.state import MODEL
from ...errors import printable
from ..machines.machine import Machine
from .text_table import Column, fit, name_column, text_table
from .units import quantity

PER_IMAGE = "MACs/image"
AMOUNTS = ("latency_seconds", "dram_bytes")
UNKNOWN = "unknown"
ASK_MACHINE = "--machine prices it"
Metric = dict[str, Any]
Metrics = dict[str, dict[str, Metric]]


class Answer(NamedTuple):
    """One inference on a machine, as far as it is known: what a forward pass takes for `inputs`
    images at once, the numbers of the machine, and whether images are coded by known zeros."""

    machine: Machine | None
    price: Mapping[str, float]
    inputs: int
    used: float | None = None
    coded: bool = False


def metric(value: Any, unit: str, status: str, how: str) -> Metric:
    """Return a metric; `status` is measured, modelled, exact, or unknown where value is None."""
    return {"value": value, "unit": unit, "status": status, "how": how}


def unknown(unit: str, how: str) -> Metric:
    """Return a metric that nothing here tells."""
    return metric(None, unit, UNKNOWN, how)


def of_model(described: Mapping[str, Any], machine: Machine | None) -> Metrics:
    """Return the metrics of what `tallygrad cost` describes, priced if there is a machine."""
    totals, batch = described["totals"], described["batch"]
    prices = totals.get("on_machine", {})
    coded = described.get("machine", {}).get("zeros", {}).get("source") is not None
    answer = Answer(machine, prices.get("inference", {}), batch, _used(described["layers"]), coded)
    needs = "needs trained weights: `tallygrad bill RUN`"
    return {
        "model": {
            "network": metric(described["model"], "", "exact", "by name, with the input given"),
            "accuracy": unknown("", needs),
            "weights": metric(
                totals["weights"], "weights", "exact", "from shapes; biases are not counted"
            ),
            "nonzero_weights": unknown("weights", needs),
            "macs": metric(
                _share(totals["inference_macs"], batch), PER_IMAGE, "exact", "from shapes"
            ),
            "nonzero_macs": unknown(PER_IMAGE, "not measured: needs the numbers of a run"),
        },
        "hardware": {**_hardware(answer), **_training_energy(prices.get("training", {}), batch)},
    }


def of_run(
    described: Mapping[str, Any], tensors: Mapping[str, NDArray[Any]], meta: Mapping[str, Any],
    machine: Machine | None,
) -> Metrics:  # fmt: skip
    """Return the metrics of a bill, with the tensors and the record of the run's checkpoint, which
    are not trusted."""
    forward, images = described["phases"].get("forward", {}), max(0, described["images"])
    batch = _positive(_config(meta).get("batch_size"))
    answer = Answer(machine, _scaled(forward, batch or 1, images), batch or 1)
    return {
        "model": _model_of_run(forward, images, tensors, meta, described.get("sparsity", {})),
        "hardware": {
            **_hardware(answer),
            **_training_energy(described["total"] if images else {}, images),
            **_measured(described, meta, batch),
            "inputs": metric(images, "images", "exact", "that training saw"),
        },
    }


def _scaled(figures: Mapping[str, float], batch: int, images: int) -> dict[str, float]:
    """Return what a machine makes of a batch, from what it makes of all images."""
    priced = {k: v for k, v in figures.items() if k.startswith("energy_") or k in AMOUNTS}
    return {key: value * batch / images for key, value in priced.items()} if images else {}


def _model_of_run(
    forward: Mapping[str, Any], images: int, tensors: Mapping[str, NDArray[Any]],
    meta: Mapping[str, Any], sparsity: Mapping[str, Any],
) -> dict[str, Metric]:  # fmt: skip
    weights = [a for name, a in tensors.items() if name.startswith(MODEL) and a.ndim > 1]
    counted = "counted in the checkpoint; biases are not"
    macs = unknown(PER_IMAGE, "the books hold no forward pass")
    if images and forward.get("macs"):
        how = "forward passes of the training"
        macs = metric(_share(forward["macs"], images), PER_IMAGE, "exact", how)
    name = meta.get("model")
    return {
        "network": metric(name, "", "exact", "on record")
        if isinstance(name, str)
        else unknown("", "not on record"),
        "accuracy": _accuracy(meta),
        "weights": metric(sum(a.size for a in weights), "weights", "exact", counted),
        "nonzero_weights": metric(
            sum(int(np.count_nonzero(a)) for a in weights), "weights", "exact", counted
        ),
        "macs": macs,
        "nonzero_macs": _nonzero(sparsity, macs["value"]),
    }


def _accuracy(meta: Mapping[str, Any]) -> Metric:
    value, step = meta.get("accuracy"), meta.get("evaluated")
    if not _is_number(value) or not 0 <= value <= 1:
        return unknown("", "no evaluation is on record: `tallygrad eval` measures it")
    at = f" after step {step}" if isinstance(step, int) else ""
    return metric(float(value), "", "measured", f"on the test images{at}")


def _nonzero(sparsity: Mapping[str, Any], macs: float | None) -> Metric:
    """Return MACs without a zero, by their share on the steps whose zeros a run counted, if any."""
    share = sparsity.get("phases", {}).get("forward", {}).get("nonzero_share")
    if share is None or macs is None:
        return unknown(PER_IMAGE, "not measured: no step of the run was sampled for zeros")
    how = f"their share on {sparsity['sampled_steps']:,} sampled steps"
    return metric(macs * share, PER_IMAGE, "measured", how)


def _share(total: int, images: int) -> int | float:
    """Return a total for one image, whole where it is."""
    return total // images if total % images == 0 else total / images


def _hardware(answer: Answer) -> dict[str, Metric]:
    """Return what a machine makes of one inference."""
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
            "inputs": metric(inputs, "images", "exact", "at once"),
        }  # fmt: skip
    bits = unknown("bit", "the machine's file tells none")
    if machine.bits is not None:
        bits = metric(machine.bits, "bit", "exact", "of a word, by the machine's file")
    return {
        "machine": metric(machine.name, "", "modelled", _origin(machine)),
        "bits": bits,
        **_energy(machine, price, inputs),
        "off_chip_accesses": _off_chip(machine, price, inputs, answer.coded),
        **_time(price, inputs),
        **_units(machine, answer.used),
        "inputs": metric(inputs, "images", "exact", "at once"),
    }


def _energy(machine: Machine, price: Mapping[str, float], inputs: int) -> dict[str, Metric]:
    how = "of a forward pass"
    if machine.needs_shapes:
        how += ", layers without products left out"
    for unit, name in (("joules", "J/image"), ("macs", "MAC energies/image")):
        energy = price.get(f"energy_{unit}")
        if energy is None:
            continue
        seconds = price.get("latency_seconds")
        if unit != "joules":
            power = unknown("W", "the machine's energies are relative to a MAC")
        elif not seconds:
            power = unknown("W", "the machine tells no time")
        else:
            power = metric(energy / seconds, "W", "modelled", "energy over latency")
        return {
            "energy_per_inference": metric(energy / inputs, name, "modelled", how),
            "power": power,
        }
    lacks = "no energy is known for these passes"
    return {"energy_per_inference": unknown("J/image", lacks), "power": unknown("W", lacks)}


def _training_energy(price: Mapping[str, float], images: int) -> dict[str, Metric]:
    for unit, name in (("joules", "J/image"), ("macs", "MAC energies/image")):
        energy = price.get(f"energy_{unit}")
        if energy is not None:
            how = "all that training takes, for an image"
            return {"energy_per_trained_image": metric(energy / images, name, "modelled", how)}
    return {}


def _origin(machine: Machine) -> str:
    """Return where a machine's numbers are from."""
    return "measured now" if machine.is_measured else "its numbers are those of its file"


def _off_chip(
    machine: Machine, price: Mapping[str, float], inputs: int, coded: bool
) -> Metric:
    moved = price.get("dram_bytes")
    if moved is None:
        return unknown("words/image", "the machine's traffic is not known")
    how = machine.traffic_basis(coded)
    if machine.bits is None:
        return metric(moved / inputs, "B/image", "modelled", how)
    words = 8 * moved / machine.bits / inputs
    return metric(words, "words/image", "modelled", how)


def _time(price: Mapping[str, float], inputs: int) -> dict[str, Metric]:
    seconds = price.get("latency_seconds")
    if not seconds:
        lacks = "the machine tells no time"
        return {"latency": unknown("s", lacks), "throughput": unknown("images/s", lacks)}
    batch = f"of a batch of {inputs:,}"
    return {
        "latency": metric(seconds, "s", "modelled", f"{batch}, at least"),
        "throughput": metric(inputs / seconds, "images/s", "modelled", f"{batch}, at most"),
    }


def _units(machine: Machine, used: float | None) -> dict[str, Metric]:
    storage = unknown("B", "the machine's file tells none")
    present = unknown("units", "the machine's file tells none")
    if machine.units is not None:
        present = metric(machine.units, "units", "exact", "rows x columns of the machine's file")
    if machine.storage_bytes is not None:
        how = "scratchpads of all units, and the buffer"
        storage = metric(machine.storage_bytes, "B", "exact", how)
    mean = unknown("units", "the machine's file tells no units")
    if used is not None:
        mean = metric(used, "units", "modelled", "busy, in the mean over the time of an inference")
    elif machine.units is not None:
        mean = unknown("units", "needs the shapes of layers: `tallygrad cost`")
    return {"on_chip_storage": storage, "units_used": mean, "units_present": present}


def _used(layers: list[dict[str, Any]]) -> float | None:
    """Return the units that are busy, in the mean over the time of the forward passes."""
    prices = [layer.get("passes", {}).get("forward", {}) for layer in layers]
    known = [p for p in prices if "active_pes" in p]
    seconds = math.fsum(p["latency_seconds"] for p in known)
    busy = math.fsum(p["active_pes"] * p["latency_seconds"] for p in known)
    return busy / seconds if seconds else None


def _measured(
    described: Mapping[str, Any], meta: Mapping[str, Any], batch: int | None
) -> dict[str, Metric]:
    """Return what the run itself took where it ran."""
    aside = meta.get("aside")
    seconds = described["seconds"] - (aside if _is_number(aside) else 0.0)
    images, steps, ranks = described["images"], described["steps"], _positive(meta.get("ranks"))
    if not images or not steps or not 0 < seconds < math.inf:
        rate = unknown("images/s", "no time is on record")
        latency = unknown("s", "no time is on record")
    else:
        size = f"steps of {batch:,} images" if batch else "steps of a size not on record"
        rate = metric(images / seconds, "images/s", "measured", f"training, {size}")
        latency = metric(seconds / steps, "s", "measured", f"a step of training, {size}")
    count = unknown("ranks", "not on record")
    if ranks:
        count = metric(ranks, "ranks", "measured", "in the newest part of the run")
    return {"training_throughput": rate, "training_latency": latency, "ranks": count}


def _config(meta: Mapping[str, Any]) -> Mapping[str, Any]:
    held = meta.get("config")
    return held if isinstance(held, dict) else {}


def _positive(value: Any) -> int | None:
    return value if type(value) is int and 0 < value < 1 << 62 else None


def _is_number(value: Any) -> TypeGuard[float]:
    return type(value) in (int, float) and -1e300 < value < 1e300


def as_text(metrics: Metrics) -> str:
    """Return a table of what is known, and lines of what is not, by what would tell it."""
    lines = []
    for what, entries in metrics.items():
        rows = [
            (name, shown(m), f"{m['status']}: {m['how']}")
            for name, m in by_reason(entries)
            if m["status"] != UNKNOWN
        ]
        columns = (
            name_column(f"metrics of the {what}"), Column("value", is_text=True),
            Column("known how", is_text=True, wraps=True),
        )  # fmt: skip
        lines += ["", *text_table(columns, rows)] if rows else ["", f"metrics of the {what}"]
        lines += [
            fit(f"{UNKNOWN} ({m['how']}): {names}")
            for names, m in by_reason(entries)
            if m["status"] == UNKNOWN
        ]
    return "\n".join(lines[1:])


def by_reason(entries: Mapping[str, Metric]) -> list[tuple[str, Metric]]:
    """Return the metrics with their names, those that are unknown for the same reason as one, with
    the names of all."""
    names: dict[str, list[str]] = {}
    for name, m in entries.items():
        key = f"{UNKNOWN}: {m['how']}" if m["status"] == UNKNOWN else name
        names.setdefault(key, []).append(name)
    return [
        (", ".join(some).replace("_", " "), entries[some[0]]) for some in names.values()
    ]


def shown(m: Metric) -> str:
    """Return value and unit; a text keeps its escapes, so that it cannot steer a terminal."""
    value = m["value"]
    if value is None:
        return "-"
    if isinstance(value, str):
        return printable(value)
    return quantity(value, m["unit"])
