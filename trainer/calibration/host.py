"""This host as a machine, measured: about a second, in one thread."""

from __future__ import annotations

from time import perf_counter

from ..cost.machines.host import Host
from ..cost.machines.machine import HOST, Machine
from ..cost.machines.machine import load as load_machine
from .roofs import calibrate, joules

SOURCE = "measured now, in one thread: GFLOP/s of a float32 matrix product, GB/s of a copy"
SPEED = "{:.0f} GFLOP/s and {:.1f} GB/s in one thread; "
NO_ENERGY = "energy is not available: RAPL's counters cannot be read here"
ENERGY = (
    "energy is the latency bound times the power of the packages, {watts:.1f} W by RAPL while the "
    "roofs were measured"
)


def load(name_or_file: str) -> Machine:
    """Return a machine by name, or from a TOML file; `host` is measured. UserError for a file that
    is not one."""
    return measure() if name_or_file == HOST else load_machine(name_or_file)


def measure() -> Host:
    """Measure the roofs of this host and, where RAPL's counters can be read, its power."""
    before, begun = joules(), perf_counter()
    roofs = calibrate()
    after, seconds = joules(), perf_counter() - begun
    speed = SPEED.format(*roofs)
    if before is None or after is None or after <= before:
        return Host(name=HOST, source=SOURCE, note=speed + NO_ENERGY, roofs=roofs)
    watts = (after - before) / seconds
    note = speed + ENERGY.format(watts=watts)
    return Host(name=HOST, source=SOURCE, note=note, roofs=roofs, watts=watts)
