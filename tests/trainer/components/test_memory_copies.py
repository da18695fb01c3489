"""Copies of a run's state in memory: kept, found, taken, and removed."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from tallygrad.trainer import cli
from tallygrad.trainer.components import checkpoint, memory_copies, packed
from tallygrad.trainer.components.logs import RunFolder
from tallygrad.trainer.components.memory_copies import MemoryCopies, newer_in_memory
from tallygrad.trainer.components.record import RunRecord
from tallygrad.trainer.distributed.comm import SerialComm

Write = Callable[[Path, int, int], Path]


@pytest.fixture
def memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that stands in for the host's memory."""
    folder = tmp_path / "memory"
    folder.mkdir()
    monkeypatch.setattr(memory_copies, "MEMORY", folder)
    return folder


def copies_of(out: Path, goes_on: bool = False, every: int = 1) -> MemoryCopies:
    out.mkdir(exist_ok=True)
    copies = MemoryCopies(SerialComm(), RunFolder(out, writes=True), every)
    copies.open(0, goes_on)
    return copies


def image(step: int) -> memoryview:
    return packed.pack({"a": np.arange(step)}, {"step": step})


def test_the_two_newest_are_kept_and_the_newest_is_taken(memory: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    copies = copies_of(out)
    for step in (3, 4, 5):
        copies.store(step, image(step))
    names = sorted(path.name for path in copies.folder.iterdir())
    assert names == ["step-00000004.copy", "step-00000005.copy"]
    assert copies.folder.parent == memory and copies.folder.stat().st_mode & 0o777 == 0o700
    found = newer_in_memory(SerialComm(), out)
    assert found is not None and packed.load_state(found).meta == {"step": 5}


def test_a_damaged_copy_is_skipped(memory: Path, tmp_path: Path) -> None:
    copies = copies_of(tmp_path / "run")
    for step in (3, 4):
        copies.store(step, image(step))
    newest = copies.folder / "step-00000004.copy"
    data = bytearray(newest.read_bytes())
    data[-1] ^= 1
    newest.write_bytes(data)
    found = newer_in_memory(SerialComm(), tmp_path / "run")
    assert found is not None and found.name == "step-00000003.copy"


def test_a_checkpoint_on_disk_that_is_as_new_comes_first(
    memory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copies, disk = copies_of(tmp_path / "run"), tmp_path / "run" / "checkpoints"
    copies.store(4, image(4))
    disk.mkdir()
    checkpoint.save(disk / "step-00000004.h5", {}, {})
    assert newer_in_memory(SerialComm(), tmp_path / "run") is None
    (disk / "step-00000004.h5").write_bytes(b"damaged")
    assert newer_in_memory(SerialComm(), tmp_path / "run") is not None
    (disk / "step-00000004.h5").rename(disk / "step-00000003.h5")
    read: list[Path] = []
    verify = checkpoint.verify
    monkeypatch.setattr(checkpoint, "verify", lambda path: (read.append(path), verify(path))[1])
    assert newer_in_memory(SerialComm(), tmp_path / "run") is not None
    assert not read


def test_another_run_in_the_same_folder_has_other_copies(memory: Path, tmp_path: Path) -> None:
    first = copies_of(tmp_path / "run")
    first.store(3, image(3))
    assert copies_of(tmp_path / "run", goes_on=True).name == first.name
    copies_of(tmp_path / "run")
    assert newer_in_memory(SerialComm(), tmp_path / "run") is None


def test_another_run_without_copies_leaves_none_to_take(memory: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    copies_of(out).store(3, image(3))
    without = MemoryCopies(SerialComm(), RunFolder(out, writes=True), every=0)
    without.open(0, goes_on=True)
    assert newer_in_memory(SerialComm(), out) is not None
    without.open(0, goes_on=False)
    assert newer_in_memory(SerialComm(), out) is None


def test_hosts_that_have_left_the_job_are_named_at_its_end(
    memory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a loss: the run begins on n1, and goes on and ends on n2 alone."""
    out, record = tmp_path / "run", tmp_path / "run" / memory_copies.RECORD
    for host in ("n1", "n2"):
        monkeypatch.setattr(socket, "gethostname", lambda host=host: host)
        copies = copies_of(out, goes_on=host == "n2")
    assert json.loads(record.read_text())["hosts"] == ["n1", "n2"]
    copies.store(4, image(4))
    copies.remove()
    assert json.loads(record.read_text()) == {"name": copies.name, "left": ["n1"]}
    assert not copies.folder.exists()
    assert newer_in_memory(SerialComm(), out) is None
    other = copies_of(out)
    assert json.loads(record.read_text())["hosts"] == ["n2"]
    other.remove()
    assert not record.exists()


@pytest.mark.parametrize("every", [0, 1])
def test_a_lost_host_stays_on_record_through_a_stop(
    memory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, every: int
) -> None:
    """A host is lost; the run stops with a checkpoint, goes on from there, and ends."""
    out, record = tmp_path / "run", tmp_path / "run" / memory_copies.RECORD
    monkeypatch.setattr(socket, "gethostname", lambda: "n1")
    name = copies_of(out).name
    monkeypatch.setattr(socket, "gethostname", lambda: "n2")
    for step in (3, 6):
        copies = copies_of(out, goes_on=True, every=every)
        assert json.loads(record.read_text())["hosts"] == ["n1", "n2"]
        copies.store(step, image(step))
        copies.remove()
        assert json.loads(record.read_text()) == {"name": name, "left": ["n1"]}
    assert not [*memory.iterdir()]


@pytest.mark.parametrize("text", ['{"name": "../etc"}', '{"name": 3}', "[]", "{", '{"name": ""}'])
def test_a_record_that_is_none_of_ours(memory: Path, tmp_path: Path, text: str) -> None:
    (tmp_path / memory_copies.RECORD).write_text(text)
    assert newer_in_memory(SerialComm(), tmp_path) is None


def test_too_little_memory_is_no_failure(
    memory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    copies = copies_of(tmp_path / "run")
    monkeypatch.setattr(memory_copies, "RESERVED", 1 << 60)
    for step in (3, 4):
        copies.store(step, image(step))
    said = capsys.readouterr().err
    assert said.count("no copy in memory of step 3") == 1 and "step 4" not in said
    assert not list(copies.folder.iterdir())


class Run(NamedTuple):
    out: Path
    words: list[str]


@pytest.fixture
def run(tmp_path: Path, write_mnist: Write, memory: Path) -> Run:
    data = write_mnist(tmp_path / "data", 80, 20)
    out = tmp_path / "run"
    words = [
        "train", "--model", "mlp", "--dataset", "mnist", "--data-dir", str(data), "--batch-size",
        "10", "--max-steps", "6", "--backend", "numpy", "--memory-copy-every", "1",
        "--log-every", "1",
    ]  # fmt: skip
    return Run(out, words)


class Dies(Exception):
    """Stands in for the end of a process."""


def test_a_run_goes_on_from_memory_and_leaves_nothing_there(
    run: Run, memory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    copy = RunRecord.copy

    def dying(self: RunRecord) -> None:
        copy(self)
        if self.state.step == 4:
            raise Dies

    with monkeypatch.context() as patch:
        patch.setattr(RunRecord, "copy", dying)
        assert cli.main([*run.words, "--out", str(run.out)]) == 1
    assert not list((run.out / "checkpoints").iterdir())
    assert [*os.listdir(memory)] != []
    again = ["--out", str(run.out), "--resume", "auto"]
    assert cli.main([*run.words, *again]) == 0
    assert "step 4 comes from the memory of" in capsys.readouterr().err
    restarts = json.loads((run.out / "restarts.json").read_text())
    assert [restart["step"] for restart in restarts] == [4]
    assert not os.listdir(memory) and not (run.out / memory_copies.RECORD).exists()
    assert cli.main([*run.words, "--out", str(tmp_path / "undisturbed")]) == 0
    ends = [f / "checkpoints" / "step-00000006.h5" for f in (run.out, tmp_path / "undisturbed")]
    one, other = (checkpoint.load(path).tensors for path in ends)
    assert {n: a.tobytes() for n, a in one.items()} == {n: a.tobytes() for n, a in other.items()}
