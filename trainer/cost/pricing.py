"""The report of a model: its work, and the price of that work on a machine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from ...autograd.ledger import Cost
from .cluster.allreduce import ring_volume
from .machines.machine import Machine
from .phases import PASSES, PHASES
from .price import Price, add_up
from .report.metrics import of_model
from .report.model.common import MachineReport, ZerosReport
from .report.model.cost import CostReport, LayerReport, PassReport, Totals, TrainingTotals
from .sparsity import LayerZeros, Zeros
from .workload import LayerWork, Work, moved, other_operations


def cost_report(
    work: Work, ranks: int = 1, machine: Machine | None = None, zeros: Zeros | None = None
) -> CostReport:
    """Return the report of a model's work, by layer and pass and in total.

    `ranks` exchange the gradients of a training step. A machine prices the work, with the shares of
    `zeros` that are known. UserError for work that the machine cannot price.
    """
    machine = machine and machine.at(work.precision)
    layers = [
        _layer(layer, machine, zeros.of(layer.name) if zeros else None) for layer in work.layers
    ]
    totals = _totals(work, ranks)
    if machine is not None:
        totals = _priced(totals, layers, work, machine)
    known = _zeros(work, machine, zeros) if machine is not None and machine.uses_zeros else None
    metrics = of_model(work.model, work.batch, totals, layers, machine, known)
    return CostReport(
        work.model, work.batch, work.input, work.precision, _conventions(work), totals, layers,
        metrics,
        None if machine is None else MachineReport.of(machine, known, measured=True),
    )  # fmt: skip


def _conventions(work: Work) -> dict[str, str]:
    """Return how the work is counted, the optimizer's by its name and settings."""
    settings = " and ".join(work.settings).replace("_", " ")
    update = f"{work.optimizer} with {settings}" if settings else work.optimizer
    types = {"bf16": "bfloat16 and float32", "int8": "int8 and float32"}.get(
        work.precision, "float32"
    )
    return {
        "mac": "one multiply-accumulate, 2 FLOP; zero padding counts, bias additions do not",
        "weights": "filters and matrices, without biases and what normalisation learns",
        "backward_data": "none for an input that needs no gradient, as the first layer's",
        "bytes": f"{types}; each call reads its operands once and writes its results once",
        "update": update,
        "exchange": "ring allreduce: 2 (p - 1) / p of the gradients sent by each of p ranks",
        "peak_bytes": "results alive at once, each from the call that makes it to the last that "
        "reads it, a gradient of weights until it is added to the others; weights, their "
        "narrow copy, the flat gradient and the optimizer's slots are not counted",
    }


def _layer(layer: LayerWork, machine: Machine | None, zeros: LayerZeros | None) -> LayerReport:
    costs = layer.costs.values()
    return LayerReport(
        name=layer.name,
        kind=layer.kind,
        shape=layer.shapes[0] if layer.shapes else None,
        weights=layer.weights,
        parameters=layer.parameters,
        passes={name: _pass(layer, name, machine, zeros) for name in PHASES},
        other_ops=sum(map(other_operations, costs)),
        bytes_read=sum(cost.bytes_read for cost in costs),
        bytes_written=sum(cost.bytes_written for cost in costs),
        activation_bytes_stashed=layer.stashed,
        peak_bytes=max(layer.peaks.values(), default=0),
    )


def _pass(
    layer: LayerWork, name: str, machine: Machine | None, zeros: LayerZeros | None
) -> PassReport:
    moved_bytes = moved(layer.costs.get(name, Cost()))
    price = machine.price_layer(layer, name, zeros) if machine is not None else None
    return PassReport(layer.macs(name), moved_bytes, layer.peaks.get(name, 0), price)


def _totals(work: Work, ranks: int) -> Totals:
    forward = work.phase("forward")
    conv = sum(layer.macs("forward") for layer in work.layers if layer.kind == "conv")
    return Totals(
        weights=sum(layer.weights for layer in work.layers),
        parameters=work.parameters,
        conv_weights=sum(layer.weights for layer in work.layers if layer.kind == "conv"),
        fc_weights=sum(layer.weights for layer in work.layers if layer.kind == "fc"),
        conv_macs=conv,
        fc_macs=sum(layer.macs("forward") for layer in work.layers if layer.kind == "fc"),
        inference_macs=forward.macs,
        inference_bytes=moved(forward),
        conv_share=conv / forward.macs if forward.macs else 0.0,
        peak_bytes=work.peak,
        training=_training(work, ranks) if work.training else None,
    )


def _training(work: Work, ranks: int) -> TrainingTotals:
    macs = {name: work.phase(name).macs for name in PASSES}
    total, forward = sum(macs.values()), work.phase("forward").macs
    return TrainingTotals(
        macs=macs,
        total_macs=total,
        total_bytes=moved(work.ledger.total()),
        other_ops=sum(map(other_operations, work.ledger.by("phase").values())),
        update_bytes=moved(work.phase("update")),
        exchange_bytes_per_rank=exchanged(work.parameters, ranks),
        over_inference=total / forward if forward else 0.0,
        activation_bytes_stashed=sum(layer.stashed for layer in work.layers),
    )


def exchanged(parameters: int, ranks: int) -> int:
    """Return the bytes that a rank sends in a ring allreduce of float32 gradients."""
    return int(ring_volume(4 * parameters, ranks))


def _priced(totals: Totals, layers: list[LayerReport], work: Work, machine: Machine) -> Totals:
    """Return totals with the sums of the prices. The update belongs to no layer: a machine that
    prices by shapes leaves it out."""
    by_phase: Mapping[str, list[Price]] = {
        phase: [layer.prices[phase] for layer in layers if phase in layer.prices]
        for phase in PHASES
    }
    if not machine.needs_shapes:
        by_phase["update"].append(machine.price(work.phase("update")))
    training = totals.training
    if training is not None:
        every = add_up([price for prices in by_phase.values() for price in prices])
        training = replace(training, price=every)
    return replace(totals, training=training, inference_price=add_up(by_phase["forward"]))


def _zeros(work: Work, machine: Machine, zeros: Zeros | None) -> ZerosReport:
    """Return the source of the zeros, and the layers that are assumed to have none."""
    named = [layer.name for layer in work.layers if layer.macs("forward")]
    dense = [name for name in named if zeros is None or zeros.of(name) is None]
    return ZerosReport(zeros.source if zeros else None, dense, machine.without_zeros)
