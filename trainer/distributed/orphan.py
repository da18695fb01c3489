"""The end of a rank whose launcher is gone: nobody else would end it, and a run that takes its
place would write beside it."""

from __future__ import annotations

import os
import sys
import time
from contextlib import suppress
from threading import Thread

INTERVAL = 0.5  # seconds between looks at the parent


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
