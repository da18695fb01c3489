"""Check what a training on this host, these hosts or these ranks will need."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, replace

from .checks import mpi, network, processor, ranks, remote, storage
from .checks.finding import ERROR, WARNING, Check, Finding, Setting

CHECKS: dict[str, Check] = {
    "mpi": mpi.check_library,
    "mpi-wheels": mpi.check_wheels,
    "threads": processor.check_threads,
    "instructions": processor.check_instructions,
    "backend": processor.check_backend,
    "blas": processor.check_blas,
    "hdf5-locks": storage.check_locks,
    "shared-memory": storage.check_shared_memory,
    "disk-speed": storage.check_disk,
    "disk-space": storage.check_space,
    "network": network.check,
    "hosts": remote.check,
}
# Of the host that starts a job on others: those examine themselves.
OF_HEAD = ("mpi", "mpi-wheels", "network", "hosts")


def examine(setting: Setting, first: bool = True) -> Iterator[Finding]:
    """Yield the findings; under a launcher, those of all hosts, and on rank 0 only.

    `first` is whether this is the first rank on its host, which examines it. All ranks of a
    launcher must call this.
    """
    if not setting.launcher:
        yield from _alone(setting)
        return
    findings = list(_run(CHECKS, setting)) if first else []
    yield from _timed("ranks", ranks.gather(setting, findings), setting)


def _alone(setting: Setting) -> Iterator[Finding]:
    unreachable = False
    checks = {name: CHECKS[name] for name in OF_HEAD} if setting.hosts else CHECKS
    for finding in _run(checks, setting):
        unreachable |= (finding.name, finding.status) == ("ssh", ERROR)
        yield finding
    if unreachable:
        seen = "not started, because a host cannot be reached"
        yield Finding("ranks", WARNING, seen, "run doctor again once ssh works")
    else:
        yield from _timed("ranks", ranks.check(setting), setting)


def _run(checks: dict[str, Check], setting: Setting) -> Iterator[Finding]:
    for name, check in checks.items():
        yield from _timed(name, check(setting), setting)


def _timed(name: str, findings: Iterator[Finding], setting: Setting) -> Iterator[Finding]:
    """Yield findings with the time that each took; one about the check itself if it fails."""
    start = time.monotonic()
    try:
        for finding in findings:
            seconds = finding.seconds or round(time.monotonic() - start, 3)  # timed where found
            yield replace(finding, seconds=seconds)
            start = time.monotonic()
    except Exception as error:
        seen = f"the check itself failed: {type(error).__name__}: {error}"
        yield Finding(name, WARNING, seen, "report this as a fault of tallygrad doctor")


def as_json(findings: Iterable[Finding]) -> str:
    """Return the findings as a JSON list of objects."""
    return json.dumps([asdict(finding) for finding in findings], indent=2)


def as_text(findings: Iterable[Finding]) -> Iterator[str]:
    """Yield the lines of a report; those about another host begin with its name."""
    here = socket.gethostname()
    for finding in findings:
        host = "" if finding.host == here else f"{finding.host}: "
        yield f"{finding.status:8} {finding.name:14} {host}{finding.seen}"
        if finding.remedy:
            yield f"{'':8} {'':14} remedy: {finding.remedy}"


def summary(findings: Sequence[Finding]) -> str:
    """Return the last line of a report."""
    errors, warnings = (sum(f.status == s for f in findings) for s in (ERROR, WARNING))
    seconds = sum(finding.seconds for finding in findings)
    return (
        f"{len(findings)} findings: {errors} error{'s' * (errors != 1)}, "
        f"{warnings} warning{'s' * (warnings != 1)}; {seconds:.1f} s"
    )


def status(findings: Iterable[Finding]) -> int:
    """Return the exit status: 1 if there is an error, otherwise 0."""
    return int(any(finding.status == ERROR for finding in findings))
