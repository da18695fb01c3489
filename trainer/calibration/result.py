"""What a calibration is asked for and what it finds, as plain values that cross processes."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from ..cost.cluster.network import Exchange, Network
from ..cost.cluster.step_time import Step, StepTimes
from ..cost.cluster.traffic import Link
from ..cost.report.model.plan import CheckReport


class CalibrationTask(NamedTuple):
    """What to measure: a model's step by images a rank, checks by images a rank of all ranks, in
    about so many seconds."""

    model: str
    input: tuple[int, int, int]
    classes: int
    batches: tuple[int, ...]
    checks: tuple[int, ...]
    bucket_mb: float
    seconds: float
    precision: str = "float32"

    @classmethod
    def from_json(cls, text: str) -> CalibrationTask:
        """Return what `json.dumps(task._asdict())` wrote."""
        values = json.loads(text)
        lists = {key: tuple(values[key]) for key in ("input", "batches", "checks")}
        return cls(**{**values, **lists})


@dataclass(frozen=True)
class LinkMeasurement:
    """Messages between two ranks of this host: seconds and bytes a second, in both directions at
    once; `reduction`, the bytes a second that a rank adds; `factor`, the time of MPI's allreduce
    over that by formula, and `fixed_order_factor` the same of the trainer's sum in fixed order;
    `polled` and `threaded`, the shares of an exchange that go on while ranks compute; and
    `allreduce`, pairs of bytes and seconds."""

    latency: float
    bandwidth: float
    reduction: float
    factor: float
    fixed_order_factor: float
    polled: float
    threaded: float
    allreduce: tuple[tuple[int, float], ...]

    @property
    def overlap(self) -> str:
        """What drives an exchange best, by the names of `train --overlap`."""
        shares = {"none": 0.0, "poll": self.polled, "thread": self.threaded}
        return max(shares, key=shares.__getitem__)


@dataclass(frozen=True)
class StepMeasurements:
    """Steps of a model by images a rank, checks against the trainer's own steps, and what all of
    them share: the backend, and names and bytes of the parameters."""

    backend: str
    parameters: tuple[str, ...]
    bytes: tuple[int, ...]
    steps: tuple[Step, ...]
    checks: tuple[CheckReport, ...] = ()


@dataclass(frozen=True)
class Calibration:
    """What was measured on this host with so many `ranks`; `link` is None for one alone."""

    ranks: int
    library: str
    link: LinkMeasurement | None
    measured: StepMeasurements

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        measured = {
            **vars(self.measured),
            "steps": [step._asdict() for step in self.measured.steps],
            "checks": [check._asdict() for check in self.measured.checks],
        }
        link = asdict(self.link) if self.link else None
        return {"ranks": self.ranks, "library": self.library, "link": link, "measured": measured}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Calibration:
        """Return what `to_json` wrote."""
        link, measured = values["link"], values["measured"]
        messages = dict(link, allreduce=tuple(map(tuple, link["allreduce"]))) if link else None
        return cls(
            values["ranks"],
            values["library"],
            LinkMeasurement(**messages) if messages else None,
            StepMeasurements(
                measured["backend"],
                tuple(measured["parameters"]),
                tuple(measured["bytes"]),
                tuple(map(_step, measured["steps"])),
                tuple(CheckReport(**check) for check in measured["checks"]),
            ),
        )

    def network(self) -> Network:
        """Return what is known of the network between the ranks of this host."""
        link = self.link
        if link is None:
            return Network("this host", "no link was measured", "", self.ranks)
        where = f"measured between two ranks here, {self.library}"
        near = Link(link.latency, link.bandwidth, where)
        shares = link.polled, link.threaded  # the third way, to leave it all to the end, hides none
        exchange = Exchange(
            link.reduction, max(shares), link.factor, *shares, link.fixed_order_factor
        )
        return Network("this host", where, "", self.ranks, 0, near, None, exchange)

    def step_times(self, task: CalibrationTask, source: str) -> StepTimes:
        """Return the times of the task's step; `source` says where they were measured."""
        measured = self.measured
        return StepTimes(
            task.model, task.input, task.classes,
            f"{measured.backend}, one thread a rank, {source}",
            measured.parameters, measured.bytes, measured.steps, task.precision,
        )  # fmt: skip


def _step(values: dict[str, Any]) -> Step:
    """Return a step from plain values, whose lists are its tuples."""
    tuples = {key: tuple(values[key]) for key in ("seconds", "ready", "rounds")}
    return Step(**{**values, **tuples})
