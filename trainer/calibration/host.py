"""This host as a machine, measured: about a second, in one thread."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from time import perf_counter
from typing import TypeVar

from ..cost.machines.host import Host
from ..cost.machines.machine import HOST, Machine
from ..cost.machines.machine import load as load_machine
from ..cost.precision import PRECISIONS
from ..cost.roofline import Roofs
from .narrow import narrow
from .roofs import calibrate, joules

SOURCE = "measured now, in one thread: GFLOP/s of {}, GB/s of a copy"
PRODUCT, PRODUCTS = "a float32 matrix product", "products and convolutions in {}"
SPEED = "{:.0f} GFLOP/s{} and {:.1f} GB/s in one thread; "
NO_ENERGY = "energy is not available: RAPL's counters cannot be read here"
ENERGY = (
    "energy is the latency times the power of the packages, {watts:.1f} W by RAPL while the "
    "roofs were measured"
)
T = TypeVar("T")


def load(name_or_file: str, precision: str = PRECISIONS[0]) -> Machine:
    """Return a machine by name, or from a TOML file; `host` is measured, in a precision, too.
    UserError for a file that is not one."""
    if name_or_file == HOST:
        return with_precision(measure(), precision)
    return load_machine(name_or_file)


def measure() -> Host:
    """Measure the roofs of this host and, where RAPL's counters can be read, its power."""
    return _host(SOURCE.format(PRODUCT), *_metered(calibrate))


def with_precision(machine: Machine, precision: str) -> Machine:
    """Return this host with a variant in a precision other than its own, if that can be measured;
    other machines as they are."""
    if not isinstance(machine, Host) or precision == machine.precision:
        return machine
    roofs, watts = _metered(lambda: narrow(precision, machine.roofs))
    if roofs is None:
        return machine
    variant = _host(SOURCE.format(PRODUCTS.format(precision)), roofs, watts)
    return replace(machine, variants=(*machine.variants, variant))


def _metered(run: Callable[[], T]) -> tuple[T, float | None]:
    """Return what a function returns, and the watts of the packages meanwhile, None if unknown."""
    before, begun = joules(), perf_counter()
    result = run()
    after, seconds = joules(), perf_counter() - begun
    if before is None or after is None or after <= before:
        return result, None
    return result, (after - before) / seconds


def _host(source: str, roofs: Roofs, watts: float | None) -> Host:
    is_usual = roofs.precision == PRECISIONS[0]
    speed = SPEED.format(roofs.gflops, "" if is_usual else f" in {roofs.precision}", roofs.gbytes)
    note = speed + (NO_ENERGY if watts is None else ENERGY.format(watts=watts))
    return Host(
        name=HOST, source=source, note=note, roofs=roofs, watts=watts, precision=roofs.precision
    )
