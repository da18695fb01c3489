"""Where our time goes, by primitive: the kernels that dispatch knows, with a clock around each."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from time import perf_counter
from typing import Any

from tallygrad.autograd import primitive as door
from tallygrad.autograd.deferred import Call, Fused, Kernel
from tallygrad.autograd.primitive import Primitive

from .measure import seconds
from .ours import Ours

SECONDS = 1.0
FEWEST, MOST = 3, 200
REST = "python and rest"


@dataclass
class Clock:
    """Calls of a primitive and the seconds in its kernels."""

    calls: int = 0
    seconds: float = 0.0

    def around(self, kernel: Callable[..., Any]) -> Callable[..., Any]:
        """Return the kernel with this clock around it."""

        def timed(*args: Any, **attrs: Any) -> Any:
            begun = perf_counter()
            try:
                return kernel(*args, **attrs)
            finally:
                self.seconds += perf_counter() - begun
                self.calls += 1

        return timed


@dataclass(frozen=True)
class Line:
    """A primitive's part of a step: calls, milliseconds, share of the step, and GFLOP/s, None for
    one without MACs."""

    name: str
    calls: float
    ms: float
    share: float
    gflops: float | None


def profile(ours: Ours) -> list[Line]:
    """Return the parts of a step, the longest first, then what is spent outside of kernels, in
    Python above all, then the whole. The model must have run before."""
    many = max(FEWEST, min(MOST, round(SECONDS / seconds(ours.step))))
    with clocked(used(ours.plain)) as clocks:
        begun = perf_counter()
        ledger = ours.count(many)
        step = (perf_counter() - begun) / many
    macs = {name: cost.macs / many for name, cost in ledger.by("primitive").items()}
    lines = [
        Line(
            name,
            clock.calls / many,
            1e3 * clock.seconds / many,
            clock.seconds / many / step,
            2e-9 * macs[name] * many / clock.seconds if macs.get(name) else None,
        )
        for name, clock in clocks.items()
        if clock.calls
    ]
    lines.sort(key=lambda line: -line.ms)
    rest = 1e3 * step - sum(line.ms for line in lines)
    lines.append(Line(REST, 0, rest, rest / (1e3 * step), None))
    lines.append(Line("step", 0, 1e3 * step, 1.0, 2e-9 * sum(macs.values()) / step))
    return lines


def used(step: Callable[[], object]) -> set[Primitive]:
    """Return the primitives that a step calls."""
    found: set[Primitive] = set()
    real = door.perform

    def noting(primitive: Primitive, *others: Any) -> Any:
        found.add(primitive)
        return real(primitive, *others)

    # Some modules import the function by name.
    loaded = [m for name, m in [*sys.modules.items()] if name.startswith("tallygrad.autograd")]
    holders = [m for m in loaded if vars(m).get("perform") is real]
    try:
        for module in holders:
            vars(module)["perform"] = noting
        step()
    finally:
        for module in holders:
            vars(module)["perform"] = real
    return found


@contextmanager
def clocked(primitives: set[Primitive]) -> Iterator[dict[str, Clock]]:
    """Put clocks around all kernels learned so far, by the primitive's name, for a while. A kernel
    that does more than one call counts for the last of them."""
    clocks = {p.name: Clock() for p in primitives}
    before = {p: dict(p.resolved) for p in primitives}
    calls: dict[Call, tuple[Kernel, dict[Any, Fused | None]]] = {}
    try:
        for p, knowns in before.items():
            around = clocks[p.name].around
            for known in knowns.values():
                plan = known.deferral
                for call in (known.call, plan and plan.tail, plan and plan.immediate):
                    if call is None or call in calls:
                        continue
                    calls[call] = call.kernel, dict(call.fused)
                    call.kernel = around(call.kernel)
                    for signatures, old in calls[call][1].items():
                        call.fused[signatures] = old and old._replace(kernel=around(old.kernel))
        yield clocks
    finally:
        for p, knowns in before.items():
            p.resolved.update(knowns)
        for call, (kernel, fused) in calls.items():
            call.kernel = kernel
            call.fused.update(fused)
