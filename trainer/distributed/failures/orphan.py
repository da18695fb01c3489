"""The end of a rank whose launcher is gone or does not answer: nobody else would end it, and a run
that takes its place would write beside it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from threading import Thread

INTERVAL = 0.1  # seconds between looks at the parent: the first to lose it is to end first
GRACE = 5.0  # seconds for a launcher's process to end itself
DAEMONS = ("prted", "hydra_pmi_proxy")  # processes of Open MPI and MPICH that start ranks on a host


def watch_parent() -> None:
    """End this process, in a thread, within a second of its parent's end.

    A rank's parent is the launcher or the launcher's process on this host, which lives as long as
    the job. By looking, and not by Linux's PR_SET_PDEATHSIG, which also fires at the end of a mere
    thread of the parent.
    """
    Thread(target=_watch, args=(os.getppid(),), name="tallygrad-parent", daemon=True).start()


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(INTERVAL)
    with suppress(OSError, ValueError):
        print("tallygrad: error: the launcher of this rank has ended", file=sys.stderr, flush=True)
    os._exit(1)  # an MPI without its launcher may hang in an orderly end


def end_daemon(job: str) -> None:
    """See that the launcher's process on this host ends, if it is this rank's parent and serves no
    other job, as that of a `job` that `launch` started. On a host that is cut off, Open MPI's ends
    the ranks and then waits for its launcher. A process of its own kills it, after `GRACE`."""
    parent = os.getppid()
    with suppress(OSError):
        if not job or (name := _name(parent)) not in DAEMONS:
            return
        script = f'sleep {GRACE:g}; [ "$(cat /proc/{parent}/comm)" = {name} ] && kill -9 {parent}'
        subprocess.Popen(
            ["sh", "-c", script], start_new_session=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip


def _name(process: int) -> str:
    return Path(f"/proc/{process}/comm").read_text(errors="replace").strip()
