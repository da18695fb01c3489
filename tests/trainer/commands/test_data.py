"""`tallygrad data`: what is packed trains to the same bits, and faults are told."""

from __future__ import annotations

import json
import resource
import shutil
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from tallygrad.datasets import Reading, load, load_own
from tallygrad.trainer.cli import main
from tallygrad.trainer.components.checkpoint import load as load_checkpoint

Image = pytest.importorskip("PIL.Image")
RNG = np.random.default_rng(0)


@pytest.fixture
def pets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two splits of images in two classes."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for split, count in (("train", 6), ("test", 3)):
        for name in ("cat", "dog"):
            (tmp_path / "pets" / split / name).mkdir(parents=True)
            for i in range(count):
                pixels = RNG.integers(0, 256, (7, 8, 3), np.uint8)
                Image.fromarray(pixels).save(tmp_path / "pets" / split / name / f"{i}.png")
    return Path("pets")


def train(dataset: str, out: str, *words: str) -> dict[str, bytes]:
    base = ["train", "--model", "mlp", "--backend", "numpy", "--batch-size", "4", "--out", out]
    assert main([*base, "--dataset", dataset, *words]) == 0
    tensors = load_checkpoint(next(Path(out, "checkpoints").glob("step-*.h5"))).tensors
    return {name: array.tobytes() for name, array in tensors.items()}


@pytest.mark.parametrize("compression", ["none", "gzip", "lz4", "zstd", "blosc"])
def test_packed_data_are_those_that_were_packed(pets: Path, compression: str) -> None:
    if compression not in ("none", "gzip"):
        pytest.importorskip("hdf5plugin")
    assert main(["data", "pack", "pets", "a.h5", "--compression", compression]) == 0
    assert not Path("cache").exists()  # an image is decoded once, straight into the file
    wanted = load_own("pets")
    for memory in (0, 1 << 20):
        found = load_own("a.h5", Reading(memory=memory))
        assert found.keys() == wanted.keys()
        for split, one in wanted.items():
            other = found[split]
            assert (other.name, other.classes, other.mean, other.std) == (
                "pets", one.classes, one.mean, one.std,
            )  # fmt: skip
            every = np.arange(len(one))
            np.testing.assert_array_equal(other.read(every), one.read(every))
            np.testing.assert_array_equal(other.labels, one.labels)


def test_packed_data_train_to_the_same_bits(pets: Path) -> None:
    assert main(["data", "pack", "pets", "a.h5", "--compression", "gzip"]) == 0
    wanted = train("pets", "x")
    assert train("a.h5", "y") == train("a.h5", "z", "--data-memory", "0") == wanted


def test_a_built_in_set_keeps_its_name_and_normalisation(
    tmp_path: Path, write_mnist: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_mnist(tmp_path / "mnist", 20, 9)
    assert main(["data", "pack", "mnist", "a.h5", "--data-dir", str(tmp_path)]) == 0
    own, built_in = load_own("a.h5")["train"], load("mnist", "train", tmp_path)
    assert (own.name, own.mean, own.std) == ("mnist", built_in.mean, built_in.std)
    np.testing.assert_array_equal(own.read(np.arange(20)), built_in.read(np.arange(20)))


def test_data_without_splits_and_other_sizes(pets: Path) -> None:
    assert main(["data", "pack", "pets/train", "a.h5", "--image-size", "4x5"]) == 0
    sets = load_own("a.h5", Reading(test_split=0.25))
    assert len(sets["train"]) == 9 and sets["test"].input_shape == (3, 4, 5)
    assert main(["data", "pack", "a.h5", "b.h5", "--image-size", "2", "--image-fit", "resize"]) == 0
    small = load_own("b.h5", Reading(test_split=None))["train"]
    assert small.input_shape == (3, 2, 2)
    pixels = small.read(np.arange(12)).reshape(-1, 3) / 255
    np.testing.assert_allclose([small.mean, small.std], [pixels.mean(0), pixels.std(0)])


def test_info(pets: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "pack", "pets", "a.h5", "--compression", "gzip"]) == 0
    packed = capsys.readouterr().out
    assert main(["data", "info", "a.h5"]) == 0
    text = capsys.readouterr().out
    assert text == packed
    (row,) = [line.split() for line in text.splitlines() if line.startswith("train")]
    assert row[1:4] == ["12", "3x7x8", "uint8"] and row[-3:] == ["12", "gzip", "6"]
    assert "classes  2: cat, dog" in text and "note" not in text
    with h5py.File("big.h5", "w") as file:
        file.create_dataset("images", data=np.zeros((99, 4, 4), "u1"), chunks=(99, 4, 4))
        file["labels"] = np.zeros(99, int)
    assert main(["data", "info", "big.h5"]) == 0
    assert "reads a whole chunk: `tallygrad data pack`" in capsys.readouterr().out
    for memory, warns in (("0", True), ("1MB", False)):
        train("big.h5", memory, "--data-memory", memory, "--test-split", "0.1")
        assert ("read with the 99 of its chunk" in capsys.readouterr().err) == warns


def check(capsys: pytest.CaptureFixture[str], source: str) -> tuple[int, list[str]]:
    capsys.readouterr()
    status = main(["data", "check", source])
    return status, capsys.readouterr().out.splitlines()


def test_check_tells_every_fault(pets: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check(capsys, "pets") == (0, ["pets: 18 images read, no faults"])
    for i in (1, 4):
        path = pets / "train" / "dog" / f"{i}.png"
        path.write_bytes(path.read_bytes()[:60])
    shutil.copy(pets / "train" / "cat" / "0.png", pets / "test" / "cat" / "1.png")
    status, lines = check(capsys, "pets")
    assert status == 2 and len(lines) == 4
    assert all(
        f"dog/{i}.png: damaged image" in line for i, line in zip((1, 4), lines, strict=False)
    )
    assert lines[2] == "pets: expected no image of train in test too, got 1"
    assert lines[3] == "pets: 18 images read, 3 faults"


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (6, np.arange(5), "a.npz/x: expected 6 labels, one per image, got 5"),
        (0, np.arange(0), "a.npz/x: expected at least one image with pixels, got shape (0, 4, 4"),
        (6, np.arange(6) % 2 + 1, "a.npz/x: labels: expected training samples of all 3 classes 0"),
        (6, np.arange(6) + 0.5, "a.npz/x: label at index 0: expected a whole number, got 0.5"),
    ],
)
def test_labels_that_do_not_fit_are_refused(
    pets: Path, images: int, labels: Any, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    np.savez("a.npz", x=np.ones((images, 4, 4), np.float32), y=labels)
    status, lines = check(capsys, "a.npz")
    assert status == 2 and message in lines[0]
    assert lines[1:] == [f"a.npz: {images} images read, 1 fault"]
    assert main(["data", "pack", "a.npz", "a.h5"]) == 2
    assert message in capsys.readouterr().err
    assert not Path("a.h5").exists()


def test_check_compares_digests(pets: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "pack", "pets", "a.h5"]) == 0
    assert check(capsys, "a.h5") == (0, ["a.h5: 18 images read, no faults"])
    for change in ("images", "labels"):
        with h5py.File("a.h5", "r+") as file:
            file["test"][change][0] = 1 - np.minimum(file["test"][change][0], 1)
        status, lines = check(capsys, "a.h5")
        assert status == 2 and len(lines) == 2
        assert "a.h5/test/images: expected SHA-256 " in lines[0]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["pack", "pets"], "data pack: expected DEST.h5, got none"),
        (["info", "pets", "a.h5"], "data info: expected no second file with info, got a.h5"),
        (["pack", "pets", "a.zip"], "a.zip: expected a name that ends in .h5, got .zip"),
        (["pack", "pets", "old.h5"], "old.h5: expected a new file, got one that exists"),
        (["pack", "pest", "a.h5"], "--dataset: unknown data set 'pest'"),
        (["pack", "digits", "a.h5", "--image-size", "9"], "--image-size: expected none with"),
        (["pack", "pets", "a.h5", "--image-size", "x"], "--image-size: expected a size in pixels"),
        (["pack", "pets", "file/a.h5"], "a.h5: cannot be written: "),
    ],
)
def test_what_does_not_fit(
    pets: Path, words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("file").touch()
    Path("old.h5").touch()
    assert main(["data", *words]) == 2
    assert message in capsys.readouterr().err
    assert sorted(path.name for path in Path().iterdir() if path.name != "cache") == [
        "file", "old.h5", "pets",
    ]  # fmt: skip


def test_a_broken_image_leaves_no_file(pets: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (pets / "test" / "dog" / "2.png").write_bytes(b"")
    assert main(["data", "pack", "pets", "a.h5", "--image-size", "4"]) == 2
    assert "dog/2.png: expected an image" in capsys.readouterr().err
    assert [path.name for path in Path().iterdir()] == ["pets"]


@pytest.mark.parametrize("compression", ["none", "gzip"])
def test_a_full_disk_leaves_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    compression: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    np.savez("a.npz", images=RNG.integers(0, 256, (900, 20, 20), np.uint8), labels=np.zeros(900))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        assert main(["data", "pack", "a.npz", "a.h5", "--compression", compression]) == 2
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "a.h5: cannot be written: File too large" in capsys.readouterr().err
    assert [path.name for path in Path().iterdir()] == ["a.npz"]


def test_imagenets_layout_packs_and_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Many class folders, and validation images whose labels are in a text file."""
    monkeypatch.chdir(tmp_path)
    names = [f"n{i:08}" for i in range(200)]
    root = tmp_path / "imagenet"
    colors = RNG.integers(0, 256, (200, 3))
    for name, color in zip(names, colors.tolist(), strict=True):
        (root / "train" / name).mkdir(parents=True)
        Image.new("RGB", (9, 8), tuple(color)).save(root / "train" / name / f"{name}_1.JPEG")
    (root / "val").mkdir()
    picks = [199, 5, 17]
    for i, pick in enumerate(picks, 1):
        place = root / "val" / f"ILSVRC2012_val_{i:08}.JPEG"
        Image.new("RGB", (6, 12), tuple(colors[pick].tolist())).save(place)
    lines = [f"ILSVRC2012_val_{i:08},{names[pick]} 1 2 3 4" for i, pick in enumerate(picks, 1)]
    text = "\n".join(["ImageId,PredictionString", *lines])
    (root / "LOC_val_solution.csv").write_text(text)
    assert main(["data", "pack", "imagenet", "in.h5", "--image-size", "6"]) == 0
    sets = load_own("in.h5")
    assert len(sets["train"].classes) == 200 and sets["test"].labels.tolist() == picks
    for index in range(3):  # the packed images are their classes'
        image = sets["test"].read(np.array([index]))[0]
        np.testing.assert_allclose(image.mean((0, 1)), colors[picks[index]], atol=4)
    words = ["--data-memory", "0", "--max-steps", "2", "--batch-size", "99"]
    train("in.h5", "run", *words)
    result = json.loads(Path("run", "result.json").read_text())
    assert result["steps"] == 2
