"""The exchange of gradients, seen from one rank."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tallygrad.autograd as ag
from tallygrad.autograd import context, nn
from tallygrad.autograd.optim import SGD
from tallygrad.trainer.distributed.buffers import MicroBatchBuffers, total
from tallygrad.trainer.distributed.comm import SerialComm
from tallygrad.trainer.distributed.exchange import Reducer
from tallygrad.trainer.distributed.reproducible import fold
from tallygrad.trainer.distributed.sync import GradientSync, share


class Doubling(SerialComm):
    """Two ranks that always hold the same: a sum doubles. Notes what is asked of it."""

    size = 2

    def __init__(self) -> None:
        super().__init__()
        self.log: list[str] = []

    def allreduce(self, array: np.ndarray, op: str = "sum") -> None:
        self.iallreduce(array).wait()

    def iallreduce(self, array: np.ndarray) -> Any:
        self.log.append(f"start {array.size}")
        array *= 2
        return self

    def test(self) -> bool:
        return False

    def wait(self) -> None:
        self.log.append("wait")


def network() -> tuple[nn.Module, Callable[[], ag.Tensor]]:
    net = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)).double()
    x = ag.tensor(np.arange(8.0).reshape(2, 4))
    return net, lambda: net(x).sum()


def test_each_bucket_starts_while_the_sweep_still_runs() -> None:
    net, run = network()
    comm = Doubling()
    flat = nn.flatten(nn.gradient_order(run, [*net.parameters()]))
    sync = GradientSync(flat, Reducer(comm, overlap="poll"), bucket_bytes=1)
    for name, p in net.named_parameters():
        p.post_grad_hooks.insert(0, lambda t, name=name: comm.log.append(f"final {name}"))
    run().backward()
    assert comm.log == [
        "final 2.weight", "start 6", "final 2.bias", "start 2",
        "final 0.weight", "start 12", "final 0.bias", "start 3",
    ]  # fmt: skip
    sync.wait()
    assert comm.log[8:] == ["wait"] * 4


@pytest.mark.parametrize("parts", [1, 2])
def test_frozen_parameters_stay_and_their_gradients_are_zeros(parts: int) -> None:
    net, run = network()
    net[0].requires_grad_(False)
    flat = nn.flatten([*net.parameters()])
    flat.grad.value[...] = 7.0  # left behind from before they were frozen
    sync = GradientSync(flat, Reducer(Doubling()), bucket_bytes=1, parts=parts)
    sgd = SGD(flat, 0.1, momentum=0.9, weight_decay=0.5)
    before = net.state_dict()
    for part in range(parts):
        run().backward()
        if part + 1 < parts:
            sync.set_aside()
    sync.wait()
    np.testing.assert_array_equal(flat.grad.value[:15], 0)
    sgd.step()
    after = net.state_dict()
    moved = [name for name, numbers in before.items() if (numbers != after[name]).any()]
    assert moved == ["2.weight", "2.bias"]


def test_buckets_are_slices_of_the_flat_buffer_and_are_summed_once_a_step() -> None:
    net, run = network()
    comm = Doubling()
    alone = [ag.grad(run(), p)[0].numpy().copy() for p in net.parameters()]
    flat = nn.flatten([*net.parameters()])
    sync = GradientSync(flat, Reducer(comm), bucket_bytes=100)
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
        sync = GradientSync(nn.flatten([*net.parameters()]), Reducer(comm), bucket_bytes=1)
        if works:
            run().backward()
        sync.wait()
        logs.append(comm.log)
    assert logs[0] == logs[1] and len(logs[0]) == 8


def test_the_ledger_shows_a_ring_and_nothing_for_one_rank() -> None:
    for comm, sent, messages in ((Doubling(), 8 * 23, 2 * 4), (SerialComm(), 0, 0)):
        net, run = network()
        sync = GradientSync(nn.flatten([*net.parameters()]), Reducer(comm), bucket_bytes=1)
        with context.using(ledger=ag.Ledger()) as state:
            run().backward()
            sync.wait()
        cost = state.ledger.by("phase")["communicate"]
        assert (cost.bytes_sent, cost.messages) == (sent, messages)
        assert (cost.bytes_read, cost.bytes_written) == (sent, sent)


def test_a_broadcast_goes_along_a_binomial_tree() -> None:
    """As many messages as a sender has children: 8 ranks take three rounds."""
    x = ag.ones(25).array
    for children in ([0], [1, 0], [3, 0, 1, 0, 0], [3, 0, 1, 0, 2, 0, 1, 0]):
        for rank, count in enumerate(children):
            comm = SerialComm()
            comm.rank, comm.size = rank, len(children)
            with context.using(ledger=ag.Ledger()) as state:
                share([x], comm)
            cost = state.ledger.by("phase")["communicate"]
            assert (cost.bytes_sent, cost.messages) == (100 * count, count)
            assert (cost.bytes_read, cost.bytes_written) == (100 * count, 100 * (rank > 0))


def test_the_mean_of_what_two_ranks_share_is_the_same_bits() -> None:
    for comm in (SerialComm(), Doubling()):
        net = nn.BatchNorm1d(2)
        net.running_mean.array.value[:] = 0.1, 1 / 3
        before = net.running_mean.numpy().tobytes()
        buffers = MicroBatchBuffers(net, Reducer(comm), range(1), comm.size)
        buffers.spread()
        buffers.use_means()
        assert net.running_mean.numpy().tobytes() == before


@pytest.mark.parametrize("parts", [1, 2, 3, 5, 8])
def test_gradients_of_micro_batches_are_added_along_the_tree(parts: int) -> None:
    """As many random gradients as parts, one of them missing; two steps, so that nothing stays."""
    net = nn.Sequential(nn.Linear(3, 5), nn.Linear(5, 2))
    flat = nn.flatten([*net.parameters()])
    sync = GradientSync(flat, Reducer(SerialComm()), 1, parts)
    rng = np.random.default_rng(parts)
    for _ in range(2):
        alone = rng.standard_normal((parts, flat.grad.spec.size)).astype(np.float32)
        alone[parts // 2] *= parts < 3
        for i, whole in enumerate(alone):
            if i:
                sync.set_aside()
            seeds = zip(flat.parameters, flat.offsets, strict=True)
            pairs = [(p, whole[o : o + p.size].reshape(p.shape)) for p, o in seeds]
            if whole.any():
                sum((p * ag.from_numpy(g)).sum() for p, g in pairs).backward()
        sync.wait()
        expected = fold(list(alone), lambda a, b: np.add(a, b, out=a))
        np.testing.assert_array_equal(flat.grad.value, expected)
        assert len(sync.branch_sums) == parts.bit_length() - 1
        for p in flat.parameters:
            p.grad = None


def test_buckets_wait_for_the_last_micro_batch_and_a_step_for_all_of_them() -> None:
    net, run = network()
    comm = Doubling()
    sync = GradientSync(nn.flatten([*net.parameters()]), Reducer(comm, overlap="poll"), 1, parts=2)
    run().backward()
    with pytest.raises(RuntimeError, match="wait: expected 2 micro-batches on this rank, got 1"):
        sync.wait()
    sync.set_aside()
    assert comm.log == []
    run().backward()
    assert len(comm.log) == 4
    with pytest.raises(RuntimeError, match=r"set_aside: expected 2 micro-batches .* got more"):
        sync.set_aside()
    sync.wait()
    assert comm.log[4:] == ["wait"] * 4


def test_each_micro_batch_has_statistics_of_its_own() -> None:
    net = nn.BatchNorm1d(1).double()
    buffers = MicroBatchBuffers(net, Reducer(SerialComm()), range(3), 3)
    buffers.spread()

    def copies() -> list[float]:
        return [copy[0].value.item() for copy in buffers.copies]

    def see(*means: float) -> None:
        for part, mean in enumerate(means):
            buffers.use(part)
            net(ag.tensor(np.full((2, 1), mean)))

    see(10.0, 20.0, 60.0)
    assert copies() == [1.0, 2.0, 6.0]
    for _ in range(2):
        buffers.use_means()
        assert net.running_mean.numpy().tolist() == pytest.approx([3.0], rel=1e-15)
        assert copies() == [1.0, 2.0, 6.0]
    held = buffers.state_dict()
    assert held["running_mean"].tolist() == [[1.0], [2.0], [6.0]]
    assert held["running_var"].shape == (3, 1)
    see(11.0, 12.0, 16.0)
    assert copies() == [2.0, 3.0, 7.0]

    second = nn.BatchNorm1d(1).double()
    second.running_mean.array.value[:] = 4.0
    last = MicroBatchBuffers(second, Reducer(SerialComm()), range(2, 3), 3)
    last.load_state_dict(held)
    assert last.copies[0][0].value.tolist() == [6.0]
    other = MicroBatchBuffers(second, Reducer(SerialComm()), range(2), 2)
    other.load_state_dict(held)
    assert [copy[0].value.item() for copy in other.copies] == [4.0, 4.0]


def test_figures_are_summed_over_parts_and_ranks() -> None:
    rows = np.arange(6.0).reshape(3, 2)
    assert total(rows.copy(), Reducer(SerialComm())).tolist() == [6.0, 9.0]
    assert total(rows.copy(), Reducer(Doubling())).tolist() == [12.0, 18.0]


@pytest.mark.parametrize("parts", [1, 4])
def test_micro_batches_accumulate_and_are_exchanged_once_a_step(parts: int) -> None:
    """As with torch's `no_sync` around all passes but the last."""
    net, run = network()
    comm = Doubling()
    (alone, *_) = (ag.grad(run(), p)[0].numpy().copy() for p in net.parameters())
    flat = nn.flatten(nn.gradient_order(run, [*net.parameters()]))
    sync = GradientSync(flat, Reducer(comm, overlap="poll"), bucket_bytes=1, parts=parts)
    for step in range(2):
        for part in range(parts):
            assert len(comm.log) == step * 2 * len(sync.buckets)  # nothing before the last pass
            run().backward()
            if part + 1 < parts:
                sync.set_aside()
        started = comm.log[step * 2 * len(sync.buckets) :]
        assert [word.split()[0] for word in started] == ["start"] * len(sync.buckets)
        sync.wait()
        weight = next(net.parameters())
        np.testing.assert_allclose(weight.grad.numpy(), 2 * parts * alone, rtol=1e-15)
        for p in flat.parameters:
            p.grad = None
