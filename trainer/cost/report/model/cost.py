"""The report of `tallygrad cost`: a model, by layer and pass."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ...phases import PASSES
from ...price import Price
from ...workload import LayerShape
from .common import Json, MachineReport, Metrics


@dataclass(frozen=True)
class PassReport:
    """A pass of a layer: MACs, bytes read and written, peak bytes of results alive at once, and the
    price, None where no machine prices it."""

    macs: int
    bytes: int
    peak_bytes: int
    price: Price | None = None


@dataclass(frozen=True)
class LayerReport:
    """A layer of a model. `passes` has an entry for every phase of a training step, even where the
    layer has no work in it. `weights` leave out biases; `other_ops` are operations outside MACs."""

    name: str
    kind: str
    shape: LayerShape | None
    weights: int
    parameters: int
    passes: Mapping[str, PassReport]
    other_ops: int
    bytes_read: int
    bytes_written: int
    activation_bytes_stashed: int
    peak_bytes: int

    @property
    def prices(self) -> Mapping[str, Price]:
        """The prices of the passes that a machine prices."""
        return {name: one.price for name, one in self.passes.items() if one.price is not None}

    def to_json(self, is_priced: bool = False) -> Json:
        """Return what `--json` prints, with prices by pass if `is_priced`."""
        prices = {name: price.to_json() for name, price in self.prices.items()}
        return {
            "name": self.name,
            "kind": self.kind,
            "shape": self.shape and letters(self.shape),
            "weights": self.weights,
            "parameters": self.parameters,
            **{f"{name}_macs": self.passes[name].macs for name in PASSES},
            **{f"{name}_bytes": self.passes[name].bytes for name in PASSES},
            "other_ops": self.other_ops,
            "bytes_read": self.bytes_read,
            "bytes_written": self.bytes_written,
            "activation_bytes_stashed": self.activation_bytes_stashed,
            "peak_bytes": self.peak_bytes,
            **{f"{name}_peak_bytes": self.passes[name].peak_bytes for name in PASSES},
            **({"passes": prices} if is_priced else {}),
        }

    def to_row(self) -> Json:
        """Return a flat row for CSV; the letters of the shape and the prices by pass come last."""
        row = self.to_json()
        del row["shape"]
        prices = {
            f"{phase}_{name}": value
            for phase, price in self.prices.items()
            for name, value in price.to_json().items()
        }
        return row | (letters(self.shape) if self.shape else {}) | prices


def letters(shape: LayerShape) -> Json:
    """Return a shape in the letters of Sze et al. (2017); U is a pair where strides differ."""
    u = shape.U[0] if shape.U[0] == shape.U[1] else [*shape.U]
    return {**shape._asdict(), "U": u}


@dataclass(frozen=True)
class TrainingTotals:
    """Totals of a training step: MACs by pass and in total, bytes read and written, and the bytes
    that each rank sends. `over_inference` is the ratio of MACs to those of a forward pass."""

    macs: Mapping[str, int]
    total_macs: int
    total_bytes: int
    other_ops: int
    update_bytes: int
    exchange_bytes_per_rank: int
    over_inference: float
    activation_bytes_stashed: int
    price: Price | None = None

    def to_json(self) -> Json:
        """Return what `--json` prints under `training`."""
        return {
            **{f"{name}_macs": macs for name, macs in self.macs.items()},
            "total_macs": self.total_macs,
            "total_bytes": self.total_bytes,
            "other_ops": self.other_ops,
            "update_bytes": self.update_bytes,
            "exchange_bytes_per_rank": self.exchange_bytes_per_rank,
        }


@dataclass(frozen=True)
class Totals:
    """Sums over all layers, of a forward pass and, if counted, of a training step. `conv_share` is
    the share of convolutions in the MACs of inference."""

    weights: int
    parameters: int
    conv_weights: int
    fc_weights: int
    conv_macs: int
    fc_macs: int
    inference_macs: int
    inference_bytes: int
    conv_share: float
    peak_bytes: int
    training: TrainingTotals | None = None
    inference_price: Price | None = None

    def to_json(self) -> Json:
        """Return what `--json` prints."""
        report = {k: v for k, v in vars(self).items() if k not in ("training", "inference_price")}
        if self.training is not None:
            report |= {
                "training": self.training.to_json(),
                "training_over_inference": self.training.over_inference,
                "activation_bytes_stashed": self.training.activation_bytes_stashed,
            }
        if self.inference_price is not None:
            report["on_machine"] = {name: price.to_json() for name, price in self.prices.items()}
        return report

    @property
    def prices(self) -> Mapping[str, Price]:
        """The known prices of "inference" and "training"."""
        prices = {"inference": self.inference_price, "training": self.training_price}
        return {name: price for name, price in prices.items() if price is not None}

    @property
    def training_price(self) -> Price | None:
        """The price of a training step, None where it was not counted or priced."""
        return None if self.training is None else self.training.price


@dataclass(frozen=True)
class CostReport:
    """The cost of a model on a batch: what `tallygrad cost` prints."""

    model: str
    batch: int
    input: Sequence[int]
    precision: str
    conventions: Mapping[str, str]
    totals: Totals
    layers: Sequence[LayerReport]
    metrics: Metrics
    machine: MachineReport | None = None

    def to_json(self) -> Json:
        """Return what `--json` prints."""
        is_priced = self.machine is not None
        return {
            "model": self.model,
            "batch": self.batch,
            "input": [*self.input],
            "precision": self.precision,
            "conventions": {**self.conventions},
            "totals": self.totals.to_json(),
            "layers": [layer.to_json(is_priced) for layer in self.layers],
            **({"machine": self.machine.to_json()} if self.machine else {}),
            "metrics": self.metrics.to_json(),
        }
