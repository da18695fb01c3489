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
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...autograd.ledger import Cost
from ..config import nearest
from ..errors import UserError
from . import arrays, row_machine
from .systolic import DATAFLOWS
from .work import Layer

FOLDER = Path(__file__).parent / "machines"
TABLES: dict[str, dict[str, tuple[str, ...]]] = {
    "prices": {"energy_pj": ("mac", "add", "mul", "div", "cmp", "exp", "dram_byte")},
    "throughput": {"throughput": ("macs_per_second", "watts")},
    "systolic": {
        "array": ("rows", "columns", "word_bytes", "clock_hz", "sram_words"),
        "energy_pj": ("mac", "sram_word", "dram_word"),
    },
    "row-stationary": {"chip": row_machine.CHIP, "energy_pj": row_machine.COSTS},
}
ENERGY = "energy_pj"
FRACTIONS = ("clock_hz", "link_hz", "sram_words", "macs_per_second", "watts")
MAY_BE_ZERO = ("filter_bytes",)
TOP = ("name", "kind", "source", "bits", "note", "dataflow", "unit")
ARRAYS = ("systolic", "row-stationary")  # kinds that price layers by their shapes


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

    def price_layer(self, layer: Layer, phase: str) -> dict[str, float]:
        """Return what a pass of a layer takes here, nothing where it is not done here."""
        if self.kind == "systolic":
            return arrays.price(self.numbers, self.dataflow, layer, phase)
        if self.kind == "row-stationary":
            return row_machine.price(self.numbers, self.unit, layer, phase)
        return self.price(layer.costs[phase]) if phase in layer.costs else {}

    def price(self, cost: Cost) -> dict[str, float]:
        """Return `energy_joules`, of it that of arithmetic and of memory where they are known
        apart, and `latency_seconds` where the machine has a speed. UserError for an array, which
        has to know the shapes of layers."""
        n = self.numbers
        if self.kind in ARRAYS:
            raise UserError(f"--machine {self.name}: it prices layers (cost), not books (bill)")
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
    return tuple(sorted(file.stem for file in FOLDER.glob("*.toml")))


def load(name_or_file: str) -> Machine:
    """Return a machine by name, or from a TOML file. UserError, naming the key, the value and what
    would fit, for a file that is not one."""
    path = Path(name_or_file)
    if path.suffix != ".toml":
        if name_or_file not in names():
            known = ", ".join(names())
            raise UserError(
                f"--machine: no machine {name_or_file!r}; there are {known}, and files that end in "
                ".toml"
            )
        path = FOLDER / f"{name_or_file}.toml"
    try:
        held = tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise UserError(f"--machine: {path}: {error.strerror or error}") from error
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UserError(f"--machine: {path} is no TOML: {error}") from error
    return _machine(path, held)


def _machine(path: Path, held: dict[str, Any]) -> Machine:
    for key in ("name", "kind", "source"):
        if not isinstance(held.get(key), str):
            raise UserError(f"{path}: {key} = {held.get(key)!r}: a text is needed")
    kind = held["kind"]
    if kind not in TABLES:
        raise UserError(f"{path}: kind = {kind!r}; there are {', '.join(TABLES)}")
    wanted = TABLES[kind]
    for key in held:
        if key not in (*TOP, *wanted):
            raise UserError(f"{path}: unknown key {key}{nearest(key, (*TOP, *wanted))}")
    numbers: dict[str, float] = {}
    for table, keys in wanted.items():
        numbers |= _numbers(path, table, held.get(table), keys)
    dataflow = held.get("dataflow", "")
    if kind == "systolic" and dataflow not in DATAFLOWS:
        raise UserError(f"{path}: dataflow = {dataflow!r}; there are {', '.join(DATAFLOWS)}")
    unit = held.get("unit", "")
    if unit not in ("", "mac"):
        raise UserError(f"{path}: unit = {unit!r}; there is 'mac'")
    note = str(held.get("note", ""))
    return Machine(held["name"], kind, held["source"], numbers, note, dataflow, unit)


def _numbers(path: Path, table: str, held: Any, keys: tuple[str, ...]) -> dict[str, float]:
    """Return the numbers of a table, all of which must be there and positive or zero."""
    if not isinstance(held, dict):
        raise UserError(f"{path}: table [{table}] is missing; it has {', '.join(keys)}")
    for key in held:
        if key not in keys:
            raise UserError(f"{path}: {table}.{key} is unknown{nearest(key, keys)}")
    for key in keys:
        value = held.get(key)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise UserError(f"{path}: {table}.{key} = {value!r}: a number is needed")
        if not 0 <= value < math.inf:
            raise UserError(f"{path}: {table}.{key} = {value}: it must be 0 or more, and finite")
        if table != ENERGY and value == 0 and key not in MAY_BE_ZERO:
            raise UserError(f"{path}: {table}.{key} = 0: it must be more than 0")
        if table != ENERGY and key not in FRACTIONS and value != int(value):
            raise UserError(f"{path}: {table}.{key} = {value}: it must be whole")
    return {key: float(held[key]) for key in keys}
