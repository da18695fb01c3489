"""The packed state of a run: read as it was written, and refused where a byte has changed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tallygrad.trainer.components.packed import load_state, pack, verify
from tallygrad.trainer.errors import UserError

ARRAYS = {
    "model/w": np.arange(6, dtype=np.float32).reshape(2, 3).T,
    "empty": np.zeros((0, 4), bool),
    "scalar": np.array(7, np.int64),
}
META = {"step": 3, "lr": 0.1, "loss": float("nan"), "list": [{"a": None}]}


def test_reads_what_was_packed(tmp_path: Path) -> None:
    path = tmp_path / "step-00000003.copy"
    path.write_bytes(pack(ARRAYS, META))
    verify(path)
    found = load_state(path)
    assert [*found.tensors] == [*ARRAYS] and repr(found.meta) == repr(META)
    for name, array in ARRAYS.items():
        assert found.tensors[name].dtype == array.dtype
        np.testing.assert_array_equal(found.tensors[name], array, strict=True)


@pytest.mark.parametrize("at", [0, 8, 20, -1])
def test_refuses_a_changed_byte(tmp_path: Path, at: int) -> None:
    path = tmp_path / "step-00000003.copy"
    data = bytearray(pack(ARRAYS, META))
    data[at] ^= 1
    path.write_bytes(data)
    for read in (verify, load_state):
        with pytest.raises(UserError, match="damaged: expected CRC-32"):
            read(path)


def test_refuses_the_first_half_and_nothing(tmp_path: Path) -> None:
    path = tmp_path / "step-00000003.copy"
    for data in (bytes(pack(ARRAYS, META))[:60], b""):
        path.write_bytes(data)
        with pytest.raises(UserError, match="damaged"):
            verify(path)
    with pytest.raises(UserError, match="cannot read"):
        verify(tmp_path / "absent.copy")
