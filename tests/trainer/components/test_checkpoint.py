"""Checkpoints: bits kept, damage refused, no loss to a kill at any moment."""

import json
import random
import time
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from numpy.typing import NDArray

from tallygrad.trainer.bfloat16 import BITS
from tallygrad.trainer.components import checkpoint
from tallygrad.trainer.components.checkpoint import load, save, verify
from tallygrad.trainer.errors import UserError

META: dict[str, Any] = {
    "step": 7,
    "accuracy": 0.5,
    "config": {"lr": 0.1, "name": "é"},
    "ledger": [],
}


def some_tensors(seed: int = 0) -> dict[str, NDArray[Any]]:
    rng = np.random.default_rng(seed)
    return {
        "model/conv1.weight": rng.standard_normal((6, 1, 5, 5)).astype(np.float32),
        "model/conv1.bias": np.zeros(6, np.float32),
        "optimizer/momentum/conv1.weight": rng.standard_normal((6, 1, 5, 5)),
        "loader/seed": np.array(2**64 - 1, np.uint64),
    }


def same_bits(a: NDArray[Any], b: NDArray[Any]) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


def refused(path: Path) -> str:
    with pytest.raises(UserError) as error:
        load(path)
    text = str(error.value)
    assert str(path) in text and "\n" not in text
    return text


def seal(path: Path, contents: bytes) -> None:
    path.write_bytes(checkpoint._seal(memoryview(contents)) + contents)


def forge(path: Path, index: object, data: bytes = b"") -> None:
    """Make a file with a good seal around contents of an attacker's choice, data at 4096."""
    text = index if isinstance(index, str) else json.dumps(index)
    seal(path, (text + "\n").encode().ljust(4096 - checkpoint._SEAL_BYTES, b"\0") + data)


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", "i1", "i4", "i8", "u1", "u8", "?", BITS])
@pytest.mark.parametrize("shape", [(), (0,), (3, 0, 2), (1,), (2, 3, 4)])
def test_round_trip_keeps_every_bit(tmp_path: Path, dtype: Any, shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(1)
    count = int(np.prod(shape)) * np.dtype(dtype).itemsize
    # Random bytes are also NaNs with a payload, infinities and denormals.
    raw = rng.integers(0, 2 if dtype == "?" else 256, count, dtype=np.uint8)
    array = raw.view(dtype).reshape(shape)
    save(tmp_path / "a.h5", {"x/y": array}, {})
    assert same_bits(load(tmp_path / "a.h5").tensors["x/y"], array)


def test_round_trip_of_special_values_and_layouts(tmp_path: Path) -> None:
    tensors = {
        "nan": np.array([np.nan, -np.nan, np.inf, -np.inf, -0.0, 5e-324]),
        "signalling": np.array([0x7F800001, 0xFFC12345], np.uint32).view(np.float32),
        "scalar": np.array([0x7F800001], np.uint32).view(np.float32).reshape(()),
        "transposed": np.arange(24.0).reshape(2, 3, 4).transpose(2, 0, 1),
        "strided": np.arange(10)[::3],
    }
    path = tmp_path / "a.h5"
    digest = save(path, tensors, META)
    loaded = load(path)
    assert list(loaded.tensors) == sorted(tensors)
    assert all(same_bits(loaded.tensors[name], array) for name, array in tensors.items())
    assert loaded.meta == META and loaded.digest == digest
    assert all(array.flags.writeable for array in loaded.tensors.values())


def test_big_endian_arrays_keep_their_values(tmp_path: Path) -> None:
    array = np.arange(5, dtype=">f4")
    save(tmp_path / "a.h5", {"x": array}, {})
    loaded = load(tmp_path / "a.h5").tensors["x"]
    assert loaded.dtype == np.dtype("<f4") and np.array_equal(loaded, array)


def test_equal_contents_give_equal_bytes(tmp_path: Path) -> None:
    tensors = some_tensors()
    save(tmp_path / "a.h5", tensors, META)
    time.sleep(1.1)  # a time of day in the file would have whole seconds
    save(tmp_path / "b.h5", dict(reversed(tensors.items())), dict(reversed(META.items())))
    assert (tmp_path / "a.h5").read_bytes() == (tmp_path / "b.h5").read_bytes()


def test_digest_depends_on_all_that_is_stored(tmp_path: Path) -> None:
    x = np.zeros(4, np.float32)
    variants: list[tuple[dict[str, NDArray[Any]], dict[str, Any]]] = [
        ({"x": x}, {}),
        ({"y": x}, {}),
        ({"x": x.reshape(2, 2)}, {}),
        ({"x": x.view(np.int32)}, {}),
        ({"x": x + 1}, {}),
        ({"x": x}, {"step": 1}),
        ({"x": x, "y": x[:0]}, {}),
    ]
    digests = {save(tmp_path / "a.h5", tensors, meta) for tensors, meta in variants}
    assert len(digests) == len(variants)


def test_long_records_fit(tmp_path: Path) -> None:
    meta = {"ledger": [{"scope": f"layer{i}", "macs": i} for i in range(20_000)]}
    save(tmp_path / "a.h5", {}, meta)
    assert load(tmp_path / "a.h5").meta == meta


@pytest.mark.parametrize(
    ("name", "array"),
    [
        ("", np.zeros(1)),
        ("/a", np.zeros(1)),
        ("a//b", np.zeros(1)),
        ("a/../b", np.zeros(1)),
        ("a\n", np.zeros(1)),
        ("meta.json", np.zeros(1)),
        ("/".join("a" * 40), np.zeros(1)),
        ("x", np.array([None])),
        ("x", np.array(["text"])),
        ("x", np.zeros(1, np.complex64)),
    ],
)
def test_what_no_checkpoint_holds(tmp_path: Path, name: str, array: NDArray[Any]) -> None:
    with pytest.raises(ValueError):
        save(tmp_path / "a.h5", {name: array}, {})
    with pytest.raises(ValueError, match="a/b: expected a group at a, got a tensor"):
        save(tmp_path / "a.h5", {"a": np.zeros(1), "a/b": np.zeros(1)}, {})
    assert not list(tmp_path.iterdir())


def test_records_must_be_json(tmp_path: Path) -> None:
    deep: list[Any] = []
    for _ in range(100):
        deep = [deep]
    with pytest.raises(ValueError, match="record: expected at most 32 levels, got more"):
        save(tmp_path / "a.h5", {}, {"deep": deep})
    with pytest.raises(TypeError):
        save(tmp_path / "a.h5", {}, {"object": object()})
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("good") / "a.h5"
    save(path, some_tensors(), META)
    return path


def test_truncation_is_found_at_any_length(good: Path, tmp_path: Path) -> None:
    data = good.read_bytes()
    rng = random.Random(0)
    lengths = [0, 1, 511, 512, 513, len(data) - 1, *(rng.randrange(len(data)) for _ in range(200))]
    path = tmp_path / "cut.h5"
    for length in lengths:
        path.write_bytes(data[:length])
        refused(path)
    path.write_bytes(data + b"\0")
    assert f"damaged: expected {len(data)} bytes, got {len(data) + 1}" in refused(path)


def test_flipped_bits_are_found_anywhere(good: Path, tmp_path: Path) -> None:
    data = good.read_bytes()
    rng = random.Random(1)
    path = tmp_path / "flipped.h5"
    seal = [(place, 1 << bit) for place in range(512) for bit in (0, 7)]
    anywhere = [(rng.randrange(len(data)), rng.randrange(1, 256)) for _ in range(300)]
    for place, mask in [*seal, *anywhere]:
        flipped = bytearray(data)
        flipped[place] ^= mask
        path.write_bytes(flipped)
        refused(path)


def test_contents_are_checked_behind_the_seal(good: Path, tmp_path: Path) -> None:
    """Flip bits and seal again: the second digest or the reader itself must object."""
    data = good.read_bytes()
    start = data.index(some_tensors()["model/conv1.weight"].tobytes())
    path = tmp_path / "resealed.h5"
    for offset in (0, 1, 599):
        flipped = bytearray(data)
        flipped[start + offset] ^= 1
        seal(path, bytes(flipped[checkpoint._SEAL_BYTES :]))
        verify(path)
        assert "digest" in refused(path)


def test_random_damage_behind_a_good_seal(good: Path, tmp_path: Path) -> None:
    contents = good.read_bytes()[checkpoint._SEAL_BYTES :]
    index_bytes = contents.index(b"\n") + 1
    wanted = load(good)
    rng = random.Random(3)
    path = tmp_path / "resealed.h5"
    for _ in range(500):
        damaged = bytearray(contents)
        # Half of the damage in the index, which is what the reader goes by.
        place = rng.randrange(rng.choice([index_bytes, len(contents)]))
        damaged[place] = rng.choice([0, 34, 44, 45, 48, 57, 91, 93, 101, 255])
        seal(path, bytes(damaged))
        try:
            found = load(path)
        except UserError:
            continue
        assert found.digest == wanted.digest and found.meta == wanted.meta
        assert all(same_bits(found.tensors[name], x) for name, x in wanted.tensors.items())


def test_any_hdf5_tool_reads_the_file(good: Path) -> None:
    loaded = load(good)
    with h5py.File(good, "r") as file:
        assert json.loads(file["meta.json"][()].tobytes()) == META
        assert file.attrs["digest"] == loaded.digest
        for name, array in loaded.tensors.items():
            assert same_bits(np.asarray(file[name][()]), array)


def test_files_that_are_no_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    assert "No such file" in refused(path)
    assert "Is a directory" in refused(tmp_path)
    path.write_bytes(b"step,loss\n1,2\n" * 99)
    assert "expected a tallygrad checkpoint, got another or a damaged file" in refused(path)
    with h5py.File(path, "w") as file:
        file["x"] = np.zeros(3)
    assert "expected a tallygrad checkpoint, got another or a damaged file" in refused(path)


def test_other_format_version_is_named(good: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    path.write_bytes(good.read_bytes().replace(b"checkpoint 0001\n", b"checkpoint 0002\n", 1))
    assert "expected format version 1, got 2" in refused(path)


META_ROW = ["meta.json", "|u1", [2], 4096]


def row(
    name: object = "x", code: object = "<f4", shape: object = (2,), offset: object = 4098
) -> Any:
    return {"digest": "", "arrays": [META_ROW, [name, code, shape, offset]]}


HOSTILE: dict[str, tuple[object, str]] = {
    "huge": (row(shape=[1 << 50]), "bytes, got ["),
    "huge product": (row(shape=[1 << 40] * 8), "bytes, got ["),
    "beyond the end": (row(offset=4110), "got the end of the file"),
    "far beyond the end": (row(offset=1 << 80), "not a valid checkpoint"),
    "before the start": (row(offset=-1), "expected sizes and an offset from 0, got"),
    "negative axes": (row(shape=[-1, -2]), "expected sizes and an offset from 0, got"),
    "broken axes": (row(shape=[1.5]), "expected sizes and an offset from 0, got"),
    "boolean axes": (row(shape=[True]), "expected sizes and an offset from 0, got"),
    "too many axes": (row(shape=[1] * 100), "dim"),
    "empty but huge": (row(shape=[0, 1 << 62, 1 << 62]), "not a valid checkpoint"),
    "objects": (row(code="|O"), "|O"),
    "strings": (row(code="<U9"), "<U9"),
    "structures": (row(code="f4,O"), "f4,O"),
    "no hashable type": (row(code=[]), "list"),
    "not booleans": (row(code="|b1"), "expected booleans of 0 or 1, got"),
    "no shape": (row(shape=None), "not a valid checkpoint"),
    "no name": (row(name=3), "index: expected names, each once, got 3"),
    "name up the tree": (row(name="../x"), "name of a tensor: expected up to 32 printable parts"),
    "name with escapes": (
        row(name="\x1b[2J"),
        "name of a tensor: expected up to 32 printable parts",
    ),
    "listed twice": (row(name="meta.json"), "expected names, each once, got 'meta.json'"),
    "no record": ({"digest": "", "arrays": []}, "meta.json"),
    "wrong digest": (row(), "digest"),
    "no digest": ({"arrays": [META_ROW]}, "digest"),
    "no arrays": ({}, "arrays"),
    "long rows": ({"arrays": [[1] * 9]}, "unpack"),
    "a list": ([], "list"),
    "no JSON": ("{", "not a valid checkpoint"),
    "nothing": ("", "not a valid checkpoint"),
    "deep": ("[" * 3000, "recursion"),
    "a long number": ('{"arrays": ' + "9" * 3900 + "}", "not a valid checkpoint"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_indexes_are_refused(tmp_path: Path, case: str) -> None:
    index, reason = HOSTILE[case]
    forge(tmp_path / "a.h5", index, b"{}" + b"\2" * 8)
    assert reason in refused(tmp_path / "a.h5")


def test_arrays_cannot_share_bytes_to_grow(tmp_path: Path) -> None:
    rows = [[f"x{i}", "|u1", [4000], 0] for i in range(9)]
    forge(tmp_path / "a.h5", {"digest": "", "arrays": [META_ROW, *rows]}, b"{}")
    assert "bytes, got [" in refused(tmp_path / "a.h5")


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "3", "\xff", "[" * 9999, '{"a":' * 90 + "1" + "}" * 90]
)
def test_hostile_records_are_refused(tmp_path: Path, text: str) -> None:
    data = text.encode("latin-1")
    digest = checkpoint._digest({}, data)
    index = {"digest": digest, "arrays": [["meta.json", "|u1", [len(data)], 4096]]}
    forge(tmp_path / "a.h5", index, data)
    assert "not a valid checkpoint" in refused(tmp_path / "a.h5")


def test_forged_files_are_otherwise_good(tmp_path: Path) -> None:
    """The control of the tests above: a forgery without a fault is read."""
    x = np.full(8, 2, np.uint8).view(np.float32)
    forged = {**row(), "digest": checkpoint._digest({"x": x}, b"{}")}
    forge(tmp_path / "a.h5", forged, b"{}" + x.tobytes())
    assert same_bits(load(tmp_path / "a.h5").tensors["x"], x)


def test_record_survives_json(tmp_path: Path) -> None:
    meta = {"accuracy": float("nan"), "config": {"nested": [1, 2.5, None, True, "x"]}}
    save(tmp_path / "a.h5", {}, meta)
    assert json.dumps(load(tmp_path / "a.h5").meta) == json.dumps(meta)
