"""Hierarchical sums: on nodes that are branches of the tree, with the bits of the tree."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tallygrad.autograd as ag
from tallygrad.autograd import context, nn
from tallygrad.autograd.ledger import Ledger
from tallygrad.trainer.components.checkpoint import load
from tallygrad.trainer.distributed import hierarchy
from tallygrad.trainer.distributed.comm import SerialComm
from tallygrad.trainer.distributed.exchange import Reducer
from tallygrad.trainer.distributed.hierarchy import Choice, Hierarchy, form, obstacle
from tallygrad.trainer.distributed.sync import GradientSync
from tallygrad.trainer.errors import UserError


@pytest.mark.parametrize(("leaders", "owners", "said"), [
    ([0, 0, 2, 2], 4, ""),
    ([0, 0, 0, 0], 4, ""),
    ([0, 0, 0, 3, 3, 3, 6, 6, 6, 9, 9, 9], 12, ""),
    ([0, 0, 2, 2, 4, 4], 6, "not a power of two"),  # halves are three ranks each
    ([0, 0, 0, 3, 3], 5, "differ in their number"),
    ([0, 1, 0, 1], 4, "not consecutive"),
    ([0, 1, 2], 3, "a single rank"),
    ([0, 0, 2, 2], 3, "no micro-batch"),
])  # fmt: skip
def test_what_nodes_can_be_summed_first(leaders: list[int], owners: int, said: str) -> None:
    found = obstacle(leaders, range(owners))
    assert said in found and bool(said) == bool(found)


BITS = """
import sys
import numpy as np
from tallygrad.trainer.distributed.comm import connect
from tallygrad.trainer.distributed.exchange import OVERLAPS, Reducer
from tallygrad.trainer.distributed.failures.guard import guard
from tallygrad.trainer.distributed.hierarchy import Hierarchy

comm = connect()
with guard(comm):
    local = int(sys.argv[1])
    leaders = [rank // local * local for rank in range(comm.size)]
    nodes = Hierarchy(comm, leaders, 1000, np.dtype(np.float32))
    assert comm.leaders() == [0] * comm.size
    cuts = [0, 1, 3, 50, 1000]
    x = nodes.buffer
    for overlap in OVERLAPS:
        plain = Reducer(comm, comm.size)
        by_nodes = Reducer(comm, comm.size, overlap, nodes=nodes)
        for step in range(3):
            own = np.random.default_rng([step, comm.rank]).standard_normal(1000) ** 5
            expected = own.astype(np.float32)
            x[...] = expected
            plain.start(expected)
            for a, b in zip(cuts, cuts[1:]):
                by_nodes.start(x[a:b])
                by_nodes.poll()
            plain.wait()
            by_nodes.wait()
            assert (x == expected).all(), (overlap, step)
print("fine\\n", end="")
"""


@pytest.mark.slow
@pytest.mark.parametrize(("ranks", "local"), [(2, 2), (4, 2), (4, 4), (6, 3), (6, 2)])
def test_the_bits_are_those_of_the_tree(mpirun: Any, ranks: int, local: int) -> None:
    """Nodes of this host are made up; those of the last case are no branch, and differ."""
    done = mpirun(ranks, BITS, str(local), timeout=200)
    if (ranks, local) == (6, 2):
        assert done.returncode and "AssertionError: ('none', 0)" in done.stderr
    else:
        assert done.stdout.count("fine") == ranks, done.stderr


REFUSED = """
import os
import numpy as np
from tallygrad.trainer.distributed.comm import connect
from tallygrad.trainer.distributed.failures.guard import guard
from tallygrad.trainer.distributed.hierarchy import Hierarchy, NotShared

comm = connect()
if comm.rank > 1:
    del os.memfd_create
with guard(comm):
    try:
        Hierarchy(comm, [0, 0, 2, 2], 10, np.dtype(np.float32))
    except NotShared as error:
        print(f"{error}\\n", end="")
"""


def test_no_node_sums_through_memory_that_another_lacks(mpirun: Any) -> None:
    done = mpirun(4, REFUSED)
    assert done.stdout.count("the ranks of a node cannot share memory") == 4, done.stderr


class Four(SerialComm):
    """Two nodes of two ranks, of which only the shapes matter."""

    size = 4
    nodes = (0, 0, 2, 2)

    def leaders(self) -> list[int]:
        return [*self.nodes]


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory of two ranks, of which only the first is there."""

    def two(comm: Any, size: int) -> list[np.ndarray]:
        return [np.zeros(size, np.uint8) for _ in range(2)]

    monkeypatch.setattr(hierarchy, "node_memory", two)


def flat_parameters() -> nn.FlatParameters:
    return nn.flatten([*nn.Linear(10, 10).parameters()])


@pytest.mark.usefixtures("memory")
def test_gradients_are_laid_into_shared_memory() -> None:
    flat = flat_parameters()
    nodes = form("auto", Four(), flat, 4, "").nodes
    assert nodes and (nodes.nodes, nodes.local) == (2, 2)
    flat.parameters[0].slot.value[...] = 3
    assert nodes.buffer[:100].tolist() == [3] * 100
    with pytest.raises(ValueError, match="expected a slice of the shared buffer of 110"):
        nodes.sum(np.zeros(10, np.float32))


def test_why_there_are_no_hierarchical_sums(monkeypatch: pytest.MonkeyPatch) -> None:
    comm, flat = Four(), flat_parameters()
    assert form("off", comm, flat, 4, "") == Choice(None, "")
    assert form("auto", comm, flat, 3, "").reason == "some ranks have no micro-batch"
    assert form("auto", comm, flat, 4, "--compress bf16").reason == "--compress bf16"
    with pytest.raises(UserError, match="--hierarchical: expected off or auto, since some"):
        form("on", comm, flat, 3, "")
    monkeypatch.setattr(hierarchy, "node_memory", lambda comm, size: None)
    choice = form("auto", comm, flat, 4, "")
    assert choice.reason == "the ranks of a node cannot share memory"
    assert choice.lines == [f"sums     not hierarchical: {choice.reason}"]
    monkeypatch.setattr(Four, "nodes", (0, 0, 0, 0))  # nobody expects them on a single node
    assert form("auto", comm, flat, 4, "") == Choice(None, "")
    monkeypatch.setattr(Four, "nodes", (0, 1, 2, 3))
    with pytest.raises(UserError, match="since each node has a single rank, got on"):
        form("on", comm, flat, 4, "")
    assert form("auto", comm, flat, 4, "") == Choice(None, "")


@pytest.mark.usefixtures("memory")
def test_ledgers_on_shapes_and_numbers_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Reducer, "begin", lambda self, new: None)
    ledgers = []
    for backend in ("meta", "numpy"):
        with context.using(backend=backend, ledger=ag.Ledger()) as state:
            comm, flat = Four(), flat_parameters()
            nodes = Hierarchy(comm, comm.leaders(), 110, np.dtype(np.float32))
            if backend == "numpy":
                flat.lay_gradients(nodes.buffer)
            sync = GradientSync(flat, Reducer(comm, 4, nodes=nodes))
            monkeypatch.setattr(nodes, "sum", lambda array: None)
            state.ledger = ag.Ledger()
            sync.wait()
            ledgers.append(state.ledger)
    costs = [[(r.key.primitive, r.calls, r.cost) for r in ledger.rows()] for ledger in ledgers]
    assert costs[0] == costs[1]
    (cost,) = [cost for name, _, cost in costs[0] if name == "allreduce_hierarchical"]
    # Half of the array over a ring of two nodes; all else stays within the node.
    assert (cost.bytes_sent, cost.messages) == (55 * 4, 2)
    assert (cost.add, cost.bytes_read, cost.bytes_written) == (55 + 27, 880, 660)


def train(mpirun: Any, ranks: int, out: Path, *words: str) -> str:
    options = ["--dataset", "digits", "--model", "mlp", "--max-steps", "4", "--log-every", "1"]
    options += ["--micro-batches", "4", "--eval-batch-size", "1000", "--out", str(out)]
    command = ["-m", "tallygrad.trainer", "train", *options, *words]
    done = mpirun(ranks, command, timeout=300)
    assert done.returncode == 0, done.stderr
    return str(done.stderr)


@pytest.mark.parametrize("ranks", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_a_run_through_shared_memory_has_the_same_weights(
    mpirun: Any, tmp_path: Path, ranks: int
) -> None:
    said = train(mpirun, ranks, tmp_path / "on", "--hierarchical", "on")
    assert f"sums     among {ranks} ranks through shared memory" in said
    assert "sums " not in train(mpirun, ranks, tmp_path / "off", "--hierarchical", "off")
    name = "checkpoints/step-00000004.h5"
    shared, plain = (load(tmp_path / run / name).tensors for run in ("on", "off"))
    assert shared.keys() == plain.keys()
    for key, value in plain.items():
        np.testing.assert_array_equal(shared[key], value, key)
    text = (tmp_path / "on/ledger.json").read_text()
    costs = Ledger.from_json(json.loads(text)).by("primitive")
    cost = costs["allreduce_hierarchical"]
    assert cost.bytes_read and not cost.bytes_sent
