"""One run at a time in a folder: who holds it, who may take it over, who is refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from tallygrad.trainer import lock
from tallygrad.trainer.components import resume
from tallygrad.trainer.distributed.comm import SerialComm
from tallygrad.trainer.errors import UserError
from tallygrad.trainer.lock import Holder, Lock

TRAIN = [sys.executable, "-m", "tallygrad.trainer", "train", "--dataset", "digits"]
Run = Callable[..., subprocess.CompletedProcess[str]]


def leave(folder: Path, **changes: Any) -> Path:
    """Leave the lock of a holder that differs from this process by the changes."""
    folder.mkdir(exist_ok=True)
    path = folder / lock.NAME
    path.write_text(json.dumps(asdict(replace(Holder.here(), **changes))))
    return path


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "PATIENCE", 1.0)
    monkeypatch.setattr(lock, "BEAT", 0.05)


def dead_process() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_a_held_folder_is_refused_in_one_line_and_free_afterwards(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "x"
    with Lock(folder):
        with pytest.raises(UserError, match=f"x: in use by process {os.getpid()} on .*remove .*"):
            Lock(folder).__enter__()
        (folder / "log.jsonl").write_text("")
    assert [p.name for p in folder.iterdir()] == ["log.jsonl"]
    with Lock(folder):
        pass


def test_a_folder_made_for_nothing_is_removed_again(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), Lock(tmp_path / "a" / "b"):
        raise ZeroDivisionError
    assert [*tmp_path.iterdir()] == []
    with Lock(tmp_path):
        pass
    assert tmp_path.is_dir()


def test_a_file_in_place_of_the_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("nowhere")
    for name in ("file", "link"):
        with pytest.raises(UserError, match=f"{name}: expected a folder, .* name another --out"):
            Lock(tmp_path / name).__enter__()


def test_a_dead_holder_here_is_taken_over_at_once(tmp_path: Path) -> None:
    """Also where another process has its number by now, or where it awaits collection."""
    zombie = subprocess.Popen([sys.executable, "-c", ""], stdout=subprocess.PIPE)
    assert zombie.stdout and zombie.stdout.read() == b""
    while lock._began(zombie.pid) != "dead":
        time.sleep(0.01)
    changes: list[dict[str, Any]] = [
        {"pid": dead_process()}, {"began": "1"}, {"pid": zombie.pid}, {"pid": 1 << 70},
    ]  # fmt: skip
    for change in changes:
        path = leave(tmp_path, **change)
        with Lock(tmp_path):
            assert Holder.read(path.read_bytes()) != replace(Holder.here(), **change)
        assert [*tmp_path.iterdir()] == []
    zombie.communicate()


@pytest.mark.parametrize(
    "change", [{"boot": "another"}, {"namespace": "pid:[1]"}, {"boot": ""}, None]
)
@pytest.mark.usefixtures("impatient")
def test_a_holder_elsewhere_counts_as_dead_once_it_gives_no_sign_of_life(
    change: dict[str, str] | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = leave(tmp_path, host="node7", **(change or {}))
    if change is None:
        path.write_text('{"host": "no')  # killed while it wrote
    with Lock(tmp_path):
        assert "waiting up to 1 s for a sign of life" in capsys.readouterr().err
    ends = threading.Event()

    def live() -> None:
        while not ends.wait(0.02):
            os.utime(path)

    path = leave(tmp_path, host="node7", boot="another")
    living = threading.Thread(target=live)
    living.start()
    try:
        with pytest.raises(UserError, match=r"in use by process \d+ on 'node7'"):
            Lock(tmp_path).__enter__()
    finally:
        ends.set()
        living.join()


@pytest.mark.usefixtures("impatient")
def test_a_lock_gives_signs_of_life(tmp_path: Path) -> None:
    with Lock(tmp_path):
        path = tmp_path / lock.NAME
        os.utime(path, (0, 0))
        end = time.monotonic() + 30
        while path.stat().st_mtime == 0:
            assert time.monotonic() < end
            time.sleep(0.01)


def test_a_run_that_was_taken_over_writes_no_more(tmp_path: Path) -> None:
    with Lock(tmp_path) as held:
        held.check()
        (tmp_path / lock.NAME).unlink()
        held.check()  # removed by hand, and nobody came
        leave(tmp_path, host="node7")
        with pytest.raises(UserError, match=r"taken over by process \d+ on 'node7'"):
            held.check()
    assert (tmp_path / lock.NAME).exists()


@pytest.mark.parametrize("kind", ["folder", "pipe", "link"])
def test_what_is_no_lock_is_refused(kind: str, tmp_path: Path) -> None:
    path = tmp_path / lock.NAME
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("nowhere")
    with pytest.raises(UserError, match=r"lock: expected a lock file"):
        Lock(tmp_path).__enter__()


def test_a_lock_that_was_taken_meanwhile_is_put_back(tmp_path: Path) -> None:
    path = leave(tmp_path, host="node7")
    seen = lock._look(path)
    assert seen
    leave(tmp_path, host="node8")
    Lock(tmp_path)._retire(seen)
    assert b"node8" in path.read_bytes() and [*tmp_path.iterdir()] == [path]


RACE = """
import sys
from pathlib import Path
from tallygrad.trainer.errors import UserError
from tallygrad.trainer.lock import Lock
print("ready", flush=True)
sys.stdin.readline()
try:
    with Lock(Path(sys.argv[1])):
        print("mine", flush=True)
        sys.stdin.readline()
except UserError:
    print("refused", flush=True)
"""


def test_one_of_many_takes_over(tmp_path: Path) -> None:
    """All begin at the same time on the lock of a dead holder."""
    leave(tmp_path, pid=dead_process())
    pipe = subprocess.PIPE
    line = [sys.executable, "-c", RACE, str(tmp_path)]
    racers = [subprocess.Popen(line, stdin=pipe, stdout=pipe, text=True) for _ in range(6)]
    for word, expected in (("ready", 6), ("mine", 1)):
        said = [r.stdout.readline().strip() for r in racers if r.stdout]
        assert said.count(word) == expected, said
        for racer in racers:
            assert racer.stdin
            try:
                racer.stdin.write("\n")
                racer.stdin.flush()
            except BrokenPipeError:
                assert word == "mine"  # it was refused, and has ended
    for racer in racers:
        racer.communicate()
    assert [*tmp_path.iterdir()] == []


def test_runs_of_one_second_get_folders_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(time, "strftime", lambda form: "20300101-000000")
    with ExitStack() as stack:
        for suffix in ("", "-2", "-3"):
            _, _, folder = stack.enter_context(resume.occupy({"model": "mlp"}, SerialComm()))
            assert str(folder.path) == f"runs/mlp-digits-20300101-000000{suffix}"
    assert [*tmp_path.iterdir()] == [tmp_path / "runs"] and [*(tmp_path / "runs").iterdir()] == []


def test_ranks_agree_on_the_folder(mpirun: Run, tmp_path: Path) -> None:
    code = f"""
import os, time
from tallygrad.trainer.distributed.comm import connect
from tallygrad.trainer.components.resume import occupy
comm = connect()
os.chdir({str(tmp_path)!r})
time.strftime = lambda form: f"rank{{comm.rank}}"
for _ in range(2):
    with occupy({{}}, comm) as (_, _, folder):
        (folder.path / f"{{comm.rank}}").touch()
        comm.barrier()
"""
    done = mpirun(2, code)
    assert done.returncode == 0, done.stderr
    found = sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("[0-9]"))
    first = "runs/lenet-digits-rank0"
    assert found == [f"{first}-2/0", f"{first}-2/1", f"{first}/0", f"{first}/1"]


@pytest.mark.parametrize("words", [["--resume", "auto"], []])
def test_a_second_run_is_refused(words: list[str], tmp_path: Path) -> None:
    with Lock(tmp_path / "run"):
        (tmp_path / "run" / "config.json").write_text("{}")
        command = [*TRAIN, "--out", str(tmp_path / "run"), *words]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith("tallygrad: error: ") and done.stderr.count("\n") == 1
        assert f"in use by process {os.getpid()}" in done.stderr
        assert (tmp_path / "run" / "config.json").read_text() == "{}"


def test_a_later_attempt_takes_the_folder_from_an_earlier_one_that_lives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(lock.ATTEMPT, "run:1")
    with Lock(tmp_path) as earlier:
        monkeypatch.setenv(lock.ATTEMPT, "other:2")
        with pytest.raises(UserError, match="in use"):
            Lock(tmp_path).__enter__()
        monkeypatch.setenv(lock.ATTEMPT, "run:2")
        with Lock(tmp_path) as later:
            later.check()
            with pytest.raises(UserError, match="taken over by process"):
                earlier.check()


def test_a_lock_is_inherited_from_the_holder_that_is_known_and_no_other(tmp_path: Path) -> None:
    with Lock(tmp_path) as lost:  # it lives: only its record says that it need not be asked
        with pytest.raises(UserError, match="in use by process"):
            Lock(tmp_path, inherits=Lock(tmp_path).record).__enter__()
        taken = Lock(tmp_path, inherits=lost.record)
        with taken, pytest.raises(UserError, match="taken over by process"):
            lost.check()


def test_an_earlier_attempt_does_not_come_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(lock.ATTEMPT, "run:2")
    with Lock(tmp_path):
        pass
    monkeypatch.setenv(lock.ATTEMPT, "run:1")
    with pytest.raises(UserError, match="a later attempt of this run"):
        Lock(tmp_path).__enter__()
    assert not (tmp_path / lock.NAME).exists()
    for anew in ("run:3", "next:1", ""):
        monkeypatch.setenv(lock.ATTEMPT, anew)
        with Lock(tmp_path):
            pass
