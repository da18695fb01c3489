"""Batch norm over all micro-batches and ranks: equal to that of one rank on the whole batch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tallygrad.autograd as ag
from tallygrad.autograd import context, nn
from tallygrad.autograd.functional.norm import batch_norm
from tallygrad.autograd.testing import gradcheck
from tallygrad.datasets.sampler import Sampler
from tallygrad.trainer.cli import main
from tallygrad.trainer.components.checkpoint import load
from tallygrad.trainer.cost.cluster.transfers import statistics
from tallygrad.trainer.distributed.batch_statistics import SharedStatistics, check_together
from tallygrad.trainer.distributed.comm import SerialComm
from tallygrad.trainer.distributed.exchange import Reducer
from tallygrad.trainer.distributed.sync import GradientSync
from tallygrad.trainer.errors import UserError

SMALL = ["--dataset", "digits", "--eval-batch-size", "1000", "--log-every", "1"]

STEP = """
from functools import partial
import numpy as np
from tallygrad.autograd import Parameter, from_numpy, nn, tensor, zeros
from tallygrad.datasets.sampler import owned
from tallygrad.trainer.distributed.comm import connect
from tallygrad.trainer.distributed.exchange import Reducer
from tallygrad.trainer.distributed.failures.guard import guard
from tallygrad.trainer.distributed.batch_statistics import SharedStatistics
from tallygrad.trainer.distributed.sync import GradientSync

PARTS = 4
comm = connect()
mine = range(*owned(PARTS, comm.rank, comm.size))
shares = [np.array_split(np.arange(10), PARTS)[part] for part in mine]
rng = np.random.default_rng(0)
x, g = rng.standard_normal((2, 10, 3, 4, 2))
x = x * 3 + 50

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.shift = Parameter(zeros(4, 2))  # its gradient comes through the norm
        self.norm = nn.BatchNorm2d(3)

    def forward(self, x):
        return self.norm(x + self.shift)

def step(together):
    net = Net().double()
    flat = nn.flatten([*net.parameters()])
    sync = GradientSync(flat, Reducer(comm, PARTS), parts=len(mine))
    shared = SharedStatistics(net, flat, Reducer(comm.stream("statistics"), PARTS))
    outputs = [None for _ in shares]
    running = [[from_numpy(b.numpy().copy()) for b in net.buffers()] for _ in shares]

    def use(number):
        for buffer, copy in zip(net.buffers(), running[number]):
            buffer.rebind(copy.array)

    def job(number, sweep):
        z = net(tensor(x[shares[number]]))
        outputs[number] = z.numpy()
        loss = (z * from_numpy(g[shares[number]])).sum()
        sweep(loss, tensor(1.0, dtype=np.float64))

    if together:
        shared.run([partial(job, n, shared.sweep) for n in range(len(shares))], sync, use)
        assert net.norm.total is None
    for n in range(len(shares)) if not together else ():
        if n:
            sync.set_aside()
        use(n)
        job(n, lambda loss, share: loss.backward(share))
    sync.wait()
    return [p.grad.numpy() for p in net.parameters()], [
        (outputs[n], *(c.numpy() for c in running[n] if c.dtype.kind == "f"))
        for n in range(len(shares))]

with guard(comm):
    whole = Net().double()
    y = whole(tensor(x))
    (y * from_numpy(g)).sum().backward()
    expected = [p.grad.numpy() for p in whole.parameters()]
    for together in (True, False):
        gradients, results = step(together)
        off = [np.abs(p - q).max() for p, q in zip(gradients, expected)]
        running = [b.numpy() for b in whole.buffers() if b.dtype.kind == "f"]
        parts = [(y.numpy()[share], *running) for share in shares]
        off += [max(np.abs(p - q).max() for p, q in zip(*pair))
                for pair in zip(zip(*results), zip(*parts))]
        off = np.array(off)
        comm.allreduce(off, "max")
        if comm.rank == 0:
            print(*off, b"".join(a.tobytes() for a in [*gradients, *results[0]]).hex())
"""


def test_micro_batches_normalise_by_the_whole_batch(mpirun: Any) -> None:
    """Gradients, output and running statistics, on any number of ranks with the same bits;
    micro-batches have 3, 3, 2 and 2 samples. Plain batch norm is the negative control: only the
    gradient of the bias is the same sum."""
    bits = set()
    for ranks in (1, 2, 3, 4):
        done = mpirun(ranks, STEP)
        assert done.returncode == 0, done.stderr
        together, plain = (line.split() for line in done.stdout.splitlines())
        np.testing.assert_allclose([float(x) for x in together[:6]], 0, atol=1e-12)
        shift, weight, bias, *others = (float(x) for x in plain[:6])
        assert min(shift, weight, *others) > 0.01 and bias < 1e-12
        bits.add(together[6])
    assert len(bits) == 1


def test_batch_norm_of_vectors_takes_part_and_its_sums_count_as_its_own() -> None:
    net = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    x = np.random.default_rng(0).standard_normal((6, 2)).astype(np.float32)
    expected = net(ag.from_numpy(x)).numpy()
    flat, reducer = nn.flatten([*net.parameters()]), Reducer(SerialComm(), 2)
    shared = SharedStatistics(net, flat, reducer)
    jobs = [lambda part=part: net(ag.from_numpy(part)).numpy() for part in (x[:4], x[4:])]
    with context.using(ledger=ag.Ledger()) as state:
        found = shared.run(jobs, GradientSync(flat, reducer, parts=2), lambda number: None)
    np.testing.assert_allclose(np.concatenate(found), expected, rtol=0, atol=1e-6)
    sums = [row.key for row in state.ledger.rows() if row.key.primitive == "allreduce"]
    assert [(key.scope, key.phase) for key in sums] == [("1", "communicate")]


def test_two_parts_of_a_batch_have_the_derivatives_of_the_whole() -> None:
    """On one rank, by finite differences: the second part's sums are added to the first's."""
    rng = np.random.default_rng(0)
    x, other = (rng.standard_normal((n, 2, 3)) for n in (3, 2))
    weight, bias = ag.tensor(rng.standard_normal(2)), ag.tensor(rng.standard_normal(2))

    def norm(x: ag.Tensor, weight: ag.Tensor, bias: ag.Tensor) -> ag.Tensor:
        # What the other part contributes to each sum: values and count, then squares.
        mean = (x.sum((0, 2)) + ag.tensor(other).sum((0, 2))) / 15.0
        off = ag.tensor(other) - mean.reshape(1, 2, 1)
        parts = iter([
            ag.cat([ag.tensor(other).sum((0, 2)), ag.tensor([6.0])]), (off * off).sum((0, 2)),
        ])  # fmt: skip
        return batch_norm(x, None, None, weight, bias, True, total=lambda sums: sums + next(parts))

    gradcheck(norm, [x, weight.numpy(), bias.numpy()])
    found = norm(ag.tensor(x), weight, bias).numpy()
    both = ag.tensor(np.concatenate([x, other]))
    expected = batch_norm(both, None, None, weight, bias, True).numpy()[:3]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-14)


def test_a_single_value_in_all_has_no_variance() -> None:
    norm = nn.BatchNorm1d(2)
    norm.total = lambda sums: sums
    with pytest.raises(ValueError, match="more than one value per channel in all, got 1"):
        norm(ag.ones(1, 2))


def train(mpirun: Any, ranks: int, out: Path, *words: str) -> Any:
    command = ["-m", "tallygrad.trainer", "train", *SMALL, "--out", str(out), *words]
    done = mpirun(ranks, command, timeout=200)
    assert done.returncode == 0, done.stderr
    held = load(max((out / "checkpoints").glob("step-*.h5"))).tensors
    lines = map(json.loads, (out / "log.jsonl").read_text().splitlines())
    losses = np.array([e["loss"] for e in lines if e["event"] == "step"])
    return losses, {name: np.array(value) for name, value in held.items()}


def rows(out: Path) -> list[dict[str, Any]]:
    return [dict(row) for row in json.loads((out / "ledger.json").read_text())]


@pytest.mark.slow
def test_a_run_equals_that_of_one_rank_on_whole_batches(
    mpirun: Any, tmp_path: Path, write_mnist: Any
) -> None:
    """With a smaller last batch, resumed on other numbers of ranks, some zeros counted."""
    write_mnist(tmp_path / "data", 40, 16)
    words = ["--dataset", "mnist", "--data-dir", str(tmp_path / "data"), "--model", "resnet20"]
    words += ["--batch-size", "12", "--dtype", "float64", "--epochs", "2", "--sparsity", "every=3"]
    together = [*words, "--micro-batches", "4", "--sync-batch-norm"]
    losses, whole = train(mpirun, 1, tmp_path / "whole", *words, "--micro-batches", "1")
    plain, _ = train(mpirun, 1, tmp_path / "plain", *words, "--micro-batches", "4")
    assert np.abs(plain - losses).max() > 1e-3
    one, state = train(mpirun, 1, tmp_path / "1", *together)
    assert len(one) == 8
    np.testing.assert_allclose(one, losses, rtol=0, atol=1e-12)
    for name, value in whole.items():
        np.testing.assert_allclose(state[name], value, rtol=0, atol=1e-12)
    train(mpirun, 4, tmp_path / "n", *together, "--max-steps", "2")
    train(mpirun, 3, tmp_path / "n", *together, "--resume", "auto", "--max-steps", "5")
    found, again = train(mpirun, 2, tmp_path / "n", *together, "--resume", "auto")
    assert found.tobytes() == one.tobytes() and state.keys() == again.keys()
    assert all(again[name].tobytes() == value.tobytes() for name, value in state.items())


@pytest.mark.slow
def test_the_ledger_counts_the_sums_of_each_layer(mpirun: Any, tmp_path: Path) -> None:
    """On two ranks; `plan` expects the same, and zeros are those of one rank. A layer of 16
    channels sums 17, 16, 16 and 17 numbers in a step, and a ring of two sends them once."""
    words = [
        "--model",
        "resnet20",
        "--batch-size",
        "4",
        "--max-steps",
        "2",
        "--sparsity",
        "every=2",
    ]
    train(mpirun, 1, tmp_path / "1", *words, "--sync-batch-norm", "--micro-batches", "2")
    train(mpirun, 2, tmp_path / "2", *words, "--sync-batch-norm")
    sent = [
        row for row in rows(tmp_path / "2")
        if row.get("primitive") == "allreduce" and row["scope"] == "bn1"
    ]  # fmt: skip
    found = sum(row["calls"] * row["bytes_sent"] for row in sent)
    assert found == 2 * 2 * sum(statistics([16])) == 2 * 2 * 4 * 66
    assert {row["phase"] for row in sent} == {"communicate"}
    counted = [
        {
            (r["scope"], r["phase"], r["primitive"], r.get("calls"), str(r.get("sampled")))
            for r in rows(tmp_path / name)
            if "sampled" in r or (r.get("primitive") in ("batch_sum", "conv2d") and "calls" in r)
        }
        for name in ("1", "2")
    ]
    assert counted[0] == counted[1] and len(counted[0]) > 19 * 4


def sampler(**options: Any) -> Sampler:
    return Sampler(
        "made", **{"count": 16, "batch_size": 8, "micro_batches": 4, "size": 2} | options
    )


@pytest.mark.parametrize(("options", "said"), [
    ({"micro_batches": 1}, "--micro-batches: expected at least 2, one per rank"),
    ({"micro_batches": 9, "batch_size": 4, "size": 5}, "--micro-batches: expected at least 5"),
    ({"count": 19}, "--batch-size: expected a last batch of at least 4 samples"),
])  # fmt: skip
def test_what_cannot_be_done_together_is_refused(options: dict[str, Any], said: str) -> None:
    check_together(nn.BatchNorm1d(2), "norm", sampler())
    with pytest.raises(UserError) as error:
        check_together(nn.BatchNorm1d(2), "norm", sampler(**options))
    assert said in str(error.value) and "\n" not in str(error.value)


def test_a_model_without_batch_norm_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["train", "--model", "lenet", "--sync-batch-norm", "--out", str(tmp_path / "run")]
    assert main([*words, "--max-steps", "1"]) == 2
    assert (
        "--sync-batch-norm: expected a model with batch norm, got lenet" in capsys.readouterr().err
    )
