"""What models and runs cost: work, memory traffic, energy and time, by arithmetic alone.

The names below are the public ones. Each is loaded when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .billing import bill_report
    from .cluster.network import load as load_network
    from .cluster.scaling import scale
    from .machines.machine import Machine
    from .machines.machine import load as load_machine
    from .machines.machine import names as machine_names
    from .price import Price, add_up
    from .pricing import cost_report
    from .report.model.bill import BillReport
    from .report.model.cost import CostReport, LayerReport, PassReport
    from .report.model.plan import PlanReport
    from .report.model.profile import ProfileReport
    from .report.text import as_csv, as_text
    from .run import Run
    from .sparsity import from_file as zeros_from_file
    from .sparsity import from_run as zeros_from_run
    from .workload import LayerShape, LayerWork, Work, count

__all__ = [
    "BillReport", "CostReport", "LayerReport", "LayerShape", "LayerWork", "Machine", "PassReport",
    "PlanReport", "Price", "ProfileReport", "Run", "Work", "add_up", "as_csv", "as_text",
    "bill_report", "cost_report", "count", "load_machine", "load_network", "machine_names", "scale",
    "zeros_from_file", "zeros_from_run",
]  # fmt: skip

_HOMES = {
    "billing": ("bill_report",),
    "cluster.scaling": ("scale",),
    "machines.machine": ("Machine",),
    "price": ("Price", "add_up"),
    "pricing": ("cost_report",),
    "report.model.bill": ("BillReport",),
    "report.model.cost": ("CostReport", "LayerReport", "PassReport"),
    "report.model.plan": ("PlanReport",),
    "report.model.profile": ("ProfileReport",),
    "report.text": ("as_csv", "as_text"),
    "run": ("Run",),
    "workload": ("LayerShape", "LayerWork", "Work", "count"),
}
_RENAMED = {
    "load_machine": ("machines.machine", "load"),
    "load_network": ("cluster.network", "load"),
    "machine_names": ("machines.machine", "names"),
    "zeros_from_file": ("sparsity", "from_file"),
    "zeros_from_run": ("sparsity", "from_run"),
}
_LAZY = {name: (home, name) for home, names in _HOMES.items() for name in names} | _RENAMED


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home, attribute = _LAZY[name]
    return getattr(import_module(f".{home}", __name__), attribute)
