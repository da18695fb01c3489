"""Where Tallygrad's time goes, by primitive: a clock around each kernel that `dispatch` calls."""

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

SECONDS = 1.0  # of profiling
FEWEST, MOST = 3, 200  # steps in that time
REST = "python and rest"


@dataclass
class KernelClock:
    """Counts the calls of a primitive, and the seconds in its kernels."""

    calls: int = 0
    seconds: float = 0.0

    def around(self, kernel: Callable[..., Any]) -> Callable[..., Any]:
        """Return the kernel, timed by this clock."""

        def timed(*args: Any, **attrs: Any) -> Any:
            start = perf_counter()
            try:
                return kernel(*args, **attrs)
            finally:
                self.seconds += perf_counter() - start
                self.calls += 1

        return timed


@dataclass(frozen=True)
class ProfileLine:
    """A row of the profile: calls and milliseconds per step, and the share of the step.

    `gflops` is the nominal rate, None for a primitive without MACs.
    """

    name: str
    calls: float
    ms: float
    share: float
    gflops: float | None


def profile(ours: Ours) -> list[ProfileLine]:
    """Return the primitives of a step, slowest first, then the time outside of kernels (mostly
    Python), then the whole step. The model must have run before. Steps are not traced: a captured
    step would call no kernel from Python."""
    steps = max(FEWEST, min(MOST, round(SECONDS / seconds(ours.plain))))
    with clocked(used(ours.plain)) as clocks:
        start = perf_counter()
        ledger = ours.count(steps, plain=True)
        step = (perf_counter() - start) / steps
    macs = {name: cost.macs / steps for name, cost in ledger.by("primitive").items()}
    lines = [
        ProfileLine(
            name,
            clock.calls / steps,
            1e3 * clock.seconds / steps,
            clock.seconds / steps / step,
            2e-9 * macs[name] * steps / clock.seconds if macs.get(name) else None,
        )
        for name, clock in clocks.items()
        if clock.calls
    ]
    lines.sort(key=lambda line: -line.ms)
    rest = 1e3 * step - sum(line.ms for line in lines)
    lines.append(ProfileLine(REST, 0, rest, rest / (1e3 * step), None))
    lines.append(ProfileLine("step", 0, 1e3 * step, 1.0, 2e-9 * sum(macs.values()) / step))
    return lines


def used(step: Callable[[], object]) -> set[Primitive]:
    """Return the primitives that a step calls, by replacing `perform` for one step."""
    primitives: set[Primitive] = set()
    real = door.perform

    def noting(primitive: Primitive, *others: Any) -> Any:
        primitives.add(primitive)
        return real(primitive, *others)

    # Some modules import the function by name, so it is replaced in each.
    loaded = [m for name, m in [*sys.modules.items()] if name.startswith("tallygrad.autograd")]
    holders = [m for m in loaded if vars(m).get("perform") is real]
    try:
        for module in holders:
            vars(module)["perform"] = noting
        step()
    finally:
        for module in holders:
            vars(module)["perform"] = real
    return primitives


@contextmanager
def clocked(primitives: set[Primitive]) -> Iterator[dict[str, KernelClock]]:
    """Time all kernels resolved so far, within the block; yield the clocks by primitive.

    A fused kernel counts for the last of its calls.
    """
    clocks = {p.name: KernelClock() for p in primitives}
    before = {p: dict(p.resolved) for p in primitives}
    calls: dict[Call, tuple[Kernel, dict[Any, Fused | None]]] = {}
    try:
        for p, infos in before.items():
            around = clocks[p.name].around
            for info in infos.values():
                plan = info.deferral
                for call in (info.call, plan and plan.tail, plan and plan.immediate):
                    if call is None or call in calls:
                        continue
                    calls[call] = call.kernel, dict(call.fused)
                    call.kernel = around(call.kernel)
                    for signatures, old in calls[call][1].items():
                        call.fused[signatures] = old and old._replace(kernel=around(old.kernel))
        yield clocks
    finally:
        for p, infos in before.items():
            p.resolved.update(infos)
        for call, (kernel, fused) in calls.items():
            call.kernel = kernel
            call.fused.update(fused)
