"""Compressed exchange: nothing is lost but delayed, and a run can be continued and repeated."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tallygrad.autograd as ag
from tallygrad.autograd import context, models, nn
from tallygrad.autograd.ledger import Ledger
from tallygrad.trainer.bfloat16 import to_bfloat16
from tallygrad.trainer.cli import main
from tallygrad.trainer.components.checkpoint import load, save
from tallygrad.trainer.cost.cluster.compression import parse_compress
from tallygrad.trainer.distributed.comm import SerialComm
from tallygrad.trainer.distributed.compression import Residuals
from tallygrad.trainer.distributed.exchange import Reducer
from tallygrad.trainer.distributed.schemes import (
    CODECS,
    orthogonalise,
    to_float16,
)
from tallygrad.trainer.distributed.sync import GradientSync

SCHEMES = ("bf16", "fp16", "topk=0.1", "powersgd=2")

FEEDBACK = """
import sys
import numpy as np
from tallygrad.autograd import nn
from tallygrad.autograd.nn.flat import flatten
from tallygrad.trainer.cost.cluster.compression import parse_compress
from tallygrad.trainer.distributed.comm import connect
from tallygrad.trainer.distributed.exchange import OVERLAPS, Reducer
from tallygrad.trainer.distributed.failures.guard import guard
from tallygrad.trainer.distributed.reproducible import owners
from tallygrad.trainer.distributed.sync import GradientSync

comm = connect()
option, parts = parse_compress(sys.argv[1]), int(sys.argv[2])

def exchange(overlap):
    layers = [nn.Linear(7, 12), nn.Conv2d(2, 5, 3), nn.Linear(3, 1)]
    flat = flatten([p for m in layers for p in m.parameters()])
    reducer = Reducer(comm, parts, overlap)
    return flat, GradientSync(flat, reducer, bucket_bytes=200, hooked=False, compress=option)

def run(flat, sync, steps):
    sums, given = [], np.zeros(flat.grad.spec.size)
    for step in steps:
        rng = np.random.default_rng([step, comm.rank])
        works = comm.rank in owners(parts, comm.size)
        own = rng.standard_normal(flat.grad.spec.size) ** 3 * works
        flat.grad.write(own.astype(np.float32))
        given += flat.grad.value
        for p in flat.parameters:
            p.grad = nn.flat.Tensor(p.slot)
        sync.wait()
        sums.append(flat.grad.value.copy())
    return np.array(sums), given

def check():
    flat, sync = exchange("none")
    assert len(sync.buckets) > 2
    sums, given = run(flat, sync, range(6))
    every = comm.allgather(sums)
    assert (every == every[0]).all()
    state = sync.compressor.state_dict()
    comm.allreduce(given)
    if comm.rank == 0:
        left = state["residual"].sum(axis=0) + state.get("residual_of_sums", 0)
        assert np.abs(left).max() > 1e-6
        np.testing.assert_allclose(sums.sum(axis=0) + left, given, rtol=0, atol=2e-4)
        assert np.abs(sums.sum(axis=0) - given).max() > 1e-6
    names = sorted(state) if comm.rank == 0 else []
    for overlap in OVERLAPS:
        again, _ = run(*exchange(overlap), range(6))
        assert (again == sums).all(), overlap
    whole, _ = run(flat, sync, range(6, 8))
    shared = {}
    for name in comm.bcast_bytes(" ".join(names).encode()).decode().split():
        data = comm.bcast_bytes(state[name].tobytes() if comm.rank == 0 else b"")
        shape = (comm.size, -1) if name == "residual" else (-1,)
        shared[name] = np.frombuffer(data, np.float32).reshape(shape)
    flat, sync = exchange("poll")
    sync.compressor.load_state_dict(shared)
    resumed, _ = run(flat, sync, range(6, 8))
    assert (resumed == whole).all()
    print("fine\\n", end="")

with guard(comm):
    check()
"""


@pytest.mark.parametrize(("ranks", "parts"), [(2, 2), (3, 2), (4, 4)])
@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.slow
def test_what_is_lost_comes_later_and_all_ways_give_the_same_bits(
    mpirun: Any, scheme: str, ranks: int, parts: int
) -> None:
    """Also with a rank without a micro-batch, and resumed."""
    done = mpirun(ranks, FEEDBACK, scheme, str(parts), timeout=200)
    assert done.stdout.count("fine") == ranks, done.stderr


def test_codecs_round_to_the_nearest() -> None:
    x = np.array([1.0, 1 + 2**-8, 1 + 3 * 2**-8, -0.0, np.inf, 3e38], np.float32)
    codes = to_bfloat16(x)
    decoded = CODECS["bf16"][1](codes)
    assert decoded[:5].tolist() == [1, 1, 1 + 2**-6, -0.0, np.inf]
    assert abs(decoded[5] / x[5] - 1) <= 2**-9
    assert np.isnan(CODECS["bf16"][1](to_bfloat16(np.array([np.nan], np.float32)))).all()
    big = np.array([1e6, -1e6, 1.0, 2.0**-24], np.float32)
    assert CODECS["fp16"][1](to_float16(big)).tolist() == [65504, -65504, 1, 2.0**-24]


def test_orthogonal_columns() -> None:
    a = np.random.default_rng(0).standard_normal((9, 4))
    a[:, 2] = a[:, 0] + a[:, 1]  # depends on others
    q = orthogonalise(a.copy())
    np.testing.assert_allclose(q.T @ q, np.diag([1, 1, 0, 1.0]), atol=1e-12)
    np.testing.assert_allclose(q @ (q.T @ a), a, atol=1e-12)


class Two(SerialComm):
    """Two ranks, of which only the shapes matter."""

    size = 2


@pytest.mark.parametrize(("scheme", "sent"), [
    ("bf16", 2 * 2 * 105 // 2), ("topk=0.1", 10 * 8), ("powersgd=1", 2 * 4 * (10 + 10 + 5) // 2),
])  # fmt: skip
def test_ledgers_on_shapes_and_numbers_agree(
    scheme: str, sent: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Reducer, "begin", lambda self, new: None)
    ledgers = []
    for backend in ("meta", "numpy"):
        with context.using(backend=backend, ledger=ag.Ledger()) as state:
            layer = nn.Linear(10, 10)
            bias = nn.Parameter(ag.zeros(5))
            flat = nn.flatten([layer.weight, bias])
            sync = GradientSync(flat, Reducer(Two(), 2), compress=parse_compress(scheme))
            state.ledger = ag.Ledger()
            sync.wait()
            ledgers.append(state.ledger)
    costs = [[(r.key.primitive, r.calls, r.cost) for r in ledger.rows()] for ledger in ledgers]
    assert costs[0] == costs[1]
    (cost,) = [cost for name, _, cost in costs[0] if name.startswith("allreduce_")]
    assert cost.bytes_sent == sent
    assert not cost.macs


@pytest.mark.parametrize("text", [
    "zip", "bf16=2", "topk=0", "topk=2", "topk=nan", "powersgd=0", "powersgd=1.5", "none=0",
    "topk=", "=1",
])  # fmt: skip
def test_schemes_that_are_none(text: str) -> None:
    with pytest.raises(ValueError):
        parse_compress(text)


def test_schemes_and_their_defaults() -> None:
    texts = ("none", "bf16", "topk", "topk=1", "powersgd", "powersgd=32")
    assert [parse_compress(text)[1] for text in texts] == [0, 0, 0.01, 1, 4, 32]


SMALL = ["--dataset", "digits", "--eval-batch-size", "1000", "--log-every", "1"]


def train(mpirun: Any, ranks: int, out: Path, *words: str) -> dict[str, Any]:
    command = ["-m", "tallygrad.trainer", "train", *SMALL, "--out", str(out), *words]
    done = mpirun(ranks, command, timeout=300)
    assert done.returncode == 0, done.stderr
    return dict(json.loads((out / "result.json").read_text()))


def test_a_compressed_run_trains_and_counts_fewer_bytes(mpirun: Any, tmp_path: Path) -> None:
    words = ["--model", "mlp", "--compress", "powersgd=2", "--max-steps", "3"]
    train(mpirun, 2, tmp_path, *words)
    ledger = Ledger.from_json(json.loads((tmp_path / "ledger.json").read_text()))
    sent = ledger.by("primitive")["allreduce_low_rank"].bytes_sent
    weights = sum(
        p.size for p in models.create("mlp", input_shape=(1, 28, 28), classes=10).parameters()
    )
    assert 0 < sent < 3 * 2 * 4 * weights / 10
    assert load(tmp_path / "checkpoints/step-00000003.h5").tensors["exchange/residual"].any()


@pytest.mark.slow
@pytest.mark.parametrize(("scheme", "names"), [
    ("fp16", {"residual", "residual_of_sums"}), ("topk", {"residual"}),
    ("powersgd=2", {"residual", "factors"}),
])  # fmt: skip
def test_a_resumed_run_has_the_same_bits_and_may_change_ranks(
    mpirun: Any, tmp_path: Path, scheme: str, names: set[str]
) -> None:
    words = ["--model", "mlp", "--compress", scheme, "--micro-batches", "4"]
    train(mpirun, 2, tmp_path / "whole", *words, "--max-steps", "8")
    out = tmp_path / "resumed"
    train(mpirun, 2, out, *words, "--max-steps", "5")
    train(mpirun, 2, out, "--resume", "auto", "--max-steps", "8")
    name = "checkpoints/step-00000008.h5"
    whole, resumed = (load(tmp_path / run / name).tensors for run in ("whole", "resumed"))
    assert {f"exchange/{name}" for name in names} <= whole.keys() == resumed.keys()
    for key, value in whole.items():
        np.testing.assert_array_equal(resumed[key], value, key)
    assert train(mpirun, 3, out, "--resume", "auto", "--max-steps", "10")["steps"] == 10
    rows = load(out / "checkpoints/step-00000010.h5").tensors["exchange/residual"]
    assert rows.shape == (3, whole["exchange/residual"].shape[1]) and rows.any(axis=1).all()


@pytest.mark.parametrize(
    ("ranks", "scheme"), [(1, "fp16"), pytest.param(2, "none", marks=pytest.mark.slow)]
)
def test_a_run_that_goes_on_uncompressed_pays_what_it_owes_once(
    mpirun: Any, tmp_path: Path, ranks: int, scheme: str
) -> None:
    """The first step adds all residuals, which its velocity shows, and leaves none."""
    paying, free = tmp_path / "paying", tmp_path / "free"
    words = ["--model", "mlp", "--micro-batches", "4", "--compress", "fp16", "--max-steps", "3"]
    train(mpirun, 2, paying, *words)
    third, fourth = "checkpoints/step-00000003.h5", "checkpoints/step-00000004.h5"
    before = load(paying / third)
    (free / "checkpoints").mkdir(parents=True)
    owed = before.tensors["exchange/residual"].sum(axis=0)
    owed += before.tensors["exchange/residual_of_sums"]
    rest = {name: a for name, a in before.tensors.items() if not name.startswith("exchange/")}
    save(free / third, rest, before.meta)
    for out in (paying, free):
        more = ["--resume", "auto", "--compress", scheme, "--max-steps", "4"]
        train(mpirun, ranks, out, *more)
    paid, unpaid = (load(out / fourth).tensors for out in (paying, free))
    assert not [name for name in paid if name.startswith("exchange/")]
    slots = [name for name in paid if name.startswith("optimizer/velocity/")]
    added = np.concatenate([(paid[name] - unpaid[name]).reshape(-1) for name in slots])
    assert np.abs(owed).max() > 1e-6
    np.testing.assert_allclose(np.sort(added), np.sort(owed), rtol=0, atol=1e-7)


def test_residuals_wait_for_a_step_and_are_added_once() -> None:
    flat = nn.flatten([nn.Parameter(ag.zeros(3))])
    residuals = Residuals(flat)
    residuals.load_state_dict({"residual": np.ones((2, 4), np.float32)})
    assert residuals.state_dict() == {}  # of another model
    rows = np.array([[1, 2, 3], [4, 5, 6]], np.float32)
    residuals.load_state_dict({"residual": rows})
    assert residuals.state_dict()["residual"].tolist() == [[5, 7, 9]]
    for _ in range(2):
        residuals.settle()
        assert flat.grad.value.tolist() == [5, 7, 9]
    assert residuals.state_dict() == {}


@pytest.mark.parametrize("words", [
    ["--local-steps", "2"], pytest.param(["--verify-every", "1"], marks=pytest.mark.slow),
])  # fmt: skip
def test_residuals_that_no_step_can_add_are_dropped_aloud(
    mpirun: Any, tmp_path: Path, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    train(mpirun, 2, tmp_path, "--model", "mlp", "--compress", "topk", "--max-steps", "2")
    capsys.readouterr()
    more = ["--out", str(tmp_path), "--resume", "auto", "--max-steps", "3", "--compress", "none"]
    assert main(["train", *more, *words]) == 0
    assert "step-00000002.h5: residuals of its --compress are dropped" in capsys.readouterr().err
    names = load(tmp_path / "checkpoints/step-00000003.h5").tensors
    assert not [name for name in names if name.startswith("exchange/")]


@pytest.mark.slow
@pytest.mark.timeout(900)  # five runs, which wait for those of other tests
def test_lenet_learns_as_well_compressed(mpirun: Any, tmp_path: Path) -> None:
    """Within half a point of accuracy of the exact exchange after an epoch."""
    words = ["--model", "lenet", "--epochs", "1"]
    exact = train(mpirun, 2, tmp_path / "none", *words)
    assert exact["test_accuracy"] > 0.98
    for scheme in ("bf16", "fp16", "topk", "powersgd"):
        result = train(mpirun, 2, tmp_path / scheme, *words, "--compress", scheme)
        assert result["test_accuracy"] > exact["test_accuracy"] - 0.005, scheme
        assert result["test_loss"] != exact["test_loss"]
