"""States in files: every bit comes back, and no file is believed."""

from __future__ import annotations

import errno
import json
import math
import os
import pickle
import stat
import zipfile
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tallygrad.autograd as ag


def test_everything_comes_back(tmp_path: Path) -> None:
    odd = np.array([0x7F800001, 0xFFC12345, 0x80000000, 1], np.uint32).view(np.float32)
    state: dict[str, Any] = {
        "tensor": ag.from_numpy(odd),
        "arrays": [np.asfortranarray(np.arange(6.0).reshape(2, 3)), np.zeros((0, 3), np.int8)],
        "number": np.float64(0.1),
        "": {"empty": {}, "none": None, "truth": True, "big": 1 << 80, "text": "ä\ud800\n\0"},
        "floats": (0.1, math.inf, -0.0, 5e-324),
        "list": [[], ()],
        "lr/0.bias": ag.tensor(3),
        "strided": np.arange(10, dtype=">i2")[::3],
    }
    ag.save(state, tmp_path / "x.npz")
    back = ag.load(str(tmp_path / "x.npz"))
    assert [*back] == [*state]
    assert isinstance(back["tensor"], ag.Tensor) and back["tensor"].is_leaf
    assert back["tensor"].numpy().tobytes() == odd.tobytes()
    for a, b in zip(back["arrays"], state["arrays"], strict=True):
        assert a.dtype == b.dtype and a.strides == b.strides
        np.testing.assert_array_equal(a, b)
    assert back["strided"].dtype == ">i2" and back["strided"].tolist() == [0, 3, 6, 9]
    assert back["number"] == 0.1 and back["lr/0.bias"].item() == 3
    for name in ("", "floats", "list"):
        assert repr(back[name]) == repr(state[name])
    assert [f.name for f in tmp_path.iterdir()] == ["x.npz"]


def test_a_model_and_its_optimizer_go_on(tmp_path: Path) -> None:
    def start(seed: int) -> tuple[ag.nn.Module, ag.optim.SGD]:
        ag.manual_seed(seed)
        net = ag.nn.Sequential(ag.nn.Linear(3, 2), ag.nn.BatchNorm1d(2))
        return net, ag.optim.SGD(net.parameters(), 0.1, momentum=0.9)

    def step(net: ag.nn.Module, sgd: ag.optim.SGD) -> None:
        sgd.zero_grad()
        (net(ag.arange(12).reshape(4, 3).float()) ** 2).sum().backward()
        sgd.step()

    net, sgd = start(0)
    step(net, sgd)
    ag.save({"model": net.state_dict(), "optimizer": sgd.state_dict()}, tmp_path / "run")
    other, second = start(1)
    state = ag.load(tmp_path / "run")
    other.load_state_dict(state["model"])
    second.load_state_dict(state["optimizer"])
    for pair in ((net, sgd), (other, second)):
        step(*pair)
    for a, b in zip(net.state_dict().values(), other.state_dict().values(), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("state", "piece"),
    [
        ({"a": [{}, {"b": object()}]}, r"^state\['a'\]\[1\]\['b'\]: expected tensors, numb"),
        ({1: 2}, "state: expected texts as keys, got 1"),
        (np.array([None]), "expected numbers, got an array of object"),
        (np.zeros(1, "M8[s]"), "expected numbers, got an array of datetime64"),
        ({"f": len}, "got builtin_function_or_method"),
    ],
)
def test_what_cannot_be_saved(state: Any, piece: str, tmp_path: Path) -> None:
    ag.save(1, tmp_path / "x")
    with pytest.raises(TypeError, match=piece):
        ag.save(state, tmp_path / "x")
    deep: list[Any] = []
    for _ in range(200):
        deep = [deep]
    with pytest.raises(TypeError, match="expected 100 levels at most"):
        ag.save(deep, tmp_path / "x")
    assert ag.load(tmp_path / "x") == 1 and len([*tmp_path.iterdir()]) == 1


def test_a_failed_write_leaves_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ag.save({"a": 1}, tmp_path / "x")

    def full(*args: Any, **options: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np.lib.format, "write_array", full)
    with pytest.raises(OSError, match=r"No space left on device: .*x'$"):
        ag.save({"a": np.ones(3)}, tmp_path / "x")
    with pytest.raises(FileNotFoundError, match=r"No such file or directory: .*none/x'$"):
        ag.save({}, tmp_path / "none" / "x")
    assert ag.load(tmp_path / "x") == {"a": 1} and len([*tmp_path.iterdir()]) == 1


@pytest.mark.parametrize(("number", "raises"), [(errno.EINVAL, False), (errno.EIO, True)])
def test_a_folder_that_cannot_be_synced(
    number: int, raises: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some file systems refuse it, and the file is whole; a fault of the disk is told."""
    sync = os.fsync

    def refuse(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(number, os.strerror(number))
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(OSError, match="put/output error") if raises else nullcontext():
        ag.save(1, tmp_path / "x")
    assert ag.load(tmp_path / "x") == 1 and len([*tmp_path.iterdir()]) == 1


def test_only_regular_files_are_replaced(tmp_path: Path) -> None:
    pipe, link = tmp_path / "pipe", tmp_path / "link"
    os.mkfifo(pipe)
    link.symlink_to(pipe)
    for path in (pipe, link, tmp_path):
        with pytest.raises(OSError, match=rf"expected a new or a regular file: '{path}'$"):
            ag.save({}, path)
    assert pipe.is_fifo() and link.is_symlink() and len([*tmp_path.iterdir()]) == 2


def crafted(path: Path, tree: Any, data: bytes = b"", packed: bool = False) -> Path:
    method = zipfile.ZIP_DEFLATED if packed else zipfile.ZIP_STORED
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr("tree.json", tree if isinstance(tree, str) else json.dumps(tree))
        archive.writestr("0.npy", data)
    return path


def header(shape: str, descr: str) -> bytes:
    text = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}}}".encode()
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text


ONE = {"array": 0}


@pytest.mark.parametrize(
    ("tree", "data"),
    [
        (ONE, b""),
        (ONE, header("(4,)", "'<f4'") + b"\0" * 15),
        (ONE, header("(1 << 62,)", "'<f4'")),
        (ONE, header("(4611686018427387904,)", "'<f4'")),
        (ONE, header("(-1, -4)", "'<f4'") + b"\0" * 16),
        (ONE, header("(1,)", "'|O'") + b"\0" * 8),
        (ONE, header("(1,)", "[('a', '<f4')]") + b"\0" * 4),
        (ONE, header("__import__('os').abort()", "'<f4'")),
        ({"list": [ONE] * 50}, header("(4000,)", "'|u1'") + b"\0" * 4000),
        ({"array": 1}, b""),
        ({"array": "0/../x"}, b""),
        ({"module": 0}, b""),
        ({"dict": {}, "list": []}, b""),
        ({"dict": []}, b""),
        ("[" * 100_000, b""),
        ("{}", b""),
        ("1" * 10_000, b""),
        ("nonsense", b""),
    ],
)
def test_files_that_are_none(tree: Any, data: bytes, tmp_path: Path) -> None:
    path = crafted(tmp_path / "x.npz", tree, data)
    with pytest.raises(ValueError, match=r"x\.npz: expected a file of save\(\), got ") as caught:
        ag.load(path)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400 + len(str(path))


def test_other_files(tmp_path: Path) -> None:
    bomb = crafted(tmp_path / "bomb", ONE, header("(1 << 24,)", "'|u1'") + b"\0" * (1 << 24), True)
    (tmp_path / "text").write_text("hello")
    (tmp_path / "empty").touch()
    whole = crafted(tmp_path / "cut", ONE, header("(4,)", "'<f4'") + b"\0" * 16).read_bytes()
    (tmp_path / "cut").write_bytes(whole[:-20])
    np.savez(tmp_path / "other.npz", a=np.ones(2))
    flipped = whole.replace(b"\0" * 16, b"\0" * 15 + b"\1")
    (tmp_path / "flipped").write_bytes(flipped)
    for path in (bomb, *(tmp_path / n for n in ("text", "empty", "cut", "other.npz", "flipped"))):
        with pytest.raises(ValueError, match=r"expected a file of save\(\), got "):
            ag.load(path)
    with pytest.raises(FileNotFoundError):
        ag.load(tmp_path / "none")


def test_a_file_of_torch(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "t.pt", "w") as archive:
        archive.writestr("t/data.pkl", b"")
    with pytest.raises(ValueError, match=r"t\.pt: expected a file of save\(\), got one of torch: "):
        ag.load(tmp_path / "t.pt", map_location="cpu")
    with pytest.raises(ValueError, match=r"device: expected 'cpu', .* got 'cuda'"):
        ag.load(tmp_path / "t.pt", map_location="cuda")
    (tmp_path / "old.pt").write_bytes(pickle.dumps(0x1950A86A20F9469CFC6C, 2) + b"of torch < 1.6")
    with pytest.raises(
        ValueError, match=r"old\.pt: expected a file of save\(\), got one of torch: "
    ):
        ag.load(tmp_path / "old.pt")


def test_an_entry_that_starts_before_the_file(tmp_path: Path) -> None:
    """The system refuses to read there: the file is damaged, not unreadable."""
    path = tmp_path / "model.npz"
    ag.save({"w": ag.zeros(3)}, path)
    content = bytearray(path.read_bytes())
    start = content.rindex(b"PK\x05\x06") + 16  # of the index, in the record at the end
    content[start : start + 4] = (1 << 30).to_bytes(4, "little")
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"model.npz: expected a file of save\(\), got"):
        ag.load(path)
    with pytest.raises(FileNotFoundError):
        ag.load(tmp_path / "absent.npz")
