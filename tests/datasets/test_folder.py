"""Own data sets as folders of images: layouts, sizes, colours, the cache, and what is wrong."""

from __future__ import annotations

import shutil
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tallygrad.datasets import DataError, Reading, load_own
from tallygrad.datasets.formats import pictures
from tallygrad.datasets.sets import folder

Image = pytest.importorskip("PIL.Image")
RNG = np.random.default_rng(0)
CLASSES = ("cat", "dog", "owl")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "tallygrad" / "images"


def draw(path: Path, shape: tuple[int, ...] = (6, 5, 3), value: int | None = None) -> Any:
    pixels = RNG.integers(0, 256, shape, np.uint8) if value is None else np.full(shape, value, "u1")
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return pixels


def draw_classes(root: Path, count: int, names: tuple[str, ...] = CLASSES) -> list[Any]:
    return [draw(root / name / f"{i}.png") for name in names for i in range(count)]


def test_a_folder_a_class_in_folders_a_split(tmp_path: Path, cache: Path) -> None:
    root = tmp_path / "pets"
    pixels = draw_classes(root / "train", 3)
    tests = draw_classes(root / "test", 1, ("dog", "owl"))
    (root / "train" / "cat" / "notes.txt").write_text("no image")
    (root / "train" / "cat" / ".hidden.png").write_bytes(b"")
    sets = load_own(root)
    train, test = sets["train"], sets["test"]
    assert (train.name, train.classes, train.input_shape) == ("pets", CLASSES, (3, 6, 5))
    np.testing.assert_array_equal(train.read(np.arange(9)), pixels)
    np.testing.assert_array_equal(train.labels, np.repeat([0, 1, 2], 3))
    np.testing.assert_array_equal(test.read(np.arange(2)), tests)
    assert test.labels.tolist() == [1, 2] and len([*cache.iterdir()]) == 1


def test_the_cache_is_used_until_a_file_changes(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "pets"
    draw_classes(root, 2)
    how = Reading(test_split=None)
    first = load_own(root, how)["train"].read(np.arange(6))
    decoded = []
    plain = folder.decode
    monkeypatch.setattr(folder, "decode", lambda *a, **k: decoded.append(a) or plain(*a, **k))
    for streams in (how, Reading(test_split=None, memory=0)):
        np.testing.assert_array_equal(load_own(root, streams)["train"].read(np.arange(6)), first)
    assert not decoded
    changed = draw(root / "dog" / "1.png")
    again = load_own(root, how)["train"].read(np.arange(6))
    np.testing.assert_array_equal(again[3], changed)
    assert len(decoded) == 6 and len([*cache.iterdir()]) == 2


@pytest.mark.parametrize("memory", [0, 1 << 20])
def test_without_a_cache_images_are_decoded_when_they_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, memory: int, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "pets"
    pixels = draw_classes(root, 2)
    monkeypatch.setattr(folder, "cache_dir", lambda: None)
    data = load_own(root, Reading(test_split=None, memory=memory))["train"]
    np.testing.assert_array_equal(data.read(np.array([5, 0])), [pixels[5], pixels[0]])
    (tmp_path / "file").touch()
    monkeypatch.setattr(folder, "cache_dir", lambda: tmp_path / "file")
    data = load_own(root, Reading(test_split=None, memory=memory))["train"]
    np.testing.assert_array_equal(data.read(np.array([5, 0])), [pixels[5], pixels[0]])
    assert "images are not cached: " in capsys.readouterr().err


def test_sizes_and_colours(tmp_path: Path) -> None:
    root = tmp_path / "pets"
    draw_classes(root, 1)
    draw(root / "cat" / "wide.png", (6, 50), 9)
    with pytest.raises(DataError, match=r"wide\.png: expected 6 x 5 pixels .*got 6 x 50; give --i"):
        load_own(root, Reading(test_split=None))
    for fit in ("crop", "resize"):
        how = Reading(test_split=None, size=(3, 5), fit=fit, colors="grey")
        data = load_own(root, how)["train"]
        assert data.input_shape == (1, 3, 5) and (data.read(np.array([1])) == 9).all()
    assert load_own(root, Reading(test_split=None, size=(3, 5)))["train"].input_shape == (3, 3, 5)


def test_crop_takes_the_middle_and_resize_all(tmp_path: Path) -> None:
    pixels = np.zeros((4, 12), np.uint8)
    pixels[:, 4:8] = 200
    Image.fromarray(pixels).save(tmp_path / "a.png")
    assert (pictures.decode(tmp_path / "a.png", (4, 4), "crop", False) == 200).all()
    resized = pictures.decode(tmp_path / "a.png", (4, 4), "resize", False)[..., 0]
    assert resized[0, 0] < 50 and resized[0, 3] < 50


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16"])
def test_modes_of_colour(tmp_path: Path, mode: str) -> None:
    if mode == "I;16":
        Image.fromarray(np.full((4, 4), 51 << 8, np.uint16)).save(tmp_path / "a.png")
    else:
        grey = Image.fromarray(np.full((4, 4, 3), 255 if mode == "1" else 51, np.uint8))
        grey.convert(mode).save(tmp_path / ("a.jpg" if mode == "CMYK" else "a.png"), quality=100)
    (path,) = tmp_path.iterdir()
    assert pictures.read_header(path).is_grey == (mode in ("1", "L", "LA", "I;16"))
    for rgb in (False, True):
        image = pictures.decode(path, (4, 4), "crop", rgb)
        assert image.shape == (4, 4, 3 if rgb else 1)
        np.testing.assert_allclose(image, 255 if mode == "1" else 51, atol=2)


def test_imagenet(tmp_path: Path) -> None:
    """Class folders for training; the validation set lies flat, with labels in a text file."""
    root, names = tmp_path / "ILSVRC" / "Data" / "CLS-LOC", ("n01", "n02", "n03")
    draw_classes(root / "train", 2, names)
    labels, stems = [2, 0, 1, 1], [f"ILSVRC2012_val_{i:08}" for i in range(4)]
    for i in range(4):
        draw(root / "val" / f"{stems[i]}.JPEG")
    draw(root / "test" / "x.JPEG")

    def found() -> list[int]:
        sets = load_own(tmp_path, Reading(size=(4, 4)))
        assert sets.keys() == {"train", "test"} and sets["train"].classes == names
        return sets["test"].labels.tolist()

    with pytest.raises(DataError, match="val: expected a folder a class, or a text file with"):
        found()
    rows = {
        "LOC_val_solution.csv": "ImageId,PredictionString\n" + "".join(
            f"{stems[i]},n0{labels[i] + 1} 85 1 499 272 n9 1 2 3 4\n" for i in (3, 1, 0, 2)
        ),
        "val.txt": "".join(f"{stems[i]}.JPEG {labels[i]}\n" for i in range(4)),
        "val/val_annotations.txt": "".join(
            f"{stems[i]}.JPEG\tn0{labels[i] + 1}\t0\t0\t62\t62\n" for i in range(4)
        ),
    }  # fmt: skip
    for name, text in rows.items():
        (root / name).write_text(text)
        assert found() == labels
        (root / name).unlink()
    truth = root / "devkit" / "data" / "ILSVRC2012_validation_ground_truth.txt"
    truth.parent.mkdir(parents=True)
    truth.write_text("".join(f"{3 - label}\n" for label in labels))
    with pytest.raises(DataError, match=r"expected map_clsloc\.txt or synsets\.txt beside it"):
        found()
    for text in ("n03 1 a\nn02 2 b\nn01 3 c\n", "n03\nn02\nn01\n"):
        (truth.parent / "map_clsloc.txt").write_text(text)
        assert found() == labels
    truth.write_text("1\n2\n3\n4\n")
    with pytest.raises(
        DataError, match=r"0003\.JPEG: expected a number .* 3 classes, got '4' \(unknown"
    ):
        found()


def test_tiny_imagenet_and_kaggle(tmp_path: Path) -> None:
    root = tmp_path / "tiny"
    for name in ("n01", "n02"):
        draw(root / "train" / name / "images" / f"{name}_0.JPEG")
    draw(root / "val" / "images" / "val_0.JPEG")
    (root / "val" / "val_annotations.txt").write_text("val_0.JPEG\tn02\t0\t0\t62\t62\n")
    sets = load_own(root, Reading(size=(4, 4)))
    assert sets["test"].labels.tolist() == [1]
    kaggle = tmp_path / "kaggle"  # cifar-10: flat images with labels by number
    for i in range(1, 5):
        draw(kaggle / "train" / f"{i}.png")
    (kaggle / "trainLabels.csv").write_text("id,label\n1,frog\n2,cat\n3,cat\n4,frog\n")
    data = load_own(kaggle, Reading(test_split=0.25))
    both = np.concatenate([data["train"].labels, data["test"].labels])
    assert data["train"].classes == ("cat", "frog") and sorted(both.tolist()) == [0, 0, 1, 1]


def test_classes_that_are_named_as_splits(tmp_path: Path) -> None:
    draw_classes(tmp_path / "a", 2, ("bus", "train", "Test"))
    draw(tmp_path / "a" / "__MACOSX" / "._1.png")
    data = load_own(tmp_path / "a", Reading(test_split=None))["train"]
    assert data.classes == ("Test", "bus", "train") and len(data) == 6


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "0.png cat\n1.png emu\n",
            "txt: label of 1.png: expected one of 3 classes, such as 'cat', got 'emu'",
        ),
        ("0.png 0\n1.png 3\n", "txt: label of 1.png: expected 0 to 2, got '3'"),
        ("0.png 02\n1.png -1\n", "txt: label of 0.png: expected one of 3 classes, such as 'cat'"),
        (
            "0.png cat\n",
            "text file with the labels of its 2 images, got none of 1.png in .*/val.txt",
        ),
    ],
)
def test_labels_that_do_not_fit(tmp_path: Path, text: str, message: str) -> None:
    draw_classes(tmp_path / "train", 1)
    for i in range(2):
        draw(tmp_path / "val" / f"{i}.png")
    (tmp_path / "val.txt").write_text(text)
    with pytest.raises(DataError, match=message):
        load_own(tmp_path)


def test_folders_that_do_not_fit(tmp_path: Path) -> None:
    def refused(message: str) -> None:
        with pytest.raises(DataError, match=message):
            load_own(tmp_path / "a")

    (tmp_path / "a").mkdir()
    refused("a: expected folders of images, one a class, .* got an empty folder")
    draw_classes(tmp_path / "a" / "train", 1)
    draw_classes(tmp_path / "a" / "test", 1, ("emu",))
    refused(r"test/emu: expected one of the 3 classes .* such as 'cat', got 'emu'")
    shutil.rmtree(tmp_path / "a" / "test")
    refused("expected a test set, or --test-split such as 0.2 .* 3 samples, got neither")
    (tmp_path / "a" / "train" / "fox").mkdir()
    refused("train/fox: expected images of the class 'fox', got none")
    draw(tmp_path / "a" / "train" / "fox" / "1.png")
    draw(tmp_path / "a" / "train" / "Fox" / "1.png")
    refused("expected classes of different names, got 'Fox' and 'fox'")
    (tmp_path / "a" / "training").mkdir()
    refused("expected one folder of the split train, got train and training")


def png(width: int, height: int, body: bytes) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    whole = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(body)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + whole


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "expected an image .PNG, JPEG, .*, got another or a damaged file"),
        (b"not an image", "expected an image .PNG, JPEG, .*, got another or a damaged file"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "expected an image .PNG"),
        (png(64, 64, RNG.bytes(65 * 64))[:2000], "damaged image"),
        (png(64, 64, RNG.bytes(65 * 64)).replace(b"IDAT", b"IDAT!!!!"), "damaged image"),
        (png(9001, 9001, b""), "image of 1 to 80000000 pixels, got 9001 x 9001"),
        (png(20_000, 20_000, b""), "image of 1 to 80000000 pixels, got more"),
    ],
)
def test_images_that_are_damaged_or_bombs(tmp_path: Path, content: bytes, message: str) -> None:
    draw_classes(tmp_path / "pets", 1)
    (tmp_path / "pets" / "dog" / "bad.png").write_bytes(content)
    with pytest.raises(DataError, match=rf"dog/bad\.png: .*({message})"):
        load_own(tmp_path / "pets", Reading(test_split=None, size=(9, 9)))


def test_without_pillow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    draw_classes(tmp_path / "pets", 1)
    monkeypatch.setitem(__import__("sys").modules, "PIL", None)
    with pytest.raises(DataError, match=r"needs Pillow \(pip install 'tallygrad\[images\]'\)"):
        load_own(tmp_path / "pets")
