"""CIFAR's binary and python versions, in folders and archives, and the harmless unpickler."""

from __future__ import annotations

import dataclasses
import io
import os
import pickle
import pickletools
import struct
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tallygrad.datasets import DataError, load
from tallygrad.datasets.formats import packed
from tallygrad.datasets.formats.unpickle import unpickle
from tallygrad.datasets.sets import cifar

COUNT = 6


@pytest.fixture(autouse=True)
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let every official file hold 6 images, and keep the machine's own data out."""
    monkeypatch.delenv("TALLYGRAD_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    for name, family in list(cifar.FAMILIES.items()):
        versions = tuple(
            dataclasses.replace(
                version,
                files={
                    split: tuple((file, COUNT) for file, _ in files)
                    for split, files in version.files.items()
                },
            )
            for version in family.versions
        )
        small_family = dataclasses.replace(family, versions=versions)
        monkeypatch.setitem(cifar.FAMILIES, name, small_family)
    yield


def images(seed: int) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (COUNT, 3072), np.uint8)


def labels(name: str, seed: int) -> list[int]:
    return [(seed * COUNT + i) % (10 if name == "cifar10" else 100) for i in range(COUNT)]


def contents(name: str, pickled: bool) -> dict[str, bytes]:
    """Return the files of a version: file number i holds images(i) and labels(name, i)."""
    version = cifar.FAMILIES[name].versions[pickled]
    files = [file for split in ("train", "test") for file, _ in version.files[split]]
    encode = python2_pickle if pickled else binary
    return {file: encode(name, i) for i, file in enumerate(files)}


def binary(name: str, i: int) -> bytes:
    head = np.array(labels(name, i), np.uint8)[:, None]
    if name == "cifar100":
        head = np.concatenate([head * 0 + 7, head], axis=1)
    return np.concatenate([head, images(i)], axis=1).tobytes()


def text(data: bytes) -> bytes:
    """Return Python 2's opcode for a str of any length."""
    if len(data) < 256:
        return b"U" + bytes([len(data)]) + data
    return b"T" + struct.pack("<i", len(data)) + data


def python2_pickle(name: str, i: int) -> bytes:
    """Write the very opcodes that cPickle of Python 2 wrote (protocol 2, str for bytes)."""
    answers = b"".join(b"K" + bytes([label]) for label in labels(name, i))
    key = b"labels" if name == "cifar10" else b"fine_labels"
    dtype = (
        b"cnumpy\ndtype\n" + text(b"u1") + b"K\x00K\x01\x87R(K\x03" + text(b"|")
        + b"NNN" + b"J\xff\xff\xff\xff" * 2 + b"K\x00tb"
    )  # fmt: skip
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\n" + b"cnumpy\nndarray\n" + b"K\x00\x85"
        + text(b"b") + b"\x87R(K\x01K" + bytes([COUNT]) + b"M\x00\x0c\x86" + dtype + b"\x89"
        + text(images(i).tobytes()) + b"tb"
    )  # fmt: skip
    return (
        b"\x80\x02}(" + text(b"batch_label") + text(b"training batch 1 of 5")
        + text(key) + b"](" + answers + b"e" + text(b"data") + array
        + text(b"filenames") + b"](" + text(b"leptodactylus_s_000004.png") + b"eu."
    )  # fmt: skip


def write_folder(root: Path, name: str, pickled: bool) -> Path:
    folder = root / cifar.FAMILIES[name].versions[pickled].folder
    folder.mkdir(parents=True)
    for file, data in contents(name, pickled).items():
        (folder / file).write_bytes(data)
    return folder


def write_archive(
    root: Path, name: str, pickled: bool, form: int = tarfile.PAX_FORMAT, **change: bytes
) -> Path:
    version = cifar.FAMILIES[name].versions[pickled]
    path = root / version.archive
    with tarfile.open(path, "w:gz", format=form) as archive:
        for file, data in reversed((contents(name, pickled) | change).items()):
            member = tarfile.TarInfo(f"{version.folder}/{file}")
            member.size, member.uname = len(data), "größer"  # which takes extended headers
            archive.addfile(member, io.BytesIO(data))
    return path


def check(name: str, root: Path) -> None:
    train, test = (load(name, split, root, download=False) for split in ("train", "test"))
    count = len(train) // COUNT
    assert count == (5 if name == "cifar10" else 1) and len(test) == COUNT
    wanted = np.concatenate([images(i) for i in range(count)]).reshape(-1, 3, 32, 32)
    np.testing.assert_array_equal(train.images, wanted)
    np.testing.assert_array_equal(test.images.reshape(COUNT, -1), images(count))
    assert train.labels.tolist() == [k for i in range(count) for k in labels(name, i)]
    assert test.labels.tolist() == labels(name, count)
    assert train.images.transpose(0, 2, 3, 1).flags.c_contiguous
    assert len(train.classes) == (10 if name == "cifar10" else 100) == len(set(train.classes))
    assert train.input_shape == (3, 32, 32) and len(train.mean) == 3


@pytest.mark.parametrize("archived", [False, True])
@pytest.mark.parametrize("pickled", [False, True])
@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_versions(tmp_path: Path, name: str, pickled: bool, archived: bool) -> None:
    if archived:
        write_archive(tmp_path, name, pickled)
        check(name, tmp_path)
        assert len(list(tmp_path.iterdir())) == 1
    else:
        folder = write_folder(tmp_path, name, pickled)
        check(name, tmp_path)
        check(name, folder)


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_archives_of_every_form(tmp_path: Path, form: int) -> None:
    write_archive(tmp_path, "cifar10", False, form)
    check("cifar10", tmp_path)


def test_python_3_pickles(tmp_path: Path) -> None:
    folder = write_folder(tmp_path, "cifar100", True)
    for file, seed in (("train", 0), ("test", 1)):
        for protocol in range(6):
            content = {"data": images(seed), "fine_labels": labels("cifar100", seed)}
            (folder / file).write_bytes(pickle.dumps(content, protocol))
            if file == "test":
                check("cifar100", tmp_path)


@pytest.mark.parametrize("pickled", [False, True])
def test_missing_truncated_and_oversized(tmp_path: Path, pickled: bool) -> None:
    folder = write_folder(tmp_path, "cifar10", pickled)
    file = folder / ("test_batch" if pickled else "test_batch.bin")
    whole = file.read_bytes()
    cases = {
        b"": ("empty file (0 bytes)", str(COUNT * 3073)),
        whole[:-1]: ("pickle",) if pickled else ("got 18437", "18438"),
        whole * 5: (f"got {5 * len(whole)}", "18438" if not pickled else "73752"),
    }
    for data, parts in cases.items():
        file.write_bytes(data)
        with pytest.raises(DataError) as caught:
            load("cifar10", "test", tmp_path, download=False)
        assert str(caught.value).startswith(f"{file}: ") and "\n" not in str(caught.value)
        assert all(part in str(caught.value) for part in parts), caught.value
    file.unlink()
    with pytest.raises(DataError, match=rf"{folder}: has data_batch_1.*, but no {file.name}$"):
        load("cifar10", "test", tmp_path, download=False)
    assert len(load("cifar10", "train", tmp_path, download=False)) == 5 * COUNT


def test_an_absent_batch_is_named_and_other_folders_do_not_stand_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = write_folder(tmp_path / "given", "cifar10", False)
    write_folder(tmp_path / "other", "cifar10", False)
    monkeypatch.setenv("TALLYGRAD_DATA", str(tmp_path / "other"))
    for number in (2, 4):
        (given / f"data_batch_{number}.bin").unlink()
    absent = "has data_batch_1.bin, but no data_batch_2.bin, data_batch_4.bin$"
    with pytest.raises(DataError, match=f"{given}: {absent}"):
        load("cifar10", "train", tmp_path / "given", download=False)
    assert len(load("cifar10", "test", tmp_path / "given", download=False)) == COUNT
    # A folder nobody named is passed over where another place has all of it.
    monkeypatch.setenv("TALLYGRAD_DATA", str(tmp_path / "given"))
    assert len(load("cifar10", "train", tmp_path / "other", download=False)) == 5 * COUNT
    write_archive(tmp_path / "given", "cifar10", False)
    assert len(load("cifar10", "train", tmp_path / "given", download=False)) == 5 * COUNT


def test_labels_out_of_range(tmp_path: Path) -> None:
    folder = write_folder(tmp_path, "cifar10", False)
    data = bytearray((folder / "data_batch_2.bin").read_bytes())
    data[3073 * 4] = 10
    (folder / "data_batch_2.bin").write_bytes(data)
    with pytest.raises(
        DataError, match=r"data_batch_2.bin: label at index 4: expected 0 to 9, got 10"
    ):
        load("cifar10", "train", tmp_path, download=False)


def test_bad_archives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*parts: str) -> None:
        with pytest.raises(DataError) as caught:
            load("cifar10", "test", tmp_path, download=False)
        message = str(caught.value)
        assert message.startswith(str(path)) and "\n" not in message
        assert all(part in message for part in parts), message

    path = write_archive(tmp_path, "cifar10", False, **{"test_batch.bin": b"short"})
    fails("test_batch.bin: expected 18438 bytes (6 records), got 5")
    path = write_archive(tmp_path, "cifar10", False)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 9])
    fails("broken or truncated tar.gz")
    path.write_bytes(b"<html>not found</html>")
    fails("broken or truncated tar.gz")
    with tarfile.open(path, "w:gz") as archive:
        archive.addfile(tarfile.TarInfo("readme"))
        link = tarfile.TarInfo("cifar-10-batches-bin/test_batch.bin")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    fails("expected 1 files, got 0: cifar-10-batches-bin/test_batch.bin is missing")
    write_archive(tmp_path, "cifar10", False)
    monkeypatch.setattr(packed, "FREE", 10_000)
    monkeypatch.setattr(packed, "EXPANSION", 0)
    fails("expected to unpack to at most 10000 bytes, got more", "gunzip it")


def test_bad_pickle_contents(tmp_path: Path) -> None:
    folder = write_folder(tmp_path, "cifar10", True)
    good: dict[str, Any] = {"data": images(0), "labels": labels("cifar10", 0)}
    for change, parts in [
        ({"data": images(0)[:, 1:]}, "data: expected an array of shape (6, 3072), got (6, 3071)"),
        ({"data": images(0).astype(np.int16)}, "data: expected an array of uint8, got int16"),
        ({"data": [1]}, "data: expected an array of uint8, got list"),
        ({"labels": [0] * 5}, "labels: expected integers of shape (6,), got int64 (5,)"),
        ({"labels": [0.5] * 6}, "labels: expected integers, got float"),
        ({"labels": [2**70] * 6}, "labels: expected integers of shape (6,), got object (6,)"),
        ({"labels": "abc"}, "labels: expected integers, got str"),
        ({"labels": [0, 0, 0, 0, 0, -1]}, "label at index 5: expected 0 to 9, got -1"),
    ]:
        (folder / "test_batch").write_bytes(pickle.dumps(good | change, 2))
        with pytest.raises(DataError) as caught:
            load("cifar10", "test", tmp_path, download=False)
        assert parts in str(caught.value) and f"{folder / 'test_batch'}: " in str(caught.value)
    (folder / "test_batch").write_bytes(pickle.dumps({"data": images(0)}, 2))
    with pytest.raises(DataError, match=r"expected an entry 'labels', got \['data'\]"):
        load("cifar10", "test", tmp_path, download=False)


class Evil:
    """Asks the unpickler to run something."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


@pytest.mark.parametrize("protocol", range(6))
def test_malicious_pickles_run_nothing(tmp_path: Path, protocol: int) -> None:
    target = tmp_path / "made"
    evils = (Evil(os.system, f"touch {target}"), Evil(eval, f"open({str(target)!r}, 'w')"),
             Evil(target.touch))  # fmt: skip
    for evil in evils:
        for content in (evil, {"data": evil}, {b"x": [evil]}):
            with pytest.raises(DataError, match=r"f: the pickle asks for \S+, which is refused"):
                unpickle(pickle.dumps(content, protocol), "f")
    with pytest.raises(DataError, match=r"posix.system|nt.system"):
        unpickle(pickle.dumps(Evil(os.system, "true"), protocol), "f")
    assert not target.exists()


ARRAY = pickle.dumps(np.arange(3, dtype=np.uint8), 2)[2:-1]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"garbage",
        b"\x80\x02}.trailing"[:3],
        b"\x80\x02]." ,
        b"\x80\x02K\x01.",
        # numpy objects whose real constructors would allocate or hold Python objects
        b"\x80\x02}(K\x01cnumpy\nndarray\nJ\xff\xff\xff\x7f\x85Ru.",
        b"\x80\x02}(K\x01cnumpy\ndtype\nU\x01O\x85Ru.",
        b"\x80\x02}(K\x01cnumpy\ndtype\nU\x051000V\x85Ru.",
        # state for a stand-in: must not stick
        b"\x80\x02}(K\x01cnumpy\ndtype\n}U\x08__call__K\x01sbu.",
        b"\x80\x02}(K\x01c_codecs\nencode\nN}U\x01aK\x01s\x86bu.",
        b"\x80\x02}(K\x01c_codecs\nencode\n" + b"X\x01\x00\x00\x00aU\x03zip\x86Ru.",
        # a class made without its constructor
        b"\x80\x02}(K\x01cnumpy\nndarray\n)\x81u.",
        b"\x80\x02}(K\x01cnumpy.core.multiarray\n_reconstruct\nK\x01)U\x01b\x87Ru.",
        # sizes that lie: array data too short, a string beyond the end, a memo far away
        b"\x80\x02}(K\x01" + ARRAY.replace(b"K\x03\x85", b"K\x04\x85") + b"u.",
        b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\x00\x00abc.",
        b"\x80\x02}K\x01Qs.",
        b"\x80\x02\x82\x01.",
    ],
)  # fmt: skip
def test_odd_pickles_are_one_line_errors(data: bytes) -> None:
    with pytest.raises(DataError) as caught:
        unpickle(data, "file")
    assert str(caught.value).startswith("file: ") and "\n" not in str(caught.value)


def test_sizes_in_a_pickle_are_checked() -> None:
    data = b"\x80\x02}(K\x01" + ARRAY.replace(b"K\x03\x85", b"K\x04\x85") + b"u."
    with pytest.raises(DataError, match=r"f: .*expected 4 bytes for uint8 of shape \(4,\), got 3"):
        unpickle(data, "f")


def test_stand_ins_rebuild_what_numpy_wrote() -> None:
    for protocol in range(6):
        content = {
            "a": np.arange(6, dtype=np.int16).reshape(2, 3),
            "f": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
            "b": np.arange(3, dtype=">f4"),
            "s": np.float64(2.5),
            "n": [1, 2.5, b"\x00\xff", None, True, (3, {"x": b"y"})],
        }
        back = unpickle(pickle.dumps(content, protocol), "f")
        for key in "afb":
            np.testing.assert_array_equal(back[key], content[key])
        assert back["s"] == 2.5 and back["n"] == content["n"]


def test_no_damage_from_random_bytes() -> None:
    rng = np.random.default_rng(0)
    good = bytearray(pickle.dumps({b"data": np.arange(50, dtype=np.uint8), b"labels": [1, 2]}, 2))
    assert any(op.name == "BUILD" for op, _, _ in pickletools.genops(bytes(good)))
    outcomes = set()
    for _ in range(2000):
        bad = good.copy()
        for place in rng.integers(0, len(good), 3):
            bad[place] = rng.integers(0, 256)
        try:
            unpickle(bytes(bad), "f")
            outcomes.add("read")
        except DataError:
            outcomes.add("refused")
    assert outcomes == {"read", "refused"}
