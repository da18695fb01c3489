"""The mpirun that belongs to this environment, and its command lines."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

# What Open MPI hands to ranks on other hosts only when told to; MPICH hands over everything.
EXPORTED = ("TALLYGRAD_", "PYTHON", "OMP_", "OPENBLAS_", "MKL_")


class LaunchError(Exception):
    """A launch that cannot begin, in one line."""


def find_mpirun() -> str:
    """Return the mpirun beside this environment's MPI library, else the first on PATH."""
    own = os.path.join(sys.prefix, "bin")
    for folder in (own, None):
        program = shutil.which("mpirun", path=folder) or shutil.which("mpiexec", path=folder)
        if program:
            return program
    raise LaunchError(f"no mpirun in {own} or on PATH; pip install 'tallygrad[mpich]' brings one")


def is_openmpi(mpirun: str) -> bool:
    """Tell Open MPI from MPICH and its relatives by what `mpirun --version` prints."""
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
    return "Open MPI" in text or "OpenRTE" in text


def environment(openmpi: bool) -> dict[str, str]:
    """Return the environment for mpirun; Open MPI needs two words to start as root."""
    allow = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    return {**os.environ, **allow} if openmpi and os.geteuid() == 0 else dict(os.environ)


def command_line(
    mpirun: str, openmpi: bool, ranks: int, hosts: str | None, command: list[str]
) -> list[str]:
    """Return the whole command; several hosts need this environment under the same path."""
    line = [mpirun, "-n", str(ranks)]
    if openmpi:
        cores = len(os.sched_getaffinity(0))
        line += ["--map-by", ":OVERSUBSCRIBE"]
        # Two ranks would get a core each, however many there are: no room for their threads.
        if hosts or ranks != cores:
            line += ["--bind-to", "none"]
        if not hosts and ranks > cores:
            line += ["--mca", "mpi_yield_when_idle", "1"]
    if hosts:
        line += ["--host" if openmpi else "-hosts", hosts]
    if hosts and openmpi:
        for name in filter(lambda name: name.startswith(EXPORTED), sorted(os.environ)):
            line += ["-x", name]
    # -P: a file in the current folder must not stand in for a module of the same name.
    return [*line, sys.executable, "-P", "-m", "tallygrad.trainer", *command]
