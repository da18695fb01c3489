"""Parts that several reports have: metrics, and the machine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

from ...machines.machine import Machine

Json: TypeAlias = dict[str, Any]
NOT_AVAILABLE = "not available"


class MetricReport(NamedTuple):
    """A benchmarking metric. `status` is "exact", "measured" or "modelled", or "unknown" where
    `value` is None; `how` says where the value comes from, or what would provide it."""

    value: Any
    unit: str
    status: str
    how: str


@dataclass(frozen=True)
class Metrics:
    """The metrics of model and hardware, by name."""

    model: Mapping[str, MetricReport]
    hardware: Mapping[str, MetricReport]

    def groups(self) -> Sequence[tuple[str, Mapping[str, MetricReport]]]:
        """Return both groups, each with its name."""
        return (("model", self.model), ("hardware", self.hardware))

    def to_json(self) -> Json:
        """Return what `--json` prints."""
        return {
            name: {key: metric._asdict() for key, metric in group.items()}
            for name, group in self.groups()
        }


@dataclass(frozen=True)
class ZerosReport:
    """The source of the shares of zeros, None where none are known, and the layers `without` any.
    `bound` says what prices without zeros mean, such as an upper bound."""

    source: str | None
    without: Sequence[str] = ()
    bound: str = ""

    def to_json(self) -> Json:
        """Return what `--json` prints."""
        return {"source": self.source, "without": [*self.without]}


@dataclass(frozen=True)
class MachineReport:
    """The machine that prices a report. `zeros` are a report for a model, a sentence for a run.
    Without `bounds_time` work may take less time than its price says."""

    name: str
    kind: str
    source: str
    note: str
    is_measured: bool = False
    measured: Mapping[str, float] | None = None
    zeros: ZerosReport | str | None = None
    precision_note: str = ""
    time_note: str = ""
    bounds_time: bool = True

    @classmethod
    def of(
        cls, machine: Machine, zeros: ZerosReport | str | None = None, measured: bool = False
    ) -> MachineReport:
        """Return the report of a machine, if `measured` with the numbers that were measured."""
        numbers = machine.measured if measured else None
        return cls(
            machine.name, machine.kind, machine.source, machine.note, machine.is_measured, numbers,
            zeros, machine.precision_note, machine.time_note, machine.bounds_time,
        )  # fmt: skip

    def to_json(self) -> Json:
        """Return what `--json` prints."""
        report: Json = {
            "name": self.name, "kind": self.kind, "source": self.source, "note": self.note
        }  # fmt: skip
        if self.precision_note:
            report["precision_note"] = self.precision_note
        if self.time_note:
            report["time_note"] = self.time_note
        if self.measured is not None:
            energy = {} if "watts" in self.measured else {"energy_joules": NOT_AVAILABLE}
            report |= {"measured": {**self.measured}, **energy}
        if isinstance(self.zeros, ZerosReport):
            report["zeros"] = self.zeros.to_json()
        elif self.zeros is not None:
            report["zeros"] = self.zeros
        return report
