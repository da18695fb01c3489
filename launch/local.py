"""Start a trainer command on several ranks with the mpirun that belongs to this environment.

An exit status of 0 from mpirun proves little, so a `train` with `--out` counts as completed only
when it has also written the record `result.json` anew, or touched that of a run it found complete.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import NoReturn

USAGE = "tallygrad launch -n RANKS [--hosts HOST:N,...] [--timeout S] -- train ..."
COMMANDS = ("train", "eval")
GRACE = 120.0  # seconds that ranks have to finish their step and keep it after a request to stop
ONCE = 1.0  # seconds that belong to one request: a terminal and a scheduler may both send one
TIMED_OUT = 124
LOOK = 5.0  # seconds between looks at which ranks are there
MISSED = 3  # looks in a row at which a rank is missing until the job is ended
MOST_RANKS = 1 << 20
RANKS = ("PMI_RANK", "OMPI_COMM_WORLD_RANK")  # where MPICH and Open MPI tell a rank its number
# Nothing that ssh would take for an option, and nothing that is empty.
HOST = re.compile(r"(\w[\w.-]*@)?[A-Za-z0-9][\w.-]*(:[1-9][0-9]*)?", re.ASCII)
# A closing terminal must end the ranks too: they run in a session of their own. All are passed on
# as SIGUSR1, which both MPIs hand to the ranks: of the others, Open MPI's mpirun kills them.
STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
FORWARDED = (*STOPPING, signal.SIGUSR1)
OWN = (0, 1, 2, 3)  # statuses that the trainer ends with by itself
# What Open MPI hands to ranks on other hosts only when told to; MPICH hands over everything.
EXPORTED = ("TALLYGRAD_", "PYTHON", "OMP_", "OPENBLAS_", "MKL_")


class LaunchError(Exception):
    """A launch that cannot begin, in one line."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise LaunchError(message)


def run(arguments: list[str]) -> int:
    """Run `tallygrad launch` with what follows that word; return the status for the shell."""
    try:
        options, command = parse(arguments)
        mpirun = find_mpirun()
        openmpi = is_openmpi(mpirun)
        line = command_line(mpirun, openmpi, options.ranks, options.hosts, command)
    except LaunchError as error:
        return _fail(str(error), 2)
    record = record_path(command)
    before = _stamp(record)
    job = Job(line, environment(openmpi), 0 if options.hosts else options.ranks)
    status = job.wait(options.timeout)
    if job.timed_out:
        return _fail(f"the job was ended after {options.timeout:g} s", TIMED_OUT)
    if job.lost:
        names = ", ".join(map(str, job.lost))
        return _fail(f"rank {names} ended while others went on: the job was ended", 1)
    if status == 0 and record and _stamp(record) in (None, before):
        return _fail(f"mpirun ended with status 0, but the run did not write {record}", 1)
    return status


def start(ranks: int, command: list[str], timeout: float) -> int:
    """Run a trainer command on ranks of this machine; return the status for the shell, `TIMED_OUT`
    where it took longer. LaunchError where it cannot begin."""
    mpirun = find_mpirun()
    openmpi = is_openmpi(mpirun)
    job = Job(command_line(mpirun, openmpi, ranks, None, command), environment(openmpi), ranks)
    status = job.wait(timeout)
    return TIMED_OUT if job.timed_out else status


def parse(arguments: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """Split at the first `--` into the launcher's options and the trainer's command."""
    cut = arguments.index("--") if "--" in arguments else len(arguments)
    parser = _Parser(prog="tallygrad launch", usage=USAGE, allow_abbrev=False)
    parser.add_argument("-n", dest="ranks", metavar="RANKS", type=_ranks, required=True,
                        help="number of ranks")  # fmt: skip
    parser.add_argument("--hosts", metavar="HOST:N,...", type=_hosts,
                        help="hosts, each with the ranks that it takes")  # fmt: skip
    parser.add_argument("--timeout", metavar="S", type=_seconds,
                        help="end the job after so many seconds")  # fmt: skip
    if "--" not in arguments and any(word in COMMANDS for word in arguments):
        raise LaunchError(f"put -- before the trainer's command; usage: {USAGE}")
    options = parser.parse_args(arguments[:cut])
    command = arguments[cut + 1 :]
    if not command:
        raise LaunchError(f"no command after --; usage: {USAGE}")
    if command[0] not in COMMANDS:
        raise LaunchError(f"cannot launch {command[0]!r}; choose from {', '.join(COMMANDS)}")
    return options, command


def _ranks(text: str) -> int:
    if not text.isdecimal() or len(text) > 9 or not 1 <= int(text) <= MOST_RANKS:
        raise argparse.ArgumentTypeError(f"expected 1 to {MOST_RANKS} ranks, got {text!r:.60}")
    return int(text)


def _hosts(text: str) -> str:
    for host in text.split(","):
        if not HOST.fullmatch(host):
            raise argparse.ArgumentTypeError(f"expected HOST or HOST:N,.., got {host!r:.60}")
    return text


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise argparse.ArgumentTypeError(f"expected seconds above 0, got {text!r:.60}")
    return seconds


def find_mpirun() -> str:
    """Return the mpirun beside this environment's MPI library, else the first on PATH."""
    own = os.path.join(sys.prefix, "bin")
    for folder in (own, None):
        found = shutil.which("mpirun", path=folder) or shutil.which("mpiexec", path=folder)
        if found:
            return found
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


def record_path(command: list[str]) -> Path | None:
    """Return the completion record that a `train` command promises through `--out`."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--out")
    try:
        out = parser.parse_known_args(command[1:])[0].out
    except argparse.ArgumentError:
        return None
    asks_help = "-h" in command or "--help" in command
    return Path(out) / "result.json" if out and not asks_help else None


def _stamp(record: Path | None) -> tuple[int, int, int] | None:
    # The file before is compared with the file after: no clock of another host is trusted.
    try:
        if record is None:
            return None
        # Opening it makes a network file system ask its server anew.
        descriptor = os.open(record, os.O_RDONLY | os.O_NONBLOCK)
        state = os.fstat(descriptor)
        os.close(descriptor)
    except OSError:
        return None
    return state.st_ino, state.st_mtime_ns, state.st_size


def _fail(message: str, status: int) -> int:
    print(f"tallygrad: error: {message}", file=sys.stderr)
    return status


def _dying_with(parent: int) -> Callable[[], None]:
    """Return what a new process calls so that the kernel kills it when `parent`, its parent, ends
    in whatever way; where that is not Linux, nothing."""
    prctl = getattr(ctypes.CDLL(None), "prctl", None)

    def call() -> None:
        if prctl is not None:
            prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
            if os.getppid() != parent:  # it was quicker
                os._exit(1)

    return call


class Job:
    """A running mpirun that gets this process's signals and leaves no rank behind.

    The first request to stop is forwarded; a second one, or `GRACE` seconds, kills the ranks. The
    status tells which signal asked. Where all `ranks` are on this machine, the end of one without
    the others ends the job: an MPI does not see it before a rank's MPI_Init, nor after an exit with
    status 0. When this process is killed, mpirun is too, and its ranks with it, those of Open MPI
    since they watch their parent.
    """

    def __init__(self, line: list[str], env: dict[str, str], ranks: int = 0) -> None:
        self.timed_out = False
        self.lost: list[int] = []
        self._ranks, self._missed = set(range(ranks)), 0
        self._mark = f"TALLYGRAD_JOB={uuid.uuid4().hex}"
        self._received: list[int] = []
        self._asked = 0  # the signal that asked first
        self._asked_at = 0.0
        self._deadline = float("inf")
        # Handlers first: a signal between the start and the wait must not be lost. What is
        # ignored, as under nohup, stays so.
        self._previous = {
            number: signal.signal(number, self._receive)
            for number in FORWARDED
            if signal.getsignal(number) is not signal.SIG_IGN
        }
        name, value = self._mark.split("=")
        self._process = subprocess.Popen(
            line,
            env={**env, name: value},
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            preexec_fn=_dying_with(os.getpid()),
        )

    def wait(self, timeout: float | None) -> int:
        """Return mpirun's status as a shell shows it; ask it to stop after `timeout` seconds."""
        limit = time.monotonic() + timeout if timeout else float("inf")
        look = time.monotonic() + LOOK
        try:
            while self._process.poll() is None:
                if time.monotonic() > limit:
                    self.timed_out, limit = True, float("inf")
                    self._received.append(signal.SIGTERM)
                if self._ranks and not self._asked and time.monotonic() > look:
                    self._look()
                    look = time.monotonic() + LOOK
                self._pass_on()
                if time.monotonic() > self._deadline:
                    self._kill()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self._process.wait(0.1)
        finally:
            self._kill()
            for number, handler in self._previous.items():
                signal.signal(number, handler)
        status = self._process.wait()
        if self._asked and status not in OWN:
            return 128 + self._asked
        return status if status >= 0 else 128 - status

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self._received.append(number)

    def _pass_on(self) -> None:
        while self._received:
            number, now = self._received.pop(0), time.monotonic()
            if number in STOPPING and self._asked:
                if now - self._asked_at >= ONCE:
                    self._deadline = 0.0
                continue
            if number in STOPPING:
                self._asked, self._asked_at, self._deadline = number, now, now + GRACE
            self._process.send_signal(signal.SIGUSR1)

    def _look(self) -> None:
        """Ask for the end of a job that has lost ranks for `MISSED` looks."""
        here = {value for _, env in self._processes() for value in map(_rank_in, env)}
        missing = self._ranks - here if here & self._ranks else set()
        self._missed = self._missed + 1 if missing else 0
        if self._missed >= MISSED:
            self.lost, self._deadline = sorted(missing), 0.0

    def _kill(self) -> None:
        for process, _ in self._processes():
            with contextlib.suppress(OSError):
                os.kill(process, signal.SIGKILL)

    def _processes(self) -> Iterator[tuple[int, list[str]]]:
        """Yield the job's processes and their environments. Ranks sit in groups and sessions of
        their own, and outlive an mpirun that was killed: what the whole job has in common is its
        environment."""
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                env = (folder / "environ").read_text(errors="replace").split("\0")
                if self._mark in env:
                    yield int(folder.name), env


def _rank_in(entry: str) -> int | None:
    """Return the rank that a variable of an environment tells."""
    name, _, value = entry.partition("=")
    return int(value) if name in RANKS and value.isdecimal() and len(value) < 10 else None
