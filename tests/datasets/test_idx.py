"""IDX files, MNIST's pairs of them, and the search for them."""

from __future__ import annotations

import gzip
import struct
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tallygrad.datasets import DataError, load
from tallygrad.datasets.fetch import cache_dir
from tallygrad.datasets.formats.idx import read_idx, write_idx

TYPES = ["u1", "i1", "i2", "i4", "f4", "f8"]


@pytest.fixture(autouse=True)
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keep the search away from the machine's own data; return the cache folder."""
    monkeypatch.delenv("TALLYGRAD_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    return tmp_path / "home" / "tallygrad"


def fails(path: Path, *parts: str) -> None:
    """Reading must raise a one-line error that names the file and holds all parts."""
    with pytest.raises(DataError) as caught:
        read_idx(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ") and "\n" not in message
    for part in parts:
        assert part in message, message


def packed(path: Path, data: bytes) -> Path:
    path.write_bytes(gzip.compress(data, 1))
    return path


@settings(max_examples=60, deadline=None)
@given(
    shape=st.lists(st.integers(1, 5), min_size=1, max_size=4),
    kind=st.sampled_from(TYPES),
    gz=st.booleans(),
    seed=st.integers(0, 99),
)
def test_round_trip(
    tmp_path_factory: pytest.TempPathFactory, shape: list[int], kind: str, gz: bool, seed: int
) -> None:
    array = np.random.default_rng(seed).integers(0, 100, shape).astype(kind)
    path = tmp_path_factory.mktemp("idx") / "a-ubyte"
    write_idx(path, array)
    if gz:
        path = packed(path.with_name("a-ubyte.gz"), path.read_bytes())
    back = read_idx(path)
    assert back.dtype == array.dtype and back.dtype.isnative
    np.testing.assert_array_equal(back, array)


def test_gzip_of_several_pieces(tmp_path: Path) -> None:
    array = np.random.default_rng(0).integers(0, 256, (3, 1_000_003), np.uint8)
    write_idx(tmp_path / "x", array)
    path = packed(tmp_path / "x.gz", (tmp_path / "x").read_bytes())
    np.testing.assert_array_equal(read_idx(path), array)


def test_bytes_are_big_endian(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(bytes([0, 0, 0x0B, 1, 0, 0, 0, 2, 1, 2, 0xFF, 0xFE]))
    assert read_idx(path).tolist() == [258, -2]
    write_idx(path, np.array([258, -2], np.int16))
    assert path.read_bytes() == bytes([0, 0, 0x0B, 1, 0, 0, 0, 2, 1, 2, 0xFF, 0xFE])


def test_write_refuses_what_idx_has_not(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"expected .* uint8, .*, got 1 of uint64"):
        write_idx(tmp_path / "x", np.zeros(3, np.uint64))
    assert not (tmp_path / "x").exists()


IMAGES = struct.pack(">HBB3I", 0, 8, 3, 2, 3, 3) + bytes(18)


@pytest.mark.parametrize("gz", [False, True])
@pytest.mark.parametrize(
    ("data", "parts"),
    [
        (b"", ("empty" ,)),
        (IMAGES[:3], ("expected a header of 4 bytes, got 3: truncated",)),
        (IMAGES[:9], ("expected a header of 16 bytes, got 9: truncated",)),
        (IMAGES[:-1], ("2x3x3 (34 bytes)", "33")),
        (IMAGES + b"x", ("2x3x3 (34 bytes)",)),
        (b"\x00\x01" + IMAGES[2:], ("wrong magic number", "got 0x00010803")),
        (b"\x00\x00\x07\x03" + IMAGES[4:], ("wrong magic number", "got 0x00000703")),
        (b"\x00\x00\x08\x00" + IMAGES[4:], ("wrong magic number", "got 0x00000800")),
        (b"\x00\x00\x08\xff" + IMAGES[4:], ("wrong magic number", "got 0x000008ff")),
        (struct.pack(">HBB3I", 0, 8, 3, 0, 28, 28), ("0x28x28",)),
        (b"<html>404 Not Found</html>", ("wrong magic number", "got 0x3c68746d")),
    ],
)  # fmt: skip
def test_bad_files(tmp_path: Path, gz: bool, data: bytes, parts: tuple[str, ...]) -> None:
    if gz and data == b"":
        parts = ("expected a header of 4 bytes, got 0: truncated",)
    path = packed(tmp_path / "x.gz", data) if gz else tmp_path / "x"
    if not gz:
        path.write_bytes(data)
    fails(path, *parts)


@pytest.mark.parametrize("name", ["x", "x.gz"])
def test_oversized_header_allocates_nothing(tmp_path: Path, name: str) -> None:
    data = struct.pack(">HBB3I", 0, 8, 3, 4_000_000_000, 28, 28) + bytes(100)
    path = tmp_path / name
    path.write_bytes(gzip.compress(data) if name.endswith("gz") else data)
    tracemalloc.start()
    try:
        fails(path, "4000000000x28x28 (3136000000016 bytes)")
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


def test_gzip_bomb_is_read_no_further_than_claimed(tmp_path: Path) -> None:
    path = packed(tmp_path / "x.gz", IMAGES + bytes(200_000_000))
    tracemalloc.start()
    try:
        fails(path, "2x3x3 (34 bytes)", "got more bytes of gzip data")
        assert tracemalloc.get_traced_memory()[1] < 2_000_000
    finally:
        tracemalloc.stop()


def test_broken_gzip(tmp_path: Path) -> None:
    whole = gzip.compress(IMAGES)
    path = tmp_path / "x.gz"
    path.write_bytes(whole[:-12])
    fails(path, "gzip")
    path.write_bytes(IMAGES)
    fails(path, "gzip")
    path.write_bytes(b"")
    fails(path, "empty file (0 bytes)")
    # Whole data but a wrong checksum: the last piece of a reading must look at the trailer.
    path.write_bytes(whole[:-8] + bytes(4) + whole[-4:])
    fails(path, "gzip", "CRC")


def test_unreadable_file(tmp_path: Path) -> None:
    fails(tmp_path / "absent", "No such file")


def pair(folder: Path, split: str = "train", count: int = 5, first: int = 0, **other: Any) -> Path:
    """Write a small MNIST-like pair of files whose first label is `first`."""
    folder.mkdir(parents=True, exist_ok=True)
    stem = {"train": "train", "test": "t10k"}[split]
    labels = other.get("labels", (np.arange(count) + first) % 10)
    images = other.get("images", np.arange(count * 784).reshape(count, 28, 28) % 251)
    write_idx(folder / f"{stem}-images-idx3-ubyte", images.astype(np.uint8))
    write_idx(folder / f"{stem}-labels-idx1-ubyte", labels.astype(np.uint8))
    return folder


def first_label(name: str, data_dir: Path | None) -> int:
    return int(load(name, "train", data_dir, download=False).labels[0])


def test_mnist_content(tmp_path: Path) -> None:
    pair(tmp_path / "mnist", count=7)
    data = load("mnist", "train", tmp_path, download=False)
    assert (data.name, data.split, len(data)) == ("mnist", "train", 7)
    assert data.input_shape == (1, 28, 28) and data.images.shape == (7, 1, 28, 28)
    assert data.images.dtype == np.uint8 and data.labels.dtype == np.int64
    last = (np.arange(6 * 784, 7 * 784) % 251).reshape(28, 28)
    np.testing.assert_array_equal(data.images[6, 0], last)
    assert data.images.transpose(0, 2, 3, 1).flags.c_contiguous
    assert len(data.classes) == 10 and len(data.mean) == len(data.std) == 1
    fashion = load("fashion-mnist", "train", pair(tmp_path / "f"), download=False)
    assert fashion.classes[9] == "Ankle boot" and len(fashion.classes) == 10


@pytest.mark.parametrize(
    ("folder", "name"),
    [("mnist", "mnist"), ("MNIST/raw", "mnist"), ("", "mnist"), ("", "fashion-mnist"),
     ("fashion-mnist", "fashion-mnist"), ("FashionMNIST/raw", "fashion-mnist")],
)  # fmt: skip
def test_usual_folders(tmp_path: Path, folder: str, name: str) -> None:
    pair(tmp_path / "d" / folder, first=3)
    assert first_label(name, tmp_path / "d") == 3


def test_gz_and_dotted_names(tmp_path: Path) -> None:
    folder = pair(tmp_path / "mnist", "test", first=4)
    images = folder / "t10k-images-idx3-ubyte"
    packed(folder / (images.name + ".gz"), images.read_bytes())
    images.unlink()
    labels = folder / "t10k-labels-idx1-ubyte"
    labels.rename(folder / "t10k-labels.idx1-ubyte")
    assert load("mnist", "test", tmp_path, download=False).labels.tolist() == [4, 5, 6, 7, 8]


def test_order_of_places(tmp_path: Path, nowhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given, named = tmp_path / "given", tmp_path / "named"
    given.mkdir()
    named.mkdir()
    monkeypatch.setenv("TALLYGRAD_DATA", str(named))
    pair(nowhere / "mnist", first=1)
    assert first_label("mnist", given) == 1
    pair(named / "mnist", first=2)
    assert first_label("mnist", given) == first_label("mnist", None) == 2
    pair(given, first=3)
    assert first_label("mnist", given) == 3
    pair(given / "mnist", first=4)
    assert first_label("mnist", given) == 4


def test_the_two_mnists_are_not_mixed(
    tmp_path: Path, nowhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair(tmp_path / "fashion-mnist", first=1)
    pair(tmp_path / "FashionMNIST" / "raw", first=1)
    for root in (tmp_path, tmp_path / "fashion-mnist", tmp_path / "FashionMNIST" / "raw"):
        with pytest.raises(DataError, match="mnist: not found"):
            load("mnist", "train", root, download=False)
    monkeypatch.setenv("TALLYGRAD_DATA", str(pair(tmp_path / "loose", first=2)))
    pair(nowhere, first=5)
    for name in ("mnist", "fashion-mnist"):
        with pytest.raises(DataError, match="not found"):
            load(name, "train", download=False)
    monkeypatch.setenv("TALLYGRAD_DATA", str(tmp_path / "fashion-mnist"))
    assert first_label("fashion-mnist", None) == 1


def test_cache_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/c")
    assert cache_dir() == Path("/c/tallygrad")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/h")
    assert cache_dir() == Path("/h/.cache/tallygrad")
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert cache_dir() == Path("/h/.cache/tallygrad")
    monkeypatch.setattr("os.path.expanduser", lambda path: path)
    assert cache_dir() is None
    with pytest.raises(DataError, match=r"found in any folder; download: no home folder is known"):
        load("mnist", "train")


def test_offline_error_tells_what_to_do(tmp_path: Path, nowhere: Path) -> None:
    with pytest.raises(DataError) as caught:
        load("mnist", "test", tmp_path, download=False)
    message = str(caught.value)
    assert "\n" not in message
    for part in (str(tmp_path), str(nowhere), "t10k-images-idx3-ubyte.gz", "'digits'",
                 "t10k-labels-idx1-ubyte.gz", str(tmp_path / "mnist")):  # fmt: skip
        assert part in message


def test_the_absent_file_of_a_pair_is_named(
    tmp_path: Path, nowhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = pair(tmp_path / "given" / "mnist")
    monkeypatch.setenv("TALLYGRAD_DATA", str(tmp_path / "other"))
    pair(tmp_path / "other" / "mnist", first=2)
    (given / "train-labels-idx1-ubyte").unlink()
    absent = f"{given}: has train-images-idx3-ubyte, but no "
    with pytest.raises(DataError, match=f"{absent}train-labels-idx1-ubyte$"):
        load("mnist", "train", tmp_path / "given", download=False)
    with pytest.raises(DataError, match=f"{absent}t10k-images-idx3-ubyte, t10k-labels-idx1-ubyte$"):
        load("mnist", "test", tmp_path / "given", download=False)
    assert first_label("mnist", None) == 2
    # A download that broke off between its two files is gone on with.
    monkeypatch.delenv("TALLYGRAD_DATA")
    (pair(nowhere / "mnist") / "train-labels-idx1-ubyte").unlink()
    with pytest.raises(DataError, match="downloading is switched off"):
        load("mnist", "train", download=False)


def test_bad_pairs(tmp_path: Path) -> None:
    def fails_with(*parts: str, **content: Any) -> None:
        pair(tmp_path, **content)
        with pytest.raises(DataError) as caught:
            load("mnist", "train", tmp_path, download=False)
        for part in parts:
            assert part in str(caught.value)

    images, labels = "train-images-idx3-ubyte: ", "train-labels-idx1-ubyte: "
    fails_with(
        labels + "label at index 3: expected 0 to 9, got 10", labels=np.array([0, 1, 2, 10, 11])
    )
    fails_with(labels + "expected 5 labels", "train-images-idx3-ubyte, got 4", labels=np.zeros(4))
    fails_with(images, "(5, 28, 27)", "(N, 28, 28)", images=np.zeros((5, 28, 27)))
    fails_with(labels, "(5, 1)", "(N,)", labels=np.zeros((5, 1)))


def test_bad_options(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"--data-dir .*/absent: no such folder"):
        load("mnist", "train", tmp_path / "absent")
    with pytest.raises(DataError, match=r"--data-dir .*/absent: no such folder"):
        load("digits", "train", tmp_path / "absent")
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=r"--data-dir .*/file: not a folder"):
        load("digits", "train", tmp_path / "file")
    with pytest.raises(DataError, match=r"--dataset: expected one of digits, mnist.*, got 'mnits'"):
        load("mnits", "train")
    with pytest.raises(DataError, match="split: expected one of train, test, got 'valid'"):
        load("mnist", "valid")
