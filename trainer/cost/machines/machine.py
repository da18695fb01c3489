"""Machines: what arithmetic, memory and time cost on one, read from a TOML file.

A file has `name`, `kind`, `source` and a table of numbers, each beside a comment that says where it
is from. The kinds:

- `prices`: picojoules for each operation and each byte moved; `[energy_pj]` mac, add, mul, div,
  cmp, exp, dram_byte; no time.
- `throughput`: a machine of which only its speed and its power are known: `[throughput]`
  macs_per_second, watts.
- `systolic`: an array of multipliers, with a `dataflow`, "os", "ws" or "is": `[array]` rows,
  columns, word_bytes, clock_hz, sram_words (words that its memories move in a cycle);
  `[energy_pj]` mac, sram_word, dram_word. Only products are done there.
- `row-stationary`: a chip like Eyeriss: `[chip]` with the fields of `row_mapping.Chip`, and
  `[energy_pj]` mac, register_file, array, buffer, dram, of a word each; with `unit = "mac"` these
  are relative to a MAC. Only products are done there.
- `events`: a machine that works only where neither factor is zero: `[energy_pj]` event; no time.

`host` is no file: it is this machine, measured.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ....autograd.ledger import Cost
from ...errors import UserError, nearest
from ...parsing import read_toml_or_json, resolve_preset
from ..phases import PASSES
from ..sparsity import LayerZeros
from ..workload import Layer
from . import host
from .eyeriss import machine as row_machine
from .systolic import machine as arrays
from .systolic.array import DATAFLOWS

FOLDER = Path(__file__).parent / "presets"
TABLES: dict[str, dict[str, tuple[str, ...]]] = {
    "prices": {"energy_pj": ("mac", "add", "mul", "div", "cmp", "exp", "dram_byte")},
    "throughput": {"throughput": ("macs_per_second", "watts")},
    "systolic": {
        "array": ("rows", "columns", "word_bytes", "clock_hz", "sram_words"),
        "energy_pj": ("mac", "sram_word", "dram_word"),
    },
    "row-stationary": {"chip": row_machine.CHIP, "energy_pj": row_machine.COSTS},
    "events": {"energy_pj": ("event",)},
}
HOST = "host"
ENERGY = "energy_pj"
FRACTIONS = ("clock_hz", "link_hz", "sram_words", "macs_per_second", "watts")
MAY_BE_ZERO = ("filter_bytes",)
TOP = ("name", "kind", "source", "bits", "note")
OWN = {"systolic": ("dataflow",), "row-stationary": ("unit",)}  # keys of one kind alone
LEAST, MOST = 1e-21, 1e21  # beyond, products of numbers would overflow
ARRAYS = ("systolic", "row-stationary")  # kinds that price layers by their shapes
CODED = ("events", "row-stationary")  # kinds that make something of zeros


@dataclass(frozen=True)
class Machine:
    """A machine of some kind, and its numbers by name."""

    name: str
    kind: str
    source: str
    numbers: Mapping[str, float] = field(default_factory=dict)
    note: str = ""
    dataflow: str = ""
    unit: str = ""
    bits: int | None = None

    @property
    def has_energy(self) -> bool:
        """Whether it tells joules: this machine does where its counters can be read."""
        return self.kind != HOST or "watts" in self.numbers

    def price_layer(
        self, layer: Layer, phase: str, zeros: LayerZeros | None = None
    ) -> dict[str, float]:
        """Return what a pass of a layer takes here, nothing where it is not done here. Without
        `zeros` there are none. UserError for MACs whose shapes an array does not know."""
        if self.kind in ARRAYS and layer.macs(phase) and not layer.shapes:
            raise UserError(
                f"--machine {self.name}: {layer.name} has {layer.macs(phase)} MACs of {phase} "
                "outside convolutions and products, which it does not price"
            )
        if self.kind == "systolic":
            return arrays.price(self.numbers, self.dataflow, layer, phase)
        if self.kind == "row-stationary":
            return row_machine.price(self.numbers, self.unit, layer, phase, zeros)
        if self.kind == "events":
            share = zeros.nonzero.get(phase, 1.0) if zeros else 1.0
            macs = layer.macs(phase)
            done = phase in PASSES and macs
            return self.price(layer.costs[phase], macs * share) if done else {}
        return self.price(layer.costs[phase]) if phase in layer.costs else {}

    def price(self, cost: Cost, events: float | None = None) -> dict[str, float]:
        """Return `energy_joules`, of it that of arithmetic and of memory where they are known
        apart, and `latency_seconds` where the machine has a speed. `events` are MACs without a
        zero, all of them where nothing is said. UserError for an array, which has to know the
        shapes of layers."""
        n = self.numbers
        if self.kind in ARRAYS:
            raise UserError(f"--machine {self.name}: it prices layers (cost), not books (bill)")
        if self.kind == HOST:
            return host.price(n, cost)
        if self.kind == "events":
            met = cost.macs if events is None else events
            return {"energy_joules": 1e-12 * n["event"] * met, "events": met}
        if self.kind == "throughput":
            seconds = cost.macs / n["macs_per_second"]
            return {"energy_joules": seconds * n["watts"], "latency_seconds": seconds}
        kinds = ("add", "mul", "div", "cmp", "exp")
        work = n["mac"] * cost.macs + math.fsum(n[k] * getattr(cost, k) for k in kinds)
        moved = n["dram_byte"] * (cost.bytes_read + cost.bytes_written)
        return {
            "energy_joules": 1e-12 * (work + moved),
            "energy_arithmetic_joules": 1e-12 * work,
            "energy_memory_joules": 1e-12 * moved,
            "dram_bytes": cost.bytes_read + cost.bytes_written,
        }


def names() -> tuple[str, ...]:
    """Return the names of the machines that come with the program."""
    return (*sorted(file.stem for file in FOLDER.glob("*.toml")), HOST)


def load(name_or_file: str) -> Machine:
    """Return a machine by name, or from a TOML file. UserError, naming the key, the value and what
    would fit, for a file that is not one."""
    if name_or_file == HOST:
        numbers, note = host.measure()
        return Machine(HOST, HOST, host.SOURCE, numbers, note)
    path = resolve_preset("--machine", name_or_file, FOLDER, HOST)
    return _machine(path, read_toml_or_json("--machine", path))


def _machine(path: Path, held: dict[str, Any]) -> Machine:
    for key in ("name", "kind", "source", *[k for k in ("note",) if k in held]):
        if not isinstance(held.get(key), str):
            raise UserError(f"{path}: {key} = {held.get(key)!r:.60}: a text is needed")
    kind = held["kind"]
    if kind not in TABLES:
        raise UserError(f"{path}: kind = {kind!r:.60}; there are {', '.join(TABLES)}")
    wanted = TABLES[kind]
    known = (*TOP, *OWN.get(kind, ()), *wanted)
    for key in held:
        if key not in known:
            raise UserError(f"{path}: unknown key {key!r:.60}{nearest(key, known)}")
    numbers: dict[str, float] = {}
    for table, keys in wanted.items():
        numbers |= _numbers(path, table, held.get(table), keys)
    dataflow = held.get("dataflow", "")
    if kind == "systolic" and dataflow not in DATAFLOWS:
        raise UserError(f"{path}: dataflow = {dataflow!r:.60}; there are {', '.join(DATAFLOWS)}")
    unit = held.get("unit", "")
    if unit not in ("", "mac"):
        raise UserError(f"{path}: unit = {unit!r:.60}; there is 'mac'")
    bits = held.get("bits")
    if "bits" in held and (type(bits) is not int or not 1 <= bits <= 1024):
        raise UserError(f"{path}: bits = {bits!r:.60}: a number from 1 to 1024 is needed")
    note = held.get("note", "")
    return Machine(held["name"], kind, held["source"], numbers, note, dataflow, unit, bits)


def _numbers(path: Path, table: str, held: Any, keys: tuple[str, ...]) -> dict[str, float]:
    """Return the numbers of a table, all of which must be there and positive or zero."""
    if not isinstance(held, dict):
        given = "is missing" if held is None else f"= {held!r:.60} is none"
        raise UserError(f"{path}: table [{table}] {given}; it has {', '.join(keys)}")
    for key in held:
        if key not in keys:
            unknown = f"{table}.{key}"
            raise UserError(f"{path}: unknown key {unknown!r:.60}{nearest(key, keys)}")
    for key in keys:
        value, name = held.get(key), f"{path}: {table}.{key}"
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise UserError(f"{name} = {value!r:.60}: a number is needed")
        if not 0 <= value < math.inf:
            raise UserError(f"{name} = {value!r:.60}: it must be 0 or more, and finite")
        if table != ENERGY and value == 0 and key not in MAY_BE_ZERO:
            raise UserError(f"{name} = 0: it must be more than 0")
        if value and not LEAST <= value <= MOST:
            raise UserError(f"{name} = {value!r:.60}: it must be from {LEAST:g} to {MOST:g}")
        if table != ENERGY and key not in FRACTIONS and value != int(value):
            raise UserError(f"{name} = {value!r:.60}: it must be whole")
    return {key: float(held[key]) for key in keys}
