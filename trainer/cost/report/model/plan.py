"""The report of `tallygrad plan`: a step on more ranks than there are here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import NamedTuple

from ...cluster.network import Network
from ...cluster.scaling import RankMemory, Row
from ...price import Price
from .common import Json


class CheckReport(NamedTuple):
    """A step measured on this host beside the prediction from the calibration alone. `seconds` is
    the mean over rounds of their medians, which lie between `least` and `most`."""

    ranks: int
    batch_per_rank: int
    steps: int
    seconds: float
    least: float
    most: float
    predicted_seconds: float = 0.0

    @property
    def error(self) -> float:
        """The prediction over the measurement, less 1."""
        return self.predicted_seconds / self.seconds - 1

    def to_json(self) -> Json:
        """Return what `--json` prints."""
        return {**self._asdict(), "error": self.error}


@dataclass(frozen=True)
class PlanRow:
    """The plan for a number of ranks, with the memory of one rank and the energy of all ranks."""

    row: Row
    memory: RankMemory
    price: Price | None = None

    def to_json(self) -> Json:
        """Return what `--json` prints."""
        row = self.row
        return {
            "ranks": row.ranks,
            "hosts": row.hosts,
            "batch_per_rank": row.batch,
            "micro_batches_per_rank": row.split.most,
            "images": row.images,
            "step_seconds": row.seconds,
            "compute_seconds": row.compute,
            "waiting_seconds": row.waiting,
            "communication_seconds": row.communication,
            "exposed_seconds": row.exposed,
            "algorithm": row.algorithm,
            "traffic": asdict(row.traffic),
            "mpi_communication_seconds": row.mpi,
            "mpi_algorithm": row.mpi_algorithm,
            "efficiency": row.efficiency,
            "step_seconds_range": row.seconds_range,
            "efficiency_range": row.efficiency_range,
            "images_per_second": row.images / row.seconds,
            "memory_bytes": self.memory.to_json(),
            **(self.price.to_json() if self.price else {}),
        }


@dataclass(frozen=True)
class PlanReport:
    """Predicted steps by scaling: what `tallygrad plan` prints. `faults` say what makes the
    calibration unfit, `notes` what the plan assumes."""

    model: str
    batch: int
    input: Sequence[int]
    classes: int
    precision: str
    bucket_mb: float
    machine: str | None
    network: Network
    faults: Sequence[str]
    notes: Sequence[str]
    checks: Sequence[CheckReport]
    plans: Mapping[str, Sequence[PlanRow]]

    def to_json(self) -> Json:
        """Return what `--json` prints."""
        return {
            "model": self.model,
            "batch": self.batch,
            "input": [*self.input],
            "classes": self.classes,
            "precision": self.precision,
            "bucket_mb": self.bucket_mb,
            "machine": self.machine,
            "network": self.network.to_json(),
            "calibration": {"fit": not self.faults, "faults": [*self.faults]},
            "notes": [*self.notes],
            "check": [check.to_json() for check in self.checks],
            "plans": {
                scaling: [row.to_json() for row in rows] for scaling, rows in self.plans.items()
            },
        }
