"""What a check is given, and what it finds."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from ..hostfile import Host

OK, WARNING, ERROR = "ok", "warning", "error"


@dataclass(frozen=True, kw_only=True)
class Setting:
    """The job to be checked.

    `ranks` and `local_ranks` are numbers of ranks, on all hosts and on this one. `threads` is the
    number that each rank would use, of the `cores` that the ranks of this host may use. `launcher`
    is how these ranks were started ("srun", "mpirun"), "" if doctor runs alone. `worker_env` is the
    environment in which a rank loads NumPy. `forwarded` are the options for a doctor on each host.
    """

    ranks: int = 2
    local_ranks: int = 1
    rank: int = 0
    launcher: str = ""
    threads: int = 1
    cores: int = 1
    hosts: tuple[Host, ...] = ()
    folder: Path = Path(".")
    forwarded: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))
    worker_env: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))

    @property
    def several_hosts(self) -> bool:
        """Whether the job spans hosts."""
        return bool(self.hosts) or self.ranks > self.local_ranks

    @property
    def existing_folder(self) -> Path:
        """The run folder, or the nearest folder above it that exists."""
        own = self.folder.absolute()
        return next(path for path in (own, *own.parents) if path.is_dir())


@dataclass(frozen=True)
class Finding:
    """One line of a report: what was seen and, unless all is well, the remedy."""

    name: str
    status: str
    seen: str
    remedy: str = ""
    host: str = field(default_factory=socket.gethostname)
    seconds: float = 0.0


class Check(Protocol):
    """A check of one thing or of several that belong together."""

    def __call__(self, setting: Setting) -> Iterator[Finding]:
        """Yield a finding for each."""
