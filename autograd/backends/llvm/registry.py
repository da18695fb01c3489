"""Which primitives have kernels, which calls are deferred, and which are fused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias, TypeVar

from ...array import Spec
from ...deferred import MAX_DEPTH, Call, Fused, Signature
from ...dtypes import COMPUTED
from .compiler.isa.targets import Target
from .runtime.executable import Executable

# Makes the executable for arguments of these shapes and attributes; None where it does not pay.
Plan: TypeAlias = Callable[..., Executable | None]


class Deferral(NamedTuple):
    """How a call is deferred: as a whole, or (see deferred.DeferralPlan) with one result left to
    `tail`, a call of another primitive, told by its name, specs and attributes; `immediate` then
    makes the other results, as a call of that `name` for whoever fuses it. At most `max_depth`
    calls are pending in a row."""

    tail: tuple[str, tuple[Spec, ...], dict[str, Any]] | None = None
    operands: tuple[int, ...] = ()
    must_own: tuple[int, ...] = ()
    output: int = 0
    immediate: Executable | None = None
    name: str = ""
    max_depth: int = MAX_DEPTH


Defer: TypeAlias = Callable[..., Deferral | None]
Fuse: TypeAlias = Callable[[Target, Call, tuple[Signature | None, ...]], Fused | None]
Entry = TypeVar("Entry", bound=Callable[..., Any])

_plans: dict[str, Plan] = {}
_deferrals: dict[str, Defer] = {}
_fusions: dict[str, Fuse] = {}


def implements(name: str) -> Callable[[Entry], Entry]:
    """Register a plan for the primitive of that name: `plan(target, *specs, **attributes)`."""
    return lambda plan: _once(_plans, name, plan)


def find(
    target: Target, name: str, specs: tuple[Spec, ...], attrs: dict[str, Any]
) -> Executable | None:
    """Return the executable for a call, None where NumPy is to do it: without a plan, for numbers
    that are neither float32 nor float64, and for arrays without elements."""
    plan = _plans.get(name)
    if plan is None or not specs or any(s.size == 0 or not s.dtype.isnative for s in specs):
        return None
    if specs[0].dtype not in COMPUTED:
        return None
    return plan(target, *specs, **attrs)


def defers(name: str) -> Callable[[Entry], Entry]:
    """Register how calls of a primitive are deferred: `how(target, *specs, **attributes)`."""
    return lambda how: _once(_deferrals, name, how)


def fuses(name: str) -> Callable[[Entry], Entry]:
    """Register what calls of a primitive are fused with: `plan(target, call, signatures)`."""
    return lambda plan: _once(_fusions, name, plan)


def _once(table: dict[str, Any], name: str, entry: Entry) -> Entry:
    if name in table:
        raise ValueError(f"{name}: expected one registration, got another")
    table[name] = entry
    return entry


def deferral(
    target: Target, name: str, specs: tuple[Spec, ...], attrs: dict[str, Any]
) -> Deferral | None:
    """Return how a call that has a kernel is deferred, None where it runs at once."""
    how = _deferrals.get(name)
    return None if how is None else how(target, *specs, **attrs)


def can_fuse(name: str) -> bool:
    """Tell whether calls of a primitive may be fused with those before them."""
    return name in _fusions


def fuse(target: Target, call: Call, signatures: tuple[Signature | None, ...]) -> Fused | None:
    """Return the kernel of a call and of the pending calls behind its arguments, None where there
    is none."""
    plan = _fusions.get(call.name)
    return None if plan is None else plan(target, call, signatures)
