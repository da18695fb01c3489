"""Built-in sets in the layouts that people have: of torchvision, of Kaggle, and nested ones."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tallygrad.datasets import DataError, load
from tallygrad.datasets.formats.idx import read_idx
from tallygrad.datasets.formats.table import read_csv
from tallygrad.datasets.sets import cifar

LINE = ",".join(["5", *["7"] * 784])


@pytest.fixture(autouse=True)
def nowhere_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TALLYGRAD_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def flat(tmp_path: Path, write_mnist: Any) -> Path:
    """MNIST's four files in one folder."""
    made: Path = write_mnist(tmp_path / "flat", 6, 3)
    return made


def as_torchvision(flat: Path, to: Path) -> None:
    (to / "MNIST").mkdir(parents=True)
    flat.rename(to / "MNIST" / "raw")


def as_kaggle(flat: Path, to: Path) -> None:
    """Dots in the names, each file in a folder of its name, all of it nested."""
    for file in flat.iterdir():
        name = file.name.replace("-idx", ".idx")
        (to / "input" / "mnist-dataset" / name).mkdir(parents=True)
        file.rename(to / "input" / "mnist-dataset" / name / name)


def as_tables(flat: Path, to: Path) -> None:
    to.mkdir()
    for split, stem in (("train", "train"), ("test", "t10k")):
        images = read_idx(flat / f"{stem}-images-idx3-ubyte")
        labels = read_idx(flat / f"{stem}-labels-idx1-ubyte")
        rows = np.concatenate([labels[:, None], images.reshape(len(images), -1)], 1)
        head = ",".join(["label", *(f"pixel{i}" for i in range(784))])
        np.savetxt(to / f"mnist_{split}.csv", rows, "%d", ",", header=head, comments="")


@pytest.mark.parametrize("arrange", [as_torchvision, as_kaggle, as_tables])
def test_layouts_of_mnist(flat: Path, tmp_path: Path, arrange: Callable[..., None]) -> None:
    wanted = {split: load("mnist", split, flat, download=False) for split in ("train", "test")}
    arrange(flat, tmp_path / "to")
    for split, one in wanted.items():
        found = load("mnist", split, tmp_path / "to", download=False)
        np.testing.assert_array_equal(found.read(np.arange(len(one))), one.images[:, 0, :, :, None])
        np.testing.assert_array_equal(found.labels, one.labels)
    if arrange is not as_tables:  # other sets' folders are never taken for one's own
        (tmp_path / "to").rename(tmp_path / "FashionMNIST")
        with pytest.raises(DataError, match="mnist: not found in"):
            load("mnist", "train", tmp_path, download=False)


def test_nested_pickles_of_cifar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {"train": (("train", 4),), "test": (("test", 4),)}
    version = cifar.Version("cifar-100-python", "none.tar.gz", files, True)
    family = cifar.CifarFamily(2, b"fine_labels", (version,), cifar.FAMILIES["cifar100"].facts)
    monkeypatch.setitem(cifar.FAMILIES, "cifar100", family)
    folder = tmp_path / "input" / "cifar100"
    folder.mkdir(parents=True)
    images = np.random.default_rng(0).integers(0, 256, (4, 3072), np.uint8)
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        for file in ("train", "test"):
            content = {"data": images, "fine_labels": [0, 1, 99, 5]}
            (folder / file).write_bytes(pickle.dumps(content, protocol))
        found = load("cifar100", "test", tmp_path, download=False)
        np.testing.assert_array_equal(
            found.read(np.arange(4)).transpose(0, 3, 1, 2).reshape(4, -1), images
        )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected lines of 785 numbers, got 0 of"),
        ("1,2,3\n", "expected lines of 785 numbers, got 1 of 3"),
        (
            f"{LINE}\n{LINE},1\n",
            "cannot be read as numbers: .*columns changed",
        ),
        (f"{LINE}\n" + LINE.replace("7", "256", 1), "line 2: expected 0 to 255, got 256"),
        (f"a{LINE}\n" + LINE.replace("7", "-1", 1), "line 2: expected 0 to 255, got -1"),
        (f"{LINE}\n" + LINE.replace("7", "x", 1), "cannot be read as numbers: .*'x'"),
    ],
)
def test_tables_that_do_not_fit(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(DataError, match=rf"a\.csv: ({message})"):
        read_csv(tmp_path / "a.csv", 785)
