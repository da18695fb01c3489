"""Ranks that differ are told apart at the start, by one line, before they train or wait."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tallygrad.datasets import ImageDataset
from tallygrad.datasets.formats.idx import read_idx, write_idx
from tallygrad.trainer.distributed import agreement
from tallygrad.trainer.distributed.agreement import difference, program_facts, work_facts
from tallygrad.trainer.distributed.comm import SerialComm

Run = Callable[..., subprocess.CompletedProcess[str]]

# `tallygrad` whose rank 1 is changed by a line of Python.
ODD_RANK = """
import os, sys
from importlib import metadata
if int(os.environ.get("OMPI_COMM_WORLD_RANK") or os.environ["PMI_RANK"]) == 1:
    exec(sys.argv[1])
from tallygrad.trainer.cli import main
sys.exit(main(sys.argv[2:]))
"""
OLDER = """
import pathlib
import tallygrad.trainer.components.checkpoint as module
load = module.load
module.load = lambda path: load(pathlib.Path(str(path).replace("00004", "00002")))
"""
OLD_NUMPY = """
version = metadata.version
metadata.version = lambda name: "0.9" if name == "numpy" else version(name)
"""
# Numbers that another processor rounds otherwise, only more so.
OTHER_SCALES = """
import tallygrad.trainer.inference as module
from tallygrad.autograd import no_grad
calibrated = module.calibrated
def other(*rest):
    model = calibrated(*rest)
    with no_grad():
        for buffer in model.buffers():
            if buffer.dtype == "float32":
                buffer.mul_(2.0)
    return model
module.calibrated = other
"""
OTHER_DATA = "os.environ['TALLYGRAD_DATA'] = os.environ['OTHER_DATA']"


@pytest.fixture
def folders(tmp_path: Path, write_mnist: Any) -> tuple[Path, Path]:
    """The data of rank 0, and a copy that a test may change."""
    for name in ("data", "other"):
        (tmp_path / name).mkdir()
        write_mnist(tmp_path / name / "mnist", 40, 20)
    return tmp_path / "data", tmp_path / "other"


def run_odd(mpirun: Run, folders: tuple[Path, Path], line: str, *words: str) -> str:
    """Run a command on two ranks of which the second is odd; return its only line of error."""
    env = {"TALLYGRAD_DATA": str(folders[0]), "OTHER_DATA": str(folders[1])}
    env["TALLYGRAD_BACKEND"] = ""
    done = mpirun(2, ODD_RANK, line, *words, env=env, timeout=60)
    lines = [line for line in done.stderr.splitlines() if line.startswith("tallygrad: error:")]
    assert done.returncode == 2 and len(lines) == 1, done.stderr
    assert "Traceback" not in done.stderr
    return lines[0]


def train_words(folder: Path) -> list[str]:
    words = ["train", "--model", "mlp", "--dataset", "mnist", "--batch-size", "10"]
    return [*words, "--epochs", "2", "--out", str(folder / "run")]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("sys.modules['llvmlite'] = None", "backend: expected llvm:auto as on rank 0, got numpy"),
        ("sys.argv += ['--lr', '0.5']", "--lr: expected none as on rank 0, got 0.5"),
        ("sys.argv[2:] = ['eval', 'x']", "command: expected train as on rank 0, got eval"),
        (OLD_NUMPY, "version of numpy: expected "),
        (
            "from tallygrad.trainer import build; create = build.create_model; "
            "build.create_model = lambda _, *rest: create('lenet', *rest)",
            "shape of 1.weight: expected (256, 784) as on rank 0, got none",
        ),
    ],
)
def test_another_program(
    mpirun: Run, tmp_path: Path, folders: tuple[Path, Path], line: str, said: str
) -> None:
    text = run_odd(mpirun, folders, line, *train_words(tmp_path))
    assert f"ranks differ in {said}" in text and " on rank 1; all ranks need" in text
    assert not (tmp_path / "run" / "log.jsonl").exists()


def test_other_threads_are_no_other_program(
    mpirun: Run, tmp_path: Path, folders: tuple[Path, Path]
) -> None:
    env = {"TALLYGRAD_DATA": str(folders[0])}
    words = [*train_words(tmp_path), "--backend", "numpy"]
    done = mpirun(2, ODD_RANK, "sys.argv += ['--threads', '2']", *words, env=env)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("stem", "kind"), [("train", "half"), ("train", "labels"), ("t10k", "pixel")]
)
def test_other_data(
    mpirun: Run, tmp_path: Path, folders: tuple[Path, Path], stem: str, kind: str
) -> None:
    said = change_data(folders[1] / "mnist", stem, kind)
    text = run_odd(mpirun, folders, OTHER_DATA, *train_words(tmp_path))
    assert f"ranks differ in {said}" in text and "on rank 1;" in text


def change_data(folder: Path, stem: str, kind: str) -> str:
    """Change the files of a split; return what is to be said of it."""
    paths = [folder / f"{stem}-{part}-ubyte" for part in ("images-idx3", "labels-idx1")]
    images, labels = (read_idx(path).copy() for path in paths)
    split, count = ("test", 20) if stem == "t10k" else ("train", 40)
    if kind == "half":
        images, labels = images[: count // 2], labels[: count // 2]
    elif kind == "labels":
        labels = np.roll(labels, 1)
    else:
        images[-1, 14, 14] ^= 1
    for path, values in zip(paths, (images, labels), strict=True):
        write_idx(path, values)
    return {
        "half": f"number of images of mnist/{split}: expected {count} as on rank 0, "
        f"got {count // 2} on",
        "labels": f"hash of labels of mnist/{split}: expected ",
        "pixel": f"hash of images of mnist/{split}: expected ",
    }[kind]


def test_another_checkpoint_and_other_data_for_it(
    mpirun: Run, tmp_path: Path, folders: tuple[Path, Path]
) -> None:
    """A rank that reads another file under the same name, as from a stale copy."""
    words = [*train_words(tmp_path), "--backend", "numpy", "--checkpoint-every", "2"]
    env = {"TALLYGRAD_DATA": str(folders[0])}
    done = mpirun(1, ODD_RANK, "", *words, "--max-steps", "4", env=env)
    assert done.returncode == 0, done.stderr
    newest = tmp_path / "run" / "checkpoints" / "step-00000004.h5"
    for command in ([*words, "--resume", "auto"], ["eval", str(newest)]):
        text = run_odd(mpirun, folders, OLDER, *command)
        assert f"ranks differ in digest of {newest}: expected " in text
    said = change_data(folders[1] / "mnist", "t10k", "labels")
    assert said in run_odd(mpirun, folders, OTHER_DATA, "eval", str(newest))


def test_int8_is_the_same_on_any_number_of_ranks(
    mpirun: Run, tmp_path: Path, folders: tuple[Path, Path]
) -> None:
    """They are calibrated on the same images, and take the scales of rank 0."""
    env = {"TALLYGRAD_DATA": str(folders[0])}
    done = mpirun(1, ODD_RANK, "", *train_words(tmp_path), "--max-steps", "2", env=env)
    assert done.returncode == 0, done.stderr
    words = ["eval", str(tmp_path / "run"), "--precision", "int8", "--json"]
    found = [mpirun(n, ODD_RANK, OTHER_SCALES, *words, env=env) for n in (1, 2)]
    assert '"precision": "int8"' in found[0].stdout
    assert found[0].stdout == found[1].stdout, found[1].stderr
    said = change_data(folders[1] / "mnist", "train", "pixel")
    assert said in run_odd(mpirun, folders, OTHER_DATA, *words)


def pictures(count: int = 4, size: int = 2) -> ImageDataset:
    images = np.arange(count * size * size, dtype=np.uint8).reshape(count, 1, size, size)
    return ImageDataset("toy", "train", images, np.arange(count), tuple("abcd"), (0.0,), (1.0,))


def test_the_first_difference_is_named_with_its_ranks() -> None:
    one, two = {"x": "1", "y": "2"}, {"x": "1", "y": "3"}
    assert difference([one, two, one, two, two, {"x": "1", "y": "4"}]) == (
        "ranks differ in y: expected 2 as on rank 0, got 3 on ranks 1, 3-4"
    )
    assert "in x: expected 1 as on rank 0, got none on rank 1" in difference([one, {"y": "3"}])
    assert "in z: expected none as on rank 0, got 5" in difference([one, {**one, "z": "5"}])


def test_processors_of_different_kinds_differ() -> None:
    pytest.importorskip("llvmlite")
    found = [{k: str(v) for k, v in work_facts(f"llvm:{n}").items()} for n in ("", "sse")]
    found[1]["backend"] = found[0]["backend"]
    assert difference(found).endswith("got sse on rank 1")


def test_options_that_change_no_result_are_left_out() -> None:
    names = program_facts("train", {"threads": 2, "batch_size": 8})
    assert "--batch-size" in names and "--threads" not in names


def test_a_large_set_is_sampled_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agreement, "HASHED", 5)
    before = work_facts("numpy", pictures())
    (name,) = [name for name in before if "of the images" in name]
    assert name == "hash of every 4th of the images of toy/train"
    changed = pictures()
    changed.images[1] += 1
    assert work_facts("numpy", changed) == before
    changed.images[0] += 1
    assert work_facts("numpy", changed)[name] != before[name]


def test_a_single_process_hashes_nothing() -> None:
    def facts() -> dict[str, object]:
        raise AssertionError("asked for")

    agreement.agree(SerialComm(), facts)
