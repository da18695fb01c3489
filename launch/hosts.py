"""Hosts that ranks run on, reached by ssh or by what the MPI uses in its place."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from . import reap
from .hostfile import Host

ANSWER = 10.0  # seconds for a host to answer
# Programs that Open MPI and MPICH start processes on other hosts with, where ssh is not it.
AGENTS = ("PRTE_MCA_plm_ssh_agent", "OMPI_MCA_plm_rsh_agent", "HYDRA_LAUNCHER_EXEC")


def reachable(hosts: Sequence[Host]) -> list[Host]:
    """Return the hosts that run a command within `ANSWER` seconds."""
    with ThreadPoolExecutor(max(1, min(64, len(hosts)))) as pool:
        answers = pool.map(lambda host: run(host.name, "true") == 0, hosts)
        return [host for host, answers_now in zip(hosts, answers, strict=True) if answers_now]


def reap_on(hosts: Sequence[Host], job: str) -> None:
    """Kill what a job has left on each host."""
    line = shlex.join([sys.executable, "-P", "-m", reap.__name__, job])
    with ThreadPoolExecutor(max(1, min(64, len(hosts)))) as pool:
        list(pool.map(lambda host: run(host.name, line), hosts))


def run(host: str, command: str) -> int:
    """Run a shell command on a host; return its status, 255 where the host does not answer."""
    try:
        return subprocess.run(
            [*agent(), host, command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=ANSWER,
        ).returncode
    except (OSError, subprocess.TimeoutExpired):
        return 255


def agent() -> list[str]:
    """Return the program that runs a command on a host: ssh, which must not ask for a password."""
    for name in AGENTS:
        if os.environ.get(name):
            return shlex.split(os.environ[name])
    return ["ssh", "-o", "BatchMode=yes", "-o", f"ConnectTimeout={ANSWER:.0f}"]
