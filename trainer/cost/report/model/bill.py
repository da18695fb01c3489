"""The report of `tallygrad bill`: a whole run, by phase, part, layer and epoch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from .....autograd.ledger import Cost, SparsitySample
from ...price import Price
from ...sparsity import share
from ...workload import other_operations
from .common import Json, MachineReport, Metrics


@dataclass(frozen=True)
class PricedCost:
    """Work and its price; `grams_co2` are known where a carbon intensity is given."""

    cost: Cost
    price: Price = field(default_factory=Price)
    grams_co2: float | None = None

    @property
    def other_ops(self) -> int:
        """Operations outside MACs."""
        return other_operations(self.cost)

    def to_json(self) -> Json:
        """Return what `--json` prints."""
        cost = self.cost
        carbon = {} if self.grams_co2 is None else {"grams_co2": self.grams_co2}
        return {
            "macs": cost.macs,
            "executed": cost.executed,
            "other_ops": self.other_ops,
            "bytes_read": cost.bytes_read,
            "bytes_written": cost.bytes_written,
            "bytes_sent": cost.bytes_sent,
            "messages": cost.messages,
            **self.price.to_json(),
            **carbon,
        }


@dataclass(frozen=True)
class PhaseReport:
    """A phase of a run or of a layer: its work, the bytes that the tape saved, summed over all
    calls, and the most bytes of results alive at once on one rank."""

    work: PricedCost
    activation_bytes_stashed: int = 0
    peak_bytes: int = 0

    def to_json(self) -> Json:
        """Return what `--json` prints."""
        return {
            **self.work.to_json(),
            "activation_bytes_stashed": self.activation_bytes_stashed,
            "peak_bytes": self.peak_bytes,
        }


@dataclass(frozen=True)
class RunLayer:
    """A layer of a run, by phase."""

    name: str
    phases: Mapping[str, PhaseReport]

    def to_json(self) -> Json:
        """Return what `--json` prints."""
        return {"name": self.name, "phases": _by_name(self.phases)}


class CollectiveReport(NamedTuple):
    """The calls of a collective that exchanged one kind of thing, `of`, summed over all ranks."""

    collective: str
    of: str
    calls: int
    bytes_sent: int
    messages: int
    algorithm: str


@dataclass(frozen=True)
class EpochReport:
    """A complete epoch by itself; `seconds_aside` of its seconds were not spent training. Ranks
    spent `exchange_exposed` of them on the exchange of gradients, on average, and hid the rest of
    it, `exchange_hidden`."""

    epoch: int
    steps: int
    images: int
    seconds: float
    seconds_aside: float
    work: PricedCost
    phases: Mapping[str, PricedCost]
    exchange_exposed: float = 0.0
    exchange_hidden: float = 0.0

    def to_json(self) -> Json:
        """Return what `--json` prints."""
        return {
            "epoch": self.epoch,
            "steps": self.steps,
            "images": self.images,
            "seconds": self.seconds,
            "seconds_aside": self.seconds_aside,
            "exchange_exposed_seconds": self.exchange_exposed,
            "exchange_hidden_seconds": self.exchange_hidden,
            **self.work.to_json(),
            "phases": _by_name(self.phases),
        }


class RestartReport(NamedTuple):
    """A restart: the step of its checkpoint, the step that the log had reached, and how many steps
    were lost."""

    step: int
    reached: int
    log_every: int
    evaluations: int
    seconds: float
    steps_at_least: int
    steps_at_most: int


@dataclass(frozen=True)
class RestartsReport:
    """A lower bound of the work that restarts lost, and each restart."""

    work: PricedCost
    each: Sequence[RestartReport]

    @property
    def steps_at_least(self) -> int:
        """Steps that are known to be lost."""
        return sum(one.steps_at_least for one in self.each)

    @property
    def steps_at_most(self) -> int:
        """Steps that may be lost."""
        return sum(one.steps_at_most for one in self.each)

    @property
    def evaluations(self) -> int:
        """Evaluations that are known to be lost."""
        return sum(one.evaluations for one in self.each)

    @property
    def seconds(self) -> float:
        """Seconds that are known to be lost."""
        return sum(one.seconds for one in self.each)

    def to_json(self) -> Json:
        """Return what `--json` prints."""
        return {
            "count": len(self.each),
            "steps_at_least": self.steps_at_least,
            "steps_at_most": self.steps_at_most,
            "evaluations_at_least": self.evaluations,
            "seconds_at_least": self.seconds,
            **self.work.to_json(),
            "each": [one._asdict() for one in self.each],
        }


@dataclass(frozen=True)
class SampleReport:
    """Counts and shares of zeros in a sample; a share of nothing is None."""

    sample: SparsitySample

    @property
    def nonzero_share(self) -> float | None:
        """The share of MACs without a zero factor."""
        return share(self.sample.nonzero, self.sample.macs)

    @property
    def activation_zeros(self) -> float | None:
        """The share of zeros among activations."""
        return share(self.sample.activation_zeros, self.sample.activations)

    @property
    def gradient_zeros(self) -> float | None:
        """The share of zeros among incoming gradients."""
        return share(self.sample.gradient_zeros, self.sample.gradients)

    @property
    def weight_zeros(self) -> float | None:
        """The share of zeros among weights."""
        return share(self.sample.weight_zeros, self.sample.weights)

    def to_json(self) -> Json:
        """Return what `--json` prints."""
        one = self.sample
        return {
            "macs": one.macs,
            "nonzero_macs": one.nonzero,
            "nonzero_share": self.nonzero_share,
            "uncounted_macs": one.uncounted,
            "activations": one.activations,
            "activation_zeros": one.activation_zeros,
            "activation_zero_share": self.activation_zeros,
            "gradients": one.gradients,
            "gradient_zeros": one.gradient_zeros,
            "gradient_zero_share": self.gradient_zeros,
            "weights": one.weights,
            "weight_zeros": one.weight_zeros,
            "weight_zero_share": self.weight_zeros,
        }


NO_SAMPLE = SampleReport(SparsitySample())


@dataclass(frozen=True)
class SampledLayer:
    """Samples of a layer, by phase."""

    name: str
    phases: Mapping[str, SampleReport]

    def of(self, phase: str) -> SampleReport:
        """Return the sample of a phase, an empty one where there is none."""
        return self.phases.get(phase, NO_SAMPLE)

    def to_json(self) -> Json:
        """Return what `--json` prints."""
        return {"name": self.name, "phases": _by_name(self.phases)}


@dataclass(frozen=True)
class SparsityReport:
    """Zeros in the sampled steps of a run, by phase, by layer and in total."""

    sampled_steps: int
    steps: int
    phases: Mapping[str, SampleReport]
    total: SampleReport
    layers: Sequence[SampledLayer]
    not_counted: str

    def to_json(self) -> Json:
        """Return what `--json` prints."""
        return {
            "sampled_steps": self.sampled_steps,
            "steps": self.steps,
            "phases": _by_name(self.phases),
            "total": self.total.to_json(),
            "layers": [layer.to_json() for layer in self.layers],
            "not_counted": self.not_counted,
        }


@dataclass(frozen=True)
class BillReport:
    """What a whole run cost: `tallygrad bill`. `training_macs` are those of all passes of training,
    `seconds` the wall-clock time of the run."""

    checkpoint: str
    steps: int
    epochs: float | None
    images: int
    seconds: float
    precision: str
    phases: Mapping[str, PhaseReport]
    parts: Mapping[str, PricedCost]
    total: PricedCost
    layers: Sequence[RunLayer]
    collectives: Sequence[CollectiveReport]
    each_epoch: Sequence[EpochReport]
    restarts: RestartsReport
    unsaved: RestartsReport
    training_macs: int
    not_recorded: Sequence[str]
    metrics: Metrics
    sparsity: SparsityReport | None = None
    machine: MachineReport | None = None
    grams_co2_per_kwh: float | None = None
    exchange_exposed: float = 0.0
    exchange_hidden: float = 0.0

    @property
    def forward(self) -> PhaseReport:
        """The forward passes of the training."""
        return self.phases.get("forward", PhaseReport(PricedCost(Cost())))

    @property
    def training_over_inference(self) -> float:
        """MACs of training over those of its own forward passes, 0 without any."""
        forward = self.forward.work.cost.macs
        return self.training_macs / forward if forward else 0.0

    @property
    def inferences(self) -> float:
        """How many images the finished model can answer for the MACs of its training."""
        forward = self.forward.work.cost.macs
        return self.training_macs * self.images / forward if forward else 0.0

    def to_json(self) -> Json:
        """Return what `--json` prints."""
        return {
            "checkpoint": self.checkpoint,
            "steps": self.steps,
            "epochs": self.epochs,
            "images": self.images,
            "seconds": self.seconds,
            "precision": self.precision,
            "phases": _by_name(self.phases),
            "parts": _by_name(self.parts),
            "total": self.total.to_json(),
            "layers": [layer.to_json() for layer in self.layers],
            "exchange_exposed_seconds": self.exchange_exposed,
            "exchange_hidden_seconds": self.exchange_hidden,
            "collectives": [one._asdict() for one in self.collectives],
            "each_epoch": [epoch.to_json() for epoch in self.each_epoch],
            "restarts": self.restarts.to_json(),
            "unsaved": self.unsaved.to_json(),
            "training_macs": self.training_macs,
            "training_over_inference": self.training_over_inference,
            "inferences": self.inferences,
            "not_recorded": [*self.not_recorded],
            **self._where_known(),
            "metrics": self.metrics.to_json(),
        }

    def _where_known(self) -> Json:
        known: Json = {}
        if self.epochs:
            macs = self.total.cost.macs / self.epochs
            known["per_epoch"] = {"macs": macs, "seconds": self.seconds / self.epochs}
        if self.sparsity is not None:
            known["sparsity"] = self.sparsity.to_json()
        if self.machine is not None:
            known["machine"] = self.machine.to_json()
        if self.grams_co2_per_kwh is not None:
            known["grams_co2"] = self.total.grams_co2
            known["grams_co2_per_kwh"] = self.grams_co2_per_kwh
        return known


def _by_name(reports: Mapping[str, Any]) -> Json:
    return {name: report.to_json() for name, report in reports.items()}
