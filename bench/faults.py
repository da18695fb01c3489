"""The fault table: how jobs end when a rank, a host, a disk or a link fails, and what is left.

Some faults need root, for network namespaces and disks. The table tells for each fault the seconds
from there to the end of the job, its status and message, the processes left behind and for how
long, the segments of shared memory that stay, and whether the run, resumed, comes to the same
weights as an undisturbed one. The status is 1 where something of this is not as it must be.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tallygrad.launch.attempt import LOST
from tallygrad.launch.job import PREEMPTED
from tallygrad.trainer.errors import LackOfMemory, UserError

from .hosts import why_not
from .options import BenchParser, counted, positive
from .trial import Bench, Ended, Fault, Job

DAEMONS = ("hydra_pmi_proxy", "prted")
COLUMNS = (
    "fault", "trials", "seconds: median, most", "status", "processes left, for at most",
    "segments left", "same bits",
)  # fmt: skip


def kill_daemon(job: Job, hosts: Any) -> None:
    """Kill the MPI's own process on the second host."""
    for process in hosts.processes("n2"):
        with suppress(OSError):
            if Path(f"/proc/{process}/comm").read_text().strip() in DAEMONS:
                os.kill(process, signal.SIGKILL)


def cut_link(job: Job, hosts: Any) -> None:
    """Take the link of the second host down."""
    hosts.cut("n2")


def sending(number: int) -> Callable[[Job, Any], None]:
    """Return what sends the launcher a signal."""
    return lambda job, hosts: job.send_signal(number)


FAULTS = {
    "SIGKILL of rank 0": Fault("kill:0", LOST),
    "SIGKILL of rank 1": Fault("kill:1", LOST),
    "SIGSTOP of rank 1": Fault("stop:1", LOST),
    "exception in backward": Fault("backward:1", 1),
    "exception in a loader thread": Fault("loader:1", 1),
    "disk full at a checkpoint": Fault("disk:0", UserError.status, disk=True),
    "another model on rank 1": Fault("mismatch:1", UserError.status),
    "daemon of a host killed": Fault("outside", LOST, kill_daemon, hosts=2),
    "link down": Fault("outside", LOST, cut_link, hosts=2, resume_ranks=1),
    "out of memory": Fault("memory:1", LackOfMemory.status),
    "SIGTERM": Fault("outside", PREEMPTED, sending(signal.SIGTERM)),
    "SIGUSR1": Fault("outside", PREEMPTED, sending(signal.SIGUSR1)),
    "SIGUSR2": Fault("outside", PREEMPTED, sending(signal.SIGUSR2)),
}


def summarize(results: Sequence[Ended]) -> str:
    """Return the table of all trials, a row per fault, and the messages."""
    names = dict.fromkeys(r.name for r in results)
    lines = [" | ".join(("", *COLUMNS, "")).strip(), "|---" * len(COLUMNS) + "|"]
    lines += [_row([r for r in results if r.name == name]) for name in names]
    for name in names:
        messages = dict.fromkeys(r.message for r in results if r.name == name)
        lines += [f"- {name}: {message}" for message in messages]
    return "\n".join(lines)


def _row(rows: list[Ended]) -> str:
    seconds = [r.seconds for r in rows]
    cells = [
        rows[0].name,
        str(len(rows)),
        f"{statistics.median(seconds):.1f}, {max(seconds):.1f}",
        ", ".join(map(str, sorted({r.status for r in rows}))),
        f"{max(r.left for r in rows)}, {max(r.left_seconds for r in rows):g} s",
        str(max(r.segments for r in rows)),
        f"{sum(r.same_bits for r in rows)} of {len(rows)}",
    ]
    return "| " + " | ".join(cells) + " |"


def failures(results: Sequence[Ended], faults: Mapping[str, Fault] = FAULTS) -> list[str]:
    """Return a line for each trial in which something is not as it must be."""
    wrong = [(r.name, r.wrong(faults[r.name].status)) for r in results]
    return [f"{name}: {'; '.join(reasons)}" for name, reasons in wrong if reasons]


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Return the options."""
    parser = BenchParser("python -m bench faults", description=__doc__, allow_abbrev=False)
    parser.add_argument("--repeats", type=counted, default=5)
    parser.add_argument("--collective-timeout", type=positive, default=10.0)
    parser.add_argument("--steps", type=counted, default=16)
    parser.add_argument("--only", action="append", choices=list(FAULTS))
    parser.add_argument("--json", type=Path, help="file for every trial, a line each")
    return parser.parse_args(arguments)


def run(arguments: Sequence[str]) -> int:
    """Run the table and print it; return 1 where something is not as it must be. UserError where
    a fault cannot be made here."""
    options = parse(arguments)
    chosen = options.only or list(FAULTS)
    rooted = [name for name in chosen if FAULTS[name].needs_root]
    if rooted and (reason := why_not()):
        raise UserError(f"{', '.join(rooted)}: {reason}; choose others with --only")
    results: list[Ended] = []
    with tempfile.TemporaryDirectory(prefix="faults-") as folder:
        bench = Bench(Path(folder), options.collective_timeout, options.steps)
        bench.prepare()
        for name in chosen * options.repeats:
            results.append(bench.trial(name, FAULTS[name]))
            print(results[-1], flush=True)
            if options.json:
                with options.json.open("a") as file:
                    file.write(json.dumps(asdict(results[-1])) + "\n")
    print(summarize(results))
    wrong = failures(results)
    print(*[f"wrong: {line}" for line in wrong], sep="\n", end="\n" * bool(wrong))
    return int(bool(wrong))
