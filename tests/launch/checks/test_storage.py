"""The run folder and shared memory, also where they are full, without locks or closed."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tallygrad.launch.checks import storage
from tallygrad.launch.checks.finding import ERROR, OK, WARNING, Setting

Make = Callable[..., Setting]
Apart = Callable[..., list[dict[str, Any]]]
FLOCK, ENOLCK = 73, 37
CHECKS = [storage.check_disk, storage.check_space, storage.check_locks]


def test_a_folder_with_room(setting: Make, tmp_path: Path) -> None:
    """What does not exist is judged by the folder above, and not made."""
    job = setting(folder=tmp_path / "runs" / "x")
    for check in CHECKS:
        (found,) = check(job)
        assert found.status in (OK, WARNING) and found.seen.startswith(f"{tmp_path}"), found
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("check", [storage.check_disk, storage.check_locks])
def test_a_folder_that_cannot_be_written(check: Any, setting: Make) -> None:
    (found,) = check(setting(folder=Path("/proc")))
    assert found.status == ERROR and "--out FOLDER" in found.remedy, found


def test_a_slow_disk(setting: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "SLOW", 1e9)
    (found,) = storage.check_disk(setting())
    assert found.status == WARNING and "--checkpoint-every" in found.remedy


def test_a_disk_that_does_not_answer(setting: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "DISK", "import time; time.sleep(600)")
    monkeypatch.setattr(storage, "LIMIT", 0.5)
    (found,) = storage.check_disk(setting())
    assert found.status == ERROR and "no answer within 0.5 s" in found.seen


@pytest.fixture
def full(tmp_path: Path) -> list[str]:
    """A command that starts another with `tmp_path` on a file system of 16 MB."""
    mount = f'mount -t tmpfs -o size=16m small "{tmp_path}" && exec "$@"'
    command = ["unshare", "--mount", "sh", "-c", mount, "sh"]
    if (
        not shutil.which("unshare")
        or subprocess.run([*command, "true"], capture_output=True).returncode
    ):
        pytest.skip("no mounts in a name space of one's own here")
    return command


def test_a_full_disk(apart: Apart, full: list[str], tmp_path: Path) -> None:
    code = f"folder = Path({str(tmp_path)!r})\n"
    code += "for check in (storage.check_disk, storage.check_space): tell(check, folder=folder)\n"
    disk, space = apart(code, *full)
    assert disk["status"] == ERROR and "No space left on device" in disk["seen"]
    assert space["status"] == ERROR and "0.0 GB free" in space["seen"]
    assert "--out FOLDER" in space["remedy"]


def test_little_shared_memory(apart: Apart, full: list[str], tmp_path: Path) -> None:
    """As in a container: 64 MB are too little for many ranks, 16 MB for any."""
    code = f"tell(lambda job: storage.check_shared_memory(job, Path({str(tmp_path)!r})))"
    (found,) = apart(code, *full)
    assert found["status"] == WARNING and "16 of 16 MB free" in found["seen"]
    assert "--shm-size=1024m" in found["remedy"]


def test_shared_memory(setting: Make, tmp_path: Path) -> None:
    (found,) = storage.check_shared_memory(setting(), tmp_path / "nowhere")
    assert found.status == ERROR and "No such file" in found.seen and found.remedy
    (found,) = storage.check_shared_memory(setting(), tmp_path)
    assert found.status == OK and " MB free" in found.seen
    (found,) = storage.check_shared_memory(setting(local_ranks=10**9), tmp_path)
    assert found.status == WARNING and "1000000000 ranks may need" in found.seen


@pytest.mark.parametrize(("locking", "status"), [("", WARNING), ("FALSE", OK)])
def test_a_file_system_without_locks(
    locking: str, status: str, apart: Apart, tmp_path: Path
) -> None:
    """As NFS without its lock daemon: flock fails. The remedy helps."""
    env = {"HDF5_USE_FILE_LOCKING": locking} if locking else {}
    code = f"deny({FLOCK}, {ENOLCK})\ntell(storage.check_locks, folder=Path({str(tmp_path)!r}))"
    (found,) = apart(code, env=env)
    assert found["status"] == status, found
    if status == WARNING:
        assert "has no locks: " in found["seen"]
        assert found["remedy"] == "export HDF5_USE_FILE_LOCKING=FALSE"


def test_no_h5py(setting: Make, stub: Callable[..., dict[str, str]]) -> None:
    code = "raise ModuleNotFoundError(\"No module named 'h5py'\")"
    (found,) = storage.check_locks(setting(worker_env=stub("h5py", code)))
    assert found.status == ERROR and found.remedy == "python -m pip install h5py"


def test_the_type_of_a_file_system() -> None:
    assert storage.file_system(Path("/proc/self")) == "proc"
    assert storage.file_system(Path("/")) != "unknown"
