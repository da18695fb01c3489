"""Own data sets in HDF5 files: every layout gives the same bits, damage gives one line."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from tallygrad.datasets import DataError, Loader, Reading, hold_out, load_own
from tallygrad.datasets.formats import chunks
from tallygrad.datasets.formats.chunks import ChunkDecoder, Chunked, Contiguous
from tallygrad.datasets.sets.hdf5 import HdfStore

IMAGES = np.random.default_rng(0).integers(0, 99, (41, 6, 5, 3), np.uint8)
LABELS = np.arange(41) % 3
STREAM = Reading(test_split=None, memory=0)
LAYOUTS: list[dict[str, Any]] = [
    {},
    {"chunks": (1, 6, 5, 3)},
    {"chunks": (7, 6, 5, 3), "compression": "gzip"},
    {"chunks": (7, 6, 5, 3), "compression": "gzip", "shuffle": True},
    {"chunks": (7, 6, 5, 3), "compression": "lzf"},
    {"chunks": (4, 3, 5, 1), "compression": "gzip"},
    {"chunks": (4, 6, 5, 3), "fletcher32": True},
    {"chunks": (7, 6, 5, 3), "maxshape": (None, 6, 5, 3)},
]


def save(path: Path, images: Any = IMAGES, **layout: Any) -> Path:
    with h5py.File(path, "w") as file:
        file.create_dataset("images", data=images, **layout)
        file["labels"] = LABELS
    return path


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
@pytest.mark.parametrize("kind", ["uint8", ">i2", "float32"])
def test_every_layout_gives_the_same_bits(
    tmp_path: Path, layout: dict[str, Any], kind: str
) -> None:
    data = load_own(save(tmp_path / "a.h5", IMAGES.astype(kind), **layout), STREAM)["train"]
    wanted = IMAGES if kind == "uint8" else IMAGES.astype(np.float32)
    for indices in (np.arange(41), np.random.default_rng(1).permutation(41), np.array([40]),
                    np.array([5, 5, 3]), np.arange(0)):  # fmt: skip
        found = data.read(indices)
        assert found.flags.c_contiguous and found.dtype == wanted.dtype
        np.testing.assert_array_equal(found, wanted[indices])


def test_common_layouts_are_read_past_the_library(tmp_path: Path) -> None:
    readers = []
    for layout in LAYOUTS[:5]:
        with h5py.File(save(tmp_path / "a.h5", **layout)) as file:
            readers.append(HdfStore(tmp_path / "a.h5", file["images"], None)._reader)
    assert isinstance(readers[0], Contiguous)
    decoders = [reader.decode for reader in readers[1:] if isinstance(reader, Chunked)]
    assert [isinstance(decoder, ChunkDecoder) for decoder in decoders] == [True] * 3 + [False]


@pytest.mark.parametrize("ranks", [1, 3])
def test_an_epoch_is_that_of_memory_on_any_number_of_ranks(tmp_path: Path, ranks: int) -> None:
    path = save(tmp_path / "a.h5", chunks=(7, 6, 5, 3), compression="gzip")
    held = load_own(path, Reading(test_split=None))["train"]
    streamed = load_own(path, STREAM)["train"]
    assert type(held).__name__ == "ImageDataset" and type(streamed).__name__ == "Streamed"
    seen = []
    for rank in range(ranks):
        loaders = [Loader(data, 8, rank=rank, size=ranks, seed=4) for data in (held, streamed)]
        for one, other in zip(*(loader.epoch(2) for loader in loaders), strict=True):
            np.testing.assert_array_equal(one.images, other.images)
            np.testing.assert_array_equal(one.labels, other.labels)
            seen += other.indices.tolist()
    assert sorted(seen) == list(range(41))


@pytest.mark.parametrize("held_out", [False, True])
def test_several_threads_read_ahead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, held_out: bool
) -> None:
    data: Any = load_own(save(tmp_path / "a.h5"), STREAM)["train"]
    assert data.readers == 4
    together = threading.Barrier(4, timeout=20)  # reads of four batches must be under way at once
    plain = HdfStore.read

    def read(store: HdfStore, indices: Any) -> Any:
        together.wait()
        return plain(store, indices)

    monkeypatch.setattr(HdfStore, "read", read)
    source = hold_out(data, 1)[0] if held_out else data
    batches = list(Loader(source, 10 if held_out else 11, seed=3, prefetch=1).epoch(0))
    order = Loader(source, 10, seed=3).sampler.order(0)
    assert [i for batch in batches for i in batch.indices.tolist()] == order.tolist()
    assert len(batches) == 4


def test_threads_read_the_same_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunks, "CACHE", 300)  # three chunks
    data = load_own(save(tmp_path / "a.h5", chunks=(1 + 2, 6, 5, 3), compression="gzip"), STREAM)
    faults = []

    def read(seed: int) -> None:
        for _ in range(20):
            indices = np.random.default_rng(seed).integers(0, 41, 17)
            if (data["train"].read(indices) != IMAGES[indices]).any():
                faults.append(seed)

    workers = [threading.Thread(target=read, args=(seed,)) for seed in range(4)]
    [worker.start() for worker in workers]
    [worker.join() for worker in workers]
    assert not faults


def test_the_cache_stays_within_its_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunks, "CACHE", 5000)
    decoded = []

    def decode(number: int) -> Any:
        decoded.append(number)
        return np.full((2, 1000), number, np.uint8)

    reader, rows = Chunked(2, decode), np.empty((40, 1000), np.uint8)
    reader.fill(rows, np.arange(40))
    assert (rows[:, 0] == np.arange(40) // 2).all() and reader._size == 4000
    reader.fill(rows[:2], np.array([39, 36]))
    reader.fill(rows[:1], np.array([0]))
    assert decoded == [*range(20), 0]


def test_mean_and_std_on_record_are_used(tmp_path: Path) -> None:
    path = save(tmp_path / "a.h5")
    with h5py.File(path, "r+") as file:
        file.attrs["mean"], file.attrs["std"] = [0.1, 0.2, 0.3], [1, 2, 3]
    data = load_own(path, STREAM)["train"]
    assert (data.mean, data.std) == ((0.1, 0.2, 0.3), (1.0, 2.0, 3.0))
    for std, message in ([1, 0, 3], "std above 0, got"), ([1, 2], "expected 3 of each, one per"):
        with h5py.File(path, "r+") as file:
            file.attrs["std"] = std
        with pytest.raises(DataError, match=message):
            load_own(path, STREAM)


def damage(path: Path, at: float, junk: bytes = b"\xff" * 64) -> None:
    data = bytearray(path.read_bytes())
    start = int(at * len(data))
    data[start : start + len(junk)] = junk
    path.write_bytes(data)


def test_damaged_and_foreign_files(tmp_path: Path) -> None:
    path = save(tmp_path / "a.h5")
    whole = path.read_bytes()
    for content in (b"no HDF5", b"", whole[:100]):
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"a\.h5: cannot be read as HDF5: .*"):
            load_own(path, STREAM)


def test_a_file_cut_short_while_it_is_read(tmp_path: Path) -> None:
    path = save(tmp_path / "a.h5", np.zeros((41, 100, 100), np.uint8))
    data = load_own(path, STREAM)["train"]
    with path.open("r+b") as stream:
        stream.truncate(100_000)
    with pytest.raises(DataError, match=r"image 30: expected 10000 bytes at \d+, got 0: truncated"):
        data.read(np.array([0, 30]))


def test_a_damaged_chunk(tmp_path: Path) -> None:
    path = save(tmp_path / "a.h5", np.zeros((41, 9, 9), np.uint8), chunks=(5, 9, 9),
                compression="gzip")  # fmt: skip
    with h5py.File(path) as file:
        place = file["images"].id.get_chunk_info(3).byte_offset
    damage(path, place / path.stat().st_size, b"\xff" * 8)
    data = load_own(path, Reading(test_split=None, memory=0, moments=((0,), (1,))))["train"]
    data.read(np.arange(15))
    with pytest.raises(DataError, match=r"a\.h5: chunk 3: damaged"):
        data.read(np.array([16]))


def test_a_chunk_that_was_never_written(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        images = file.create_dataset("images", (41, 4, 4), "u1", chunks=(5, 4, 4))
        images[:5] = 1
        file["labels"] = LABELS
    with pytest.raises(DataError, match="chunk 1: expected up to 80 bytes, got 0"):
        load_own(tmp_path / "a.h5", STREAM)


def test_arrays_that_claim_too_much_or_lie_elsewhere(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("images", (10**9, 99, 99), "u1", chunks=(1, 99, 99))
        file["labels"] = LABELS
    with pytest.raises(DataError, match=r"expected at most \d+ bytes .*, got 9801000000000"):
        load_own(path, STREAM)
    other = save(tmp_path / "b.h5")
    with h5py.File(path, "w") as file:
        file["images"] = h5py.ExternalLink(str(other), "images")
        file["labels"] = LABELS
    with pytest.raises(DataError, match="images: expected an array in this file, got a link"):
        load_own(path, STREAM)
    with h5py.File(path, "w") as file:
        layout = h5py.VirtualLayout((41, 6, 5, 3), "u1")
        layout[:] = h5py.VirtualSource(str(other), "images", (41, 6, 5, 3))
        file.create_virtual_dataset("images", layout)
        file["labels"] = LABELS
    with pytest.raises(DataError, match="images: expected an array in this file, got one elsewh"):
        load_own(path, STREAM)
