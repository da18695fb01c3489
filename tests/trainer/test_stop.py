"""Signals: a run finishes its step, keeps what it has and tells how to go on, on any ranks."""

from __future__ import annotations

import json
import shlex
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tallygrad.launch import mpirun as launcher
from tallygrad.trainer import stop
from tallygrad.trainer.components.checkpoint import load
from tallygrad.trainer.distributed.comm import SerialComm

Run = Callable[..., subprocess.CompletedProcess[str]]
MODULE = [sys.executable, "-m", "tallygrad.trainer"]
SIZE = ["--model", "mlp", "--backend", "numpy", "--batch-size", "20", "--epochs", "9999"]


@pytest.fixture
def small(tmp_path: Path, write_mnist: Any) -> list[str]:
    """The options of a run that takes long, in short epochs."""
    folder = write_mnist(tmp_path / "data", 43, 29)
    return ["--dataset", "mnist", "--data-dir", str(folder), "--log-every", "1", *SIZE]


@contextmanager
def begun(out: Path, command: list[str]) -> Iterator[subprocess.Popen[str]]:
    """Start a run, and wait for its first step. A script's background jobs ignore interrupts, and
    so would what they start."""
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    end = time.monotonic() + 120
    try:
        while not (out / "log.jsonl").exists():
            assert time.monotonic() < end and process.poll() is None
            time.sleep(0.01)
        yield process
    finally:
        process.kill()
        process.communicate()


def told(err: str) -> tuple[int, list[str]]:
    """Return at which step a run says that it was stopped, and the command that goes on."""
    (line,) = [line for line in err.splitlines() if line.startswith("stopped at step ")]
    assert "Traceback" not in err and "error:" not in err
    words = shlex.split(line.split("`")[1])
    return int(line.split()[3].rstrip(";")), words[1:]


def test_a_stopped_run_goes_on_to_the_same_bits(tmp_path: Path, small: list[str]) -> None:
    out = tmp_path / "a run"
    with begun(out, [*MODULE, "train", *small, "--out", str(out)]) as process:
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    step, words = told(err)
    assert err.count("SIGINT: stopping after this step") == 1
    assert (out / "checkpoints" / f"step-{step:08d}.h5").exists()
    assert not (out / "result.json").exists() and not (out / "lock").exists()
    last = ["--max-steps", str(step + 2)]
    done = subprocess.run([*MODULE, *words, *last], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and f"resumed from step {step} (" in done.stderr, done.stderr
    assert not (out / "restarts.json").exists()  # nothing was lost
    whole = tmp_path / "whole"
    subprocess.run([*MODULE, "train", *small, "--out", str(whole), *last], check=True, timeout=60)
    one, two = (load(p / "checkpoints" / f"step-{step + 2:08d}.h5").tensors for p in (out, whole))
    assert one.keys() == two.keys()
    assert all(one[name].tobytes() == two[name].tobytes() for name in one)
    steps = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    assert [e["step"] for e in steps if e["event"] == "step"] == [*range(1, step + 3)]


PHASES = """
import os, signal, sys
from pathlib import Path
from tallygrad.trainer import build, cli, loop
from tallygrad.trainer.components import checkpoint, evaluate, resume

out = Path(sys.argv.pop(1))
first = True

def asks(function):
    def asking(*args, **kwargs):
        global first
        if first:
            os.kill(os.getpid(), signal.SIGTERM)
        first = False
        return function(*args, **kwargs)
    return asking

places = {
    "loading": (build, "load_data"), "opening": (resume, "_decide"), "tuning": (build, "tune"),
    "evaluating": (evaluate, "evaluate"), "saving": (checkpoint, "save"),
    "logging": (loop, "total"),
}
for name, (owner, function) in places.items():
    before, first = getattr(owner, function), True
    setattr(owner, function, asks(before))
    status = cli.main(["train", *sys.argv[1:], "--out", str(out / name)])
    setattr(owner, function, before)
    print(name, status, len([*(out / name).glob("checkpoints/step*")]), flush=True)
"""


def test_signals_at_any_time(tmp_path: Path, small: list[str]) -> None:
    """Before the loop there is nothing to keep; in it whatever is under way is finished. After the
    last step a run is complete, whoever asks."""
    command = [sys.executable, "-c", PHASES, str(tmp_path), *small]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100)
    early = [f"{name} 143 0" for name in ("loading", "opening", "tuning")]
    late = ["evaluating 75 1", "saving 75 2", "logging 75 1"]
    assert done.stdout.splitlines() == early + late, done.stderr
    assert done.stderr.count("tallygrad: interrupted by SIGTERM\n") == 3
    assert done.stderr.count("\nstopped at step ") == 3
    assert not (tmp_path / "loading").exists()


def python(body: str) -> subprocess.Popen[str]:
    """Start a snippet that says when it is ready for signals."""
    code = "from tallygrad.trainer.stop import Stop\n" + textwrap.dedent(body)
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout and process.stdout.readline() == "ready\n"
    return process


def test_a_second_signal_leaves_at_once_out_of_anything() -> None:
    """Here a call of C that never returns, as a collective that others never come to; several
    signals of one moment are one request."""
    process = python("""
        import ctypes
        libc, mutex = ctypes.CDLL(None), ctypes.create_string_buffer(64)
        with Stop() as stop:
            stop.finish_steps()
            print("ready", flush=True)
            for _ in range(2):
                libc.pthread_mutex_lock(mutex)
    """)
    assert process.stderr
    process.send_signal(signal.SIGTERM)
    process.send_signal(signal.SIGUSR1)
    assert "SIGTERM: stopping after this step" in process.stderr.readline()
    time.sleep(stop.ONCE + 0.1)
    assert process.poll() is None
    process.send_signal(signal.SIGHUP)
    process.communicate(timeout=30)
    assert process.returncode == 128 + signal.SIGHUP


def test_what_is_ignored_stays_ignored_and_handlers_come_back() -> None:
    process = python("""
        import os, signal
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        before = [signal.getsignal(n) for n in (1, 2, 10, 15)]
        with Stop() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            assert stop.heard == 0
        assert [signal.getsignal(n) for n in (1, 2, 10, 15)] == before
        assert signal.set_wakeup_fd(-1) == -1
        print("ready", flush=True)
    """)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 0, err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2])
def test_ranks_agree_when_one_is_asked(mpirun: Run, number: signal.Signals) -> None:
    """Also by SIGUSR1, for which MPICH has a handler of its own."""
    done = mpirun(
        2,
        f"""
import os
from tallygrad.trainer.distributed.comm import connect
from tallygrad.trainer.distributed.failures.guard import guard
from tallygrad.trainer.stop import Stop
comm = connect()
with Stop() as stop, guard(comm):
    stop.finish_steps()
    for step in range(4):
        if comm.rank == 1 and step == 2:
            os.kill(os.getpid(), {int(number)})
        if stop.agreed(comm):
            break
print(f"{{step}} {{stop.status}}\\n", end="")
""",
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["2", str(130 if number == signal.SIGINT else 75)] * 2


def test_launched_ranks_stop_go_on_and_are_complete_once(
    tmp_path: Path, small: list[str], alone: Callable[[], AbstractContextManager[None]]
) -> None:
    """A requeue of a complete run ends with 0, and leaves it as it is."""
    try:
        launcher.find_mpirun()
    except launcher.LaunchError as error:
        pytest.skip(str(error))
    out = tmp_path / "run"
    launch = [*MODULE, "launch", "-n", "2", "--", "train", *small, "--out", str(out)]
    with alone():
        with begun(out, launch) as process:
            process.send_signal(signal.SIGTERM)
            _, err = process.communicate(timeout=60)
        assert process.returncode == 75, err
        step, _ = told(err)
        last = ["--resume", "auto", "--max-steps", str(step + 1)]
        for expected in (f"resumed from step {step}", f"complete at step {step + 1}"):
            done = subprocess.run([*launch, *last], capture_output=True, text=True, timeout=100)
            assert done.returncode == 0 and expected in done.stderr, done.stderr
            assert json.loads((out / "result.json").read_text())["steps"] == step + 1


def test_what_comes_before_the_first_step_is_not_taken_for_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A step takes a second, the compilation before it a hundred."""
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    monkeypatch.setattr(time, "time", lambda: now[0])
    asked = stop.Stop(deadline=101.0 + 2.5 + stop.MARGIN)
    now[0] = 100.0
    asked.finish_steps()
    now[0] = 101.0
    assert not asked.agreed(SerialComm())
    now[0] = 102.0
    assert asked.agreed(SerialComm())
