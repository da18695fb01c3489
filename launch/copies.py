"""Copies of a run's state in the memory of hosts that it has lost.

A run removes those of its own hosts when it ends. If it ran on others before, its `copies.json`
stays, and names them as `left`.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from . import hosts as cluster
from .hostfile import Host
from .reap import MEMORY

RECORD = "copies.json"  # in a run folder: where its copies are, and from which step on


def remove_left(folder: Path, hosts: Sequence[Host]) -> None:
    """Remove what a run has left in the memory of hosts, and its record once all have answered."""
    name, left = _left(folder / RECORD)
    line = cluster.agent() if left else []
    if not line:
        return
    command = f"rm -rf {MEMORY / name}"
    silent = [host.name for host, status in zip(hosts, cluster.run_on(line, hosts, command),
                                                strict=True) if status]  # fmt: skip
    if silent:
        text = f"copies of its state may stay in {MEMORY / name} of {', '.join(silent)}"
        print(f"tallygrad: warning: {folder}: {text}", file=sys.stderr)
        return
    (folder / RECORD).unlink(missing_ok=True)


def _left(record: Path) -> tuple[str, bool]:
    """Return the name of the copies on record, and whether some are left."""
    with suppress(OSError, ValueError, TypeError, KeyError):
        content = json.loads(record.read_text())
        name = str(content["name"])
        return name, bool(content["left"]) and bool(re.fullmatch("tallygrad-[0-9a-f]{32}", name))
    return "", False
