"""Copies of a run's state in the memory of hosts: their record, and those on hosts that it lost.

A run removes those of its own hosts when it ends. If it ran on others before, its `copies.json`
stays, and names them as `left`.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from . import hosts as cluster
from .hostfile import Host
from .reap import MEMORY

RECORD = "copies.json"  # in a run folder


class Record(NamedTuple):
    """What `copies.json` says: the name of the folder of copies in memory, the step from which the
    latest attempt began and the hosts that may have copies; of a run that has ended, those `left`
    that may still."""

    name: str = ""
    step: int = -1
    hosts: tuple[str, ...] = ()
    left: tuple[str, ...] = ()

    @classmethod
    def of(cls, content: Any) -> Record:
        """Return the record that a JSON file holds, an empty one where it cannot be ours."""
        match content:
            case {"name": str(name)} if re.fullmatch("tallygrad-[0-9a-f]{32}", name):
                step = content.get("step")
                hosts, left = (_names(content.get(key)) for key in ("hosts", "left"))
                return cls(name, step if type(step) is int else -1, hosts, left)
        return cls()

    @classmethod
    def read(cls, folder: Path) -> Record:
        """Return the record of a run folder, as `of`."""
        with suppress(OSError, ValueError, RecursionError):
            return cls.of(json.loads((folder / RECORD).read_text()))
        return cls()

    def to_json(self) -> dict[str, Any]:
        """Return what there is to say."""
        return {n: v for n, v in self._asdict().items() if v != self._field_defaults[n]}


def remove_left(folder: Path, hosts: Sequence[Host]) -> None:
    """Remove what a run has left in the memory of this host and of `hosts`; keep those on record
    that could not be reached, and warn of them."""
    record = Record.read(folder)
    if not record.left:
        return
    cleared = _clear(record, hosts)
    left = tuple(name for name in record.left if name not in cleared)
    with suppress(OSError):  # the record then names too many
        _write(folder, record._replace(left=left))
    if left:
        text = f"copies of its state may stay in {MEMORY / record.name} of {', '.join(left)}"
        print(f"tallygrad: warning: {folder}: {text}", file=sys.stderr)


def _clear(record: Record, hosts: Sequence[Host]) -> set[str]:
    """Remove copies; return the names by which the hosts without any know themselves."""
    copies, own = MEMORY / record.name, socket.gethostname()
    if own in record.left:
        shutil.rmtree(copies, ignore_errors=True)
    cleared = set() if copies.exists() else {own}
    hosts = _suspects({*record.left} - {own}, hosts)
    line = cluster.agent() if hosts else []
    answers = cluster.run_on(line, hosts, f"rm -rf {copies} && uname -n") if line else []
    return cleared.union(*(answer.splitlines() for answer in answers if answer))


def _suspects(left: set[str], hosts: Sequence[Host]) -> list[Host]:
    """Return the hosts of these names; all but this one, if some may have another name here."""
    known = {_short(name) for name in left}
    named = [host for host in hosts if _short(host.name) in known]
    if known <= {_short(host.name) for host in named}:
        return named
    return [host for host in hosts if not cluster.is_here(host.name)]


def _short(name: str) -> str:
    """Return a host's name without user and domain."""
    return name.rpartition("@")[2].partition(".")[0]


def _names(value: Any) -> tuple[str, ...]:
    return tuple(x for x in value if isinstance(x, str)) if isinstance(value, list) else ()


def _write(folder: Path, record: Record) -> None:
    """Write a whole record, or remove one that names no host."""
    if not record.left:
        (folder / RECORD).unlink(missing_ok=True)
        return
    part = folder / f".{RECORD}~{socket.gethostname()}~{os.getpid()}.tmp"
    part.write_text(json.dumps(record.to_json(), indent=1) + "\n")
    part.replace(folder / RECORD)
