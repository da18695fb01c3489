"""Ranks that really start: whether MPI connects them, and to which cores they are bound.

Alone, doctor starts ranks as `tallygrad launch` would. Under a launcher, the doctor of each rank
starts a process in its place, which meets those of the others; they also carry the findings of each
host to rank 0.
"""

from __future__ import annotations

import json
import os
import shlex
import socket
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any, NamedTuple

from ..mpirun import LaunchError, environment, find_mpirun, is_openmpi, start_line
from . import mpi
from .finding import ERROR, OK, WARNING, Finding, Setting
from .probe import ProbeError, ask, reason, run

# Every rank brings its place and findings; the root, which every rank that is alone is, prints all.
MEET = """
import json, os, socket, sys
from mpi4py import MPI
world = MPI.COMM_WORLD
cores = sorted(os.sched_getaffinity(0))
mine = [[socket.gethostname(), os.cpu_count(), cores], json.loads(sys.argv[1])]
size, gathered = world.allreduce(1), world.gather(mine)
if world.rank == 0:
    print(json.dumps([size, gathered]), flush=True)
"""
LIMIT = 60.0  # seconds to meet
EACH = 1.0  # seconds more for each rank
EXAMINING = 300.0  # seconds more for the checks of a host


class Place(NamedTuple):
    """Where a rank runs: its host with the number of its cores, and those that it may use."""

    host: str
    total: int
    cores: tuple[int, ...]


def check(setting: Setting) -> Iterator[Finding]:
    """Start ranks on this host and see how many MPI connects; on other hosts, a doctor each."""
    try:
        mpirun = find_mpirun()
        openmpi = is_openmpi(mpirun)
        mpi.library()
    except (LaunchError, ProbeError):
        yield Finding("ranks", WARNING, "not started, because MPI is incomplete", mpi.INSTALL)
        return
    hosts = ",".join(map(str, setting.hosts)) or None
    line = start_line(mpirun, openmpi, setting.ranks, hosts)
    here = ["-c", MEET, "[]"]
    there = ["-m", "tallygrad.trainer", "doctor", "--json", *setting.forwarded]
    command = [*line, sys.executable, "-P", *(there if hosts else here)]
    limit = LIMIT + EACH * setting.ranks + (EXAMINING if hosts else 0)
    try:
        status, out, err = run(command, environment(openmpi), limit)
        found = _objects(out)
        if not found:
            raise ProbeError(reason(status, err or out))
    except ProbeError as error:
        yield _not_met(str(error), setting, line)
        return
    if hosts:
        yield from (Finding(**one) for one in found[0])
    else:
        sizes, places = {size for size, _ in found}, _places(found[-1][1])
        yield from _judge(sizes, places, setting)


def gather(setting: Setting, findings: Sequence[Finding]) -> Iterator[Finding]:
    """Gather the ranks that the launcher started, on each of them; rank 0 yields all findings."""
    data = json.dumps([asdict(finding) for finding in findings])
    try:
        size, gathered = ask(MEET, data, limit=LIMIT + EACH * setting.ranks)
    except ProbeError as error:
        if setting.rank == 0:
            yield from findings
            yield _not_met(str(error), setting)
        return
    if setting.rank == 0:
        for _, those in gathered:
            yield from (Finding(**one) for one in those)
        yield from _judge({size}, _places(gathered), setting)


def _places(gathered: Sequence[Any]) -> list[Place]:
    return [Place(host, total, tuple(cores)) for (host, total, cores), _ in gathered]


def _objects(out: str) -> list[Any]:
    """Return the JSON lists in an output; an MPI may join those of several ranks in a line."""
    found, decoder = [], json.JSONDecoder()
    while (start := out.find("[")) >= 0:
        try:
            one, end = decoder.raw_decode(out, start)
        except ValueError:
            end = start + 1
        else:
            found.append(one)
        out = out[end:]
    return found


def _judge(sizes: set[int], places: Sequence[Place], setting: Setting) -> Iterator[Finding]:
    if sizes != {setting.ranks}:
        size = " or ".join(map(str, sorted(sizes)))
        seen = f"{setting.ranks} started, but MPI sees {size}: each would train a model of its own"
        yield Finding("ranks", ERROR, seen, _way(setting.launcher))
        return
    hosts = Counter(place.host for place in places)
    listed = ", ".join(f"{count} on {host}" for host, count in hosts.items())
    yield Finding("ranks", OK, f"{setting.ranks} started and met: {listed}")
    yield from check_binding(places, setting)


def _not_met(reason: str, setting: Setting, line: Sequence[str] = ()) -> Finding:
    way = f"see what `{shlex.join([*line, 'hostname'])}` says" if line else _way(setting.launcher)
    if setting.several_hosts:
        way += "; let MPI use the network that all hosts share: export " \
               "OMPI_MCA_btl_tcp_if_include=eth0 UCX_NET_DEVICES=eth0"  # fmt: skip
    return Finding("ranks", ERROR, f"{setting.ranks} ranks did not meet: {reason}", way)


def _way(launcher: str) -> str:
    if launcher == "srun":
        try:
            plugin = "pmix" if mpi.library().is_openmpi else "pmi2"
        except ProbeError:
            plugin = "pmi2"
        return f"srun --mpi={plugin}"
    return "use the mpirun that belongs to the MPI library: tallygrad launch -n RANKS -- train ..."


def check_binding(places: Sequence[Place], setting: Setting) -> Iterator[Finding]:
    """Look for ranks that share too few cores, or are bound to fewer than they have threads."""
    for host in dict.fromkeys(place.host for place in places):
        yield _binding([place for place in places if place.host == host], setting)


def _binding(places: Sequence[Place], setting: Setting) -> Finding:
    host, masks = places[0].host, [set(place.cores) for place in places]
    union: set[int] = set().union(*masks)
    narrow, share = min(map(len, masks)), setting.cores // len(masks)
    ranks = f"{len(masks)} rank{'s' * (len(masks) > 1)}"
    seen = f"{ranks}, each bound to {_cores(narrow)}" if narrow < len(union) else f"{ranks} unbound"
    seen += f", {_cores(len(union))} used"
    remedy = _unbind(setting.launcher, max(1, share))
    if len(union) < min(len(masks), places[0].total):
        return Finding("binding", WARNING, f"{seen}: ranks share a core", remedy, host)
    if host == socket.gethostname() and narrow < min(setting.threads, max(1, share)):
        said = f"{seen}, fewer than its {setting.threads} threads"
        return Finding("binding", WARNING, said, remedy, host)
    return Finding("binding", OK, seen, host=host)


def _cores(count: int) -> str:
    return f"{count} core{'s' * (count != 1)}"


def _unbind(launcher: str, cores: int) -> str:
    if launcher == "srun":
        return f"srun --cpus-per-task={cores} --cpu-bind=cores"
    if "OMPI_COMM_WORLD_SIZE" in os.environ:
        return f"mpirun --map-by slot:PE={cores} --bind-to core, or --bind-to none"
    if launcher:
        return f"mpiexec -bind-to core:{cores}, or -bind-to none"
    return "tallygrad launch --bind none, and no taskset around it"
