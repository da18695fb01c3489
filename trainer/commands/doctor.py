"""`tallygrad doctor`: check this environment, host and run folder, and the other hosts of a job.

The checks are in `launch`, which needs the standard library only: doctor also works where NumPy or
MPI does not.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..distributed.launchers import expected_size, launcher
from ..errors import UserError, show
from ..parser import integer
from ..threads import (
    MOST_THREADS,
    HostCores,
    configure,
    launched_local_rank,
    launched_rank,
    local_ranks,
)
from . import flags

if TYPE_CHECKING:
    from ...launch.checks.finding import Setting
    from ...launch.hostfile import Host

DESCRIPTION = """Check MPI, processor, libraries, run folder, network and hosts. Each finding is ok,
a warning or an error, the latter two with a remedy. The exit status is 1 if there is an error,
otherwise 0. Alone, doctor starts ranks to see whether MPI connects them; under a launcher, it
checks every host of the job."""
LESS_MEMORY = "free some memory"
MOST_RANKS = 1 << 20


@dataclass(frozen=True, kw_only=True)
class DoctorOptions:
    """The options of `tallygrad doctor`; "" and 0 are what was not given."""

    ranks: int
    threads: int
    hosts: str
    hostfile: str
    out: str
    as_json: bool

    @property
    def forwarded(self) -> tuple[str, ...]:
        """The options that a doctor on each host gets too."""
        folder = ("--out", self.out) if self.out else ()
        return (*folder, "--threads", str(self.threads))

    def check(self) -> None:
        """Raise UserError for values out of range."""
        for name, value, most in (("-n", self.ranks, MOST_RANKS),
                                  ("--threads", self.threads, MOST_THREADS)):  # fmt: skip
            if not 0 <= value <= most:
                raise UserError(f"{name}: expected 1 to {most}, got {value}")


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the size of the job, its hosts and its run folder."""
    parser.add_argument("-n", dest="ranks", metavar="RANKS", type=integer, default=0,
                        help="ranks (default: what the hosts take, else 2)")  # fmt: skip
    parser.add_argument("--threads", type=integer, default=0, help="threads; 0: cores / ranks")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--hosts", default="", metavar="HOST:N,...",
                       help="hosts of the job, each with its number of ranks")  # fmt: skip
    where.add_argument("--hostfile", default="", metavar="FILE",
                       help="file of hosts, in lines of HOST slots=N or HOST:N")  # fmt: skip
    parser.add_argument("--out", default="", metavar="FOLDER", help="run folder of the job")
    flags.add_json(parser)


def run(values: Mapping[str, Any]) -> int:
    """Print the findings, on rank 0; return 1 if one is an error. UserError for wrong options."""
    options = DoctorOptions(**values)
    options.check()
    from ...launch import doctor

    setting = _setting(options, os.environ)
    first = launched_local_rank()
    is_first = setting.rank == 0 if first is None else first == 0
    findings = []
    for finding in doctor.examine(setting, is_first):
        findings.append(finding)
        if not options.as_json and not setting.launcher:
            show("\n".join(doctor.as_text([finding])))  # at once: some take a while
    if setting.rank:
        return 0
    if options.as_json:
        print(doctor.as_json(findings))
    else:
        show("\n".join([*(doctor.as_text(findings) if setting.launcher else ()),
                        doctor.summary(findings)]))  # fmt: skip
    return doctor.status(findings)


def _setting(options: DoctorOptions, env: Mapping[str, str]) -> Setting:
    """Return the job that the launcher started or, alone, the one that the options describe."""
    from ...launch.checks.finding import Setting

    hosts = _hosts(options)
    launched = expected_size(env)
    ranks = launched or options.ranks or sum(host.slots for host in hosts) or 2
    local = local_ranks(env) if launched else max((h.slots for h in hosts), default=ranks)
    local = min(local, ranks)
    worker = {**env} if launched else {**env, "MPI_LOCALNRANKS": str(local)}
    host = HostCores.here(worker)
    threads = configure(worker, host, options.threads)
    return Setting(
        ranks=ranks,
        local_ranks=local,
        rank=launched_rank(env) if launched else 0,
        launcher=launcher(env),
        threads=threads,
        cores=host.cores,
        hosts=hosts,
        folder=Path(options.out or "."),
        forwarded=options.forwarded,
        env=dict(env),
        worker_env={k: v for k, v in worker.items() if launched or k != "MPI_LOCALNRANKS"},
    )


def _hosts(options: DoctorOptions) -> tuple[Host, ...]:
    from ...launch.hostfile import parse_hosts, read_hostfile
    from ...launch.mpirun import LaunchError

    try:
        if options.hostfile:
            return read_hostfile(Path(options.hostfile))
        return parse_hosts(options.hosts) if options.hosts else ()
    except ValueError as error:
        raise UserError(f"--hosts: {error}") from None
    except LaunchError as error:
        raise UserError(str(error)) from None
