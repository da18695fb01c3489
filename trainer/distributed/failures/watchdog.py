"""End a job in which ranks wait for one that does not come, and say which.

A thread in every rank tells rank 0 once a second what its rank does (`channel`); rank 0 judges. A
rank that others wait for is let alone while it shows that it works: a first step that compiles, an
evaluation or a checkpoint may take long. One that gives no sign of life, or whose main thread
stands still, for the limit ends the job; so does a collective that all have joined and that does
not end. Where rank 0 itself falls silent, each rank finds that alone.
"""

from __future__ import annotations

import json
import os
import select
import socket
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from typing import Final

from ....launch import monitor, reap
from ....launch.channel import Contact, Hub, Peer, reach
from ...errors import LostRank, one_line
from ..comm import Comm
from ..journal import Journal
from .orphan import end_daemon
from .verdict import PATIENCE, Seen, Status, judge

BEAT: Final = 1.0  # seconds between signs of life
TICK: Final = 0.05  # seconds between looks at what cannot wait for the next beat
GAP: Final = 5.0  # seconds between beats that say that this process did not run
BUSY: Final = 0.02  # share of a core that says that a rank computes
DYING: Final = 3.0  # seconds that MPI and the guard get to end a job that has lost a rank
DUMPING: Final = 1.0  # seconds that the others get to dump their stacks


class Pulse:
    """Whether the main thread of this process moves."""

    def __init__(self) -> None:
        self._main = threading.main_thread().ident or 0
        self._last: tuple[int, ...] = ()
        self._cpu = time.process_time()
        self._at = self._moved = time.monotonic()

    def still(self) -> float:
        """Return the seconds for which it has not moved, as far as calls of this show."""
        now, cpu, places = time.monotonic(), time.process_time(), self._places()
        was_stopped = now - self._at > GAP
        if was_stopped or places != self._last or cpu - self._cpu > BUSY * (now - self._at):
            self._moved = now
        self._last, self._cpu, self._at = places, cpu, now
        return now - self._moved

    def _places(self) -> tuple[int, ...]:
        """Return which instruction of which code the innermost frames are at."""
        frame = sys._current_frames().get(self._main)
        places: list[int] = []
        while frame is not None and len(places) < 10:
            places += id(frame.f_code), frame.f_lasti
            frame = frame.f_back
        return tuple(places)


class Gaps:
    """Times for which this process did not run, as when a job is suspended; they count for nothing,
    or the first rank to run again would find all others silent."""

    def __init__(self) -> None:
        self._last = time.monotonic()
        self._gaps: deque[tuple[float, float]] = deque(maxlen=16)

    def beat(self) -> float:
        """Return the seconds that are missing since the last beat, 0 where that was as planned."""
        now = time.monotonic()
        gap, self._last = now - self._last - BEAT, now
        if gap < GAP:
            return 0.0
        self._gaps.append((now, gap))
        return gap

    def since(self, begun: float) -> float:
        """Return the seconds that are missing since a time."""
        return sum(gap for at, gap in self._gaps if at > begun)


@contextmanager
def watching(comm: Comm, limit: float, shrinks: bool = False) -> Iterator[Watchdog | None]:
    """Watch the ranks for the length of a block; a group of one has nobody to wait for. Where the
    job `shrinks`, the end of a rank is left to MPI, unless others wait for it beyond the limit."""
    watchdog = Watchdog(comm, limit, shrinks) if comm.size > 1 else None
    try:
        yield watchdog
    finally:
        if watchdog is not None:
            watchdog.close()


class Watchdog:
    """The thread that watches this rank's `journal` and, on rank 0, all ranks."""

    def __init__(self, comm: Comm, limit: float, shrinks: bool = False) -> None:
        self.comm, self.limit, self._shrinks = comm, limit, shrinks
        self.journal: Journal = comm.journal
        self._pulse, self._gaps = Pulse(), Gaps()
        self._host = socket.gethostname()
        self._monitor: Peer | None = None
        self._hub = Hub() if comm.rank == 0 else None
        text = json.dumps(self._hub.contact).encode() if self._hub else b""
        self._contact = Contact(*json.loads(comm.bcast_bytes(text)))
        self._thread = threading.Thread(target=self._run, name="tallygrad-watchdog", daemon=True)
        self._reported = threading.Event()
        self._thread.start()
        self._reported.wait(2 * BEAT)  # a rank that is stopped from here on is a known one

    def close(self) -> None:
        """Say farewell, and end the thread."""
        self.journal.ended.set()
        self._thread.join(2 * BEAT)

    def _run(self) -> None:
        outside = os.environ.get(monitor.VARIABLE)
        if outside:
            with suppress(ValueError, TypeError):
                self._monitor = reach(Contact(*json.loads(outside)), self.comm.rank)
        if self._monitor is not None:
            self._monitor.send({"segments": sorted(reap.segments())})
        if self._hub is not None:
            self._preside(self._hub)
        else:
            self._report()

    # -- Rank 0 ----------------------------------------------------------------------------------

    def _preside(self, hub: Hub) -> None:
        """Collect what ranks say, answer, and judge."""
        latest: dict[int, tuple[Status, float]] = {}
        gone: dict[int, float] = {}
        left: set[int] = set()
        self._tell_outside(self.status())  # before others can be blamed for the end of this rank
        self._reported.set()
        while not self.journal.ended.is_set():
            for rank, message in hub.messages(BEAT):
                match message:
                    case None if rank not in left and rank in latest and not self._shrinks:
                        gone[rank] = time.monotonic()
                    case {"farewell": _}:
                        left.add(rank)
                    case {"status": dict(fields)}:
                        latest[rank] = Status(**fields), time.monotonic()
                if rank in gone:
                    break
            hub.tell({"alive": True})
            gap = self._gaps.beat()
            latest = {r: (status, at + gap) for r, (status, at) in latest.items()}
            latest[0] = self._tell_outside(self.status()), time.monotonic()
            now = time.monotonic()
            seen = {
                r: Seen(status, now - at, r in gone)
                for r, (status, at) in latest.items()
                if r not in left
            }
            unknown = set(range(self.comm.size)) - seen.keys() - left
            if verdict := judge(seen, self.limit, unknown):
                self._condemn(hub, verdict, DYING if gone else 0.0)
        hub.tell({"farewell": True})
        self._leave()
        hub.close()

    def _condemn(self, hub: Hub, verdict: str, delay: float) -> None:
        """End all ranks; MPI does it better where it sees the loss itself, which takes a moment."""
        hub.tell({"verdict": verdict})
        self._say(verdict)
        self._dump(verdict)
        time.sleep(max(delay, DUMPING))
        self._end(verdict)

    # -- The others ------------------------------------------------------------------------------

    def _report(self) -> None:
        """Tell rank 0 what this rank does, and see that rank 0 lives."""
        peer = reach(self._contact, self.comm.rank)
        heard = time.monotonic()
        while not self.journal.ended.is_set():
            status = self._tell_outside(self.status())
            if peer is not None:
                peer.send({"status": asdict(status)})
            self._reported.set()
            self._pause(peer)
            heard += self._gaps.beat()
            for message in peer.receive() if peer is not None else ():
                heard = time.monotonic()
                if message.get("verdict"):
                    self._obey(message["verdict"])
                if message.get("farewell"):
                    return
            self._judge_head(peer, status, time.monotonic() - heard)
        self._leave()
        if peer is not None:
            peer.send({"farewell": True})
            peer.close()

    def _pause(self, peer: Peer | None) -> None:
        """Wait for the next beat, or until rank 0 or this rank ends."""
        end = time.monotonic() + BEAT
        while time.monotonic() < end and not self.journal.ended.wait(TICK):
            if peer and not peer.closed and select.select([peer.socket], [], [], 0)[0]:
                return

    def _judge_head(self, peer: Peer | None, status: Status, silent: float) -> None:
        """End this rank where rank 0 has, or has given no sign of life while this one waits."""
        head = f"rank 0 on {self._contact.host}"
        if peer is not None and peer.closed and not self._shrinks:
            self._despair(f"{head} ended unexpectedly; rank {status.rank} is {status.doing}", DYING)
        limit = self.limit if peer is not None else PATIENCE * self.limit
        if silent >= limit and status.waited >= limit:
            said = f"{head} has given no sign of life for {silent:.0f} s"
            self._despair(f"{said}; rank {status.rank} waits in {status.call}", 0.0)

    def _obey(self, verdict: str) -> None:
        self._dump(verdict)
        time.sleep(2 * DUMPING)
        self._end(verdict)

    def _despair(self, verdict: str, delay: float) -> None:
        """End without rank 0: the first rank that is left speaks, and its abort ends the others."""
        self._dump(verdict)
        # The others find out within a beat, and dump too before this one's abort ends them.
        time.sleep(max(delay, BEAT + DUMPING) + min(0.2 * (self.comm.rank - 1), 5.0))
        self._say(verdict)
        self._end(verdict)

    # -- All -------------------------------------------------------------------------------------

    def status(self) -> Status:
        """Return what this rank does now."""
        journal, call = self.journal, self.journal.waiting
        status = Status(
            self.comm.rank, self._host, os.getpid(), journal.step, journal.activity,
            still=self._pulse.still(),
        )  # fmt: skip
        if call is None or call.number == 0:
            return status
        fields = asdict(status) | {
            "stream": call.stream, "waits": call.number, "name": call.name,
            "nbytes": call.nbytes, "call": str(call),
            "waited": time.monotonic() - call.begun - self._gaps.since(call.begun),
        }  # fmt: skip
        return Status(**fields)

    def _tell_outside(self, status: Status) -> Status:
        """Let the launcher know too; return the status."""
        if self._monitor is not None:
            self._monitor.send({"title": status.title, "doing": status.doing})
        return status

    def _leave(self) -> None:
        if self._monitor is not None:
            self._monitor.send({"farewell": True})

    def _say(self, verdict: str) -> None:
        stacks = f"; stacks are in {self.journal.folder}" if self.journal.folder else ""
        line = f"tallygrad: error: {one_line(verdict)}{stacks}\n"
        # Not through sys.stderr: the main thread may hold its lock for ever.
        with suppress(OSError):
            os.write(2, line.encode())

    def _dump(self, verdict: str) -> None:
        """Write this rank's stacks and its latest collectives where people look for them."""
        if self.journal.folder is None:
            return
        with suppress(OSError):
            self.journal.folder.mkdir(exist_ok=True)
            path = self.journal.folder / f"rank-{self.comm.rank}.txt"
            path.write_text("\n".join(self._lines(verdict)) + "\n", encoding="utf-8")

    def _lines(self, verdict: str) -> Iterator[str]:
        yield verdict
        yield f"{self.status().title}: {self.status().doing}"
        names = {thread.ident: thread.name for thread in threading.enumerate()}
        for ident, frame in sys._current_frames().items():
            yield f"\nThread {names.get(ident, ident)}, innermost call last:"
            yield from ("".join(traceback.format_stack(frame)).rstrip(),)
        yield "\nLatest collectives, newest last:"
        yield from (f"{call}: {call.seconds:.3f} s" for call in self.journal.latest)
        yield from (f"{call}: not ended" for call in self.journal.waits.copy().values())

    def _end(self, verdict: str) -> None:
        """End this process even where MPI's abort hangs too."""
        if self._monitor is not None:
            self._monitor.send({"verdict": verdict})
        end_daemon(os.environ.get(reap.VARIABLE, ""))
        threading.Thread(target=self.comm.abort, args=(LostRank.status,), daemon=True).start()
        time.sleep(DYING)
        os._exit(LostRank.status)
