"""One run at a time in a folder: a file there says who runs, and gives signs of life.

A holder of the same system and process namespace is dead when its process is gone or began at
another time (a recycled number). Of one elsewhere (another host, another container, before a
restart of the system) nothing can be asked, so its signs of life are watched: it touches the file
every `BEAT` seconds, and counts as dead once nothing has changed for `PATIENCE` seconds. Only
changes count, never a comparison of clocks.

The attempts of a supervised run are numbered (`TALLYGRAD_ATTEMPT`, RUN:NUMBER). A later one takes
the lock from an earlier one whether that lives or not, and none gets it after a later one: what an
attempt has left behind on a host that nobody reaches cannot write any more.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
import time
import uuid
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

from .errors import UserError
from .files import regular_file, temporary, user_errors, write_whole

NAME = "lock"
ATTEMPT = "TALLYGRAD_ATTEMPT"  # variable that a supervisor sets
ATTEMPT_FILE = "attempt"
BEAT = 5.0  # seconds between touches
# Seconds without a touch after which a holder counts as dead: six beats, since load and the
# attribute caches of network file systems delay some.
PATIENCE = 30.0
LONGEST = 4096  # bytes of a record


@dataclass(frozen=True)
class Holder:
    """A process that holds a lock: when it began, in the system's ticks, tells it from another of
    the same number; `boot` and `namespace` tell where the number means something."""

    host: str
    pid: int
    began: str
    boot: str
    namespace: str
    token: str
    attempt: str = ""

    @classmethod
    def here(cls) -> Holder:
        """Return this process as a holder of a new lock."""
        pid = os.getpid()
        return cls(
            socket.gethostname(), pid, _began(pid) or "", *_system(),
            token=uuid.uuid4().hex, attempt=os.environ.get(ATTEMPT, ""),
        )  # fmt: skip

    @classmethod
    def read(cls, text: bytes) -> Holder | None:
        """Return the holder on record, None where the record is not whole."""
        try:
            holder = cls(**json.loads(text))
        except (ValueError, TypeError, RecursionError):
            return None
        kinds = cls.__annotations__
        fits = all(type(v).__name__ == kinds[name] for name, v in vars(holder).items())
        return holder if fits else None

    def follows(self, other: str) -> bool:
        """Tell whether this is a later attempt than another of the same run."""
        (run, mine), (other_run, number) = map(_attempt, (self.attempt, other))
        return bool(run) and run == other_run and mine > number

    def lives(self) -> bool | None:
        """Tell whether the process runs, None where that cannot be seen from here."""
        if not self.boot or (self.boot, self.namespace) != _system():
            return None
        began = _began(self.pid)
        return began == self.began if began else _exists(self.pid)


class Sign(NamedTuple):
    """What is seen of a lock: it changes as long as its holder lives."""

    text: bytes
    touched: int


class Lock:
    """A run folder held by this process, made where it is missing. As a context it gives up the
    folder at the end, and removes it again where it was `created` for this run, here or before, and
    nothing was put there. `inherits` is the record of a holder that is known to have ended."""

    def __init__(self, folder: Path, created: bool = False, inherits: str = "") -> None:
        self.folder = folder
        self.path = folder / NAME
        self._holder = Holder.here()
        self.record = json.dumps(asdict(self._holder))
        self._record, self._inherits = self.record.encode(), inherits.encode()
        self._created = [folder] if created else []
        self._ends = threading.Event()

    def __enter__(self) -> Lock:
        with user_errors(self.folder):
            missing = [p for p in (self.folder, *self.folder.parents) if not p.exists()]
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
            except FileExistsError:
                line = f"{self.folder}: expected a folder, got something else of that name"
                raise UserError(f"{line}; name another --out") from None
            self._created += missing
            self._acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:  # fmt: skip
        self._ends.set()
        with suppress(OSError, UserError):
            self.check()
            self.path.unlink(missing_ok=True)
            for folder in self._created:
                folder.rmdir()

    def check(self) -> None:
        """Raise UserError where another run has taken the folder over, as it may when this one
        gave no sign of life for long. A lock that somebody removed is no reason to end."""
        sign = _look(self.path)
        if sign is not None and sign.text != self._record:
            raise UserError(f"{self.folder}: taken over by {_name(sign)}; this run ends")

    def _acquire(self) -> None:
        while True:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            try:
                descriptor = os.open(self.path, flags, 0o644)
            except FileExistsError:
                self._await_end()
                continue  # others may be faster: O_EXCL decides again
            # The file stays open: `_beat` touches it by its descriptor, not by its name.
            os.write(descriptor, self._record)
            self._mark_attempt()
            threading.Thread(target=self._beat, args=(descriptor,), daemon=True).start()
            return

    def _mark_attempt(self) -> None:
        """Note the attempt that holds the folder. UserError where a later one has held it."""
        mine, path = self._holder.attempt, self.folder / ATTEMPT_FILE
        if not mine:
            return
        last = _look(path)
        before = last.text.decode("ascii", "replace") if last else ""
        if self._holder.follows(before) or _attempt(before)[0] != _attempt(mine)[0]:
            write_whole(path, mine)
        elif before != mine:
            self.path.unlink()
            raise UserError(f"{self.folder}: a later attempt of this run has taken over; this ends")

    def _beat(self, descriptor: int) -> None:
        """Touch the file that was made here, whatever lies under its name by now."""
        while not self._ends.wait(BEAT):
            with suppress(OSError):
                os.utime(descriptor)
        os.close(descriptor)

    def _await_end(self) -> None:
        """Return once the holder before is gone or found dead. UserError where it lives."""
        seen = _look(self.path)
        if seen is None:
            return
        holder = Holder.read(seen.text)
        followed = holder is not None and self._holder.follows(holder.attempt)
        if followed or seen.text == self._inherits:
            self._retire(seen)
            return
        lives = holder.lives() if holder else None
        if lives is None:
            after = _watch(self.path, seen)
            if after is None or after.text != seen.text:
                return  # given up meanwhile, or written by another run: judge that one
            lives = after != seen
        if lives:
            raise UserError(
                f"{self.folder}: in use by {_name(seen)}; name another --out, or wait until that "
                f"run has ended (if it is not running any more, remove {self.path})"
            )
        self._retire(seen)

    def _retire(self, seen: Sign) -> None:
        """Remove the lock of a dead holder. Of several runs that try, one renames it; another
        that finds a new lock in its hands puts that back."""
        # A rename is atomic, so only one of several runs gets the file. By then it may be the new
        # lock of a run that was faster: the text tells. `link` puts that one back and, unlike a
        # second rename, never overwrites the lock that a third run has made meanwhile.
        retired = temporary(self.path)
        with suppress(FileNotFoundError):
            os.rename(self.path, retired)
            renamed = _look(retired)
            if renamed is not None and renamed.text != seen.text:
                with suppress(FileExistsError):
                    os.link(retired, self.path)
            retired.unlink()


def _look(path: Path) -> Sign | None:
    """Return what is seen of a lock, None where there is none. UserError for what is no file."""
    # Opening it makes a network file system ask its server, which `stat` alone does not.
    try:
        with regular_file(path, os.O_NOFOLLOW) as file:
            return Sign(file.read(LONGEST), os.fstat(file.fileno()).st_mtime_ns)
    except FileNotFoundError:
        return None
    except OSError as error:
        said = error.strerror or error
        raise UserError(f"{path}: expected a lock file ({said}); remove it") from error


def _watch(path: Path, seen: Sign) -> Sign | None:
    """Return what is seen of a lock as soon as that changes, at the latest after `PATIENCE`."""
    line = f"{path}: held by {_name(seen)}; waiting up to {PATIENCE:g} s for a sign of life"
    print(f"tallygrad: {line}", file=sys.stderr, flush=True)
    end = time.monotonic() + PATIENCE
    while (now := _look(path)) == seen and time.monotonic() < end:
        time.sleep(min(0.5, PATIENCE / 10))
    return now


def _name(sign: Sign | None) -> str:
    holder = Holder.read(sign.text) if sign else None
    return f"process {holder.pid} on {holder.host!r:.80}" if holder else "another process"


def _attempt(text: str) -> tuple[str, int]:
    """Return run and number of an attempt, ("", 0) for none."""
    run, _, number = text.partition(":")
    return (run, int(number)) if number.isdecimal() and len(number) < 10 else ("", 0)


def _system() -> tuple[str, str]:
    """Return what tells apart starts of systems, and namespaces of processes; ("", "") where the
    system does not say."""
    with suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
        return boot, os.readlink("/proc/self/ns/pid")
    return "", ""


def _began(pid: int) -> str | None:
    """Return when a running process began, None where that is not shown; "dead" for one that only
    waits to be collected."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text("utf-8", errors="replace")
    except OSError:
        return None
    # The name, in brackets, may hold anything; state is the 3rd field, the start the 22nd.
    fields = text.rpartition(")")[2].split()
    return "dead" if fields[0] in "ZX" else fields[19]


def _exists(pid: int) -> bool:
    """Tell whether there is such a process, which may be hidden from this user."""
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    except (OSError, OverflowError):
        return False
    return True
