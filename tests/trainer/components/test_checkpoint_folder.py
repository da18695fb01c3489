"""Folders of checkpoints: which files stay, and no loss to a kill or a full disk."""

import os
import random
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from tallygrad.trainer.components.checkpoint import CheckpointFolder, load, save
from tallygrad.trainer.errors import UserError


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def fill(run: CheckpointFolder, steps: range, best: int | None = None) -> None:
    for step in steps:
        run.save(step, {"x": np.full(3, step)}, {"step": step}, best=step == best)


def test_folder_keeps_the_newest_and_the_best(tmp_path: Path) -> None:
    run = CheckpointFolder(tmp_path / "run" / "deep", keep=2)
    assert run.newest() is None
    fill(run, range(1, 8), best=3)
    assert names(run.folder) == ["best.h5", "step-00000006.h5", "step-00000007.h5"]
    assert run.newest() == run.folder / "step-00000007.h5"
    assert load(run.best_path).meta["step"] == 3

    again = CheckpointFolder(run.folder, keep=2)
    fill(again, range(8, 12), best=9)
    assert names(run.folder) == ["best.h5", "step-00000010.h5", "step-00000011.h5"]
    assert load(run.best_path).meta["step"] == 9
    fill(again, range(123456789, 123456790))
    assert again.newest() == run.folder / "step-123456789.h5"


def test_best_without_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_links(source: Path, target: Path) -> None:
        raise PermissionError("no hard links here")

    monkeypatch.setattr(os, "link", no_links)
    run = CheckpointFolder(tmp_path, keep=1)
    fill(run, range(3), best=1)
    assert names(tmp_path) == ["best.h5", "step-00000002.h5"]
    assert load(run.best_path).meta["step"] == 1


def test_newest_skips_damaged_files_and_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = CheckpointFolder(tmp_path)
    fill(run, range(4), best=0)
    for step in (3, 2):
        os.truncate(tmp_path / f"step-0000000{step}.h5", 700)
    assert run.newest() == tmp_path / "step-00000001.h5"
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2 and all("tallygrad: warning: checkpoint skipped" in x for x in lines)
    (tmp_path / "step-00000001.h5").write_bytes(b"")
    said: list[str] = []
    assert run.newest(said.append) == run.best_path and len(said) == 3
    run.best_path.write_bytes(b"")
    assert run.newest(said.append) is None


def test_going_back_never_removes_what_was_just_saved(tmp_path: Path) -> None:
    fill(CheckpointFolder(tmp_path), range(100, 103))
    run = CheckpointFolder(tmp_path, keep=1)
    fill(run, range(50, 52))
    kept = [f"step-00000{step:03d}.h5" for step in (51, 100, 101, 102)]
    assert names(tmp_path) == kept


def test_temporaries_of_dead_writers_are_collected(tmp_path: Path) -> None:
    host = socket.gethostname()
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    stale = [f".a.h5~{host}~{dead.pid}.tmp", f".a.h5~{host}~{os.getpid()}.tmp", ".a.h5~old~1.tmp"]
    fresh = [".a.h5~elsewhere~1.tmp", f".a.h5~{host}~{os.getppid()}.tmp", ".other.tmp", "a.tmp"]
    for name in [*stale, *fresh]:
        (tmp_path / name).write_bytes(b"part")
    os.utime(tmp_path / stale[2], (1, 1))
    (tmp_path / f".b.h5~{host}~{dead.pid}.tmp").mkdir()  # which no writer made
    CheckpointFolder(tmp_path).save(1, {}, {})
    kept = [*fresh, f".b.h5~{host}~{dead.pid}.tmp", "step-00000001.h5"]
    assert names(tmp_path) == sorted(kept)


def test_pipes_and_folders_are_no_checkpoints(tmp_path: Path) -> None:
    """A pipe would have its reader wait for ever; a folder is not to be removed as an old step."""
    run = CheckpointFolder(tmp_path, keep=1)
    fill(run, range(3, 4))
    (tmp_path / "step-00000001.h5").mkdir()
    os.mkfifo(tmp_path / "step-00000009.h5")
    said: list[str] = []
    assert run.newest(said.append) == tmp_path / "step-00000003.h5"
    assert len(said) == 1 and "step-00000009.h5: not a regular file" in said[0]
    fill(run, range(4, 5))
    assert names(tmp_path) == ["step-00000001.h5", "step-00000004.h5", "step-00000009.h5"]


def test_unwritable_places_are_user_errors(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    below = tmp_path / "file" / "run"
    with pytest.raises(UserError, match=re.escape(f"cannot write {below}")):
        save(below, {}, {})
    with pytest.raises(UserError, match=re.escape(str(below))):
        CheckpointFolder(below).save(1, {}, {})
    with pytest.raises(UserError, match="missing"):
        save(tmp_path / "missing" / "a.h5", {}, {})
    with pytest.raises(UserError, match="at least 1"):
        CheckpointFolder(tmp_path, keep=0)


def test_full_disk_leaves_the_old_file_and_no_temporary(tmp_path: Path) -> None:
    code = """
import resource, sys
from pathlib import Path
import numpy as np
from tallygrad.trainer.components.checkpoint import save
from tallygrad.trainer.errors import UserError
path = Path(sys.argv[1])
save(path, {"x": np.zeros(3)}, {"step": 1})
for limit in (100, 1000, 5000, 100_000):
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    try:
        save(path, {"x": np.zeros(100_000)}, {"step": 2})
    except UserError as error:
        print("refused:", error)
"""
    path = tmp_path / "a.h5"
    result = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True, timeout=60
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.count(f"refused: cannot write {path}: ") == 4, result
    assert names(tmp_path) == ["a.h5"] and load(path).meta == {"step": 1}


SAVING = """
import itertools, sys
from pathlib import Path
import numpy as np
from tallygrad.trainer.components.checkpoint import CheckpointFolder
run = CheckpointFolder(Path(sys.argv[1]))
print("ready", flush=True)
for step in itertools.count(int(sys.argv[2])):
    run.save(step, {"x": np.full(200_000, step)}, {"step": step}, best=step % 3 == 0)
"""


def test_kill_at_any_moment_leaves_good_checkpoints(tmp_path: Path) -> None:
    rng = random.Random(2)
    run = CheckpointFolder(tmp_path / "run")
    last = 0
    for _ in range(8):
        command = [sys.executable, "-c", SAVING, str(run.folder), str(last + 1)]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as writer:
            assert writer.stdout is not None and writer.stdout.readline()
            # On a busy machine the first save may take long: the moment counts from its end.
            while not any(int(path.stem[5:]) > last for path in run.folder.glob("step-*.h5")):
                assert writer.poll() is None
                time.sleep(0.005)
            time.sleep(0.25 * rng.random())
            writer.send_signal(signal.SIGKILL)
        visible = [path for path in run.folder.glob("[!.]*")]
        for path in visible:
            loaded = load(path)
            assert (loaded.tensors["x"] == loaded.meta["step"]).all()
        newest = run.newest()
        assert newest is not None
        step = load(newest).meta["step"]
        assert step > last
        last = step
    run.save(last + 1, {}, {})
    assert not list(run.folder.glob(".*")), "temporaries of the killed writers remain"
    assert len(list(run.folder.glob("step-*"))) == 3
