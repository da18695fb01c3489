"""Networks: the links between ranks, read from a TOML file.

    name = "cluster"
    source = "the operator's handbook"
    note = ""                    # optional

    [hosts]
    ranks = 32                   # of a host
    count = 16                   # optional: no plan takes more
    cores = 32                   # optional: more ranks than these take turns

    [inside]                     # between ranks of a host; default: measured here
    latency_seconds = 1e-6
    bytes_per_second = 8e9
    source = "measured"

    [between]                    # between hosts, per host; default: as inside
    latency_seconds = 2e-6
    bytes_per_second = 25e9
    source = "line rate"

    [exchange]                   # optional; default: measured here
    reduction_bytes_per_second = 4e9   # additions
    overlap = 0.0                # share of an exchange that goes on while ranks compute, 0 to 1
    overlap_poll = 0.0           # with `train --overlap poll`; default: overlap
    overlap_thread = 0.0         # with `train --overlap thread`; default: overlap
    factor = 1.0                 # time of MPI's allreduce inside a host, over the formula's
    fixed_order_factor = 1.0     # that of the trainer's sum in a fixed order; default: factor

`[compute]` holds the step times that a calibration saved: see `step_time.py`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from ...parsing import read_toml_or_json, resolve_preset
from ..reader import COUNT, NOT_NEGATIVE, POSITIVE, SHARE, TEXT, KeyPath, Optional, Table
from .allreduce import OWN
from .step_time import StepTimes
from .traffic import Link

FOLDER = Path(__file__).parent / "presets"
MARK = "# A network, as `tallygrad plan --save` writes it.\n"


@dataclass(frozen=True)
class Hosts:
    """Ranks of a host, the number of hosts, 0 for no limit, and cores of a host, 0 for as many as
    ranks."""

    ranks: int
    count: int = 0
    cores: int = 0


class Exchange(NamedTuple):
    """How fast a rank adds, in bytes per second; the share of an exchange that goes on while ranks
    compute, at best and by what drives it; and the times of MPI's allreduce and of the sum in fixed
    order inside a host, over the formulas'. None is as `overlap`, or as `factor`."""

    reduction: float
    overlap: float = 0.0
    factor: float = 1.0
    overlap_poll: float | None = None
    overlap_thread: float | None = None
    fixed_order_factor: float | None = None

    def share(self, driven_by: str) -> float:
        """Return the share that goes on while ranks compute if an exchange is driven by "none",
        "poll", "thread", or "auto", the best of them."""
        shares = {"none": 0.0, "poll": self.overlap_poll, "thread": self.overlap_thread}
        share = shares.get(driven_by)
        return self.overlap if share is None else share

    def slowness(self, algorithm: str) -> float:
        """Return the time of an algorithm inside a host over the formula's."""
        measured = self.fixed_order_factor if algorithm in OWN else None
        return measured or self.factor


@dataclass(frozen=True)
class Network:
    """The links between ranks; None is what is not known. `count` of 0 hosts is no limit, 0 `cores`
    of a host are as many as it has ranks."""

    name: str
    source: str
    note: str = ""
    per_host: int = 0
    count: int = 0
    inside: Link | None = None
    between: Link | None = None
    exchange: Exchange | None = None
    cores: int = 0

    def busy(self, ranks: int) -> int:
        """Return how many ranks of a host compute at once."""
        local = min(ranks, self.per_host)
        return min(local, self.cores or local)

    def turns(self, ranks: int) -> int:
        """Return how many ranks compute one after the other on a core."""
        return -(-min(ranks, self.per_host) // self.busy(ranks))

    @property
    def known(self) -> bool:
        """Whether nothing is left to be measured here."""
        return self.inside is not None and self.exchange is not None

    def to_json(self) -> dict[str, Any]:
        """Return what `tallygrad plan --json` prints."""
        return {
            "name": self.name,
            "source": self.source,
            "note": self.note,
            "ranks_per_host": self.per_host,
            "cores": self.cores,
            "inside": self.inside and self.inside._asdict(),
            "between": self.between and self.between._asdict(),
            "exchange": self.exchange and self.exchange._asdict(),
        }

    def completed(self, measured: Network) -> Network:
        """Return this network with what it leaves open filled in from a calibration."""
        return replace(
            self,
            per_host=self.per_host or measured.per_host,
            inside=self.inside or measured.inside,
            exchange=self.exchange or measured.exchange,
        )


def load(name_or_file: str) -> tuple[Network, StepTimes | None]:
    """Return a network, by name or from a TOML file, and the step times in the file, None without.
    UserError for an unknown name, and for a file that does not fit, with key, value and what is
    expected."""
    path = resolve_preset("--network", name_or_file, FOLDER, "calibrate")
    return FILE.read(KeyPath(str(path)), read_toml_or_json("--network", path))


def _link(latency_seconds: float, bytes_per_second: float, source: str) -> Link:
    return Link(latency_seconds, bytes_per_second, source)


def _exchange(reduction_bytes_per_second: float, **others: float) -> Exchange:
    return Exchange(reduction_bytes_per_second, **others)


def _network(
    name: str, source: str, note: str, hosts: Hosts, inside: Link | None, between: Link | None,
    exchange: Exchange | None, compute: StepTimes | None,
) -> tuple[Network, StepTimes | None]:  # fmt: skip
    links = inside, between, exchange
    network = Network(name, source, note, hosts.ranks, hosts.count, *links, hosts.cores)
    return network, compute


LINK = Table(_link, latency_seconds=NOT_NEGATIVE, bytes_per_second=POSITIVE, source=TEXT)
EXCHANGE = Table(
    _exchange,
    reduction_bytes_per_second=POSITIVE,
    overlap=Optional(SHARE, 0.0),
    factor=Optional(POSITIVE, 1.0),
    overlap_poll=Optional(SHARE),
    overlap_thread=Optional(SHARE),
    fixed_order_factor=Optional(POSITIVE),
)
FILE = Table(
    _network, name=TEXT, source=TEXT, note=Optional(TEXT, ""),
    hosts=Table(Hosts, ranks=COUNT, count=Optional(COUNT, 0), cores=Optional(COUNT, 0)),
    inside=Optional(LINK), between=Optional(LINK), exchange=Optional(EXCHANGE),
    compute=Optional(StepTimes),
)  # fmt: skip


def as_toml(network: Network, compute: StepTimes | None = None) -> str:
    """Return the text of a network file, which `load` reads."""
    lines = [f"{key} = {json.dumps(getattr(network, key))}" for key in ("name", "source", "note")]
    lines.insert(0, MARK)
    lines += ["", "[hosts]", f"ranks = {network.per_host}"]
    lines += [f"count = {network.count}"] if network.count else []
    lines += [f"cores = {network.cores}"] if network.cores else []
    for name, link in (("inside", network.inside), ("between", network.between)):
        if link is not None:
            values = zip(LINK.fields, link, strict=True)
            lines += ["", f"[{name}]", *[f"{key} = {json.dumps(v)}" for key, v in values]]
    if network.exchange is not None:
        pairs = zip(EXCHANGE.fields, network.exchange, strict=True)
        known = [f"{key} = {json.dumps(v)}" for key, v in pairs if v is not None]
        lines += ["", "[exchange]", *known]
    return "\n".join([*lines, "", *(compute.lines() if compute else [])])
