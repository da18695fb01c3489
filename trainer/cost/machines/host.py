"""This machine as a machine to price on: its two roofs, and its power where it can be read."""

from __future__ import annotations

from collections.abc import Mapping
from time import perf_counter

from ....autograd.ledger import Cost
from ...calibration.roofs import Roofs, calibrate, joules

SOURCE = "measured now, in one thread: GFLOP/s of a float32 matrix product, GB/s of a copy"
SPEED = "{:.0f} GFLOP/s and {:.1f} GB/s in one thread; "
NO_ENERGY = "energy is not available: RAPL's counters cannot be read here"
ENERGY = (
    "energy is the latency bound times the power of the packages, {watts:.1f} W by RAPL while the "
    "roofs were measured"
)


def measure() -> tuple[dict[str, float], str]:
    """Return `gflops`, `gbytes` and, where RAPL's counters can be read, `watts`, and a note that
    tells them: about a second."""
    before, begun = joules(), perf_counter()
    roofs = calibrate()
    after, seconds = joules(), perf_counter() - begun
    numbers, speed = roofs._asdict(), SPEED.format(*roofs)
    if before is None or after is None or after <= before:
        return numbers, speed + NO_ENERGY
    watts = (after - before) / seconds
    return numbers | {"watts": watts}, speed + ENERGY.format(watts=watts)


def price(numbers: Mapping[str, float], cost: Cost) -> dict[str, float]:
    """Return `latency_seconds`, the larger of the time that MACs take at the peak and of that which
    the bytes take at the bandwidth (Williams, Waterman and Patterson 2009): a lower bound, for a
    call that shares nothing with others through caches. `energy_joules` where power is known."""
    seconds, _ = Roofs(numbers["gflops"], numbers["gbytes"]).seconds(cost)
    found = {"latency_seconds": seconds, "dram_bytes": float(cost.bytes_read + cost.bytes_written)}
    return found | ({"energy_joules": seconds * numbers["watts"]} if "watts" in numbers else {})
