"""Books of whole runs, on several ranks, stopped, killed and resumed, against shapes alone."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

import tallygrad.autograd as ag
from tallygrad.autograd import Ledger, context, models
from tallygrad.autograd.ledger import Cost
from tallygrad.trainer.cli import main
from tallygrad.trainer.components.evaluate import make_eval_step
from tallygrad.trainer.cost.workload import count
from tallygrad.trainer.tasks.classification import Classification, num_correct

LENET = 431_080  # parameters
SHAPE = (1, 28, 28)
Books = dict[tuple[str, str, str], tuple[int, Cost, int, int]]


def parts(images: int, batch: int, micro_batches: int = 2) -> Counter[int]:
    """Return how often a pass over so many images has micro-batches of each size."""
    sizes: Counter[int] = Counter()
    for start in range(0, images, batch):
        step = np.array_split(np.arange(min(batch, images - start)), micro_batches)
        sizes.update(len(part) for part in step if len(part))
    return sizes


class Part(NamedTuple):
    """A part of a run: on how many ranks, up to which step, how many steps and evaluations."""

    ranks: int
    stop: int
    steps: int
    evaluations: int


def add(ledger: Ledger, more: Ledger, times: int, wanted: Callable[[str], bool]) -> None:
    """File what a ledger has in some phases as often as that."""
    for key, n in more.calls.items():
        if wanted(key[1]):
            ledger.count(key, n * times)
    for names, size in more.stashed.items():
        ledger.stash(names, size * times)
    ledger.add_peaks(more.peaks.items())


def predicted(training: Counter[int], updates: int, evaluating: Counter[int]) -> Ledger:
    """Return the ledger, without exchange, of LeNet on shapes alone: what `tallygrad cost` counts
    for a micro-batch, as often as there are such, and the metrics and evaluations of the trainer.
    """
    ledger = Ledger()
    for size, times in training.items():
        step = count("lenet", size, SHAPE, 10, training=True).ledger
        add(ledger, step, times, lambda phase: phase != "update")
        with context.using(backend="meta", ledger=Ledger()) as state:
            num_correct(ag.zeros(size, 10), ag.zeros(size, dtype=np.int64))
        add(ledger, state.ledger, times, lambda phase: True)
    add(ledger, without(step), updates, lambda phase: phase == "update")
    with context.using(backend="meta", ledger=Ledger()):
        model = models.create("lenet", input_shape=SHAPE, classes=10)
        eval_step = make_eval_step(model, Classification())
    for size, times in evaluating.items():
        evaluation = context.using(backend="meta", ledger=Ledger(), phase="evaluate")
        with evaluation as state, ag.no_grad():
            eval_step(ag.zeros(size, *SHAPE), ag.zeros(size, dtype=np.int64))
        add(ledger, state.ledger, times, lambda phase: True)
    return ledger


def without(ledger: Ledger) -> Ledger:
    """Return a ledger's calls alone."""
    found = Ledger()
    for key, n in ledger.calls.items():
        found.count(key, n)
    return found


def table(ledger: Ledger) -> Books:
    """Return calls, costs, stashed and peak bytes whatever the backend, without exchange."""
    found: Books = {}
    for row in ledger:
        if row.key.phase != "communicate":
            calls, cost, stashed, peak = found.get(row.key[:3], (0, Cost(), 0, 0))
            cost = cost.plus(row.cost)._replace(saved=0)
            # Metrics of a step stand between its passes: their peak is not that of them alone.
            peak = 0 if row.key.scope == "metrics" else max(peak, row.peak)
            found[row.key[:3]] = calls + row.calls, cost, stashed + row.stashed, peak
    return found


def exchanged(run: list[Part]) -> dict[tuple[str, str], tuple[int, int, int]]:
    """Return calls, bytes and messages of each collective and of what it exchanges, on one rank and
    on two: a ring sends 2 (p-1) messages and 2 (p-1)/p of the bytes from each of p ranks."""
    several = [part for part in run if part.ranks == 2]
    steps = sum(part.steps for part in several)
    told = steps + sum(part.evaluations for part in several)
    every = sum(part.ranks * part.steps for part in run)
    sums = every + sum(part.ranks * part.evaluations for part in run)
    return {
        ("allreduce", "gradients"): (every, 2 * 4 * LENET * steps, 4 * steps),
        ("allreduce", "metrics"): (sums, 2 * 24 * told, 4 * told),
        ("broadcast", "weights"): (
            sum(part.ranks for part in run), 4 * LENET * len(several), len(several),
        ),
    }  # fmt: skip


def bill(run: Path, capsys: pytest.CaptureFixture[str], *words: str) -> Any:
    capsys.readouterr()
    assert main(["bill", str(run), "--json", *words]) == 0
    return json.loads(capsys.readouterr().out)


def train(mpirun: Any, out: Path, words: list[str], run: list[Part]) -> Ledger:
    """Train in parts and return the ledger."""
    for part in run:
        command = ["-m", "tallygrad.trainer", "train", "--model", "lenet", "--resume", "auto"]
        command += ["--out", str(out), *words, "--bucket-mb", "9", "--max-steps", str(part.stop)]
        done = mpirun(part.ranks, command, timeout=200)
        assert done.returncode == 0, done.stderr
    return Ledger.from_json(json.loads((out / "ledger.json").read_text()))


@pytest.mark.parametrize(
    ("ranks", "backend"), [((1, 1), "numpy"), ((2, 2), "numpy"), ((2, 1), "llvm")]
)
def test_the_ledger_is_what_shapes_predict_to_the_integer(
    mpirun: Any, tmp_path: Path, ranks: tuple[int, int], backend: str,
    capsys: pytest.CaptureFixture[str], write_mnist: Any,
) -> None:  # fmt: skip
    """Two epochs whose last batch is smaller, as that of an evaluation, stopped within the first:
    calls, all kinds of operations, bytes, stashed and peak bytes, exchange."""
    if backend == "llvm":
        pytest.importorskip("llvmlite", reason="llvmlite is not installed")
    words = ["--dataset", "mnist", "--data-dir", str(write_mnist(tmp_path / "data", 90, 45))]
    words += ["--batch-size", "16", "--eval-batch-size", "20", "--epochs", "2", "--lr", "0.001"]
    words += ["--hierarchical", "off"]
    run = [Part(ranks[0], 4, 4, 1), Part(ranks[1], 12, 8, 2)]
    ledger = train(mpirun, tmp_path / "run", [*words, "--backend", backend], run)
    passes, tests = parts(90, 16), parts(45, 20)
    updates = sum(part.ranks * part.steps for part in run)
    expected = predicted(
        Counter({n: 2 * many for n, many in passes.items()}), updates,
        Counter({n: 3 * many for n, many in tests.items()}),
    )  # fmt: skip
    assert table(ledger) == table(expected)
    found = bill(tmp_path / "run", capsys, "--machine", "systolic-os", "--co2", "400")
    told = {
        (c["collective"], c["of"]): (c["calls"], c["bytes_sent"], c["messages"])
        for c in found["collectives"]
    }
    assert told == exchanged(run)
    check_epochs(found, passes, tests)


def check_epochs(found: Any, passes: Counter[int], tests: Counter[int]) -> None:
    """Two whole epochs are all of the run: the first has the evaluation where it was stopped, and
    its own."""
    one, two = found["each_epoch"]
    for key in ("macs", "other_ops", "bytes_read", "bytes_written", "bytes_sent", "messages"):
        assert one[key] + two[key] == found["total"][key]
    for key in ("energy_joules", "latency_seconds", "grams_co2"):
        assert one[key] + two[key] == pytest.approx(found["total"][key])
        assert one[key] > two[key] > 0
    assert [(e["epoch"], e["steps"], e["images"]) for e in (one, two)] == [(1, 6, 90), (2, 6, 90)]
    assert one["seconds"] > 0 and two["seconds"] > 0
    assert one["seconds"] + two["seconds"] == pytest.approx(found["seconds"])
    for e, evaluations in ((one, 2), (two, 1)):
        assert e["phases"]["forward"]["macs"] == 90 * 2_293_000
        assert e["phases"]["evaluate"]["macs"] == evaluations * 45 * 2_293_000
    assert sum(n * many for n, many in passes.items()) == 90
    assert sum(n * many for n, many in tests.items()) == 45


def test_so_are_those_of_mnist(mpirun: Any, tmp_path: Path) -> None:
    """Alone and then on two ranks, which sum gradients through shared memory; the evaluation has
    10,000 images."""
    data = os.environ.get("TALLYGRAD_DATA", "")
    if not (Path(data) / "mnist" / "train-images-idx3-ubyte").exists():
        pytest.skip("TALLYGRAD_DATA names no folder with MNIST")
    pytest.importorskip("llvmlite", reason="llvmlite is not installed")
    run = [Part(1, 2, 2, 1), Part(2, 5, 3, 1)]
    words = ["--dataset", "mnist", "--batch-size", "600", "--eval-batch-size", "1000"]
    words += ["--backend", "llvm", "--lr", "0.001"]
    ledger = train(mpirun, tmp_path / "run", words, run)
    expected = predicted(Counter({300: 2 * 5}), 2 + 2 * 3, Counter({500: 2 * 20}))
    assert table(ledger) == table(expected)
    found = {
        (row.key.primitive, row.key.scope): (row.calls, row.cost.bytes_sent, row.cost.messages)
        for row in ledger
        if row.key.phase == "communicate" and row.key.primitive not in ("accumulate", "store")
    }
    gradients = {
        ("allreduce", "gradients"): (2, 0, 0),
        ("allreduce_hierarchical", "gradients"): (2 * 3, 0, 0),
    }
    assert found == exchanged(run) | gradients


def logged(out: Path) -> int:
    """Return the last step that a log tells of, 0 where there is none."""
    try:
        lines = (out / "log.jsonl").read_text().splitlines()
    except OSError:
        return 0
    steps = [json.loads(line)["step"] for line in lines if line.endswith("}")]
    return max(steps, default=0)


def test_work_lost_by_a_kill_is_on_the_bill(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], write_mnist: Any
) -> None:
    """To the step and the integer, where the log has a line for each step."""
    out = tmp_path / "run"
    words = ["train", "--model", "mlp", "--batch-size", "8", "--epochs", "500", "--out", str(out)]
    words += ["--dataset", "mnist", "--data-dir", str(write_mnist(tmp_path / "data", 800, 8))]
    words += ["--log-every", "1", "--checkpoint-every", "10", "--keep-checkpoints", "9999"]
    words += ["--backend", "numpy", "--threads", "1", "--lr", "0.001", "--micro-batches", "1"]
    process = subprocess.Popen(
        [sys.executable, "-m", "tallygrad.trainer", *words],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    deadline = time.monotonic() + 120
    while logged(out) < 15:
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    for later in (out / "checkpoints").glob("step-*.h5"):
        if int(later.stem[5:]) > 10:
            later.unlink()
    lost = logged(out) - 10
    assert lost >= 5
    unsaved = bill(out, capsys)["unsaved"]
    assert (unsaved["count"], unsaved["steps_at_least"]) == (1, lost)

    assert main([*words, "--resume", "auto", "--max-steps", "20"]) == 0
    work = count("mlp", 8, SHAPE, 10, training=True)
    macs = sum(work.phase(p).macs for p in ("forward", "backward_data", "backward_weights"))
    found = bill(out, capsys, "--machine", "horowitz45")
    restarts = found["restarts"]
    assert (restarts["count"], restarts["steps_at_least"]) == (1, lost)
    assert restarts["steps_at_most"] == lost + 1
    assert restarts["macs"] == lost * macs and found["unsaved"]["count"] == 0
    assert restarts["seconds_at_least"] > 0
    share = lost / 20 * found["parts"]["training"]["energy_joules"]
    assert restarts["energy_joules"] == pytest.approx(share, rel=0.02)
    # An end is no death; a folder without a result is one, whatever the log has.
    assert main([*words, "--resume", "auto", "--max-steps", "24"]) == 0
    assert bill(out, capsys)["restarts"]["count"] == 1
    (out / "result.json").unlink()
    assert main([*words, "--resume", "auto", "--max-steps", "26"]) == 0
    each = bill(out, capsys)["restarts"]["each"]
    assert [(r["step"], r["steps_at_least"]) for r in each] == [(10, lost), (24, 0)]
    newest = out / "checkpoints" / "step-00000026.h5"
    assert bill(newest, capsys)["restarts"]["each"] == each
    # It died behind an evaluation, before the checkpoint.
    (out / "result.json").unlink()
    with (out / "log.jsonl").open("a") as log:
        log.write('{"event": "epoch", "step": 28, "epoch": 1, "test_loss": 1.0}\n')
    assert main([*words, "--resume", "auto", "--max-steps", "30"]) == 0
    tested = 8 * work.phase("forward").macs // 8
    assert bill(out, capsys)["restarts"]["macs"] == (lost + 2) * macs + tested
    capsys.readouterr()
    assert main(["bill", str(out)]) == 0
    assert f"lost before 3 restarts: {lost + 2} steps at least" in capsys.readouterr().out


def test_work_before_the_first_checkpoint_is_lost_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], write_mnist: Any
) -> None:
    out = tmp_path / "run"
    words = ["train", "--model", "mlp", "--batch-size", "8", "--out", str(out), "--log-every", "2"]
    words += ["--dataset", "mnist", "--data-dir", str(write_mnist(tmp_path / "data", 80, 8))]
    words += ["--backend", "numpy", "--threads", "1"]
    assert main([*words, "--max-steps", "5"]) == 0
    (out / "result.json").unlink()
    for file in (out / "checkpoints").iterdir():
        file.unlink()
    assert main([*words, "--max-steps", "3", "--resume", "auto"]) == 0
    (restart,) = bill(out, capsys)["restarts"]["each"]
    assert [restart[f"steps_at_{what}"] for what in ("least", "most")] == [5, 6]
    assert restart["step"] == 0 and restart["evaluations"] == 1
