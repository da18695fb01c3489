"""The exchange of gradients, seen from one rank."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

import tallygrad.autograd as ag
from tallygrad.autograd import context, nn
from tallygrad.trainer.distributed.comm import SerialComm
from tallygrad.trainer.distributed.sync import GradientSync, average


class Doubling(SerialComm):
    """Two ranks that always hold the same: a sum doubles. Notes what is asked of it."""

    size = 2

    def __init__(self) -> None:
        self.log: list[str] = []

    def iallreduce(self, array: np.ndarray) -> Any:
        self.log.append(f"start {array.size}")
        array *= 2
        return self

    def wait(self) -> None:
        self.log.append("wait")


def network() -> tuple[nn.Module, Callable[[], ag.Tensor]]:
    net = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)).double()
    x = ag.tensor(np.arange(8.0).reshape(2, 4))
    return net, lambda: net(x).sum()


def test_each_bucket_starts_while_the_sweep_still_runs() -> None:
    net, run = network()
    comm = Doubling()
    flat = nn.flatten(nn.finish_order(run, [*net.parameters()]))
    sync = GradientSync(flat, comm, bucket_bytes=1)
    for name, p in net.named_parameters():
        p.ready.insert(0, lambda t, name=name: comm.log.append(f"final {name}"))
    run().backward()
    assert comm.log == [
        "final 2.bias", "start 2", "final 2.weight", "start 6",
        "final 0.bias", "start 3", "final 0.weight", "start 12",
    ]  # fmt: skip
    sync.wait()
    assert comm.log[8:] == ["wait"] * 4


def test_buckets_are_slices_of_the_flat_buffer_and_are_summed_once_a_step() -> None:
    net, run = network()
    comm = Doubling()
    alone = [ag.grad(run(), p)[0].numpy().copy() for p in net.parameters()]
    flat = nn.flatten([*net.parameters()])
    sync = GradientSync(flat, comm, bucket_bytes=100)
    for _ in range(2):
        run().backward()
        sync.wait()
        for p, expected in zip(net.parameters(), alone, strict=True):
            np.testing.assert_allclose(p.grad.numpy(), 2 * expected, rtol=1e-15)
            p.grad = None
    assert [b.array.spec.size for b in sync.buckets] == [12 + 3, 6 + 2]
    assert all(b.array.base is flat.grad for b in sync.buckets)


def test_a_rank_without_a_share_starts_the_same_buckets_in_the_same_order() -> None:
    logs = []
    for works in (True, False):
        net, run = network()
        comm = Doubling()
        sync = GradientSync(nn.flatten([*net.parameters()]), comm, bucket_bytes=1)
        if works:
            run().backward()
        sync.wait()
        logs.append(comm.log)
    assert logs[0] == logs[1] and len(logs[0]) == 8


def test_the_ledger_shows_a_ring_and_nothing_for_one_rank() -> None:
    for comm, sent, messages in ((Doubling(), 8 * 23, 2 * 4), (SerialComm(), 0, 0)):
        net, run = network()
        sync = GradientSync(nn.flatten([*net.parameters()]), comm, bucket_bytes=1)
        with context.using(ledger=ag.Ledger()) as state:
            run().backward()
            sync.wait()
        cost = state.ledger.by("phase")["communicate"]
        assert (cost.bytes_sent, cost.messages) == (sent, messages)
        assert (cost.bytes_read, cost.bytes_written) == (sent, sent)


def test_average_leaves_one_rank_bit_identical_and_halves_a_doubled_sum() -> None:
    for comm in (SerialComm(), Doubling()):
        t = ag.tensor(np.array([0.1, 1 / 3], np.float32))
        before = t.numpy().tobytes()
        average([t], comm)
        assert t.numpy().tobytes() == before
