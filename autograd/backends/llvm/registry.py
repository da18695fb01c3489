"""Which primitives have kernels, which calls are deferred, and which are fused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias, TypeVar

from ...array import Spec
from ...deferred import MAX_DEPTH, Call, Fused, Signature
from ...dtypes import COMPUTED, KERNEL_TYPES, is_narrow
from .compiler.isa.targets import Target
from .runtime.executable import Executable

# Makes the executable for arguments of these shapes and attributes; None where it does not pay.
Plan: TypeAlias = Callable[..., Executable | None]


class Deferral(NamedTuple):
    """How a call is deferred: as a whole, or with one result left to a call of another primitive.

    See `deferred.DeferralPlan`. In the second case batch norm, for example, computes mean and
    variance at once and defers the normalisation.
    """

    # the call that makes the deferred result: its primitive, specs and attributes
    tail: tuple[str, tuple[Spec, ...], dict[str, Any]] | None = None
    # of the tail: numbers of this call's arguments, then of its results
    operands: tuple[int, ...] = ()
    # operands that must be the engine's alone, as nobody else may change them
    must_own: tuple[int, ...] = ()
    output: int = 0  # number of the result that is deferred
    immediate: Executable | None = None  # computes the other results at once
    name: str = ""  # by which fusion rules know the immediate part
    max_depth: int = MAX_DEPTH  # pending calls in a row, at most
    alone: bool = False  # one of the primitive is pending at a time


Defer: TypeAlias = Callable[..., Deferral | None]
Fuse: TypeAlias = Callable[[Target, Call, tuple[Signature | None, ...]], Fused | None]
Entry = TypeVar("Entry", bound=Callable[..., Any])

_plans: dict[str, Plan] = {}
_tiled: dict[str, Plan] = {}
_narrow: set[str] = set()  # names of plans that take narrow types
_integers: set[str] = set()  # and of those that take integers
_deferrals: dict[str, Defer] = {}
_fusions: dict[str, Fuse] = {}


def implements(name: str, narrow: bool = False, integers: bool = False) -> Callable[[Entry], Entry]:
    """Register a plan for a primitive by name: `plan(target, *specs, **attributes)`, which returns
    None for shapes that it leaves to NumPy. It is asked for `narrow` types too, or for `integers`,
    if it says so."""
    if narrow:
        _narrow.add(name)
    if integers:
        _integers.add(name)
    return lambda plan: _once(_plans, name, plan)


def find(
    target: Target, name: str, specs: tuple[Spec, ...], attrs: dict[str, Any]
) -> Executable | None:
    """Return the executable of a call; None where NumPy computes it: without a plan, for types
    other than float32 and float64 in native byte order, and for arrays without elements."""
    plan = _plans.get(name)
    if plan is None or not specs or any(s.size == 0 or not s.dtype.isnative for s in specs):
        return None
    types = KERNEL_TYPES if name in _narrow else COMPUTED
    if specs[0].dtype not in types and name not in _integers:
        return None
    if name not in _narrow and any(is_narrow(s.dtype) for s in specs):
        return None
    return plan(target, *specs, **attrs)


def tiled(name: str) -> Callable[[Entry], Entry]:
    """Register a plan of a primitive on arrays of a narrow type, for targets that have tiles."""
    return lambda plan: _once(_tiled, name, plan)


def find_tiled(
    target: Target, name: str, specs: tuple[Spec, ...], attrs: dict[str, Any]
) -> Executable | None:
    """Return the executable of a call by tiles; None where there are none, or they do not pay."""
    plan = _tiled.get(name)
    if plan is None or not target.tiles or not all(is_narrow(s.dtype) and s.size for s in specs):
        return None
    return plan(target, *specs, **attrs)


def find_fastest(
    target: Target, name: str, specs: tuple[Spec, ...], attrs: dict[str, Any]
) -> Executable | None:
    """Return the executable of a call, by tiles where they pay; None where there is none."""
    return find_tiled(target, name, specs, attrs) or find(target, name, specs, attrs)


def defers(name: str) -> Callable[[Entry], Entry]:
    """Register how calls of a primitive are deferred: `how(target, *specs, **attributes)`, which
    returns None for calls that run at once."""
    return lambda how: _once(_deferrals, name, how)


def fuses(name: str) -> Callable[[Entry], Entry]:
    """Register what calls of a primitive fuse with: `plan(target, call, signatures)`, which returns
    None where there is no kernel for all of them."""
    return lambda plan: _once(_fusions, name, plan)


def _once(table: dict[str, Any], name: str, entry: Entry) -> Entry:
    if name in table:
        raise ValueError(f"{name}: expected one registration, got another")
    table[name] = entry
    return entry


def deferral(
    target: Target, name: str, specs: tuple[Spec, ...], attrs: dict[str, Any]
) -> Deferral | None:
    """Return how a call that has a kernel is deferred; None where it runs at once."""
    how = _deferrals.get(name)
    return None if how is None else how(target, *specs, **attrs)


def can_fuse(name: str) -> bool:
    """Tell whether calls of a primitive may be fused with pending calls before them."""
    return name in _fusions


def fuse(target: Target, call: Call, signatures: tuple[Signature | None, ...]) -> Fused | None:
    """Return the kernel of a call and of the pending calls behind its arguments; None where there
    is none."""
    plan = _fusions.get(call.name)
    return None if plan is None else plan(target, call, signatures)
