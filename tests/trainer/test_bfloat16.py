"""Checkpoints of bfloat16: every bit is kept, and they can be read without ml_dtypes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from tallygrad import autograd as ag
from tallygrad.autograd import dtypes, nn
from tallygrad.trainer.bfloat16 import BITS
from tallygrad.trainer.commands.inspect import describe
from tallygrad.trainer.components import packed, state
from tallygrad.trainer.components.checkpoint import load, save

# 1.5, -2, 0, infinity, NaN and a denormal
CODES = np.array([0x3FC0, 0xC000, 0x0000, 0x7F80, 0x7FC0, 0x0001], np.uint16)


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 3, bias=False)
        self.register_buffer("seen", ag.tensor([1.0, 2.0]))


def saved(path: Path) -> dict[str, np.ndarray]:
    """Save a model of bfloat16 as a training does; return its tensors."""
    model = Model().bfloat16()
    model.load_state_dict(
        {"linear.weight": CODES.view(dtypes.bfloat16()).reshape(3, 2)}, strict=False
    )
    tensors = state.capture(model, {}, {})
    save(path, tensors, {"step": 1})
    path.with_suffix(packed.SUFFIX).write_bytes(packed.pack(tensors, {}))
    return tensors


def test_a_model_keeps_every_bit(tmp_path: Path) -> None:
    pytest.importorskip("ml_dtypes", reason="ml_dtypes is not installed")
    path = tmp_path / "a.h5"
    tensors = saved(path)
    for file in (path, path.with_suffix(packed.SUFFIX)):
        found = packed.load_state(file).tensors
        assert {name: a.dtype for name, a in found.items()} == dict.fromkeys(tensors, BITS)
        other = Model().bfloat16()
        state.load_model(file, found, other)
        again = state.capture(other, {}, {})
        assert {n: a.tobytes() for n, a in again.items()} == {
            n: a.tobytes() for n, a in tensors.items()
        }
    assert load(path).tensors["model/linear.weight"].tobytes() == CODES.tobytes()


def test_files_hold_bits_and_say_so(tmp_path: Path) -> None:
    path, plain = tmp_path / "a.h5", tmp_path / "b.h5"
    digest = save(path, {"x": CODES.view(BITS)}, {})
    assert digest != save(plain, {"x": CODES}, {})
    with h5py.File(path) as file, h5py.File(plain) as other:
        assert file["x"].dtype == np.uint16 and file["x"].attrs["dtype"] == "bfloat16"
        assert (file["x"][:] == CODES).all() and "dtype" not in other["x"].attrs
    assert load(path).digest == digest and load(path).tensors["x"].dtype == BITS
    assert load(plain).tensors["x"].dtype == np.uint16


def test_they_are_read_without_ml_dtypes(tmp_path: Path) -> None:
    save(tmp_path / "a.h5", {"model/linear.weight": CODES.reshape(3, 2).view(BITS)}, {})
    (shown,) = describe(tmp_path / "a.h5")["tensors"]
    assert shown == {
        "name": "model/linear.weight", "shape": [3, 2], "dtype": "bfloat16", "bytes": 12,
        "mean": pytest.approx(-0.125), "std": shown["std"], "min": -2.0, "max": 1.5, "zeros": 1,
        "nan": 1, "inf": 1,
    }  # fmt: skip
    code = (
        "import sys; sys.modules['ml_dtypes'] = None\n"
        "import json; from pathlib import Path\n"
        "from tallygrad.trainer.commands.inspect import describe\n"
        "from tallygrad.trainer.components.checkpoint import load\n"
        "file = Path(sys.argv[1]); (x,) = load(file).tensors.values()\n"
        "print(json.dumps(describe(file)['tensors'])); print(x['bfloat16'].tolist())\n"
        "from tallygrad.autograd import nn; from tallygrad.trainer.components import state\n"
        "model = nn.Module(); model.linear = nn.Linear(2, 3, bias=False)\n"
        "state.load_model(file, {'model/linear.weight': x}, model)\n"
        "print(model.linear.weight.numpy().reshape(-1).tolist()[:3])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "a.h5")], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    rows, bits, weights = done.stdout.splitlines()
    assert json.loads(rows) == [shown]
    assert json.loads(bits) == CODES.reshape(3, 2).tolist()
    assert json.loads(weights) == [1.5, -2.0, 0.0]
