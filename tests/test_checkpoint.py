"""Checkpoints: bits kept, damage refused, no loss to a kill at any moment."""

import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from numpy.typing import NDArray

from tallygrad.trainer import checkpoint
from tallygrad.trainer.checkpoint import CheckpointFolder, load, save, verify
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


def seal_again(path: Path) -> None:
    contents = path.read_bytes()[512:]
    path.write_bytes(checkpoint._seal(memoryview(contents)) + contents)


def write_sealed(path: Path, build: Callable[[h5py.File], None]) -> None:
    """Make a file with a good seal around contents of an attacker's choice."""
    with h5py.File(path, "w", userblock_size=512) as file:
        file.attrs["digest"] = "0" * 64
        build(file)
    seal_again(path)


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", "i1", "i4", "i8", "u1", "u8", "?"])
@pytest.mark.parametrize("shape", [(), (0,), (3, 0, 2), (1,), (2, 3, 4)])
def test_round_trip_keeps_every_bit(tmp_path: Path, dtype: str, shape: tuple[int, ...]) -> None:
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
    with pytest.raises(ValueError, match="a is a tensor"):
        save(tmp_path / "a.h5", {"a": np.zeros(1), "a/b": np.zeros(1)}, {})
    assert not list(tmp_path.iterdir())


def test_records_must_be_json(tmp_path: Path) -> None:
    deep: list[Any] = []
    for _ in range(100):
        deep = [deep]
    with pytest.raises(ValueError, match="nested"):
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
    assert "should be" in refused(path)


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
        path.write_bytes(flipped)
        seal_again(path)
        verify(path)
        assert "digest" in refused(path)


def test_files_that_are_no_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    assert "No such file" in refused(path)
    assert "Is a directory" in refused(tmp_path)
    path.write_bytes(b"step,loss\n1,2\n" * 99)
    assert "not a checkpoint" in refused(path)
    with h5py.File(path, "w") as file:
        file["x"] = np.zeros(3)
    assert "not a checkpoint" in refused(path)


def test_other_format_version_is_named(good: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    path.write_bytes(good.read_bytes().replace(b"checkpoint 1\n", b"checkpoint 2\n", 1))
    assert "format version 2, this program reads 1" in refused(path)


def meta_bytes(text: str = "{}") -> NDArray[np.uint8]:
    return np.frombuffer(text.encode(), np.uint8)


def with_meta(build: Callable[[h5py.File], Any]) -> Callable[[h5py.File], None]:
    def both(file: h5py.File) -> None:
        file["meta.json"] = meta_bytes()
        build(file)

    return both


def external_dataset(file: h5py.File) -> None:
    file.create_dataset("x", (8,), "u1", external=[("/etc/passwd", 0, 8)])


def virtual_dataset(file: h5py.File) -> None:
    layout = h5py.VirtualLayout((4,), "f4")
    layout[:] = h5py.VirtualSource("other.h5", "x", (4,))
    file.create_virtual_dataset("x", layout)


def contiguous_but_never_written(file: h5py.File) -> None:
    space = h5py.h5s.create_simple((1 << 40,))
    h5py.h5d.create(file.id, b"x", h5py.h5t.IEEE_F32LE, space)


def two_names(file: h5py.File) -> None:
    file["a"] = np.zeros(3)
    file["b"] = file["a"]


def circle(file: h5py.File) -> None:
    group = file.create_group("a")
    group["again"] = group


def widening_tree(file: h5py.File) -> None:
    group = file.create_group("a")
    for _ in range(25):
        group["l"] = group["r"] = group.create_group("m")
        group = group["m"]


HOSTILE: dict[str, Callable[[h5py.File], Any]] = {
    "soft link": lambda f: f.__setitem__("x", h5py.SoftLink("/meta.json")),
    "dangling link": lambda f: f.__setitem__("x", h5py.SoftLink("/nowhere")),
    "external link": lambda f: f.__setitem__("x", h5py.ExternalLink("/tmp/o.h5", "x")),
    "external data": external_dataset,
    "virtual data": virtual_dataset,
    "huge chunked": lambda f: f.create_dataset("x", (1 << 50,), "f4", chunks=(1024,)),
    "huge packed": lambda f: f.create_dataset("x", (1 << 40,), "f4", compression="gzip"),
    "huge contiguous": contiguous_but_never_written,
    "gzip": lambda f: f.create_dataset("x", data=np.zeros(99), compression="gzip"),
    "lzf": lambda f: f.create_dataset("x", data=np.zeros(99), compression="lzf"),
    "strings": lambda f: f.create_dataset("x", data="text"),
    "objects": lambda f: f.create_dataset("x", data=f.ref, dtype=h5py.ref_dtype),
    "lists": lambda f: f.create_dataset("x", (2,), h5py.vlen_dtype("i4")),
    "compound": lambda f: f.create_dataset("x", data=np.zeros(2, "f4,i4")),
    "complex": lambda f: f.create_dataset("x", data=np.zeros(2, "c8")),
    "opaque": lambda f: f.create_dataset("x", data=np.zeros(2, "V5")),
    "no shape": lambda f: f.create_dataset("x", data=h5py.Empty("f4")),
    "a named type": lambda f: f.__setitem__("x", np.dtype("f4")),
    "two names": two_names,
    "circle": circle,
    "widening tree": widening_tree,
    "bad name": lambda f: f.create_dataset("\x1b[2J", data=np.zeros(1)),
    "numeric digest": lambda f: f.attrs.__setitem__("digest", np.zeros(3)),
    "no digest": lambda f: f.attrs.__delitem__("digest"),
    "wrong digest": lambda f: None,
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_contents_are_refused(tmp_path: Path, case: str) -> None:
    write_sealed(tmp_path / "a.h5", with_meta(HOSTILE[case]))
    start = time.monotonic()
    refused(tmp_path / "a.h5")
    assert time.monotonic() - start < 2


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "3", "\xff", "[" * 100_000, '{"a":' * 90 + "1" + "}" * 90]
)
def test_hostile_records_are_refused(tmp_path: Path, text: str) -> None:
    write_sealed(tmp_path / "a.h5", lambda f: f.__setitem__("meta.json", meta_bytes(text)))
    refused(tmp_path / "a.h5")


def test_no_record_is_refused(tmp_path: Path) -> None:
    write_sealed(tmp_path / "a.h5", lambda f: None)
    assert "meta.json" in refused(tmp_path / "a.h5")


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def fill(run: CheckpointFolder, steps: range, best: int | None = None) -> None:
    for step in steps:
        run.save(step, {"x": np.full(3, step)}, {"step": step}, best=step == best)


def test_folder_keeps_the_newest_and_the_best(tmp_path: Path) -> None:
    run = CheckpointFolder(tmp_path / "run" / "deep", keep=2)
    assert run.newest() is None
    fill(run, range(1, 8), best=3)
    assert names(run.folder) == ["best.h5", "step-00000006.h5", "step-00000007.h5"]
    assert run.newest() == run.folder / "step-00000007.h5"
    assert load(run.best_path).meta["step"] == 3

    again = CheckpointFolder(run.folder, keep=2)
    fill(again, range(8, 12), best=9)
    assert names(run.folder) == ["best.h5", "step-00000010.h5", "step-00000011.h5"]
    assert load(run.best_path).meta["step"] == 9
    fill(again, range(123456789, 123456790))
    assert again.newest() == run.folder / "step-123456789.h5"


def test_best_without_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_links(source: Path, target: Path) -> None:
        raise PermissionError("no hard links here")

    monkeypatch.setattr(os, "link", no_links)
    run = CheckpointFolder(tmp_path, keep=1)
    fill(run, range(3), best=1)
    assert names(tmp_path) == ["best.h5", "step-00000002.h5"]
    assert load(run.best_path).meta["step"] == 1


def test_newest_skips_damaged_files_and_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = CheckpointFolder(tmp_path)
    fill(run, range(4), best=0)
    for step in (3, 2):
        os.truncate(tmp_path / f"step-0000000{step}.h5", 700)
    assert run.newest() == tmp_path / "step-00000001.h5"
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2 and all("tallygrad: warning: checkpoint skipped" in x for x in lines)
    (tmp_path / "step-00000001.h5").write_bytes(b"")
    said: list[str] = []
    assert run.newest(said.append) == run.best_path and len(said) == 3
    run.best_path.write_bytes(b"")
    assert run.newest(said.append) is None


def test_going_back_never_removes_what_was_just_saved(tmp_path: Path) -> None:
    fill(CheckpointFolder(tmp_path), range(100, 103))
    run = CheckpointFolder(tmp_path, keep=1)
    fill(run, range(50, 52))
    kept = [f"step-00000{step:03d}.h5" for step in (51, 100, 101, 102)]
    assert names(tmp_path) == kept


def test_temporaries_of_dead_writers_are_collected(tmp_path: Path) -> None:
    host = socket.gethostname()
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    stale = [f".a.h5~{host}~{dead.pid}.tmp", f".a.h5~{host}~{os.getpid()}.tmp", ".a.h5~old~1.tmp"]
    fresh = [".a.h5~elsewhere~1.tmp", f".a.h5~{host}~{os.getppid()}.tmp", ".other.tmp", "a.tmp"]
    for name in [*stale, *fresh]:
        (tmp_path / name).write_bytes(b"part")
    os.utime(tmp_path / stale[2], (1, 1))
    CheckpointFolder(tmp_path).save(1, {}, {})
    assert names(tmp_path) == sorted([*fresh, "step-00000001.h5"])


def test_unwritable_places_are_user_errors(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    below = tmp_path / "file" / "run"
    with pytest.raises(UserError, match=re.escape(f"cannot write {below}")):
        save(below, some_tensors(), {})
    with pytest.raises(UserError, match=re.escape(str(below))):
        CheckpointFolder(below).save(1, {}, {})
    with pytest.raises(UserError, match="missing"):
        save(tmp_path / "missing" / "a.h5", {}, {})
    with pytest.raises(UserError, match="at least 1"):
        CheckpointFolder(tmp_path, keep=0)


def test_full_disk_leaves_the_old_file_and_no_temporary(tmp_path: Path) -> None:
    code = """
import resource, sys
from pathlib import Path
import numpy as np
from tallygrad.trainer.checkpoint import save
from tallygrad.trainer.errors import UserError
path = Path(sys.argv[1])
save(path, {"x": np.zeros(3)}, {"step": 1})
for limit in (100, 1000, 5000, 100_000):
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    try:
        save(path, {"x": np.zeros(100_000)}, {"step": 2})
    except UserError as error:
        print("refused:", error)
"""
    path = tmp_path / "a.h5"
    result = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True, timeout=60
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.count(f"refused: cannot write {path}: ") == 4, result
    assert names(tmp_path) == ["a.h5"] and load(path).meta == {"step": 1}


SAVING = """
import itertools, sys
from pathlib import Path
import numpy as np
from tallygrad.trainer.checkpoint import CheckpointFolder
run = CheckpointFolder(Path(sys.argv[1]))
print("ready", flush=True)
for step in itertools.count(int(sys.argv[2])):
    run.save(step, {"x": np.full(200_000, step)}, {"step": step}, best=step % 3 == 0)
"""


def test_kill_at_any_moment_leaves_good_checkpoints(tmp_path: Path) -> None:
    rng = random.Random(2)
    run = CheckpointFolder(tmp_path / "run")
    last = 0
    for _ in range(8):
        command = [sys.executable, "-c", SAVING, str(run.folder), str(last + 1)]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as writer:
            assert writer.stdout is not None and writer.stdout.readline()
            time.sleep(0.05 + 0.2 * rng.random())
            writer.send_signal(signal.SIGKILL)
        visible = [path for path in run.folder.glob("[!.]*")]
        for path in visible:
            loaded = load(path)
            assert (loaded.tensors["x"] == loaded.meta["step"]).all()
        newest = run.newest()
        assert newest is not None
        step = load(newest).meta["step"]
        assert step > last
        last = step
    run.save(last + 1, {}, {})
    assert not list(run.folder.glob(".*")), "temporaries of the killed writers remain"
    assert len(list(run.folder.glob("step-*"))) == 3


def test_record_survives_json(tmp_path: Path) -> None:
    meta = {"accuracy": float("nan"), "config": {"nested": [1, 2.5, None, True, "x"]}}
    save(tmp_path / "a.h5", {}, meta)
    assert json.dumps(load(tmp_path / "a.h5").meta) == json.dumps(meta)
