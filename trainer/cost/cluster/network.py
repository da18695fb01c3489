"""Networks: how ranks reach one another, read from a TOML file.

    name = "cluster"
    source = "the operator's handbook"
    note = ""                    # optional

    [hosts]
    ranks = 32                   # of a host
    count = 16                   # optional: no plan takes more

    [inside]                     # between ranks of a host; without it that of a calibration here
    latency_seconds = 1e-6
    bytes_per_second = 8e9
    source = "measured"

    [between]                    # between hosts, for each of them; without it taken as inside
    latency_seconds = 2e-6
    bytes_per_second = 25e9
    source = "line rate"

    [exchange]                   # optional; without it that of a calibration here
    reduction_bytes_per_second = 4e9   # additions
    overlap = 0.0                # share of an exchange that goes on while ranks compute, 0 to 1
    factor = 1.0                 # time of MPI's allreduce inside a host, over the formula's

`[compute]` is what a calibration saved of a model's step: see `step_time.py`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from ...errors import UserError, nearest
from ...files import read_toml_or_json, resolve_preset
from .allreduce import Link
from .step_time import LARGEST, StepTimes

FOLDER = Path(__file__).parent / "presets"
HOSTS, LINK = ("ranks", "count"), ("latency_seconds", "bytes_per_second", "source")
MARK = "# A network, as `tallygrad plan --save` writes it.\n"
EXCHANGE = ("reduction_bytes_per_second", "overlap", "factor")
TOP = ("name", "source", "note", "hosts", "inside", "between", "exchange", "compute")


class Exchange(NamedTuple):
    """How fast a rank adds (bytes a second), which share of an exchange goes on while it computes,
    and how much longer than by formula MPI's allreduce inside a host takes."""

    reduction: float
    overlap: float = 0.0
    factor: float = 1.0


@dataclass(frozen=True)
class Network:
    """What joins the ranks; None is what is not known. `count` of 0 hosts is no limit."""

    name: str
    source: str
    note: str = ""
    per_host: int = 0
    count: int = 0
    inside: Link | None = None
    between: Link | None = None
    exchange: Exchange | None = None

    @property
    def known(self) -> bool:
        """Tell whether nothing is left to be measured here."""
        return self.inside is not None and self.exchange is not None

    def completed(self, measured: Network) -> Network:
        """Return this network with what it leaves open taken from a calibration."""
        return replace(
            self,
            per_host=self.per_host or measured.per_host,
            inside=self.inside or measured.inside,
            exchange=self.exchange or measured.exchange,
        )


def load(name_or_file: str) -> tuple[Network, StepTimes | None]:
    """Return a network by name, or from a TOML file, and what the file has of a model's step.
    UserError, naming the key, the value and what would fit, for a file that is not one."""
    path = resolve_preset("--network", name_or_file, FOLDER, "calibrate")
    held = read_toml_or_json("--network", path)
    times = StepTimes.read(path, held["compute"]) if "compute" in held else None
    return _network(path, held), times


def _network(path: Path, held: dict[str, Any]) -> Network:
    for key in held:
        if key not in TOP:
            raise UserError(f"{path}: unknown key {key}{nearest(key, TOP)}")
    for key in ("name", "source"):
        if not isinstance(held.get(key), str):
            raise UserError(f"{path}: {key} = {held.get(key)!r}: a text is needed")
    hosts = _table(path, "hosts", held.get("hosts"), HOSTS)
    return Network(
        held["name"],
        held["source"],
        str(held.get("note", "")),
        _whole(path, "hosts.ranks", hosts.get("ranks")),
        _whole(path, "hosts.count", hosts["count"]) if "count" in hosts else 0,
        _link(path, "inside", held),
        _link(path, "between", held),
        _exchange(path, held),
    )


def _table(path: Path, name: str, held: Any, keys: tuple[str, ...]) -> dict[str, Any]:
    if not isinstance(held, dict):
        raise UserError(f"{path}: table [{name}] is missing; it has {', '.join(keys)}")
    for key in held:
        if key not in keys:
            raise UserError(f"{path}: {name}.{key} is unknown{nearest(key, keys)}")
    return held


def _whole(path: Path, key: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value < LARGEST:
        raise UserError(f"{path}: {key} = {value!r}: a whole number from 1 up is needed")
    return value


def _number(path: Path, key: str, value: Any, zero: bool = False) -> float:
    """Return a finite number above 0; `zero`: or 0."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise UserError(f"{path}: {key} = {value!r}: a number is needed")
    if not (0 <= value < LARGEST) or (value == 0 and not zero):
        least = "0 or more" if zero else "more than 0"
        raise UserError(f"{path}: {key} = {value}: it must be {least}, and finite")
    return float(value)


def _link(path: Path, name: str, held: dict[str, Any]) -> Link | None:
    if name not in held:
        return None
    table = _table(path, name, held[name], LINK)
    source = table.get("source")
    if not isinstance(source, str):
        raise UserError(f"{path}: {name}.source = {source!r}: a text is needed")
    latency = _number(path, f"{name}.{LINK[0]}", table.get(LINK[0]), zero=True)
    return Link(latency, _number(path, f"{name}.{LINK[1]}", table.get(LINK[1])), source)


def _exchange(path: Path, held: dict[str, Any]) -> Exchange | None:
    if "exchange" not in held:
        return None
    table = _table(path, "exchange", held["exchange"], EXCHANGE)
    reduction = _number(path, f"exchange.{EXCHANGE[0]}", table.get(EXCHANGE[0]))
    overlap = _number(path, "exchange.overlap", table.get("overlap", 0.0), zero=True)
    if overlap > 1:
        raise UserError(f"{path}: exchange.overlap = {overlap}: it is a share, at most 1")
    return Exchange(reduction, overlap, _number(path, "exchange.factor", table.get("factor", 1.0)))


def as_toml(network: Network, compute: StepTimes | None = None) -> str:
    """Return what `load` reads again."""
    lines = [f"{key} = {json.dumps(getattr(network, key))}" for key in ("name", "source", "note")]
    lines.insert(0, MARK)
    lines += ["", "[hosts]", f"ranks = {network.per_host}"]
    lines += [f"count = {network.count}"] if network.count else []
    for name, link in (("inside", network.inside), ("between", network.between)):
        if link is not None:
            values = zip(LINK, link, strict=True)
            lines += ["", f"[{name}]", *[f"{key} = {json.dumps(v)}" for key, v in values]]
    if network.exchange is not None:
        values = zip(EXCHANGE, network.exchange, strict=True)
        lines += ["", "[exchange]", *[f"{key} = {json.dumps(v)}" for key, v in values]]
    return "\n".join([*lines, "", *(compute.lines() if compute else [])])
