"""Weights that each rank updates a share of: the same bits, less memory, the same checkpoints."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tallygrad.autograd as ag
from tallygrad.autograd import nn
from tallygrad.autograd.optim import SGD
from tallygrad.trainer.components.checkpoint import load
from tallygrad.trainer.distributed.comm import SerialComm
from tallygrad.trainer.distributed.exchange import Reducer
from tallygrad.trainer.distributed.sync import GradientSync
from tallygrad.trainer.distributed.update import ShardedUpdate, cut, shared
from tallygrad.trainer.errors import UserError

SMALL = ["--dataset", "digits", "--eval-batch-size", "1000", "--log-every", "1"]
SHARD = "--shard-optimizer"


def train(mpirun: Any, ranks: int, out: Path, *words: str) -> dict[str, Any]:
    command = ["-m", "tallygrad.trainer", "train", *SMALL, "--out", str(out), *words]
    done = mpirun(ranks, command, timeout=200)
    assert done.returncode == 0, done.stderr
    return dict(json.loads((out / "result.json").read_text()))


def bits(out: Path) -> dict[str, bytes]:
    """Return every tensor of the last checkpoint, and the losses of all steps."""
    held = load(max((out / "checkpoints").glob("step-*.h5")))
    lines = map(json.loads, (out / "log.jsonl").read_text().splitlines())
    losses = [e["loss"] for e in lines if e["event"] == "step"]
    found = {name: value.tobytes() for name, value in held.tensors.items()}
    return found | {"losses": np.array(losses).tobytes()}


def rows(out: Path, phase: str) -> list[dict[str, Any]]:
    ledger = json.loads((out / "ledger.json").read_text())
    return [row for row in ledger if row.get("phase") == phase]


@pytest.mark.slow
@pytest.mark.parametrize("overlap", ["none", "poll", "thread"])
def test_shards_give_the_same_bits_on_any_ranks(mpirun: Any, tmp_path: Path, overlap: str) -> None:
    """Buckets of a few parameters, of elements that four ranks do not share evenly."""
    words = ["--model", "lenet", "--micro-batches", "4", "--max-steps", "8", "--nesterov"]
    words += ["--bucket-mb", "0.02", "--overlap", overlap]
    train(mpirun, 1, tmp_path / "1", *words)
    expected = bits(tmp_path / "1")
    assert sum(name.startswith("optimizer/velocity/") for name in expected) == 8
    for ranks in (2, 3, 4):
        train(mpirun, ranks, tmp_path / str(ranks), *words, SHARD)
        assert bits(tmp_path / str(ranks)) == expected


@pytest.mark.slow
def test_whole_parameters_are_shared_with_the_same_bits(mpirun: Any, tmp_path: Path) -> None:
    """Each rank makes its own matrices orthogonal; clipping and verification know all of them."""
    words = ["--model", "lenet", "--optimizer", "muon", "--micro-batches", "4", "--max-steps", "4"]
    words += ["--clip-norm", "0.5", "--verify-every", "2", "--bucket-mb", "0.02"]
    train(mpirun, 1, tmp_path / "1", *words)
    for ranks in (2, 3):
        train(mpirun, ranks, tmp_path / str(ranks), *words, SHARD)
        assert bits(tmp_path / str(ranks)) == bits(tmp_path / "1")
    added = [
        sum(row["calls"] * row["add"] for row in rows(tmp_path / name, "update")
            if row["primitive"] == "muon")
        for name in ("1", "3")
    ]  # fmt: skip
    assert added[0] == added[1] > 0
    train(mpirun, 3, tmp_path / "1", *words, "--resume", "auto", "--max-steps", "6", SHARD)
    train(mpirun, 2, tmp_path / "3", *words, "--resume", "auto", "--max-steps", "6", SHARD)
    assert bits(tmp_path / "3") == bits(tmp_path / "1")


@pytest.mark.slow
def test_a_run_goes_on_from_shards_on_other_ranks_and_without_them(
    mpirun: Any, tmp_path: Path, write_mnist: Any
) -> None:
    """With batch norm, and a last step that leaves ranks without samples."""
    write_mnist(tmp_path / "data", 43, 29)
    words = ["--dataset", "mnist", "--data-dir", str(tmp_path / "data"), "--model", "resnet20"]
    words += ["--batch-size", "20", "--micro-batches", "6", "--epochs", "2", "--lr", "0.1"]
    words += ["--eval-batch-size", "11", "--bucket-mb", "0.2", "--verify-every", "2"]
    train(mpirun, 1, tmp_path / "whole", *words)
    out = tmp_path / "stopped"
    train(mpirun, 4, out, *words, SHARD, "--max-steps", "2")
    train(mpirun, 3, out, *words, "--resume", "auto", "--max-steps", "4")
    train(mpirun, 2, out, *words, "--resume", "auto", "--no-shard-optimizer", "--max-steps", "5")
    train(mpirun, 3, out, *words, "--resume", "auto", SHARD)
    assert bits(out) == bits(tmp_path / "whole")


@pytest.mark.slow
def test_the_ledger_counts_each_update_once_and_as_many_bytes(mpirun: Any, tmp_path: Path) -> None:
    words = ["--model", "mlp", "--micro-batches", "4", "--max-steps", "2"]
    train(mpirun, 1, tmp_path / "one", *words)
    whole = train(mpirun, 4, tmp_path / "four", *words, "--hierarchical", "off")
    shares = train(mpirun, 4, tmp_path / "shards", *words, SHARD)
    kept = whole["optimizer_bytes"], shares["optimizer_bytes"]
    assert kept[0] > 1e5 and kept[0] / 4 <= kept[1] < kept[0] / 4 + 4 * 6

    def total(name: str, phase: str, count: str, scope: str = "") -> int:
        found = rows(tmp_path / name, phase)
        return sum(row["calls"] * row[count] for row in found if scope in ("", row["scope"]))

    added = {name: total(name, "update", "add") for name in ("one", "four", "shards")}
    assert added["four"] == 4 * added["one"] and added["shards"] == added["one"] > 0
    four = total("four", "communicate", "bytes_sent", "gradients")
    parts = [
        sum(row["calls"] * row["bytes_sent"] for row in rows(tmp_path / "shards", "communicate")
            if row["primitive"] == name)
        for name in ("reduce_scatter", "allgather")
    ]  # fmt: skip
    assert parts[0] == parts[1] and sum(parts) == pytest.approx(four, rel=1e-4)


ON_RANKS = """
import json
import numpy as np
from tallygrad.autograd import manual_seed, nn, optim
from tallygrad.autograd.nn.flat import flatten
from tallygrad.trainer.distributed.comm import connect
from tallygrad.trainer.distributed.exchange import Reducer
from tallygrad.trainer.distributed.failures.guard import guard
from tallygrad.trainer.distributed.sync import GradientSync
from tallygrad.trainer.distributed.update import ShardedUpdate, Update, cut

def training(comm, shards, name, settings):
    manual_seed(0)
    net = nn.Sequential(nn.Linear(5, 7), nn.Linear(7, 3), nn.Linear(3, 3))
    names = [name for name, _ in net.named_parameters()]
    flat = flatten([*net.parameters()])
    scatters = shards and optim.is_elementwise(name)
    sync = GradientSync(flat, Reducer(comm, 4, scatters=scatters), bucket_bytes=1)
    if shards:
        cut(sync, comm)
    made = optim.create(name, flat, 0.5, net.named_parameters(), **settings)
    update = ShardedUpdate(made, sync, comm, names) if shards else Update(made, comm)
    net[0].weight.requires_grad_(False)
    rng = np.random.default_rng(comm.rank)
    for step in range(3):
        if step == 2:  # state that has gone through a checkpoint
            text = json.dumps(plain(update.state_dict())).encode()
            state = json.loads(comm.bcast_bytes(text))
            for slot in {*made.slots} & {n for n, parts in state.items() if parts}:
                state[slot] = {n: np.reshape(state[slot][n], p.shape)
                               for n, p in net.named_parameters()}
            update.load_state_dict(state)
        for p in flat.parameters[1:]:
            p.slot.write(rng.standard_normal(p.shape))
            p.deliver(p.slot)
        sync.wait()
        update.step()
        assert all(p.grad is None for p in flat.parameters)
    return flat.data.value.tobytes(), plain(update.state_dict()), update.nbytes

def plain(state):
    return {k: v if k in ("step", "missed") else {n: x.ravel().tolist() for n, x in v.items()}
            for k, v in state.items()}

comm = connect()
with guard(comm):
    for how in [("rmsprop", {"momentum": 0.5}), ("adamw", {}), ("rprop", {}), ("lars", {}),
                ("lamb", {}), ("muon", {}), ("sgd", {"momentum": 0.5, "dampening": 0.5})]:
        expected, own = training(comm, False, *how), training(comm, True, *how)
        assert expected[:2] == own[:2], how
    every = comm.gather_bytes(json.dumps([expected[2], own[2], own[1]]).encode())
    if comm.rank == 0:
        print(json.dumps([json.loads(x) for x in every]))
"""


@pytest.mark.parametrize("ranks", [3, *(pytest.param(n, marks=pytest.mark.slow) for n in (2, 4))])
def test_shares_of_the_update_add_up_to_the_whole(mpirun: Any, ranks: int) -> None:
    """Weights and state have the bits of the plain update; each rank keeps its share of the state,
    and rank 0 gathers it. One parameter is frozen, some buckets have fewer elements than ranks."""
    done = mpirun(ranks, ON_RANKS)
    assert done.returncode == 0, done.stderr
    every = json.loads(done.stdout)
    sizes = [35, 7, 21, 3, 9, 3]
    assert sum(own for _, own, _ in every) == 4 * sum(sizes)
    assert every[0][:2] == [4 * sum(sizes), 4 * sum(-(-size // ranks) for size in sizes)]
    state = every[0][2]
    assert state["step"] == 3 and state["missed"] == {"0.weight": 3}
    assert all(any(values) == (name != "0.weight") for name, values in state["velocity"].items())
    assert all(text == {"step": 3} for _, _, text in every[1:])


class Pair(SerialComm):
    """The first of two ranks, which nobody answers."""

    size = 2


def shards(**groups: Any) -> tuple[ShardedUpdate, nn.Linear]:
    net = nn.Linear(3, 2)
    flat = nn.flatten([*net.parameters()])
    sync = GradientSync(flat, Reducer(Pair(), 2, scatters=True))
    cut(sync, Pair())
    params = groups.get("params", flat)
    sgd = SGD(params, 0.1, momentum=0.9, named_parameters=net.named_parameters())
    return ShardedUpdate(sgd, sync, Pair(), ["weight", "bias"]), net


def test_a_state_that_does_not_fit_is_refused_whole() -> None:
    update, _ = shards()
    right = {"weight": np.ones((2, 3)), "bias": np.ones(2)}
    update.load_state_dict({"step": 1, "velocity": right})
    velocity = update.optimizer.groups[0].slots()["velocity"]
    assert velocity.value.tolist() == [1.0] * 4
    for wrong in ({"weight": np.ones((2, 3))}, right | {"bias": np.ones(3)}):
        with pytest.raises(ValueError, match=r"bias: (missing|expected)"):
            update.load_state_dict({"step": 1, "velocity": wrong})


def test_optimizers_of_whole_parameters_share_these() -> None:
    """About evenly: a parameter belongs to the rank in whose even share its middle lies."""
    net = nn.Sequential(nn.Linear(5, 7), nn.Linear(7, 3), nn.Linear(3, 3))
    flat = nn.flatten([*net.parameters()])
    sync = GradientSync(flat, Reducer(Pair(), 2), bucket_bytes=1)
    for borders in ((0, 78), (0, 42, 78), (0, 35, 42, 63, 78), (0, 0, 35, 35, 42, 42, 63, 66, 78)):
        assert shared(sync, len(borders) - 1) == [(0, borders)]
    cut(sync, Pair())
    (part,) = flat.slices
    assert part.shapes == ((7, 5), (7,)) and part.data.shape == (42,)


def test_an_optimizer_that_looks_beyond_an_element_is_refused_where_parameters_are_cut(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(SGD, "elementwise", False)
    with pytest.raises(UserError, match="updates each element by itself, got SGD"):
        shards()


def test_an_optimizer_with_groups_of_its_own_is_refused() -> None:
    others = [ag.Parameter(ag.ones(2))]
    with pytest.raises(UserError, match="--shard-optimizer: expected an optimizer over the flat"):
        shards(params=[{"params": others}])
