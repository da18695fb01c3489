"""Hosts that ranks run on, reached by ssh or by what the MPI uses in its place."""

from __future__ import annotations

import os
import shlex
import shutil
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from . import reap
from .hostfile import Host
from .mpirun import LaunchError, find_mpirun, is_openmpi

AT_ONCE = 32  # hosts
ANSWER = 10.0  # seconds for a host to answer
LONGEST = 1 << 16  # bytes of names in a command; Linux takes twice as many
PLAIN = ("-o", "BatchMode=yes", "-o", "ConnectTimeout=10")  # never ask for a password


def reachable(hosts: Sequence[Host]) -> list[Host]:
    """Return the hosts that run a command within `ANSWER` seconds: all of them where mpirun starts
    processes by a scheduler, which knows."""
    line = agent() if hosts else []
    if not line:
        return list(hosts)

    def answers(host: Host) -> bool:
        return is_here(host.name) or run(line, host.name, "true") is not None

    with ThreadPoolExecutor(AT_ONCE) as pool:
        return [host for host, up in zip(hosts, pool.map(answers, hosts), strict=True) if up]


def reap_on(hosts: Sequence[Host], job: str, segments: Sequence[str] = ()) -> None:
    """Kill what a job has left on each host, and remove its segments of shared memory, where an
    agent reaches them."""
    line = agent() if hosts else []
    if not line:
        return
    names, text = [*segments], ""
    if len(shlex.join(names)) > LONGEST:
        names, text = [reap.READ], "\n".join(segments)
    command = shlex.join([sys.executable, "-P", "-m", reap.__name__, job, *names])
    run_on(line, hosts, command, text)


def run_on(
    line: Sequence[str], hosts: Sequence[Host], command: str, text: str = ""
) -> list[str | None]:
    """Run a shell command on each host by an agent, as `run`; return what they print."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        return list(pool.map(lambda host: run(line, host.name, command, text), hosts))


def is_here(name: str) -> bool:
    """Tell whether a name, perhaps with a user, is this host's: nothing is needed to reach it."""
    own = socket.gethostname()
    return name.rpartition("@")[2] in {"localhost", "127.0.0.1", own, own.partition(".")[0]}


def run(line: Sequence[str], host: str, command: str, text: str = "") -> str | None:
    """Run a shell command on a host by an agent, with a text to read; return what it prints, None
    where that fails."""
    try:
        done = subprocess.run(
            [*line, host, command],
            input=text.encode(),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=ANSWER,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return None if done.returncode else done.stdout.decode(errors="replace")


def agent(env: Mapping[str, str] = os.environ) -> list[str]:
    """Return the program that mpirun starts processes on other hosts with, and its options.

    Empty if mpirun starts them by a scheduler instead.
    """
    try:
        openmpi = is_openmpi(find_mpirun())
    except LaunchError:
        openmpi = True
    line = _of_openmpi(env) if openmpi else _of_mpich(env)
    return [*line, *PLAIN] if line and os.path.basename(line[0]) == "ssh" else line


def _of_openmpi(env: Mapping[str, str]) -> list[str]:
    names = ("PRTE_MCA_plm_ssh_agent", "OMPI_MCA_plm_ssh_agent", "OMPI_MCA_plm_rsh_agent")
    asked = next((env[name] for name in names if env.get(name)), "ssh")
    choices = list(filter(None, map(shlex.split, asked.split(":")))) or [["ssh"]]
    return next((line for line in choices if shutil.which(line[0])), choices[0])


def _of_mpich(env: Mapping[str, str]) -> list[str]:
    launcher = env.get("HYDRA_LAUNCHER") or env.get("I_MPI_HYDRA_BOOTSTRAP") or "ssh"
    program = env.get("HYDRA_LAUNCHER_EXEC") or env.get("I_MPI_HYDRA_BOOTSTRAP_EXEC")
    if launcher not in ("ssh", "rsh"):
        return []
    return shlex.split(program or "") or [launcher]
