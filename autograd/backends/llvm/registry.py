"""Which primitives have kernels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from ...array import Spec
from ...deferred import DEEP, Call, Joined, Sign
from .compiler.isa.targets import Target
from .runtime.executable import Executable, Function

# Makes the kernel for arguments of these shapes and attributes; None where it does not pay.
Plan = Callable[..., Executable | None]


class Waiting(NamedTuple):
    """How a call may wait for its reader: as itself, or (see deferred.Later) with one result as
    another primitive's: name, specs and attributes of that; `now` makes the other results, a call
    of that `name` for whoever joins it. At most `deep` calls wait in a row then."""

    tail: tuple[str, tuple[Spec, ...], dict[str, Any]] | None = None
    operands: tuple[int, ...] = ()
    large: tuple[int, ...] = ()
    output: int = 0
    now: Executable | None = None
    name: str = ""
    deep: int = DEEP

_plans: dict[str, Plan] = {}
_waits: dict[str, Callable[..., Waiting | None]] = {}
_joins: dict[str, Callable[[Target, Call, tuple[Sign | None, ...]], Joined | None]] = {}


def implements(name: str) -> Callable[[Function], Function]:
    """Register a plan for the primitive of that name: `plan(target, *specs, **attributes)`."""

    return lambda plan: _once(_plans, name, plan)


def find(
    target: Target, name: str, specs: tuple[Spec, ...], attrs: dict[str, Any]
) -> Executable | None:
    """Return the kernel for a call, None where NumPy is to do it: without a plan, for numbers that
    are neither float32 nor float64, and for arrays without elements."""
    plan = _plans.get(name)
    if plan is None or not specs or any(s.size == 0 or not s.dtype.isnative for s in specs):
        return None
    if specs[0].dtype.kind != "f" or specs[0].dtype.itemsize not in (4, 8):
        return None
    return plan(target, *specs, **attrs)


def may_wait(name: str) -> Callable[[Any], Any]:
    """Register how calls of a primitive may wait: `way(target, *specs, **attributes)`."""
    return lambda way: _once(_waits, name, way)


def joining(name: str) -> Callable[[Any], Any]:
    """Register what calls of a primitive can be joined with: `plan(target, call, signs)`."""
    return lambda plan: _once(_joins, name, plan)


def _once(table: dict[str, Any], name: str, entry: Any) -> Any:
    if name in table:
        raise ValueError(f"{name} is registered already")
    table[name] = entry
    return entry


def waiting(
    target: Target, name: str, specs: tuple[Spec, ...], attrs: dict[str, Any]
) -> Waiting | None:
    """Return how a call that has a kernel may wait, None where it is done at once."""
    way = _waits.get(name)
    return None if way is None else way(target, *specs, **attrs)


def joinable(name: str) -> bool:
    """Tell whether calls of a primitive may be joined with those before them."""
    return name in _joins


def join(target: Target, call: Call, signs: tuple[Sign | None, ...]) -> Joined | None:
    """Return the kernel of a call and of what its arguments wait for, None where there is none."""
    plan = _joins.get(call.name)
    return None if plan is None else plan(target, call, signs)
