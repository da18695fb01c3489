"""Plans for what `train` may do besides exchanging gradients once a batch: exchange statistics of
batch norm or weights, and accumulate gradients."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from tallygrad.datasets.sampler import Sampler
from tallygrad.trainer.cli import main
from tallygrad.trainer.cost.cluster.allreduce import allreduce
from tallygrad.trainer.cost.cluster.micro_batches import Split, split
from tallygrad.trainer.cost.cluster.network import Exchange, Network, as_toml, load
from tallygrad.trainer.cost.cluster.step_time import Step, StepTimes
from tallygrad.trainer.cost.cluster.traffic import Group, Link
from tallygrad.trainer.cost.cluster.transfers import METRICS, STOP
from tallygrad.trainer.cost.machines.machine import load as load_machine
from tallygrad.trainer.cost.pricing import cost_report
from tallygrad.trainer.cost.workload import count
from tallygrad.trainer.errors import UserError

pytestmark = pytest.mark.usefixtures("wide")

INSIDE, BETWEEN, REDUCTION = Link(1e-6, 1e9), Link(1e-5, 1e8), 2e9
NETWORK = Network("by hand", "", "", 2, 0, INSIDE, BETWEEN, Exchange(REDUCTION, 1.0))
TIMES = StepTimes(
    "lenet", (1, 28, 28), 10, "by hand", ("b", "a"), (600_000, 400_000),
    (Step(4, 2, (0.010, 0.010, 0.030), 0.009, (0.002, 0.008)),),
)  # fmt: skip


def test_a_plan_is_made_of_steps_in_its_precision(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("ml_dtypes", reason="ml_dtypes is not installed")
    file, found = tmp_path / "saved.toml", {}
    for name in ("float32", "bf16"):
        file.write_text(as_toml(NETWORK, replace(TIMES, precision=name)))
        words = ["plan", "lenet", "--network", str(file), "--precision", name, "--batch", "512"]
        words += ["--machine", "etann"]
        assert main([*words, "--json"]) == 0
        found[name] = json.loads(capsys.readouterr().out)
        assert found[name]["precision"] == name
        told = "etann: nothing is known of bf16: a MAC is priced as in float32"
        assert (told in found[name]["notes"]) == (name == "bf16")
    mixed, plain = (found[name]["plans"]["weak"][0]["memory_bytes"] for name in ("bf16", "float32"))
    assert mixed["weights"] == plain["weights"]
    assert mixed["kept_for_backward"] < 0.8 * plain["kept_for_backward"]
    asked = TIMES.model, TIMES.input, TIMES.classes
    read = load(str(file))[1]
    assert read is not None and read.fits(*asked, "bf16") and not read.fits(*asked)
    text = file.read_text()
    file.write_text(text.replace('precision = "bf16"\n', ""))  # of an older version
    assert load(str(file))[1] == replace(TIMES, steps=read.steps)
    file.write_text(text.replace('"bf16"', '"fp8"'))
    with pytest.raises(UserError, match="precision: expected one of float32, bf16, got 'fp8'"):
        load(str(file))


def test_a_plan_knows_the_statistics_of_batch_norm(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """ResNet-20 has a batch norm after each of its 19 convolutions: 7 with 16 channels, 6 with 32,
    6 with 64. Their sums are exposed."""
    times = replace(TIMES, model="resnet20", input=(3, 32, 32))
    (file := tmp_path / "saved.toml").write_text(as_toml(NETWORK, times))
    words = ["plan", "resnet20", "--network", str(file), "--ranks", "4", "--algorithm", "ring"]
    found = []
    for more in ([], ["--sync-batch-norm"]):
        assert main([*words, "--json", *more]) == 0
        found.append(json.loads(capsys.readouterr().out))
    plain, shared = (each["plans"]["weak"][0] for each in found)
    group = Group(4, 2, INSIDE, BETWEEN, REDUCTION)
    sizes = [4 * n for c in [16] * 7 + [32] * 6 + [64] * 6 for n in (c, c, c + 1, c + 1)]
    added = sum(group.seconds(allreduce(group, size, "ring")[0]) for size in sizes)
    for key in ("exposed_seconds", "communication_seconds"):
        assert shared[key] - plain[key] == pytest.approx(added)
    notes = [note for note in found[1]["notes"] if "--sync-batch-norm" in note]
    assert len(notes) == 1 and notes[0] not in found[0]["notes"]


def test_a_plan_exchanges_weights_once_in_some_steps(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By hand: a ring over all weights at once, then a step of waiting that grows by a root."""
    (file := tmp_path / "saved.toml").write_text(as_toml(NETWORK, TIMES))
    words = ["plan", "lenet", "--network", str(file), "--ranks", "4", "--algorithm", "ring"]
    found = []
    for steps in ("0", "1", "4"):
        assert main([*words, "--batch", "4", "--json", "--local-steps", steps]) == 0
        found.append(json.loads(capsys.readouterr().out)["plans"]["weak"][0])
    group = Group(4, 2, INSIDE, BETWEEN, REDUCTION)
    pairs = [(1_000_000, "ring"), (METRICS, "ring"), (STOP, "mpi")]
    whole = sum(group.seconds(allreduce(group, size, name)[0]) for size, name in pairs)
    for row, steps in zip(found[1:], (1, 4), strict=True):
        assert row["exposed_seconds"] == row["communication_seconds"]
        assert row["exposed_seconds"] == pytest.approx(whole / steps)
        assert row["waiting_seconds"] == pytest.approx(found[0]["waiting_seconds"] / steps**0.5)
    each = 4 * 431_080
    plain, alone = found[0]["memory_bytes"], found[1]["memory_bytes"]
    assert (alone["weights"], alone["momentum"]) == (2 * each, 2 * each)
    assert alone["total"] == plain["total"] + 2 * each


@pytest.mark.parametrize(
    ("images", "ranks", "parts", "expected"),
    [
        (12, 3, 0, Split(3, 4, 1, 4, 3, 2)),
        (10, 2, 4, Split(4, 3, 2, 6, 2, 2)),  # 3 + 3 and 2 + 2 images
        (12, 3, 6, Split(6, 2, 3, 6, 3, 2)),  # 2, 1 and 3 micro-batches
        (8, 4, 2, Split(2, 4, 1, 4, 2, 1)),  # ranks 0 and 2
        (6, 6, 3, Split(3, 2, 1, 2, 3, 2)),  # ranks 0, 2 and 3
        (4, 1, 9, Split(4, 1, 4, 4, 1, 1)),
    ],
)
def test_micro_batches_are_split_as_in_train(
    images: int, ranks: int, parts: int, expected: Split
) -> None:
    """By hand, on two ranks a host, and by the loader's sampler."""
    found = split(images, ranks, 2, parts)
    assert found == expected
    samplers = [Sampler("", images, images, r, ranks, micro_batches=parts) for r in range(ranks)]
    assert (found.parts, found.most) == (samplers[0].parts, max(len(s.mine) for s in samplers))
    assert (found.size, found.working) == (
        samplers[0].sizes[0], sum(bool(s.mine) for s in samplers),
    )  # fmt: skip


def test_a_plan_accumulates_gradients(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By hand: sweeps of 9 ms, four on two ranks, eight on one, none hidden but behind the last.
    From one to the next, 1 MB is copied and 1 MB added, at 2 GB/s."""
    every = replace(NETWORK, exchange=Exchange(REDUCTION, overlap=1.0))
    (file := tmp_path / "saved.toml").write_text(as_toml(every, TIMES))
    words = ["plan", "lenet", "--network", str(file), "--ranks", "1,2", "--algorithm", "ring"]
    words += ["--batch", "32", "--scaling", "strong", "--bucket-mb", "0.001", "--json"]
    found = []
    for parts in ("0", "8"):
        assert main([*words, "--micro-batches", parts]) == 0
        found.append(json.loads(capsys.readouterr().out)["plans"]["strong"])
    (_, plain), (alone, pair) = found
    assert alone["compute_seconds"] == pytest.approx(0.010 + 7 * (0.009 + 0.001))
    assert pair["compute_seconds"] == pytest.approx(0.010 + 3 * (0.009 + 0.001))
    assert (alone["micro_batches_per_rank"], pair["micro_batches_per_rank"]) == (8, 4)
    assert (pair["batch_per_rank"], pair["images"]) == (16, 32)
    slower = (2 * 0.5**0.5 - 1) * 0.020
    assert pair["waiting_seconds"] == pytest.approx(slower * 4**0.5)
    group = Group(2, 2, INSIDE, INSIDE, REDUCTION)
    second, metrics, stop = (
        group.seconds(allreduce(group, size, name)[0])
        for size, name in ((400_000, "ring"), (METRICS, "ring"), (STOP, "mpi"))
    )
    # The first bucket has 6 ms to go: only the second is exposed, which is final 1 ms before.
    assert pair["exposed_seconds"] == pytest.approx(max(second - 0.001, 0) + metrics + stop)
    assert pair["communication_seconds"] == pytest.approx(plain["communication_seconds"])
    assert pair["efficiency"] == pytest.approx(alone["step_seconds"] / pair["step_seconds"] / 2)
    each = 4 * 431_080
    # Set aside: the sums of four micro-batches, of two, and of one.
    assert alone["memory_bytes"]["gradients"] == 4 * each
    assert pair["memory_bytes"]["gradients"] == 3 * each
    assert alone["memory_bytes"]["results"] == pair["memory_bytes"]["results"]
    assert pair["memory_bytes"]["results"] < plain["memory_bytes"]["results"]


def test_ranks_without_a_micro_batch_are_idle(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of four ranks on two hosts, one a host computes: none is slowed by another, and of the ranks
    that wait for each other there are two."""
    busy = [Step(n, b, (1e-3 * n * b, 1e-3 * n * b, 2e-3 * n * b), 0.0, (0.0, 0.0))
            for n in (2, 8) for b in (1, 2)]  # fmt: skip
    (file := tmp_path / "saved.toml").write_text(
        as_toml(NETWORK, replace(TIMES, steps=tuple(busy)))
    )
    words = ["plan", "lenet", "--network", str(file), "--ranks", "4", "--batch", "2"]
    words += ["--machine", "horowitz45"]
    assert main([*words, "--micro-batches", "2", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    (row,) = report["plans"]["weak"]
    assert row["compute_seconds"] == pytest.approx(4e-3)
    assert row["waiting_seconds"] == pytest.approx((2 * 0.5**0.5 - 1) * 4e-3)
    assert (row["batch_per_rank"], row["images"], row["micro_batches_per_rank"]) == (4, 8, 1)
    assert "--micro-batches: of 4 ranks and more, 2 compute" in report["notes"]
    assert (
        main([*words[:4], "--ranks", "64", "--ranks-per-host", "32", "--micro-batches", "4"]) == 0
    )
    out = capsys.readouterr().out
    assert "with 2 busy ranks" in out and "percentile" not in out and "slow each other" not in out
    machine = load_machine("horowitz45")
    totals = cost_report(count("lenet", 4, (1, 28, 28), 10, True), machine=machine).totals
    assert totals.training_price and totals.training_price.energy
    update = machine.price(count("lenet", 1, (1, 28, 28), 10, True).phase("update")).energy
    assert update and row["energy_joules"] == pytest.approx(
        2 * totals.training_price.energy + 2 * update
    )
