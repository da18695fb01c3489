"""`tallygrad launch`: statuses, signals, refusals; the shell scripts where something is missing."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from tallygrad.launch import local

ROOT = Path(__file__).resolve().parents[1]
CALL = "import sys; from tallygrad.launch.local import run; sys.exit(run(sys.argv[1:]))"
# Stands in for the trainer. Each rank leaves its number and process id in the folder of the test.
TRAINER = """
import os, pathlib, signal, sys, time
rank = os.environ.get("OMPI_COMM_WORLD_RANK") or os.environ["PMI_RANK"]
size = os.environ.get("OMPI_COMM_WORLD_SIZE") or os.environ["PMI_SIZE"]
word, *rest = sys.argv[2:]
if word == "stubborn":
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
if word == "preempted":
    signal.signal(signal.SIGUSR1, lambda number, frame: os._exit(3))
folder = pathlib.Path(os.environ["FAKE_FOLDER"])
def keep(number, frame):
    time.sleep(0.5)
    (folder / f"kept-{rank}").touch()
    os._exit(138)
if word == "keeps":
    signal.signal(signal.SIGUSR1, keep)
(folder / f"new-{rank}").write_text(f"{os.getpid()} {size}")
(folder / f"new-{rank}").rename(folder / f"rank-{rank}")
if word == "status" and rank == rest[0]:
    sys.exit(int(rest[1]))
if word == "--out" and rank == "0":
    if rest[1:] == ["record"]:
        pathlib.Path(rest[0], "result.json").write_text("{}")
if word in ("sleep", "stubborn", "preempted", "keeps"):
    time.sleep(60)
"""
Launch = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def launch(
    tmp_path: Path, alone: Callable[[], AbstractContextManager[None]]
) -> Iterator[Launch]:
    """Return launch(ranks, *words): `tallygrad launch -n RANKS -- train WORDS`, a fake trainer."""
    try:
        local.find_mpirun()
    except local.LaunchError as error:
        pytest.skip(str(error))
    package = tmp_path / "fake" / "tallygrad" / "trainer"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "__main__.py").write_text(TRAINER)
    path = os.pathsep.join(filter(None, [str(tmp_path / "fake"), os.environ.get("PYTHONPATH")]))
    env = {**os.environ, "PYTHONPATH": path, "FAKE_FOLDER": str(tmp_path)}

    def start(ranks: int, *words: str, options: tuple[str, ...] = ()) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", CALL, "-n", str(ranks), *options, "--", "train", *words]
        return subprocess.Popen(
            command, env=env, cwd=tmp_path, stderr=subprocess.PIPE, text=True, errors="replace"
        )

    with alone():
        yield start


def _finish(process: subprocess.Popen[str]) -> tuple[int, str]:
    _, err = process.communicate(timeout=30)
    return process.returncode, err


def _processes(folder: Path, ranks: int) -> list[int]:
    """Wait until all ranks are up; return their process ids."""
    files = [folder / f"rank-{rank}" for rank in range(ranks)]
    end = time.monotonic() + 20
    while not all(file.exists() for file in files):
        assert time.monotonic() < end, "the ranks did not start"
        time.sleep(0.05)
    return [int(file.read_text().split()[0]) for file in files]


def _alive(process: int) -> bool:
    # A process that ended but was not collected yet is no orphan.
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in "ZX"


@pytest.mark.parametrize("ranks", [1, 2, 5])
def test_all_ranks_start(launch: Launch, tmp_path: Path, ranks: int) -> None:
    assert _finish(launch(ranks, "end"))[0] == 0
    sizes = [file.read_text().split()[1] for file in tmp_path.glob("rank-*")]
    assert sizes == [str(ranks)] * ranks


@pytest.mark.parametrize("status", [1, 2, 3])
def test_status_of_a_rank_comes_back(launch: Launch, status: int) -> None:
    assert _finish(launch(2, "status", "1", str(status)))[0] == status


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_all_ranks(launch: Launch, tmp_path: Path, number: signal.Signals) -> None:
    process = launch(2, "sleep")
    ranks = _processes(tmp_path, 2)
    process.send_signal(number)
    assert _finish(process)[0] == 128 + number
    assert not any(_alive(rank) for rank in ranks)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_ranks_can_keep_their_work_when_asked_to_stop(
    launch: Launch, tmp_path: Path, number: signal.Signals
) -> None:
    """On both MPIs, also when the request comes twice at once; their status is no failure of
    theirs, but a failure of theirs keeps its status."""
    for word, status in (("keeps", 128 + number), ("preempted", 3)):
        process = launch(2, word)
        _processes(tmp_path, 2)
        process.send_signal(number)
        process.send_signal(number)
        assert _finish(process)[0] == status
        for file in tmp_path.glob("rank-*"):
            file.unlink()
    assert len([*tmp_path.glob("kept-*")]) == 2


def test_an_ignored_hangup_stays_ignored(tmp_path: Path) -> None:
    """As under nohup."""
    line = [sys.executable, "-c", "import os, time; time.sleep(1)"]
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        job = local.Job(line, dict(os.environ))
        os.kill(os.getpid(), signal.SIGHUP)
        assert job.wait(None) == 0
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_second_signal_kills_ranks_that_ignore_the_first(launch: Launch, tmp_path: Path) -> None:
    process = launch(2, "stubborn")
    ranks = _processes(tmp_path, 2)
    start = time.monotonic()
    process.terminate()
    time.sleep(local.ONCE + 0.2)
    process.send_signal(signal.SIGINT)
    assert _finish(process)[0] == 128 + signal.SIGTERM
    assert time.monotonic() - start < local.GRACE / 2
    assert not any(_alive(rank) for rank in ranks)


def test_a_preemption_signal_reaches_the_ranks(launch: Launch, tmp_path: Path) -> None:
    process = launch(2, "preempted")
    _processes(tmp_path, 2)
    process.send_signal(signal.SIGUSR1)
    assert _finish(process)[0] == 3


def test_timeout_ends_the_job(launch: Launch, tmp_path: Path) -> None:
    process = launch(2, "sleep", options=("--timeout", "1.5"))
    status, err = _finish(process)
    assert status == local.TIMED_OUT
    assert "tallygrad: error: the job was ended after 1.5 s" in err
    assert not any(_alive(rank) for rank in _processes(tmp_path, 2))


def test_ranks_outlive_no_killed_mpirun(launch: Launch, tmp_path: Path) -> None:
    process = launch(2, "sleep")
    ranks = _processes(tmp_path, 2)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    os.kill(int(children[0]), signal.SIGKILL)
    assert _finish(process)[0] == 128 + signal.SIGKILL
    assert not any(_alive(rank) for rank in ranks)


def test_status_0_counts_only_with_a_new_record(launch: Launch, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    for stale in (False, True):
        if stale:
            (folder / "result.json").write_text("{}")
        status, err = _finish(launch(1, "--out", str(folder)))
        assert status == 1 and "did not write" in err and "result.json" in err
    assert _finish(launch(1, "--out", str(folder), "record")) == (0, "")


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        ([], "-n"),
        (["--", "train"], "-n"),
        (["-n", "0", "--", "train"], "whole number from 1 up, got '0'"),
        (["-n", "two", "--", "train"], "got 'two'"),
        (["-n", "-1", "--", "train"], "-n"),
        (["-n", "2"], "no command after --"),
        (["-n", "2", "--"], "no command after --"),
        (["-n", "2", "--", "fly"], "'fly'; choose from train"),
        (["-n", "2", "train"], "put -- before"),
        (["-n", "2", "--timeout", "0", "--", "train"], "seconds above 0"),
        (["-n", "2", "--timeout", "nan", "--", "train"], "seconds above 0"),
    ],
)
def test_bad_arguments(arguments: list[str], part: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert local.run(arguments) == 2
    _, err = capsys.readouterr()
    assert err.startswith("tallygrad: error: ") and part in err and err.count("\n") == 1


def test_no_mpirun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    assert local.run(["-n", "2", "--", "train"]) == 2
    assert "error: no mpirun in " in capsys.readouterr().err


def _program(path: Path, body: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return path


def test_the_environments_own_mpirun_comes_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = _program(tmp_path / "own" / "bin" / "mpirun", "echo")
    other = _program(tmp_path / "other" / "mpirun", "echo")
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "own"))
    monkeypatch.setenv("PATH", str(other.parent))
    assert local.find_mpirun() == str(own)
    own.unlink()
    assert local.find_mpirun() == str(other)


def test_mpirun_is_told_apart_by_its_version(tmp_path: Path) -> None:
    openmpi = _program(tmp_path / "a", "echo 'mpirun (Open MPI) 5.0.11'")
    mpich = _program(tmp_path / "b", "echo 'HYDRA build details:'")
    broken = _program(tmp_path / "c", "echo 'no such library' >&2; exit 127")
    assert local.is_openmpi(str(openmpi)) and not local.is_openmpi(str(mpich))
    with pytest.raises(local.LaunchError, match="status 127: no such library"):
        local.is_openmpi(str(broken))


def test_command_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 1})
    monkeypatch.setattr(os, "environ", {"TALLYGRAD_DATA": "d", "HOME": "h"})
    trainer = [sys.executable, "-P", "-m", "tallygrad.trainer", "train"]

    def line(openmpi: bool, ranks: int, hosts: str | None = None) -> list[str]:
        return local.command_line("mpirun", openmpi, ranks, hosts, ["train"])

    crowd = ["--map-by", ":OVERSUBSCRIBE"]
    free = [*crowd, "--bind-to", "none"]
    assert line(False, 8) == ["mpirun", "-n", "8", *trainer]
    assert line(False, 8, "a:4,b:4") == ["mpirun", "-n", "8", "-hosts", "a:4,b:4", *trainer]
    assert line(True, 2) == ["mpirun", "-n", "2", *crowd, *trainer]
    assert line(True, 1) == ["mpirun", "-n", "1", *free, *trainer]
    yielding = ["--mca", "mpi_yield_when_idle", "1"]
    assert line(True, 3) == ["mpirun", "-n", "3", *free, *yielding, *trainer]
    spread = ["--host", "a:1,b:1", "-x", "TALLYGRAD_DATA"]
    assert line(True, 2, "a:1,b:1") == ["mpirun", "-n", "2", *free, *spread, *trainer]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--out", "a b"], "a b/result.json"),
        (["--epochs", "1", "--out=runs/x", "--lr", "-1"], "runs/x/result.json"),
        (["--out", "first", "--out", "last"], "last/result.json"),
        (["--epochs", "1"], None),
        (["--out", "x", "--help"], None),
        (["--out"], None),
    ],
)
def test_the_record_lies_in_the_run_folder(words: list[str], expected: str | None) -> None:
    assert local.record_path(["train", *words]) == (Path(expected) if expected else None)


SCRIPTS = ["launch/common.sh", "launch/quickstart.sh", "launch/test.sh", ".ci/run", ".ci/types"]


@pytest.mark.parametrize("script", SCRIPTS)
def test_scripts_parse(script: str) -> None:
    subprocess.run(["bash", "-n", str(ROOT / script)], check=True, timeout=10)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder with a space in its name that holds the scripts, and an empty `bin`."""
    folder = tmp_path / "check out"
    (folder / "launch").mkdir(parents=True)
    (folder / "bin").mkdir()
    for name in ("common.sh", "quickstart.sh", "test.sh"):
        shutil.copy(ROOT / "launch" / name, folder / "launch" / name)
    (folder / "pyproject.toml").write_text("[project]\n")
    return folder


def _script(checkout: Path, name: str, *words: str, **env: str) -> tuple[int, str]:
    """Run a script with the programs in `bin` first on PATH; return its status and all it said."""
    tools = [checkout / "bin", *map(Path, os.defpath.split(os.pathsep)), Path("/usr/bin")]
    clean = {"PATH": os.pathsep.join(map(str, tools)), **env}
    answer = subprocess.run(
        [str(checkout / "launch" / name), *words],
        env=clean,
        cwd=checkout.parent,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=30,
    )
    return answer.returncode, answer.stdout


def _fake_pythons(checkout: Path, body: str) -> None:
    for name in ("python3.13", "python3.12", "python3.11", "python3"):
        _program(checkout / "bin" / name, body)


def _fake_environment(checkout: Path, pip: str) -> None:
    """Make a `.venv` whose pip runs the shell commands `pip`, with MPICH and a `tallygrad`."""
    body = f'case "$*" in "-m pip"*) {pip} ;; *openmpi*) exit 1 ;; *) exit 0 ;; esac'
    _program(checkout / ".venv" / "bin" / "python", body)
    _program(checkout / ".venv" / "bin" / "tallygrad", 'echo "tallygrad $*"')
    _program(checkout / ".venv" / "bin" / "pytest", 'echo "pytest in $PWD: $# $*"')


def test_no_python(checkout: Path) -> None:
    _fake_pythons(checkout, "exit 1")
    status, text = _script(checkout, "quickstart.sh")
    assert status == 1 and text.startswith("error: no Python 3.11 or newer")
    status, text = _script(checkout, "quickstart.sh", PYTHON="nowhere")
    assert status == 1 and "PYTHON=nowhere does not run" in text


@pytest.mark.parametrize("script", ["quickstart.sh", "test.sh"])
def test_python_without_venv(checkout: Path, script: str) -> None:
    _fake_pythons(checkout, 'case "$*" in *venv*) exit 1 ;; esac')
    status, text = _script(checkout, script)
    assert status == 1 and "install python3-venv" in text
    assert not (checkout / ".venv").exists()


def test_broken_environment(checkout: Path) -> None:
    _program(checkout / ".venv" / "bin" / "python", "exit 1")
    status, text = _script(checkout, "quickstart.sh")
    assert status == 1 and ".venv is broken" in text and "remove that folder" in text
    assert text.count("\n") == 1


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("Failed to establish a new connection: [Errno 101]", "could not reach its package index"),
        ("ERROR: Failed building wheel for mpi4py", "the build failed"),
        ("ERROR: No matching distribution", "pip failed (log: "),
    ],
)
def test_failing_pip(checkout: Path, said: str, expected: str) -> None:
    _fake_environment(checkout, f"echo '{said}'; exit 1")
    _program(checkout / "bin" / "cc", "exit 0")
    status, text = _script(checkout, "quickstart.sh")
    log = checkout / ".venv" / "tallygrad-install.log"
    last = text.splitlines()[-1]
    assert status == 1 and expected in last and str(log) in last
    assert said in log.read_text()
    # The next run tries again instead of trusting what is half done.
    assert _script(checkout, "quickstart.sh")[0] == 1


def test_failed_build_without_a_compiler(checkout: Path) -> None:
    _fake_environment(checkout, "echo 'error: subprocess-exited-with-error'; exit 1")
    for name in ("bash", "dirname", "cksum", "grep", "cat", "tail"):
        found = shutil.which(name)
        assert found
        (checkout / "bin" / name).symlink_to(found)
    env = {"PATH": str(checkout / "bin")}
    status, text = _script(checkout, "quickstart.sh", **env)
    assert status == 1 and "found no C compiler: install gcc" in text


def test_scripts_install_once_and_pass_arguments_on(checkout: Path) -> None:
    _fake_environment(checkout, 'echo "$PWD: $*" >> "$LOG"')
    log = checkout / "pip calls"
    for _ in range(2):
        status, text = _script(checkout, "quickstart.sh", "--lr", "0.5", LOG=str(log))
        assert status == 0 and "tallygrad launch -n 2 -- train --model lenet" in text
        assert "--lr 0.5" in text
        status, text = _script(checkout, "test.sh", "-k", "a b", LOG=str(log))
        ours = "--numprocesses auto --maxprocesses 4 --dist worksteal"
        assert status == 0 and f"pytest in {checkout}: 8 {ours} -k a b" in text
    calls = log.read_text().splitlines()
    asked = f"{checkout}: -m pip install --no-input -e "
    assert calls == [f"{asked}.[mpich,llvm]", f"{asked}.[mpich,llvm,test]"]
    (checkout / "pyproject.toml").write_text("[project]\nname = 'other'\n")
    _script(checkout, "test.sh", LOG=str(log))
    assert log.read_text().count("pip install") == 3
