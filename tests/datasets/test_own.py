"""Own data sets in NumPy archives and HDF5 files: names, forms, splits, and what does not fit."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from numpy.typing import NDArray

from tallygrad.datasets import DataError, Loader, Reading, load_own, store
from tallygrad.datasets.sets import npz
from tallygrad.datasets.sets.arrays import find_arrays
from tallygrad.datasets.store import ArrayStore, measure

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (30, 6, 5, 3), np.uint8)
LABELS = np.arange(30) % 3
SPLIT = {"x_train": IMAGES[:20], "y_train": LABELS[:20], "x_test": IMAGES[20:],
         "y_test": LABELS[20:]}  # fmt: skip
Save = Callable[..., Path]


@pytest.fixture(params=["npz", "h5"])
def save(request: pytest.FixtureRequest, tmp_path: Path) -> Save:
    def write(**arrays: Any) -> Path:
        path = tmp_path / f"own.{request.param}"
        if request.param == "npz":
            np.savez(path, **arrays)
        else:
            with h5py.File(path, "w") as file:
                for name, array in arrays.items():
                    array = np.asarray(array)
                    file[name] = array.astype(object) if array.dtype.kind == "U" else array
        return path

    return write


def read_all(path: Path, split: str = "train", **options: Any) -> NDArray[Any]:
    data = load_own(path, Reading(**options))[split]
    return data.read(np.arange(len(data)))


def test_splits_classes_and_normalisation(save: Save) -> None:
    sets = load_own(save(**SPLIT))
    train, test = sets["train"], sets["test"]
    assert (train.name, train.split, test.split) == ("own", "train", "test")
    assert train.input_shape == (3, 6, 5) and train.classes == test.classes == ("0", "1", "2")
    np.testing.assert_array_equal(train.read(np.array([3, 1])), IMAGES[[3, 1]])
    np.testing.assert_array_equal(test.labels, LABELS[20:])
    pixels = IMAGES[:20].reshape(-1, 3) / 255
    np.testing.assert_allclose(train.mean, pixels.mean(0), rtol=1e-12)
    np.testing.assert_allclose(train.std, pixels.std(0), rtol=1e-12)
    assert test.mean == train.mean and test.std == train.std


@pytest.mark.parametrize(
    ("array", "shape", "options"),
    [
        (IMAGES, (3, 6, 5), {}),
        (IMAGES.transpose(0, 3, 1, 2), (3, 6, 5), {}),
        (IMAGES[..., 0], (1, 6, 5), {}),
        (IMAGES[..., 0].reshape(30, 30), (30, 1, 1), {}),
        (IMAGES.transpose(0, 3, 1, 2).reshape(30, 90), (3, 6, 5), {"size": (6, 5)}),
    ],
)
def test_forms_of_images(
    save: Save, array: NDArray[Any], shape: tuple[int, ...], options: dict[str, Any]
) -> None:
    path = save(images=array, labels=LABELS)
    sets = load_own(path, Reading(test_split=0.2, **options))
    assert sets["train"].input_shape == shape
    wanted = IMAGES if 3 in shape else IMAGES[..., :1].reshape(30, *shape[1:], shape[0])
    found = np.concatenate([sets[key].read(np.arange(len(sets[key]))) for key in sets])
    key = [image.tobytes() for image in found]
    assert sorted(key) == sorted(image.tobytes() for image in wanted)


@pytest.mark.parametrize("kind", ["float32", "float64", "int16", "bool", "float16"])
def test_other_numbers_are_float32_and_normalised(save: Save, kind: str) -> None:
    values = (RNG.normal(size=(30, 4, 4, 2)) * 3 + 7).astype(kind)
    sets = load_own(save(x=values, y=LABELS), Reading(test_split=0.1, memory=0))
    batch = next(iter(Loader(sets["train"], 27, shuffle=False)))
    assert sets["train"].read(np.arange(2)).dtype == np.float32
    if kind != "bool":
        np.testing.assert_allclose(batch.images.mean((0, 2, 3)), 0, atol=1e-4)
        np.testing.assert_allclose(batch.images.std((0, 2, 3)), 1, atol=1e-3)


def test_a_share_becomes_the_test_set_always_the_same(save: Save) -> None:
    path = save(data=IMAGES, targets=LABELS)
    twice = [load_own(path, Reading(test_split=0.2)) for _ in range(2)]
    assert len(twice[0]["test"]) == 6 and len(twice[0]["train"]) == 24
    np.testing.assert_array_equal(twice[0]["test"].labels, twice[1]["test"].labels)
    both = [image.tobytes() for one in twice[0].values() for image in one.read(np.arange(len(one)))]
    assert sorted(both) == sorted(image.tobytes() for image in IMAGES)
    whole = load_own(path, Reading(test_split=None))
    assert len(whole["test"]) == len(whole["train"]) == 30


def test_three_splits_and_a_validation_set_that_tests(save: Save) -> None:
    three = {"val_images": IMAGES[5:15], "val_labels": LABELS[5:15]}
    sets = load_own(save(train_images=IMAGES, train_labels=LABELS, test_images=IMAGES[:9],
                         test_labels=LABELS[:9], **three))  # fmt: skip
    assert {key: len(data) for key, data in sets.items()} == {
        "train": 30, "validation": 10, "test": 9,
    }  # fmt: skip
    assert sets["validation"].split == "validation"
    two = load_own(save(train_images=IMAGES, train_labels=LABELS, **three))
    assert {key: len(data) for key, data in two.items()} == {"train": 30, "test": 10}


@pytest.mark.parametrize(
    "labels", [LABELS[:, None], np.eye(3)[LABELS], LABELS.astype(np.float32), LABELS.astype("u1")]
)
def test_forms_of_labels(save: Save, labels: NDArray[Any]) -> None:
    sets = load_own(save(images=IMAGES, labels=labels), Reading(test_split=None))
    np.testing.assert_array_equal(sets["train"].labels, LABELS)
    assert sets["train"].labels.dtype == np.int64


def test_names_as_labels_and_names_of_classes(save: Save) -> None:
    names = np.array(["owl", "cat", "dog"])
    sets = load_own(save(images=IMAGES, labels=names[LABELS]), Reading(test_split=None))
    assert sets["train"].classes == ("cat", "dog", "owl")
    np.testing.assert_array_equal(sets["train"].labels, np.array([2, 0, 1])[LABELS])
    sets = load_own(save(images=IMAGES, labels=LABELS, classes=names), Reading(test_split=None))
    assert sets["train"].classes == ("owl", "cat", "dog")


def test_a_model_keeps_its_classes_and_normalisation(save: Save) -> None:
    moments = (0.1, 0.2, 0.3), (0.5, 0.6, 0.7)
    how = Reading(test_split=None, classes=("cat", "dog", "emu", "owl"), moments=moments)
    names = np.array(["owl", "cat", "dog"])
    test = load_own(save(images=IMAGES, labels=names[LABELS]), how)["test"]
    assert (test.classes, test.mean, test.std) == (how.classes, *moments)
    np.testing.assert_array_equal(test.labels, np.array([3, 0, 1])[LABELS])
    names[1] = "fox"
    with pytest.raises(DataError, match=r"expected classes of the 4 .* such as 'cat', got 'fox'"):
        load_own(save(images=IMAGES, labels=names[LABELS]), how)


def test_streamed_and_in_memory_are_the_same(save: Save) -> None:
    path = save(**SPLIT)
    held, streamed = (read_all(path, memory=memory) for memory in (1 << 20, 0))
    np.testing.assert_array_equal(held, streamed)


NAN = np.where(np.arange(30)[:, None] == 17, np.nan, np.ones((30, 4)))


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"images": IMAGES, "labels": LABELS + 1}, "all 4 classes 0 to 3, got none of 0"),
        ({"images": IMAGES, "labels": LABELS - 1}, "label at index 0: expected 0 to 1, got -1"),
        ({"images": IMAGES, "labels": LABELS * 60_000}, "expected less than 100000, got 120000"),
        ({"images": IMAGES, "labels": LABELS / 2}, "at index 1: expected a whole number, got 0.5"),
        ({"images": IMAGES, "labels": LABELS + 0j}, "whole numbers or names .* got complex128"),
        (
            {"images": IMAGES, "labels": np.array(["a", "b", "c"])[LABELS], "classes": ["a", "b"]},
            "label at index 2: expected one of 2 classes, such as 'a', got 'c'",
        ),
        ({"images": IMAGES, "labels": np.ones((30, 2))}, "row 0: expected a single 1 among 0"),
        ({"images": IMAGES, "labels": LABELS[:9]}, "expected 30 labels, one per image, got 9"),
        ({"images": IMAGES}, "expected labels beside images, got none among images"),
        ({"images": IMAGES, "x": IMAGES, "y": LABELS}, "expected one array of images, got images"),
        ({"a": IMAGES, "b": LABELS}, "expected arrays such as x_train and y_train"),
        ({"images": NAN, "labels": LABELS}, "image 17: expected finite numbers, got nan"),
        ({"images": IMAGES[:0], "labels": LABELS[:0]}, r"at least one image .*\(0, 6, 5, 3\)"),
        ({"images": LABELS, "labels": LABELS}, r"expected numbers .*got int64 \(30,\)"),
        ({**SPLIT, "x_test": IMAGES[20:, :5]}, r"expected uint8 images \(6, 5, 3\).*\(5, 5, 3\)"),
        ({**SPLIT, "classes": np.array(["a", "A", "b"])}, "different names, got 'a' and 'A'"),
        ({"x_test": IMAGES, "y_test": LABELS}, "expected training data, got only test"),
        ({"images": IMAGES, "labels": LABELS}, "expected a test set, or --test-split .*30 samples"),
    ],
)  # fmt: skip
def test_what_does_not_fit(save: Save, arrays: dict[str, Any], message: str) -> None:
    how = Reading(test_split=0.2, memory=1 << 20) if "expected a test" not in message else Reading()
    if "x_train" in arrays or "x_test" in arrays:
        how = Reading()
    path = save(**arrays)
    with pytest.raises(DataError, match=message) as caught:
        sets = load_own(path, how)
        [data.read(np.arange(len(data))) for data in sets.values()]
    assert str(path) in str(caught.value)


def test_a_share_of_a_set_that_has_a_test_set(save: Save) -> None:
    with pytest.raises(DataError, match=r"--test-split: expected none, as .* a test set, got 0"):
        load_own(save(**SPLIT), Reading(test_split=0.1))


def test_names_of_arrays() -> None:
    keras = ("x_train", "y_train", "x_test", "y_test")
    camel, bare = ("trainX", "trainY", "testX", "testY"), ("arr_0", "arr_1", "arr_2", "arr_3")
    groups = ("train/images", "train/labels", "test/images", "test/labels")
    for names in (keras, camel, bare, groups):
        assert find_arrays("f", [*names, "notes", "image_mean"]) == {
            "train": names[:2], "test": names[2:],
        }  # fmt: skip
    assert find_arrays("f", ["arr_0", "arr_1"]) == {"": ("arr_0", "arr_1")}


def test_a_constant_channel_has_deviation_one() -> None:
    for value in (np.uint8(51), np.float32(0.2)):
        mean, std = measure(ArrayStore("a", np.full((3, 2, 2, 1), value)))
        assert mean == pytest.approx((0.2,)) and std == (1.0,)


def test_what_is_measured_is_spread_evenly(monkeypatch: pytest.MonkeyPatch) -> None:
    images = np.arange(100, dtype=np.uint8).reshape(100, 1, 1, 1)
    monkeypatch.setattr(store, "MEASURED", 30)
    mean, _ = measure(ArrayStore("a", images))
    assert mean == (np.arange(0, 100, 4).mean() / 255,)


def test_archives_that_are_damaged_or_bombs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(npz, "FREE", 1 << 10)
    path = tmp_path / "a.npz"
    path.write_bytes(b"PK\x03\x04 nothing")
    with pytest.raises(DataError, match=r"a\.npz: cannot be read as a NumPy archive"):
        load_own(path)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("images.npy", bytes(4 << 20))
    with pytest.raises(DataError, match=r"expected to unpack to at most \d+ bytes, got 4194304"):
        load_own(path)
    np.savez(path, images=np.array([{}], object), labels=LABELS[:1])
    with pytest.raises(DataError, match="cannot be read as a NumPy archive: Object arrays"):
        load_own(path)
    np.savez(path, images=IMAGES, labels=LABELS)
    with pytest.warns(UserWarning, match="Duplicate"), zipfile.ZipFile(path, "a") as archive:
        archive.writestr("images.npy", b"")
    with pytest.raises(DataError, match="different names, got 'images' twice"):
        load_own(path)


def test_no_such_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"--dataset .*no\.npz: no such file or folder"):
        load_own(tmp_path / "no.npz")
    (tmp_path / "a.csv").touch()
    with pytest.raises(DataError, match=r"expected a folder, \.npz, \.h5 or \.hdf5, got a\.csv"):
        load_own(tmp_path / "a.csv")
