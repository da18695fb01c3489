"""Machines: what arithmetic, memory traffic and time cost on one, as its TOML file says.

Every file has `name`, `kind`, `source` and optionally `note` and `bits`; its kind defines the other
keys. Tables `bf16` and `int8` have those again that differ in that precision. A kind is a subclass
of `Machine` in a module of this folder, or in `machine.py` of a folder here. It names its kind,
declares the keys of its files as `fields`, and prices work. Nothing else needs to know about it:
`kinds` imports all modules here and finds the subclasses.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import Any, ClassVar, TypeAlias

from ....autograd.ledger import Cost
from ...errors import UserError
from ...parsing import preset_names, read_toml_or_json, resolve_preset
from ..phases import PASSES
from ..precision import INFERENCE, PRECISIONS
from ..price import Price
from ..reader import MISSING, TEXT, Field, KeyPath, Number, Optional, Table, Text
from ..roofline import Bandwidth, Roofline
from ..sparsity import LayerZeros
from ..workload import LayerWork

FOLDER = Path(__file__).parent / "presets"
HOST = "host"
# Limits of numbers in a file. Prices multiply a few of them with counts of up to 2^100: with these
# limits no product overflows a float or becomes 0.
LEAST, MOST = 1e-21, 1e21
ENERGY = Number(LEAST, MOST, or_zero=True)
RATE = Number(LEAST, MOST)
SIZE = Number(1, MOST, whole=True)
BITS = Number(1, 1024, whole=True)

Fields: TypeAlias = Mapping[str, Field[Any]]
_KINDS: dict[str, type[Machine]] = {}


@dataclass(frozen=True, kw_only=True)
class Machine(ABC):
    """A machine that prices work. Subclasses add the fields of their files and set the class
    attributes below where they differ.

    `variants` are the machine as it computes in other precisions that its file tells of.
    `precision_note` says what prices in another `precision` than the file's are."""

    name: str
    source: str
    note: str = ""
    bits: int | None = None
    variants: tuple[Machine, ...] = ()
    precision: str = PRECISIONS[0]
    precision_note: str = ""

    kind: ClassVar[str] = ""
    fields: ClassVar[Fields | None] = None  # the keys of its files; None: it has no file
    needs_shapes: ClassVar[bool] = False  # prices layers by their shapes, and nothing else
    uses_zeros: ClassVar[bool] = False  # prices depend on shares of zeros
    is_linear: ClassVar[bool] = False  # the price of a sum of costs is the sum of their prices
    is_measured: ClassVar[bool] = False  # by this program, rather than told by a file
    without_zeros: ClassVar[str] = ""  # what prices are where no zeros are known
    time_note: ClassVar[str] = ""  # why work may take less than the seconds of its price

    def __init_subclass__(cls) -> None:
        if cls.fields is not None and cls.kind:
            _KINDS[cls.kind] = cls

    def at(self, precision: str) -> Machine:
        """Return the machine as it computes in a precision; where that is not known, this one with
        a note that says so."""
        if precision == self.precision:
            return self
        for variant in self.variants:
            if variant.precision == precision:
                return variant
        return replace(self, precision=precision, precision_note=self._price_without(precision))

    @property
    def bounds_time(self) -> bool:
        """Whether no work takes less than the seconds of its price, as MACs may that are priced as
        in another precision."""
        return not self.time_note and (not self.precision_note or self._has_short_words)

    @property
    def _has_short_words(self) -> bool:
        return self.bits is not None and self.bits <= 16

    def _price_without(self, precision: str) -> str:
        if self._has_short_words:
            bits = f"has words of {self.bits} bits in any precision"
            return f"{bits}: {precision} is priced as {self.precision}"
        return f"nothing is known of {precision}: a MAC is priced as in {self.precision}"

    @property
    def measured(self) -> Mapping[str, float] | None:
        """The numbers that were measured, by name; None for a machine from a file."""
        return None

    @property
    def has_energy(self) -> bool:
        """Whether prices have energies."""
        return True

    @abstractmethod
    def price(self, cost: Cost, events: float | None = None) -> Price:
        """Return the price of any work: energy, and seconds where the machine has a speed.

        `events` are the MACs without a zero factor, by default all of them. UserError where the
        machine prices layers by their shapes.
        """

    def price_layer(
        self, layer: LayerWork, phase: str, zeros: LayerZeros | None = None
    ) -> Price | None:
        """Return the price of a pass of a layer, None where the layer or the machine has no such
        pass. Without `zeros` no value counts as zero."""
        return self.price(layer.costs[phase]) if phase in layer.costs else None

    @property
    def peak(self) -> float | None:
        """The most MACs per second, None where the speed is unknown."""
        return None

    @property
    def bandwidth(self) -> Bandwidth | None:
        """Bytes per second of the memory that bounds a pass, None where it is unknown."""
        return None

    @property
    def roofline(self) -> Roofline | None:
        """Peak and bandwidth together, None where either is unknown."""
        if self.peak is None or self.bandwidth is None:
            return None
        return Roofline(self.peak, *self.bandwidth)

    @property
    def units(self) -> int | None:
        """The number of multipliers, None where it is unknown."""
        return None

    @property
    def storage_bytes(self) -> int | None:
        """Bytes of all memories on the chip, None where they are unknown."""
        return None

    def traffic_basis(self, coded: bool) -> str:
        """Return in words how DRAM traffic is counted; `coded` if zeros are known."""
        return "operands and results of every call"


class LayerMachine(Machine):
    """A machine that prices the convolutions and matrix products of a layer by their shapes."""

    needs_shapes = True

    @abstractmethod
    def price_products(self, layer: LayerWork, phase: str, zeros: LayerZeros | None) -> Price:
        """Return the price of a pass that has MACs, from the shapes of `layer`."""

    def price(self, cost: Cost, events: float | None = None) -> Price:
        """Refuse: only layers are priced."""
        raise UserError(
            f"--machine {self.name}: it prices layers by their shapes, not sums; use it "
            "with `tallygrad cost`"
        )

    def price_layer(
        self, layer: LayerWork, phase: str, zeros: LayerZeros | None = None
    ) -> Price | None:
        """Return the price of a pass of a layer, None where it has no MACs. UserError for MACs
        whose shapes were not recorded, as those of recurrent layers."""
        macs = layer.macs(phase)
        if macs and not layer.shapes:
            raise UserError(
                f"--machine {self.name}: expected convolutions and matrix products alone, got "
                f"{macs} other MACs in {layer.name}, {phase}"
            )
        return self.price_products(layer, phase, zeros) if macs and phase in PASSES else None


@cache
def kinds() -> Mapping[str, type[Machine]]:
    """Return the classes of machines by the `kind` of their files, from the modules beside this
    one, which are imported here."""
    package = import_module(__package__)
    for module in iter_modules(package.__path__):
        import_module(f"{__package__}.{module.name}{'.machine' if module.ispkg else ''}")
    return dict(sorted(_KINDS.items()))


def names() -> tuple[str, ...]:
    """Return the names of the presets, and `host`."""
    return (*preset_names(FOLDER), HOST)


def load(name_or_file: str) -> Machine:
    """Return a preset by name, or the machine of a TOML file.

    UserError for an unknown name, for a file that does not fit, with the key, the value and what is
    expected, and for `host`, which `calibration.host` measures.
    """
    if name_or_file == HOST:
        raise UserError(
            f"--machine {HOST}: it is measured: call tallygrad.trainer.calibration.host.measure()"
        )
    path = resolve_preset("--machine", name_or_file, FOLDER, HOST)
    content, key_path = read_toml_or_json("--machine", path), KeyPath(str(path))
    changes = {name: content.pop(name) for name in INFERENCE[1:] if name in content}
    kind = Text(tuple(kinds())).read(key_path.at("kind"), content.get("kind", MISSING))
    table = _table(kinds()[kind])
    machine = table.read(key_path, content)
    variants = []
    for precision, values in changes.items():
        at = key_path.at(precision)
        variant = table.read(at, _changed(content, at, values))
        variants.append(replace(variant, precision=precision))
    return replace(machine, variants=tuple(variants))


def _changed(content: Mapping[str, Any], key_path: KeyPath, changes: Any) -> Mapping[str, Any]:
    """Return a file's content with changed keys, those of its tables too."""
    if not isinstance(changes, Mapping):
        key_path.refuse("a table", changes)
    changed = dict(content)
    for key, value in changes.items():
        if key in ("name", "kind"):
            key_path.at(key).refuse("none, as it is the machine's", value)
        before = content.get(key)
        if isinstance(before, Mapping) and isinstance(value, Mapping):
            value = {**before, **value}
        changed[key] = value
    return changed


def _table(cls: type[Machine]) -> Table[Machine]:
    def make(kind: str, **values: Any) -> Machine:
        return cls(**values)

    return Table(
        make, name=TEXT, kind=TEXT, source=TEXT, note=Optional(TEXT, ""), bits=Optional(BITS),
        **(cls.fields or {}),
    )  # fmt: skip
