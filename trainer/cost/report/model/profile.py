"""The report of `tallygrad profile`: the time of a step on this host, by layer and pass."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from .....autograd.ledger import Cost
from ...roofline import Roofs
from ...workload import moved
from .common import NOT_AVAILABLE, Json


class ConvShare(NamedTuple):
    """The share of convolutions in the MACs and in the time of a phase, 0 to 1."""

    macs: float
    seconds: float


@dataclass(frozen=True)
class KernelReport:
    """The kernels of a layer in a phase: their time and work beside the bounds of this host."""

    layer: str
    phase: str
    kind: str
    seconds: float
    share: float
    cost: Cost
    bound_seconds: float
    roof: str

    @property
    def bytes(self) -> int:
        """Bytes read and written."""
        return moved(self.cost)

    @property
    def beats_its_bound(self) -> bool:
        """Whether the measured time is less than its lower bound, for example by caches."""
        return self.seconds < self.bound_seconds

    def to_json(self) -> Json:
        """Return what `--json` prints."""
        macs = self.cost.macs
        return {
            "layer": self.layer,
            "pass": self.phase,
            "kind": self.kind,
            "seconds": self.seconds,
            "share": self.share,
            "macs": macs,
            "executed": self.cost.executed,
            "bytes": self.bytes,
            "gflops": 2e-9 * macs / self.seconds if self.seconds else 0.0,
            "flops_per_byte": 2 * macs / self.bytes if self.bytes else 0.0,
            "bound_seconds": self.bound_seconds,
            "roof": self.roof,
        }


@dataclass(frozen=True)
class ProfileReport:
    """Where the time of a step goes on this host: what `tallygrad profile` prints. `joules` are
    None where RAPL's counters cannot be read."""

    model: str
    batch: int
    backend: str
    precision: str
    roofs: Roofs
    seconds: float
    joules: float | None
    conv_share: Mapping[str, ConvShare]
    layers: Sequence[KernelReport]

    @property
    def energy(self) -> float | str:
        """The joules of a step, or "not available"."""
        return NOT_AVAILABLE if self.joules is None else self.joules

    def to_json(self) -> Json:
        """Return what `--json` prints."""
        gflops, gbytes, precision = self.roofs
        return {
            "model": self.model,
            "batch": self.batch,
            "backend": self.backend,
            "precision": self.precision,
            "roofs": {"gflops": gflops, "gbytes_per_second": gbytes, "precision": precision},
            "seconds": self.seconds,
            "energy_joules": self.energy,
            "conv_share": {phase: share._asdict() for phase, share in self.conv_share.items()},
            "layers": [layer.to_json() for layer in self.layers],
        }
