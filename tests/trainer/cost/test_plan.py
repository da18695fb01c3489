"""`tallygrad plan`: formulas against numbers by hand, files and options, and a real calibration."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tallygrad.trainer.calibration import host
from tallygrad.trainer.calibration.rehearsal import Rehearsal, Silent
from tallygrad.trainer.cli import main
from tallygrad.trainer.commands import plan as plan_command
from tallygrad.trainer.cost.cluster.allreduce import allreduce
from tallygrad.trainer.cost.cluster.network import FOLDER, Exchange, Network, as_toml, load
from tallygrad.trainer.cost.cluster.scaling import memory, predict, scale
from tallygrad.trainer.cost.cluster.step_time import Step, StepTimes
from tallygrad.trainer.cost.cluster.traffic import Group, Link
from tallygrad.trainer.cost.cluster.transfers import METRICS, STOP, ExchangeSettings
from tallygrad.trainer.cost.machines.host import Host
from tallygrad.trainer.cost.roofline import Roofs
from tallygrad.trainer.cost.workload import count
from tallygrad.trainer.errors import UserError

pytestmark = pytest.mark.usefixtures("wide")

INSIDE, BETWEEN = Link(1e-6, 1e9), Link(1e-5, 1e8)
REDUCTION = 2e9
SETTINGS = ExchangeSettings(1)


def compute(*steps: Step) -> StepTimes:
    return StepTimes("lenet", (1, 28, 28), 10, "by hand", ("b", "a"), (600_000, 400_000), steps)


def network(overlap: float = 0.0, factor: float = 1.0, **others: Any) -> Network:
    exchange = Exchange(REDUCTION, overlap, factor)
    return Network("by hand", "", "", 2, 0, INSIDE, BETWEEN, exchange, **others)


# Times in proportion to images; two busy ranks take twice as long as one alone.
LINEAR = compute(
    *[
        Step(n, busy, (0.001 * n * busy,), 0.0008 * n * busy, (0.0004 * n * busy,) * 2)
        for busy in (1, 3)
        for n in (2, 10)
    ]
)


@pytest.mark.parametrize(
    ("batch", "busy", "expected"),
    [(2, 1, 2.0), (6, 1, 6.0), (10, 3, 30.0), (6, 2, 12.0), (20, 1, 20.0), (6, 9, 18.0)],
)
def test_steps_between_and_beyond_what_was_measured(batch: int, busy: int, expected: float) -> None:
    step = LINEAR.at(batch, busy)
    assert step.quantile(0.5) == pytest.approx(1e-3 * expected)
    assert (step.sweep, step.ready[1]) == pytest.approx((8e-4 * expected, 4e-4 * expected))
    shrinking = replace(LINEAR, steps=(LINEAR.steps[0], LINEAR.steps[1]._replace(seconds=(1e-3,))))
    assert shrinking.at(100, 1).quantile(0.5) == 1e-3
    single = replace(LINEAR, steps=LINEAR.steps[:1])
    assert single.at(6, 1).quantile(0.5) == pytest.approx(6e-3)


def seconds(group: Group, size: float, algorithm: str = "mpi") -> float:
    return group.seconds(allreduce(group, size, algorithm)[0])


def test_the_order_is_fixed_as_in_train() -> None:
    """On three ranks of two hosts; MPI's sum is told beside it, and is chosen by its name."""
    step = Step(4, 2, (0.010,), 0.009, (0.002, 0.008))
    by_mpi = ExchangeSettings(1, "mpi")
    for ranks, settings, name in (
        (2, SETTINGS, "by-node"), (3, SETTINGS, "fixed-order"), (3, by_mpi, "hierarchical"),
    ):  # fmt: skip
        row = predict(compute(step), network(), ranks, 8, settings)
        assert row.traffic.far_bytes > 1e6 or ranks == 2
        assert row.algorithm == name and row.mpi_algorithm != "fixed-order"
        group = Group(ranks, 2, INSIDE, BETWEEN, REDUCTION)
        for taken, by in ((row.communication, row.algorithm), (row.mpi, row.mpi_algorithm)):
            large = [seconds(group, n, by) for n in (600_000, 400_000)]
            small = seconds(group, METRICS, "fixed-order" if by == "fixed-order" else "mpi")
            assert taken == pytest.approx(sum(large) + small + seconds(group, STOP))


def test_each_way_to_overlap_has_its_share() -> None:
    exchange = Exchange(REDUCTION, 0.5, 2.0, overlap_thread=0.25)
    shares = [exchange.share(by) for by in ("auto", "none", "poll", "thread")]
    assert shares == [0.5, 0.0, 0.5, 0.25]
    assert exchange.slowness("fixed-order") == exchange.slowness("ring") == 2.0
    assert exchange._replace(fixed_order_factor=3.0).slowness("fixed-order") == 3.0
    times = compute(Step(4, 2, (0.010,), 0.009, (0.002, 0.008)))
    of = replace(network(), exchange=exchange)
    waits = [
        predict(times, of, 2, 8, ExchangeSettings(1, "mpi", by)).exposed
        for by in ("none", "thread")
    ]
    assert waits[0] > waits[1] > 0


def test_a_plan_by_hand() -> None:
    """The median of the slower of two is the quantile of the root of a half; both buckets are
    final before the sweep ends, and loss, hits and whether to stop follow."""
    step = Step(4, 2, (0.010, 0.010, 0.030), 0.009, (0.002, 0.008))
    slower = 0.010 + (2 * 0.5**0.5 - 1) * 0.020
    group = Group(2, 2, INSIDE, INSIDE, REDUCTION)
    first, second = (seconds(group, n, "by-node") for n in (600_000, 400_000))
    metrics, stop = seconds(group, METRICS), seconds(group, STOP)
    last = metrics + stop
    for overlap, waits in ((0.0, first + second), (1.0, 0.008 + second - 0.009)):
        row = predict(compute(step), network(overlap), 2, 8, ExchangeSettings(500_000))
        assert row.compute == 0.010 and row.waiting == pytest.approx(slower - 0.010)
        assert row.exposed == pytest.approx(max(waits, 0.0) + last)
        assert row.seconds == pytest.approx(slower + row.exposed)
        assert row.communication == pytest.approx(first + second + last)
    doubled = predict(compute(step), network(factor=2.0), 2, 8, ExchangeSettings(500_000))
    assert doubled.exposed == pytest.approx(2 * (first + second + last))


def test_ranks_beyond_the_cores_take_turns() -> None:
    """Five ranks on two cores: two compute at once, three turns in all; additions take as long."""
    crowded = replace(network(), per_host=5, cores=2)
    step = LINEAR.at(4, 2)
    row = predict(LINEAR, crowded, 5, 20, SETTINGS)
    assert row.compute == pytest.approx(3 * step.quantile(0.5))
    spacious = predict(LINEAR, replace(crowded, cores=8), 5, 20, SETTINGS)
    assert spacious.compute == LINEAR.at(4, 5).quantile(0.5)
    assert row.communication - spacious.communication == pytest.approx(
        2 * row.traffic.worked / REDUCTION
    )
    assert [crowded.turns(ranks) for ranks in (1, 2, 3, 9)] == [1, 1, 2, 3]


def test_weak_and_strong_scaling() -> None:
    free = Link(0.0, 1e30)
    quick = replace(network(), per_host=1, inside=free, between=free, exchange=Exchange(1e30))
    weak = scale(LINEAR, quick, [1, 2, 4, 100], 10, "weak", 1)
    assert [(r.batch, r.images) for r in weak] == [(10, 10), (10, 20), (10, 40), (10, 1000)]
    assert [r.efficiency for r in weak] == pytest.approx([1.0] * 4)
    strong = scale(LINEAR, quick, [1, 2, 4, 100], 10, "strong", 1)
    assert [(r.ranks, r.batch, r.images) for r in strong] == [(1, 10, 10), (2, 5, 10), (4, 3, 10)]
    assert [r.efficiency for r in strong] == pytest.approx([1.0, 1.0, 10 / 12])
    slow = scale(LINEAR, replace(quick, between=BETWEEN), [4, 16], 10, "weak", 1)
    assert [r.hosts for r in slow] == [4, 16] and 0 < slow[1].efficiency < slow[0].efficiency < 1
    assert slow[0].seconds - slow[0].exposed == pytest.approx(0.010)


def test_memory_is_that_of_the_work() -> None:
    found = memory(count("lenet", 8, (1, 28, 28), 10, training=True))
    assert found.weights == found.gradients == found.momentum == 4 * 431_080
    assert found.total == found.to_json()["total"] == 3 * 4 * 431_080 + found.results
    assert 0 < found.kept_for_backward < found.results


@pytest.mark.parametrize("ranks", [2, 3])
def test_a_silent_rank_moves_nothing_and_tells_when_it_waits(ranks: int) -> None:
    job = Rehearsal(silent := Silent(1, ranks), "lenet", (1, 28, 28), 10, 2, bucket_mb=1.0)
    job.training.state.step = 98  # ranks compare their weights after the 100th step
    job.stamp()
    job.run(lambda: len(job.ends) < 2)
    assert job.training.state.images == 4  # its own: nobody sent the others' numbers
    assert 0 < job.ends[0] < min(job.ready) <= max(job.ready) < job.ends[1]
    assert 0 < silent.waited < job.ends[0]
    assert job.ready == sorted(job.ready) and job.names[0] == "fc2.weight"


def test_a_saved_calibration_reads_back(tmp_path: Path) -> None:
    file = tmp_path / "cluster.toml"
    known = replace(network(0.25, 1.5), count=3, cores=2, note='a "note"')
    every = Exchange(REDUCTION, 0.25, 1.5, 0.0, 0.25, 2.0)
    for net in (replace(known, exchange=every), known):
        file.write_text(as_toml(net, LINEAR))
        read, held = load(str(file))
        assert read == net
    assert held is not None and held.fits("lenet", (1, 28, 28), 10)
    assert not held.fits("lenet", (1, 32, 32), 10)
    for one, other in zip(held.steps, LINEAR.steps, strict=True):
        flat = np.concatenate([one.seconds, [one.sweep], one.ready])
        assert flat == pytest.approx([*other.seconds, other.sweep, *other.ready], abs=1e-9)
        assert (one.batch, one.busy) == (other.batch, other.busy)
    assert as_toml(read, held) == file.read_text()


def test_networks_that_come_with_the_program() -> None:
    names = [file.stem for file in FOLDER.glob("*.toml")]
    assert len(names) == 3
    for name in names:
        found, measured = load(name)
        assert found.between is not None and found.between.source and measured is None
        assert found.inside is None and not found.known and found.note
    assert load("infiniband-hdr")[0].between.bandwidth == 25e9  # type: ignore[union-attr]


GOOD = as_toml(network(), LINEAR)
WRONG = [
    ("name = ", "nam = ", "unknown key 'nam'; did you mean 'name'?"),
    ('name = "by hand"', "name = 3", "name: expected a text, got 3"),
    ("ranks = 2\n", "ranks = 0\n", "hosts.ranks: expected a whole number from 1 to 1e+30, got 0"),
    ("ranks = 2\n", "rank = 2\n", "unknown key 'hosts.rank'; did you mean 'ranks'?"),
    ("[hosts]\nranks = 2\n", "", "hosts: expected a table of ranks, count, cores, got nothing"),
    ("latency_seconds = 1e-06", "latency_seconds = -1.0",
     "inside.latency_seconds: expected a number from 0 to 1e+30, got -1.0"),
    ("bytes_per_second = 1000000000.0", "bytes_per_second = 0", "inside.bytes_per_second: expec"),
    ("bytes_per_second = 1000000000.0", "", "inside.bytes_per_second: expected a number above 0"),
    ("bytes_per_second = 1000000000.0", "bytes_per_second = nan",
     "expected a number above 0 at most 1e+30, got nan"),
    ('source = ""\n\n[between]', "\n[between]", "inside.source: expected a text, got nothing"),
    ("overlap = 0.0", "overlap = 1.5", "exchange.overlap: expected a number from 0 to 1, got 1.5"),
    ("overlap = 0.0", "overlap = true", "overlap: expected a number from 0 to 1, got True"),
    ("overlap = 0.0", "overlaps = 0.0", "unknown key 'exchange.overlaps'; did you mean 'overlap'?"),
    ("classes = 10\n", "", "compute.classes: expected a whole number from 0 to 1e+30, got nothing"),
    ("input = [1, 28, 28]", "input = [1, -28, 28]",
     "compute.input[1]: expected a whole number from 1 to 1e+30, got -28"),
    ("bytes = [600000, 400000]", "bytes = [1]", "compute.bytes: expected 2 numbers, got [1]"),
    ("busy = 1\n", 'busy = "1"\n', "compute.step[0].busy: expected a whole number from 1 to"),
    ("seconds = [0.002]", "seconds = [0]",
     "compute.step[0].seconds[0]: expected a number above 0 at most 1e+30, got 0"),
    ("batch = 10\nbusy = 1", "batch = 2\nbusy = 1",
     "step[1]: expected each pair of batch and busy once, got batch = 2, busy = 1"),
    ("bytes_per_second = 1000000000.0", f"bytes_per_second = {2**1024 - 1}", "a number above 0 at"),
    ("sweep = 0.0016", f"sweep = {2**1024 - 1}", "step[0].sweep: expected a number from 0"),
    ("seconds = [0.002]", "seconds = []", "step[0].seconds: expected a list of numbers, got"),
    ("seconds = [0.002]", "seconds = [2, 1]", "expected ascending numbers, got [2.0, 1.0]"),
    ("seconds = [0.002]", "seconds = [1, 2]", "step[1].seconds: expected 2 numbers, got [0.01]"),
    ("ready = [0.0008, 0.0008]", "ready = [0.0008, 0.0008]\nrounds = [0]",
     "rounds[0]: expected a number above 0 at most 1e+30, got 0"),
    ("ready = [0.0008, 0.0008]", "ready = [0.0008, 0.0008]\nround = [1]", "compute.step[0].round'"),
    ("ready = [0.0008, 0.0008]", "ready = [0.1]",
     "compute.step[0].ready: expected 2 numbers, got [0.1]"),
    ("[hosts]", "[hosts", "not valid TOML"),
    ("classes = 10\n", f"classes = 1{'0' * 31}\n",
     "compute.classes: expected a whole number from 0 to 1e+30"),
    ("classes = 10\n", "classes = -1\n", "compute.classes: expected a whole number from 0 to"),
    *[
        (old, old.replace(number, f"1{'0' * 31}", 1),
         f"{key}: expected a whole number from 1 to 1e+30")
        for old, number, key in (
            ("ranks = 2\n", "2", "hosts.ranks"),
            ("bytes = [600000, 400000]", "600000", "compute.bytes[0]"),
            ("input = [1, 28, 28]", "1", "compute.input[0]"),
            ("batch = 10\n", "10", "batch"),
            ("busy = 1\n", "1", "busy"),
        )
    ],
]  # fmt: skip


@pytest.mark.parametrize(("old", "new", "expected"), WRONG)
def test_a_file_that_is_wrong_is_told_in_one_line(
    tmp_path: Path, old: str, new: str, expected: str
) -> None:
    assert old in GOOD
    (file := tmp_path / "net.toml").write_text(GOOD.replace(old, new, 1))
    with pytest.raises(UserError) as error:
        load(str(file))
    assert expected in str(error.value) and "net.toml" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_saved_model_without_classes_is_read_again(tmp_path: Path) -> None:
    times = replace(LINEAR, model="autoencoder", classes=0)
    (file := tmp_path / "saved.toml").write_text(as_toml(network(), times))
    read = load(str(file))[1]
    assert read is not None and read.fits("autoencoder", times.input, 0)


@pytest.fixture
def saved(tmp_path: Path) -> str:
    """Return a file that leaves nothing to be measured."""
    (file := tmp_path / "saved.toml").write_text(as_toml(replace(network(), count=8), LINEAR))
    return str(file)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["nonet"], "nonet"),
        (["lenet", "--ranks", "1,two"],
         "--ranks: expected whole numbers from 1 to 1048576, got 'two'"),
        (["lenet", "--ranks", "0"], "--ranks: expected whole numbers from 1 to 1048576, got '0'"),
        (["lenet", "--ranks", "17"],
         "--ranks: expected at most 16, 8 hosts of 2 in by hand, got 17"),
        (["lenet", "--ranks", "16", "--batch", "8", "--scaling", "strong"],
         "--ranks: expected at most the 8 images of --batch, got 16"),
        (["lenet", "--batch", "0"], "--batch: expected at least 1, got 0"),
        (["lenet", "--seconds", "21"], "--seconds: expected above 0 and at most 20, got 21.0"),
        (["lenet", "--seconds", "nan"], "--seconds: expected above 0 and at most 20, got nan"),
        (["lenet", "--bucket-mb", "0"],
         "--bucket-mb: expected at least 0.001 and less than 1e+06, got 0.0"),
        (["lenet", "--ranks-per-host", "-1"],
         "--ranks-per-host: expected at least 1, or 0 for the network's, got -1"),
        (["lenet", "--algorithm", "rings"], "unknown value 'rings'; did you mean 'ring'?"),
        (["lenet", "--shard-optimizer", "--algorithm", "hierarchical"],
         "--algorithm: expected one of auto, mpi, fixed-order, ring, rabenseifner with --shard"),
        (["lenet", "--sync-batch-norm"],
         "--sync-batch-norm: expected a model with batch norm, got lenet; leave the option out"),
        (["lenet", "--local-steps", "-1"], "--local-steps: expected at least 0, got -1"),
        (["lenet", "--micro-batches", "-1"], "--micro-batches: expected at least 0, got -1"),
        (["lenet", "--micro-batches", "2.5"],
         "--micro-batches: expected a whole number, got '2.5'"),
        (["lenet", "--micro-batches", "4", "--local-steps", "2"],
         "--micro-batches: expected 0 with --local-steps, got 4"),
        (["resnet20", "--micro-batches", "4", "--sync-batch-norm"],
         "--micro-batches: expected 0 with --sync-batch-norm, got 4"),
        (["lenet", "--local-steps", "2", "--shard-optimizer"],
         "--local-steps: expected 0 with --shard-optimizer, got 2"),
        (["lenet", "--network", "ethernet"], "'ethernet'; choose from calibrate, 10-gigabit"),
        (["lenet", "--network", "none.toml"], "none.toml: No such file"),
        (["lenet", "--machine", "abacus"], "no machine 'abacus'"),
        (["autoencoder", "--classes", "5"],
         "--classes: expected none, since autoencoder has no option classes, got 5"),
        (["lenet", "--save", "no/such/folder/x.toml"],
         "cannot write no/such/folder/x.toml: No such file or directory"),
    ],
)  # fmt: skip
def test_options_that_are_wrong_are_told_in_one_line(
    words: list[str], expected: str, saved: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", "--network", saved, "--ranks", "1", *words]) == 2
    err = capsys.readouterr().err
    assert expected in err and err.count("\n") == 1


def test_a_calibration_replaces_calibrations_alone(
    saved: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (file := tmp_path / "cluster.toml").write_text('name = "mine"\n')
    words = ["plan", "lenet", "--network", saved, "--ranks", "2", "--save", str(file)]
    assert main(words) == 2 and file.read_text() == 'name = "mine"\n'
    err = capsys.readouterr().err
    assert f"--save: expected a new file or a network of tallygrad, got {file}, a file" in err
    for more in (["--force"], []):
        assert main([*words, *more]) == 0
        assert file.read_text() == Path(saved).read_text()


def test_what_a_plan_needs_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = plan_command.PlanOptions(
        model="lenet", batch=4, input="", classes=0, ranks="1,2", network="gigabit-ethernet",
        scaling="weak", algorithm="auto", overlap="auto", seconds=1.0, bucket_mb=1.0,
        ranks_per_host=0, machine="", shard_optimizer=False, sync_batch_norm=False, local_steps=0,
        compress="none", micro_batches=0, save="", check=True, force=False, as_json=False,
        worker="",
    )  # fmt: skip
    with pytest.raises(UserError, match="gigabit-ethernet: no link inside a host, and no mpirun"):
        plan_command.print_plan(chosen, None, "no mpirun here")
    here = Host(name="host", source="", note="no energy", roofs=Roofs(1.0, 1.0))
    monkeypatch.setattr(host, "measure", lambda: here)
    with pytest.raises(UserError, match="--machine host: no energy"):
        plan_command.print_plan(replace(chosen, machine="host"), None, "no mpirun here")
    monkeypatch.setenv("PMI_SIZE", "2")
    with pytest.raises(UserError, match="run it without mpirun"):
        plan_command.print_plan(chosen, None, "no mpirun here")


KEYS = {
    "ranks", "hosts", "batch_per_rank", "images", "step_seconds", "compute_seconds",
    "waiting_seconds", "communication_seconds", "exposed_seconds", "algorithm", "efficiency",
    "micro_batches_per_rank",
    "mpi_communication_seconds", "mpi_algorithm", "traffic",
    "images_per_second", "memory_bytes", "energy_joules", "step_seconds_range", "efficiency_range",
}  # fmt: skip


def test_a_plan_from_a_file_needs_no_mpi(saved: str) -> None:
    """Ten images on four ranks: two ranks have three, two have two."""
    words = ["plan", "lenet", "--network", saved, "--ranks", "4,1", "--batch", "10", "--json"]
    words += ["--scaling", "both", "--machine", "horowitz45"]
    code = (
        "import sys; from tallygrad.trainer.cli import main; status = main(sys.argv[1:]); "
        "assert 'mpi4py.MPI' not in sys.modules; sys.exit(status)"
    )
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (
        found["check"] == []
        and f"network and steps were not measured here: {saved}" in found["notes"]
    )
    one, four = found["plans"]["strong"]
    assert set(one) == set(four) == KEYS and (one["ranks"], four["ranks"]) == (1, 4)
    assert (one["exposed_seconds"], one["efficiency"], four["batch_per_rank"]) == (0.0, 1.0, 3)
    assert four["images_per_second"] == pytest.approx(10 / four["step_seconds"])
    assert [row["images"] for row in found["plans"]["weak"]] == [10, 40]
    priced = [cost_of(n) for n in (2, 3, 10)]
    assert four["energy_joules"] == pytest.approx(2 * priced[0] + 2 * priced[1])
    assert found["plans"]["weak"][1]["energy_joules"] == pytest.approx(4 * priced[2])


def cost_of(batch: int) -> float:
    """Return the joules of a step as `tallygrad cost` tells them."""
    words = ["cost", "lenet", "--training", "--machine", "horowitz45", "--json"]
    line = [sys.executable, "-m", "tallygrad.trainer", *words, "--batch", str(batch)]
    done = subprocess.run(line, capture_output=True, text=True, check=True)
    return float(json.loads(done.stdout)["totals"]["on_machine"]["training"]["energy_joules"])


def test_what_a_plan_takes_for_granted_is_said(
    saved: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (other := tmp_path / "other.toml").write_text(as_toml(replace(network(), between=None), LINEAR))
    words = ["plan", "lenet", "--batch", "64", "--scaling", "both", "--ranks", "4,128"]
    assert main([*words, "--network", str(other)]) == 0
    out = capsys.readouterr().out
    for said in (
        "the link between hosts is unknown", "measured up to 10 images, for want of time; up to",
        "128 ranks and more cannot share 64 images", "up to the 95th percentile",
        "with 3 busy ranks", "64 images for each rank (weak",
    ):  # fmt: skip
        assert said in out
    assert main([*words[:2], "--network", saved, "--ranks", "4", "--ranks-per-host", "4"]) == 0
    out = capsys.readouterr().out
    assert "that 4 of a host slow each other down no more is assumed" in out
    other.write_text(as_toml(replace(network(), cores=2), LINEAR))
    assert main([*words[:2], "--network", str(other), "--ranks", "4", "--ranks-per-host", "4"]) == 0
    out = capsys.readouterr().out
    assert "up to 2 ranks take turns on a core" in out and "is assumed" not in out
    assert "unknown" not in out


def test_a_plan_shards_the_optimizer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The weights' way back is exposed: half of what a ring sends."""
    (file := tmp_path / "saved.toml").write_text(as_toml(network(overlap=1.0), LINEAR))
    words = ["plan", "lenet", "--network", str(file), "--ranks", "4", "--algorithm", "ring"]
    found = []
    for more in ([], ["--shard-optimizer"]):
        assert main([*words, "--json", *more]) == 0
        found.append(json.loads(capsys.readouterr().out))
    plain, shards = (each["plans"]["weak"][0] for each in found)
    assert shards["communication_seconds"] == pytest.approx(plain["communication_seconds"])
    back = 1e-6 * 3 * (10 + 2500)
    assert shards["exposed_seconds"] - plain["exposed_seconds"] == pytest.approx(back)
    momentum = shards["memory_bytes"]["momentum"], plain["memory_bytes"]["momentum"]
    assert momentum == (431_080, 4 * 431_080)
    notes = [note for note in found[1]["notes"] if "--shard-optimizer" in note]
    assert len(notes) == 1 and notes[0] not in found[0]["notes"]
