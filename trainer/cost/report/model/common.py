"""What several reports have: metrics, and the machine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

from ...machines.machine import Machine

Json: TypeAlias = dict[str, Any]
NOT_AVAILABLE = "not available"


class Metric(NamedTuple):
    """A benchmarking metric; `status` is measured, modelled, exact, or unknown where `value` is
    None, and `how` says where it is from or what would tell it."""

    value: Any
    unit: str
    status: str
    how: str


@dataclass(frozen=True)
class Metrics:
    """The metrics of the model and of the hardware, by name."""

    model: Mapping[str, Metric]
    hardware: Mapping[str, Metric]

    def groups(self) -> Sequence[tuple[str, Mapping[str, Metric]]]:
        """Return both groups with their names."""
        return (("model", self.model), ("hardware", self.hardware))

    def to_json(self) -> Json:
        """Return what `--json` prints."""
        return {
            name: {key: metric._asdict() for key, metric in group.items()}
            for name, group in self.groups()
        }


@dataclass(frozen=True)
class ZerosReport:
    """Where shares of zeros are from, None where none are known, and the layers `without` any;
    `bound` says what prices without zeros are."""

    source: str | None
    without: Sequence[str] = ()
    bound: str = ""

    def to_json(self) -> Json:
        """Return what `--json` prints."""
        return {"source": self.source, "without": [*self.without]}


@dataclass(frozen=True)
class MachineReport:
    """The machine that prices a report. `zeros` of a model are a report, those of a run a
    sentence."""

    name: str
    kind: str
    source: str
    note: str
    is_measured: bool = False
    measured: Mapping[str, float] | None = None
    zeros: ZerosReport | str | None = None

    @classmethod
    def of(
        cls, machine: Machine, zeros: ZerosReport | str | None = None, measured: bool = False
    ) -> MachineReport:
        """Return the report of a machine; `measured`: with the numbers of one that was."""
        numbers = machine.measured if measured else None
        told = (machine.name, machine.kind, machine.source, machine.note)
        return cls(*told, machine.is_measured, numbers, zeros)

    def to_json(self) -> Json:
        """Return what `--json` prints."""
        report: Json = {
            "name": self.name, "kind": self.kind, "source": self.source, "note": self.note
        }  # fmt: skip
        if self.measured is not None:
            energy = {} if "watts" in self.measured else {"energy_joules": NOT_AVAILABLE}
            report |= {"measured": {**self.measured}, **energy}
        if isinstance(self.zeros, ZerosReport):
            report["zeros"] = self.zeros.to_json()
        elif self.zeros is not None:
            report["zeros"] = self.zeros
        return report
