"""Which primitives have kernels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ...array import Spec
from .targets import Target

Kernel = Callable[..., Any]
# Makes the kernel for arguments of these shapes and attributes; None where it does not pay.
Plan = Callable[..., Kernel | None]

_plans: dict[str, Plan] = {}


def implements(name: str) -> Callable[[Plan], Plan]:
    """Register a plan for the primitive of that name: `plan(target, *specs, **attributes)`."""

    def register(plan: Plan) -> Plan:
        if name in _plans:
            raise ValueError(f"{name} has a plan already")
        _plans[name] = plan
        return plan

    return register


def find(
    target: Target, name: str, specs: tuple[Spec, ...], attrs: dict[str, Any]
) -> Kernel | None:
    """Return the kernel for a call, None where NumPy is to do it: without a plan, for numbers that
    are neither float32 nor float64, and for arrays without elements."""
    plan = _plans.get(name)
    if plan is None or not specs or any(s.size == 0 or not s.dtype.isnative for s in specs):
        return None
    if specs[0].dtype.kind != "f" or specs[0].dtype.itemsize not in (4, 8):
        return None
    return plan(target, *specs, **attrs)
