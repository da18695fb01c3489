"""The mpirun of this environment's MPI library, and its command lines."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from itertools import pairwise
from types import MappingProxyType

from . import monitor, reap
from .address import own_address

BINDINGS = ("none", "core", "socket")
OWN_VARIABLES = (monitor.VARIABLE, reap.VARIABLE)  # which a job sets for its ranks
SHRINKING = ("--on-lost-rank", "shrink")  # words of a training that goes on without lost ranks
# Prefixes of variables to pass to other hosts: Open MPI passes only those that it is told to, MPICH
# passes all.
EXPORTED = ("TALLYGRAD_", "PYTHON", "OMP_", "OPENBLAS_", "MKL_")


class LaunchError(Exception):
    """Why a job cannot be started, in one line."""


def prepare(
    ranks: int,
    hosts: str | None,
    command: list[str],
    binding: str = "",
    variables: Mapping[str, str] = MappingProxyType({}),
) -> tuple[list[str], dict[str, str]]:
    """Return mpirun's command line and environment for a trainer command.

    `hosts` is a list such as "a:4,b:4", None for this host. `binding` is one of `BINDINGS`, or ""
    for the default. `variables` are added to the environment of the ranks, on other hosts too.
    Raises LaunchError if there is no mpirun that works.
    """
    mpirun = find_mpirun()
    openmpi = is_openmpi(mpirun)
    env = {**environment(openmpi), **variables}
    return command_line(mpirun, openmpi, ranks, hosts, command, binding, env), env


def find_mpirun() -> str:
    """Return the mpirun of this environment, otherwise the first on PATH. LaunchError if none."""
    own = os.path.join(sys.prefix, "bin")
    for folder in (own, None):
        program = shutil.which("mpirun", path=folder) or shutil.which("mpiexec", path=folder)
        if program:
            return program
    raise LaunchError(f"no mpirun in {own} or on PATH; pip install 'tallygrad[mpich]' installs one")


def is_openmpi(mpirun: str) -> bool:
    """Return whether `mpirun --version` reports Open MPI, rather than MPICH or a relative.

    Raises LaunchError if it cannot be run.
    """
    return is_openmpi_version(version_text(mpirun))


def is_openmpi_version(text: str) -> bool:
    """Return whether this is what Open MPI's `mpirun --version` prints."""
    return "Open MPI" in text or "OpenRTE" in text


def version_text(mpirun: str) -> str:
    """Return what `mpirun --version` prints. LaunchError if it cannot be run."""
    try:
        answer = subprocess.run(
            [mpirun, "--version"],
            env=environment(openmpi=True),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=30,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise LaunchError(f"{mpirun} --version failed: {error}") from None
    text = answer.stdout + answer.stderr
    if answer.returncode:
        first = (text.strip().splitlines() or ["no output"])[0]
        raise LaunchError(f"{mpirun} --version ended with status {answer.returncode}: {first}")
    return text


def environment(openmpi: bool) -> dict[str, str]:
    """Return the environment for mpirun; Open MPI needs two variables to run as root."""
    allow = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    return {**os.environ, **allow} if openmpi and os.geteuid() == 0 else dict(os.environ)


def command_line(
    mpirun: str,
    openmpi: bool,
    ranks: int,
    hosts: str | None,
    command: list[str],
    binding: str = "",
    env: Mapping[str, str] = os.environ,
) -> list[str]:
    """Return mpirun's command line, which runs this Python: on other hosts under the same path."""
    # -P: a file in the current folder must not shadow a module of the same name.
    python = [sys.executable, "-P", "-m", "tallygrad.trainer"]
    start = start_line(mpirun, openmpi, ranks, hosts, binding, env)
    if openmpi and outlives_ranks(command):
        start[1:1] = ["--with-ft", "ulfm"]
    return [*start, *python, *command]


def outlives_ranks(command: list[str]) -> bool:
    """Return whether a trainer's command is to go on when a rank of it ends."""
    return "--on-lost-rank=shrink" in command or SHRINKING in pairwise(command)


def start_line(
    mpirun: str,
    openmpi: bool,
    ranks: int,
    hosts: str | None,
    binding: str = "",
    env: Mapping[str, str] = os.environ,
) -> list[str]:
    """Return the part of mpirun's command line that comes before the program.

    `env` is the environment to run it with, which reaches other hosts as far as `EXPORTED` says.
    """
    options = _openmpi(ranks, hosts, binding, env) if openmpi else _mpich(hosts, binding)
    return [mpirun, "-n", str(ranks), *options]


def _openmpi(ranks: int, hosts: str | None, binding: str, env: Mapping[str, str]) -> list[str]:
    cores = len(os.sched_getaffinity(0))
    line = ["--map-by", ":OVERSUBSCRIBE"]
    if binding:
        line += ["--bind-to", binding if binding == "none" else f"{binding}:overload-allowed"]
    # Open MPI would bind one or two ranks to a core each, which leaves none for their threads.
    elif hosts or ranks != cores:
        line += ["--bind-to", "none"]
    if not hosts and ranks > cores:
        line += ["--mca", "mpi_yield_when_idle", "1"]
    if hosts:
        line += ["--host", hosts]
        for name in OWN_VARIABLES:
            line += ["-x", name]
        for name in filter(lambda name: name.startswith(EXPORTED), sorted(env)):
            line += ["-x", name]
    return line


def _mpich(hosts: str | None, binding: str) -> list[str]:
    line = ["-bind-to", binding] if binding else []
    if hosts:
        line += ["-hosts", hosts]
        # The other hosts may not know this one's name, or by another address.
        names = (host.partition(":")[0] for host in hosts.split(","))
        if address := own_address(names):
            line += ["-localhost", address]
    return line
