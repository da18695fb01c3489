"""Small files that claim to be large, deep or endless: refused at once, in little memory."""

from __future__ import annotations

import gzip
import io
import struct
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tallygrad.datasets import DataError, load
from tallygrad.datasets.formats import packed
from tallygrad.datasets.formats import unpickle as reader
from tallygrad.datasets.formats.idx import read_idx
from tallygrad.datasets.formats.unpickle import unpickle
from tallygrad.datasets.sets.mnist import read_pair

pytestmark = pytest.mark.timeout(60)  # what is not refused goes on for ever


@contextmanager
def little_memory(most: float) -> Iterator[None]:
    """Fail where a block takes more than so many bytes at once."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < most
    finally:
        tracemalloc.stop()


def refused(call: Callable[[], object], *parts: str) -> None:
    with pytest.raises(DataError) as caught:
        call()
    message = str(caught.value)
    assert message.isprintable() and len(message) < 3000, message
    for part in parts:
        assert part in message


# -- Pickles -------------------------------------------------------------------------------------

NESTED = b"K\x01\x85" + b"".join(b"q" + bytes([i]) + b"h" + bytes([i]) + b"\x86" for i in range(99))
LISTS = b"]q\x00" + b"".join(
    b"0](h" + bytes([i]) + b"h" + bytes([i]) + b"eq" + bytes([i + 1]) for i in range(60)
)
ARRAY = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
DTYPE = b"cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R"
TWICE = b"".join(b"h\x01h\x02\x86h\x01\x86" for _ in range(3))


@pytest.mark.parametrize(
    ("body", "part"),
    [
        (b"}" + NESTED + b"K\x01s", "as a key, got tuple"),
        (b"}" + b"(" * 1000 + b"K\x01" + b"t" * 1000 + b"K\x01s", "as a key, got tuple"),
        (b"}K\x01r\x00\x00\x00\x10s", "expected a dict on the stack to add to, got "),
        (b"}K\x01K\x02r\x00\x00\x00\x10.", "expected a pickled dict, got int"),
        (b"cnumpy\ndtype\n" + LISTS + b"K\x00K\x01\x87R", "8 characters, got list"),
        (b"cnumpy\ndtype\nT\x80\x96\x98\x00" + b"u" * 10_000_000 + b"\x85R", "8 characters, got b"),
        (b"c_codecs\nencode\nX\x01\x00\x00\x00a" + LISTS + b"\x86R", "8 characters, got list"),
        (ARRAY + b"(K\x01" + LISTS + DTYPE + b"\x89U\x01btb", "as the shape of an array, got list"),
        (ARRAY + b"(K\x01(" + b"K\x09" * 2000 + b"t" + DTYPE + b"\x89U\x01btb", "32 sizes"),
        (ARRAY + b"(K\x01((" + b"K\x09" * 9 + b"tt" + DTYPE + b"\x89U\x01btb", "32 sizes"),
        (b"]" * 3000, "expected at most 2500 steps"),
        (b"}(" + b"".join(b"M%bN" % struct.pack("<H", i) for i in range(1200)) + b"u", "1000 keys"),
        (b"I" + b"9" * 5000 + b"\n", "not a readable pickle"),
        (b"c" + b"x" * 10_000_000 + b"\ny\n", "x" * 99 + ".y, which is refused"),
        (b"X\xff\xff\xff\x7fabc", "expected 2147483647 bytes at offset"),
        (b"]q\x00h\x00a", "expected a pickled dict, got list"),
        (b"0", "expected a value on the stack, got none"),
    ],
)  # fmt: skip
def test_pickles(body: bytes, part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "MOST_STEPS", 2500)
    refused(lambda: unpickle(b"\x80\x02" + body + b".", "f"), "f: ", part)


def test_bytes_are_encoded_once() -> None:
    text = b"X" + struct.pack("<I", 1_000_000) + b"a" * 1_000_000 + b"q\x01"
    calls = b"".join(b"c_codecs\nencode\nh\x01U\x06latin1\x86R" for _ in range(1000))
    data = b"\x80\x02(" + text + calls + b"l."
    with little_memory(8e6):
        refused(lambda: unpickle(data, "f"), "encoded bytes, got more")


def test_labels_of_any_depth(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tuple in which each part is twice the one before it would have 2^99 numbers."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    images = b"T" + struct.pack("<i", 30_720_000) + bytes(30_720_000)
    shape = b"M" + struct.pack("<H", 10_000) + b"M" + struct.pack("<H", 3072) + b"\x86"
    array = ARRAY + b"(K\x01" + shape + DTYPE + b"\x89" + images + b"tb"
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    data = b"\x80\x02}(U\x04data" + array + b"U\x06labels" + NESTED + b"u."
    (folder / "test_batch").write_bytes(data)
    refused(lambda: load("cifar10", "test", tmp_path), "labels: expected integers, got tuple")


# -- Archives ------------------------------------------------------------------------------------


def header(name: str, size: bytes, kind: bytes = b"0") -> bytes:
    """Return a header of a tar archive with a true checksum; `size` is the field as it stands."""
    block = bytearray(512)
    block[: len(name)] = name.encode()
    block[124 : 124 + len(size)] = size
    block[148:156], block[156:157] = b" " * 8, kind
    block[148:155] = b"%06o\0" % sum(block)
    return bytes(block)


@contextmanager
def archive(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[io.BufferedIOBase]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "home"))
    with gzip.open(folder / "cifar-10-binary.tar.gz", "wb", 1) as stream:
        yield stream


TEST = "cifar-10-batches-bin/test_batch.bin"


@pytest.mark.parametrize(
    ("blocks", "part"),
    [
        ([header("a", b"77777777777")], "bytes too early"),
        ([header("a", b"\x80" + (1 << 62).to_bytes(11, "big"))], "expected an octal number, got b"),
        ([header("a", b"-0000000001")], "expected an octal number, got b"),
        ([header("x", b"00000000144", b"x"), b"9" * 100 + bytes(412)], "expected 1 files, got 0"),
        ([header("x", b"00000000144", b"L"), b"n" * 100 + bytes(412)], "expected 1 files, got 0"),
        ([header(TEST, b"%011o" % 30_730_000), bytes(512)], "bytes too early"),
        ([b"<html>" * 100], "broken or truncated tar.gz"),
        ([header("a", b"0")] * 5000, "expected 1 files, got 0"),
    ],
)  # fmt: skip
def test_archives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, blocks: list[bytes], part: str
) -> None:
    with archive(tmp_path, monkeypatch) as stream:
        stream.write(b"".join(blocks))
    refused(lambda: load("cifar10", "test", tmp_path), "cifar-10-binary.tar.gz: ", part)


def test_large_records_of_an_archive_are_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packed, "FREE", 1 << 23)
    with archive(tmp_path, monkeypatch) as stream:
        stream.write(header("x", b"%011o" % 20_000_000, b"x") + bytes(20_000_000))
    with little_memory(5e6):
        refused(lambda: load("cifar10", "test", tmp_path), "expected to unpack to at most")


# -- IDX -----------------------------------------------------------------------------------------


def idx(path: Path, shape: tuple[int, ...], zeros: int) -> Path:
    """Write a gzip file of an IDX header and of zeros."""
    with gzip.open(path, "wb", 9) as stream:
        stream.write(struct.pack(f">HBB{len(shape)}I", 0, 8, len(shape), *shape))
        for _ in range(zeros // 1_000_000):
            stream.write(bytes(1_000_000))
    return path


def test_shapes_are_looked_at_before_anything_is_unpacked(tmp_path: Path) -> None:
    labels = idx(tmp_path / "labels.gz", (1,), 0)
    images = idx(tmp_path / "images.gz", (20_000_000,), 20_000_000)
    with little_memory(1e6):
        refused(
            lambda: read_pair("mnist", "test", images, labels),
            f"{images}: expected uint8 (N, 28, 28), got uint8 (20000000,)",
        )


def test_gzip_files_unpack_to_a_bounded_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packed, "FREE", 1 << 20)
    path = idx(tmp_path / "x.gz", (20, 1_000_000), 20_000_000)
    with little_memory(1e6):
        refused(
            lambda: read_idx(path), "20x1000000 (20000012 bytes)", "if that is right, gunzip it"
        )


def test_what_may_be_read_is_held_once(tmp_path: Path) -> None:
    path = idx(tmp_path / "x.gz", (20, 1_000_000), 20_000_000)
    with little_memory(25e6):
        assert read_idx(path).shape == (20, 1_000_000)
