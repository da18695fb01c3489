"""What exchanges ask of links and ranks: formulas against numbers by hand."""

from __future__ import annotations

from math import prod

import pytest

from tallygrad.autograd import context, nn
from tallygrad.autograd.functional.create import zeros
from tallygrad.autograd.ledger import Ledger
from tallygrad.trainer.calibration.compression import Mirror, measure
from tallygrad.trainer.calibration.rehearsal import Rehearsal, Silent
from tallygrad.trainer.cost.cluster.allreduce import ALGORITHMS, allreduce, sharded
from tallygrad.trainer.cost.cluster.collectives import all_to_all, allgather
from tallygrad.trainer.cost.cluster.compression import Compression, parse_compress
from tallygrad.trainer.cost.cluster.scaling import exposed, memory
from tallygrad.trainer.cost.cluster.traffic import Group, Link, Traffic
from tallygrad.trainer.cost.cluster.transfers import (
    METRICS,
    STOP,
    ExchangeSettings,
    TimedBucket,
    Transfer,
    buckets,
    transfers,
)
from tallygrad.trainer.cost.workload import count
from tallygrad.trainer.distributed.exchange import Reducer
from tallygrad.trainer.distributed.hierarchy import obstacle
from tallygrad.trainer.distributed.sync import GradientSync

INSIDE, BETWEEN = Link(1e-6, 1e9), Link(1e-5, 1e8)
SIZE, REDUCTION = 1e6, 2e9

# Microseconds of 1 MB. Inside: 1 us, 1000 us for all of it; between: 10 us, 10 000; adding: 500.
BY_HAND = [
    ("ring", 4, 4, 6 * (1 + 250) + 375),
    ("recursive-doubling", 4, 4, 2 * (1 + 1000 + 500)),
    ("recursive-doubling", 3, 4, (1 + 1000 + 500) + 2 * (1 + 1000) + 500),
    ("rabenseifner", 4, 4, 4 * 1 + 2 * 750 + 375),
    ("hierarchical", 4, 4, 6 * (1 + 250) + 375),
    ("ring", 4, 2, 6 * (10 + 2500) + 375),
    ("ring", 2, 1, 2 * (10 + 5000) + 250),
    ("recursive-doubling", 4, 2, (1 + 1000 + 500) + (10 + 2 * 10_000 + 500)),
    ("rabenseifner", 4, 2, 2 * (10 + 2 * 5000 + 1 + 250) + 375),
    ("hierarchical", 4, 2, 2 * (1 + 500) + 250 + 2 * (10 + 5000) + 125),
    ("hierarchical", 4, 1, 2 * (2 * 10 + 7500) + 375),
    ("by-node", 4, 4, 2 * 2 * 1 + 1.5 * 500),
    ("by-node", 4, 2, 2 * 1 + 500 + 2 * (10 + 5000) + 125),
    ("fixed-order", 4, 4, 6 * (1 + 250) + 2.75 * 500),
    ("fixed-order", 4, 2, (1 + 250) + 2 * (10 + 2 * 2500) + 2.75 * 500 + 3 * (10 + 2500)),
    ("fixed-order", 3, 1, 4 * (10 + 1e4 / 3) + (2 + 2 / 3) * 500),
]


def timed(group: Group, size: float, algorithm: str = "mpi") -> tuple[float, str]:
    traffic, name = allreduce(group, size, algorithm)
    return group.seconds(traffic), name


@pytest.mark.parametrize(("name", "ranks", "per_host", "expected"), BY_HAND)
def test_formulas(name: str, ranks: int, per_host: int, expected: float) -> None:
    group = Group(ranks, per_host, INSIDE, BETWEEN, REDUCTION)
    assert group.seconds(ALGORITHMS[name](group, SIZE)) == pytest.approx(1e-6 * expected)
    assert timed(group, SIZE, name) == (pytest.approx(1e-6 * expected), name)


def test_the_fastest_is_taken() -> None:
    near, far = (Group(4, n, INSIDE, BETWEEN, REDUCTION) for n in (4, 2))
    assert allreduce(near, SIZE)[1] == "rabenseifner" and allreduce(far, SIZE)[1] == "hierarchical"
    assert allreduce(near, 8)[1] == "recursive-doubling"
    assert allreduce(Group(1, 4, INSIDE, BETWEEN, REDUCTION), SIZE) == (Traffic(), "none")


def test_a_short_sum_in_fixed_order_takes_few_messages() -> None:
    """Few ranks send all pieces at once, eight by Bruck's algorithm, in three rounds of half of all
    bytes; recursive doubling brings the sums back."""
    adding = 2.75 * 8 / REDUCTION
    group = Group(4, 1, INSIDE, BETWEEN, REDUCTION)
    expected = 1e-5 + 6e-8 + adding + 2e-5 + 6e-8
    assert timed(group, 8, "fixed-order")[0] == pytest.approx(expected)
    on_two_hosts = Group(4, 2, INSIDE, BETWEEN, REDUCTION)  # where one round of two stays inside
    expected = 2e-9 + 1e-5 + 8e-8 + adding + 1e-5 + 8e-8 + 1e-6 + 2e-9
    assert timed(on_two_hosts, 8, "fixed-order")[0] == pytest.approx(expected)
    eight = Group(8, 4, INSIDE, BETWEEN, REDUCTION)  # of whose three rounds two stay inside
    there = Traffic(2, 2 * 32, 1, 4 * 32)
    back = Traffic(2, (1 / 2 - 1 / 8) * 64, 1, 4 * 64 / 2)
    assert ALGORITHMS["fixed-order"](eight, 64) == there + back + Traffic(worked=2.875 * 64)


@pytest.mark.parametrize(
    ("per_host", "expected"),
    [(64, 2 * 1 + 63 * 15.625 + 63 * (1 + 15.625)), (1, 2 * 10 + 63 * 156.25 + 63 * (10 + 156.25))],
)
def test_pieces_of_a_middling_size_are_sent_32_at_once(per_host: int, expected: float) -> None:
    group = Group(64, per_host, INSIDE, BETWEEN, REDUCTION)
    expected += (3 - 1 / 64) * 500
    assert timed(group, SIZE, "fixed-order")[0] == pytest.approx(1e-6 * expected)


@pytest.mark.parametrize(("ranks", "piece", "messages"), [
    (8, 256, 3), (8, 257, 1), (7, 256, 1), (33, 1000, 1), (34, 1000, 2), (34, 32 << 10, 2),
    (34, (32 << 10) + 1, 33),
])  # fmt: skip
def test_pieces_of_each_length_go_their_way(ranks: int, piece: int, messages: int) -> None:
    """By Bruck's algorithm, 32 at once, or one after the other."""
    assert all_to_all(Group(ranks, 1, INSIDE, BETWEEN, REDUCTION), piece).far_messages == messages
    within = Group(ranks, ranks, INSIDE, BETWEEN, REDUCTION)
    assert all_to_all(within, piece).near_messages == messages


def test_messages_and_bytes_are_counted_by_link() -> None:
    """Four ranks on two hosts, which share the links between them."""
    group = Group(4, 2, INSIDE, BETWEEN, REDUCTION)
    there, back = Traffic(1, 250_000, 2, 1_000_000), Traffic(0, 0, 3, 750_000)
    found = ALGORITHMS["fixed-order"](group, SIZE)
    assert found == there + back + Traffic(worked=2_750_000)
    assert 0.5 * found == Traffic(0.5, 125_000, 2.5, 875_000, 1_375_000) == found * 0.5


def test_a_step_exchanges_buckets_and_then_figures() -> None:
    group = Group(3, 1, INSIDE, BETWEEN, REDUCTION)
    sizes, ready = (600_000, 300_000, 100_000), (0.1, 0.3, 0.2)
    found = transfers(group, sizes, ready, ExchangeSettings(500_000))
    fixed = [allreduce(group, n, "fixed-order") for n in (600_000, 400_000, METRICS)]
    assert found == [
        Transfer(*fixed[0], 0.1), Transfer(*fixed[1], 0.3), Transfer(*fixed[2]),
        Transfer(*allreduce(group, STOP)),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("sweep", "overlap", "expected"),
    [(4.0, 0.0, 4.0), (4.0, 1.0, 1.0), (4.0, 0.5, 2.5), (9.0, 1.0, 0.0), (2.5, 1.0, 2.5)],
)
def test_what_does_not_hide_behind_the_sweep(sweep: float, overlap: float, expected: float) -> None:
    """Two exchanges of 2 s, from 1 s on and, since the first ends at 3 s, from then on."""
    assert exposed([(1.0, 2.0), (2.0, 2.0)], sweep, overlap) == expected


def test_an_exchange_begins_when_its_bucket_is_final() -> None:
    assert exposed([(0.0, 1.0), (5.0, 1.0)], 5.5, 1.0) == 0.5


def test_buckets_are_those_of_the_trainer() -> None:
    cut = buckets([4, 8, 2, 1], [0.1, 0.2, 0.4, 0.3], 10)
    assert cut == [TimedBucket(12, 0.2), TimedBucket(3, 0.4)]
    job = Rehearsal(Silent(0, 2), "lenet", (1, 28, 28), 10, 1, bucket_mb=0.05)
    found = buckets(job.sizes, [0.0] * len(job.sizes), 50_000)
    held = job.training.parts.sync.buckets
    assert [b.size for b in found] == [b.array.spec.nbytes for b in held] and len(held) == 3
    assert sum(job.sizes) == 4 * 431_080


def test_shards_split_the_exchange_and_the_momentum() -> None:
    """By hand: a ring's first half sends 3 quarters and adds them, its second half only sends. In
    fixed order each half also copies the array once."""
    group = Group(4, 4, INSIDE, BETWEEN, REDUCTION)
    for algorithm, copied in (("ring", 0), ("fixed-order", 500)):
        there, back, name = sharded(group, SIZE, algorithm)
        assert group.seconds(there) == pytest.approx(1e-6 * (753 + 375 + copied))
        assert group.seconds(back) == pytest.approx(1e-6 * (753 + copied))
        assert name == algorithm and there + back == ALGORITHMS[name](group, SIZE)
    assert sharded(group, SIZE)[2] == "rabenseifner"
    with pytest.raises(ValueError, match=r"of mpi, fixed-order, ring, .* got hierarch"):
        sharded(group, SIZE, "hierarchical")
    work = count("lenet", 8, (1, 28, 28), 10, training=True)
    whole, quarter = memory(work), memory(work, 4)
    assert quarter == whole._replace(momentum=4 * -(-work.parameters // 4))


def test_only_the_first_half_of_a_sharded_exchange_hides() -> None:
    group = Group(2, 2, INSIDE, BETWEEN, REDUCTION)
    settings = ExchangeSettings(1, shard_optimizer=True)
    found = transfers(group, (600_000, 400_000), (0.1, 0.3), settings)
    halves = [sharded(group, size, "fixed-order") for size in (600_000, 400_000)]
    (first, last, _), (second, latest, _) = halves
    assert [(part.traffic, part.ready) for part in found[:4]] == [
        (first, 0.1), (second, 0.3), (last, None), (latest, None),
    ]  # fmt: skip
    assert found[4:] == transfers(group, (), (), ExchangeSettings(1))  # figures by MPI


@pytest.mark.parametrize(
    ("ranks", "size", "messages"),
    [(4, 500_000, 2), (4, 1 << 19, 3), (3, 70_000, 2), (5, 70_000, 3), (5, 80 << 10, 4)],
)
def test_long_arrays_are_gathered_over_a_ring(ranks: int, size: int, messages: int) -> None:
    """Below 80 KiB, or 512 KiB on a power of two of ranks, they double."""
    found = allgather(Group(ranks, 1, INSIDE, BETWEEN, REDUCTION), size)
    assert found.far_messages == messages
    assert found.far_bytes == pytest.approx((1 - 1 / ranks) * size)


@pytest.mark.parametrize(("ranks", "local", "name"), [
    (2, 1, "mpi"), (2, 2, "by-node"), (3, 3, "by-node"), (4, 2, "by-node"), (6, 3, "by-node"),
    (6, 2, "fixed-order"), (12, 3, "by-node"), (5, 2, "fixed-order"), (8, 1, "fixed-order"),
])  # fmt: skip
def test_hosts_that_are_branches_of_the_tree_are_summed_first(
    ranks: int, local: int, name: str
) -> None:
    assert ExchangeSettings(1).on(ranks, local) == name
    leaders = [rank // local * local for rank in range(ranks)]
    is_used = local > 1 and not obstacle(leaders, range(ranks))
    assert is_used == (name == "by-node")
    compressed = ExchangeSettings(1, compression=Compression("bf16", 0, []))
    assert "by-node" not in (compressed.on(ranks, local), ExchangeSettings(1, "ring").on(ranks, 2))


@pytest.mark.parametrize("scheme", ["bf16", "topk=0.01", "powersgd=2"])
@pytest.mark.parametrize("ranks", [2, 4])
def test_a_plan_sends_the_bytes_that_the_ledger_counts(scheme: str, ranks: int) -> None:
    shapes = [(64, 32), (64,), (1024, 64), (1024,), (8, 4, 3, 3)]
    comm, option = Mirror(ranks), parse_compress(scheme)
    flat = nn.flatten([nn.Parameter(zeros(*shape)) for shape in shapes])
    sync = GradientSync(flat, Reducer(comm, ranks), 100_000, hooked=False, compress=option)
    with context.using(ledger=Ledger()) as state:
        sync.wait()
    sent = sum(cost.bytes_sent for cost in state.ledger.by("primitive").values())
    group = Group(ranks, ranks, INSIDE, BETWEEN, REDUCTION)
    settings = ExchangeSettings(100_000, "ring", compression=Compression(*option, shapes, 1, 0.5))
    sizes = [4 * prod(shape) for shape in shapes]
    found = transfers(group, sizes, [1.0, 2.0, 3.0, 4.0, 5.0], settings)
    gradients = [part for part in found if part.ready is not None]
    assert len(gradients) == len(sync.buckets) > 1 and gradients[-1].ready == 5
    assert sum(part.traffic.near_bytes for part in gradients) == pytest.approx(sent, rel=1e-3)
    assert [part.work for part in found if part.work] == [1 + 0.5 * ranks]
    sharded = transfers(group, sizes, [0.0] * 5, settings._replace(shard_optimizer=True))
    assert len(sharded) == len(found) + len(gradients)


def test_compressing_is_measured_on_this_host() -> None:
    names = [f"{layer}.{name}" for layer in ("fc2", "fc1") for name in ("weight", "bias")]
    names += [f"{layer}.{name}" for layer in ("conv2", "conv1") for name in ("weight", "bias")]
    found = measure(("topk", 0.1), "lenet", (1, 28, 28), 10, names, 1 << 20)
    assert found.shapes[:2] == [(10, 500), (10,)] and found.shapes[-1] == (20,)
    assert found.seconds(8) >= found.seconds(2) > 0
