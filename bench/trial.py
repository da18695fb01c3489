"""Runs of the trainer with a fault in them, on this host or on hosts made of network namespaces."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from . import hosts as namespaces

ROOT = Path(__file__).resolve().parent.parent
PATIENCE = 60.0  # seconds for what is left behind to end itself
TRIAL = "TALLYGRAD_FAULT_TRIAL"
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
COMPILED = tempfile.TemporaryDirectory(prefix="tallygrad-compiled-")  # until this process ends
Job = subprocess.Popen[str]
# Runs the launcher with other ranks. What runs in another namespace of processes is hidden from it,
# as on another host.
LAUNCHER = """
import os, sys
from tallygrad.launch import cli, mpirun, reap
made, found = mpirun.command_line, reap.processes
def command_line(*arguments):
    line = made(*arguments)
    at = line.index("tallygrad.trainer")
    return [*line[: at - 1], {script!r}, *line[at + 1 :]]
def here(process):
    try:
        return os.readlink(f"/proc/{{process}}/ns/pid") == os.readlink("/proc/self/ns/pid")
    except OSError:
        return False
mpirun.command_line = command_line
reap.processes = lambda job: ((p, env) for p, env in found(job) if here(p))
sys.exit(getattr(cli, sys.argv[1])(sys.argv[2:]))
"""


@dataclass(frozen=True)
class Fault:
    """The fault that ranks have (see `faulty`), the status that the job is to end with, what
    happens outside, and where."""

    injected: str
    status: int
    act: Callable[[Job, Any], None] = lambda job, hosts: None
    hosts: int = 0
    resume_ranks: int = 2
    disk: bool = False  # the checkpoints lie on a disk that is too small

    @property
    def needs_root(self) -> bool:
        """Whether it needs namespaces, or a disk of its own."""
        return self.hosts > 0 or self.disk

    @property
    def where(self) -> list[str]:
        """The launcher's options for two ranks."""
        return ["-n", "2", *(["--hosts", "n1:1,n2:1"] if self.hosts else [])]

    @property
    def where_to_resume(self) -> list[str]:
        """The launcher's options for the ranks that are left."""
        return self.where if self.resume_ranks == 2 else ["-n", "1", "--hosts", "n1:1"]


@dataclass
class Ended:
    """What was seen of one trial."""

    name: str
    seconds: float
    status: int
    message: str
    left: int  # processes, when the job had ended
    left_seconds: float  # until none was left
    segments: int  # of MPI's shared memory that stayed
    same_bits: bool = False
    resumed: str = ""
    stderr: str = field(default="", repr=False)

    def wrong(self, expected: int) -> list[str]:
        """Return what is not as it must be after a fault that ends jobs with a status."""
        found = [f"status: expected {expected}, got {self.status}"] * (self.status != expected)
        if self.left_seconds >= PATIENCE:
            found.append(f"{self.left} processes left for {self.left_seconds:g} s")
        if self.segments:
            found.append(f"{self.segments} segments of shared memory left")
        if not self.same_bits:
            found.append(f"other bits once resumed {self.resumed}".strip())
        return found


def start(how: str, flags: list[str], command: list[str], **env: str) -> Job:
    """Start the launcher (`how`: run or run_supervised) with a pipe for its errors. Modules are
    compiled once, as those of an installed package are."""
    # An empty variable counts as unset.
    compiled = {"PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": COMPILED.name}
    code = LAUNCHER.format(script=str(ROOT / "bench" / "faulty.py"))
    return subprocess.Popen(
        [sys.executable, "-c", code, how, *flags, "--", *command],
        env={**os.environ, **ONE_THREAD, **compiled, **env}, stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def processes_of(trial: str) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield the processes of a trial, on all hosts, and their environments."""
    mark = f"{TRIAL}={trial}"
    for path in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):
            entries = path.read_text(errors="replace").split("\0")
            if mark in entries:
                yield int(path.parent.name), dict(e.partition("=")[::2] for e in entries)


def left_of(trial: str) -> list[int]:
    """Return the processes of a trial, on all hosts."""
    return [process for process, _ in processes_of(trial)]


def weights(out: Path, step: int) -> dict[str, bytes]:
    """Return the bytes of all tensors of a checkpoint."""
    from tallygrad.trainer.components import checkpoint

    path = out / "checkpoints" / f"step-{step:08d}.h5"
    return {name: a.tobytes() for name, a in checkpoint.load(path).tensors.items()}


class Bench:
    """Runs faults in a folder, each trial in one of its own. `limit` is the collective timeout."""

    def __init__(self, folder: Path, limit: float, steps: int) -> None:
        self.folder, self.limit, self.steps = folder, limit, steps
        self.expected: dict[str, bytes] = {}

    def command(self, out: Path, *more: str, limit: float = 60.0) -> list[str]:
        """Return the trainer's command; what is given again in `more` counts."""
        return [
            "train", "--model", "mlp", "--backend", "numpy", "--dataset", "mnist", "--data-dir",
            str(self.folder / "data"), "--batch-size", "16", "--micro-batches", "4", "--threads",
            "1", "--max-steps", str(self.steps), "--epochs", "4", "--checkpoint-every", "2",
            "--collective-timeout", str(limit), "--out", str(out), *more,
        ]  # fmt: skip

    def prepare(self) -> None:
        """Make the data, and run once undisturbed."""
        self._make_data()
        out = self.folder / "undisturbed"
        job = start("run", ["-n", "1"], self.command(out))
        _, text = job.communicate(timeout=300)
        assert job.returncode == 0, text
        self.expected = weights(out, self.steps)

    def _make_data(self) -> None:
        import numpy as np

        from tallygrad.datasets.formats.idx import write_idx

        (self.folder / "data").mkdir()
        rng = np.random.default_rng(0)
        for name, count in (("train", 160), ("t10k", 20)):
            path = self.folder / "data" / name
            images = rng.integers(0, 256, (count, 28, 28), np.uint8)
            write_idx(Path(f"{path}-images-idx3-ubyte"), images)
            write_idx(Path(f"{path}-labels-idx1-ubyte"), rng.integers(0, 10, count, np.uint8))

    def trial(self, name: str, fault: Fault) -> Ended:
        """Run a fault once, then resume."""
        trial = uuid.uuid4().hex[:8]
        out, mark = self.folder / trial, self.folder / f"{trial}.mark"
        made = namespaces.Hosts(fault.hosts, self.folder / f"hosts-{trial}")
        small = _small_disk(out / "checkpoints") if fault.disk else nullcontext(lambda: None)
        with made if fault.hosts else nullcontext() as hosts, small as enlarge:
            env = {TRIAL: trial, **(hosts.environment if hosts else {})}
            broken = {"TALLYGRAD_FAULT": fault.injected, "TALLYGRAD_FAULT_MARK": str(mark)}
            more = ["--resume", "auto"] if fault.disk else []
            command = self.command(out, *more, limit=self.limit)
            job = start("run", fault.where, command, **env, **broken)
            ended = self._watch(name, fault, job, hosts, mark, trial)
            enlarge()
            command = self.command(out, "--resume", "auto")
            again = start("run", fault.where_to_resume, command, **env)
            _, text = again.communicate(timeout=300)
            if again.returncode:
                ended.resumed = text
            else:
                ended.same_bits = weights(out, self.steps) == self.expected
        shutil.rmtree(out, ignore_errors=True)
        return ended

    def _watch(
        self, name: str, fault: Fault, job: Job, hosts: Any, mark: Path, trial: str
    ) -> Ended:
        """Wait for the fault, act, and see how the job ends."""
        while not mark.exists() and job.poll() is None:
            time.sleep(0.02)
        time.sleep(0.05)
        begun, segments = json.loads(mark.read_text()) if mark.exists() else (time.time(), [])
        if job.poll() is None:
            fault.act(job, hosts)
        try:
            _, text = job.communicate(timeout=20 * self.limit + 60)
        except subprocess.TimeoutExpired:
            job.kill()
            _, text = job.communicate()
            text += "\nnever ended"
        end = time.time()
        left, left_seconds = _await_end(trial)
        memories = hosts.memories() if hosts else [Path("/dev/shm")]
        remaining = sum((memory / name).exists() for memory in memories for name in segments)
        return Ended(
            name, round(end - begun, 1), job.returncode, _message(text), left, left_seconds,
            remaining, stderr=text,
        )  # fmt: skip


@contextmanager
def _small_disk(folder: Path) -> Iterator[Callable[[], object]]:
    """Mount a disk too small for the checkpoints; yield what enlarges it."""
    folder.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=5m", "tmpfs", str(folder)], check=True)
    larger = ["mount", "-o", "remount,size=99m", str(folder)]
    try:
        yield lambda: subprocess.run(larger, check=True)
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def _await_end(trial: str) -> tuple[int, float]:
    """Return how many processes a job has left, and after how many seconds the last has ended;
    after `PATIENCE` they are killed."""
    begun, left = time.monotonic(), left_of(trial)
    if not left:
        return 0, 0.0
    while left_of(trial) and time.monotonic() < begun + PATIENCE:
        time.sleep(0.1)
    seconds = round(time.monotonic() - begun, 1)
    for process in left_of(trial):
        with suppress(OSError):
            os.kill(process, signal.SIGKILL)
    return len(left), seconds


def _message(text: str) -> str:
    """Return what a user would look for in the output of a job: errors, and the last line of the
    traceback of a rank."""
    lines = text.splitlines()
    said = [line for line in lines if line.startswith("tallygrad: ")]
    errors = [line for line in said if "error" in line] or said or lines[-1:]
    if raised := [line for line in lines if "[rank" in line]:
        errors = [raised[-1], *errors[:1]]
    return " | ".join(dict.fromkeys(errors))[:400]
