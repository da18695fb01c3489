"""Workers that train alone between synchronisations: LocalSGD and DiLoCo."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tallygrad.autograd import nn
from tallygrad.autograd.optim import SGD
from tallygrad.datasets import Batch
from tallygrad.trainer.cli import main
from tallygrad.trainer.components.checkpoint import load
from tallygrad.trainer.components.logs import RunFolder
from tallygrad.trainer.components.passes import Passes
from tallygrad.trainer.config import TrainConfig
from tallygrad.trainer.distributed.comm import SerialComm
from tallygrad.trainer.distributed.exchange import Reducer
from tallygrad.trainer.distributed.local import LocalUpdate, OuterStep, Workers
from tallygrad.trainer.loop import Training, passed

SMALL = ["--dataset", "digits", "--eval-batch-size", "1000", "--log-every", "1"]
DILOCO = ["--local-steps", "3", "--outer-lr", "0.7", "--outer-momentum", "0.9"]


def train(mpirun: Any, ranks: int, out: Path, *words: str) -> dict[str, Any]:
    command = ["-m", "tallygrad.trainer", "train", *SMALL, "--out", str(out), *words]
    done = mpirun(ranks, command, timeout=200)
    assert done.returncode == 0, done.stderr
    return dict(json.loads((out / "result.json").read_text()))


def tensors(out: Path) -> dict[str, np.ndarray[Any, Any]]:
    held = load(max((out / "checkpoints").glob("step-*.h5")))
    return {name: np.array(value) for name, value in held.tensors.items()}


def bits(out: Path) -> dict[str, bytes]:
    """Return every tensor of the last checkpoint, and the logged losses."""
    found = {name: a.tobytes() for name, a in tensors(out).items()}
    return found | {"log": str(events(out)).encode()}


def events(out: Path) -> list[tuple[int, float]]:
    lines = map(json.loads, (out / "log.jsonl").read_text().splitlines())
    return [(e["step"], e["loss"]) for e in lines if e["event"] == "step"]


@pytest.mark.parametrize("workers", [1, 2, 3])
@pytest.mark.parametrize(("lr", "momentum"), [(1.0, 0.0), (0.7, 0.9)])
def test_an_average_by_hand(workers: int, lr: float, momentum: float) -> None:
    """Against the formulas in NumPy: three synchronisations, after two steps each."""
    net = nn.Linear(2, 1, bias=False).double()
    net.weight.array.write(np.array([[1.0, -2.0]]))
    flat = nn.flatten([*net.parameters()])
    optimizers = [SGD(flat, 0.1, momentum=0.5, named_parameters=net.named_parameters())
                  for _ in range(workers)]  # fmt: skip
    reducer, outer = Reducer(SerialComm(), workers), OuterStep(lr, momentum)
    local = LocalUpdate(
        optimizers, flat, ["weight"], Workers(range(workers), workers), reducer, outer
    )
    local.begin()
    rng = np.random.default_rng(0)
    w, outer_v = np.array([1.0, -2.0]), np.zeros(2)
    each, v = np.tile(w, (workers, 1)), np.zeros((workers, 2))
    for _ in range(3):
        for _ in range(2):
            g = rng.standard_normal((workers, 2))
            for worker in range(workers):
                local.use(worker)
                assert flat.data.value.tolist() == pytest.approx(each[worker].tolist())
                assert net.weight.slot is not None
                net.weight.slot.write(g[worker][None])
                net.weight.deliver(net.weight.slot)
                local.step()
            v = 0.5 * v + g
            each = each - 0.1 * v
        local.synchronise()
        d = w - each.mean(axis=0)
        outer_v = momentum * outer_v + d
        w = w - lr * (d + momentum * outer_v)
        each = np.tile(w, (workers, 1))
        np.testing.assert_allclose(flat.data.value, w, rtol=0, atol=1e-14)
    state = local.state_dict()
    np.testing.assert_allclose(state["velocity"]["weight"], v.mean(axis=0)[None], atol=1e-14)
    np.testing.assert_allclose(state["workers"]["velocity"]["weight"], v[:, None], atol=1e-14)
    assert state["step"] == 6 and (state["outer"] != {}) == (momentum > 0)
    assert local.nbytes == 8 * 2 * (workers + (momentum > 0))


def test_a_state_goes_to_other_numbers_of_workers_and_to_synchronous_training() -> None:
    def made(workers: int) -> LocalUpdate:
        net = nn.Linear(2, 1, bias=False)
        flat = nn.flatten([*net.parameters()])
        optimizers = [SGD(flat, 0.1, momentum=0.5, named_parameters=net.named_parameters())
                      for _ in range(workers)]  # fmt: skip
        own = Workers(range(workers), workers)
        reducer = Reducer(SerialComm(), workers)
        return LocalUpdate(optimizers, flat, ["weight"], own, reducer, OuterStep(1.0, 0.5))

    def slots(update: LocalUpdate) -> list[Any]:
        return [each.state_dict()["velocity"]["weight"].tolist() for each in update.optimizers]

    two = made(2)
    rows = np.array([[[1.0, 2.0]], [[3.0, 6.0]]])
    two.load_state_dict({
        "step": 7, "velocity": {"weight": rows.mean(axis=0)},
        "workers": {"velocity": {"weight": rows}}, "outer": {"weight": np.array([[5.0, 6.0]])},
    })  # fmt: skip
    assert slots(two) == rows.tolist()
    state = two.state_dict()
    assert state["outer"]["weight"].tolist() == [[5.0, 6.0]] and state["step"] == 7
    three = made(3)
    three.load_state_dict(state)
    assert slots(three) == [[[2.0, 4.0]]] * 3
    plain = made(1).optimizer
    plain.load_state_dict(state)
    assert plain.state_dict()["velocity"]["weight"].tolist() == [[2.0, 4.0]]
    three.load_state_dict({"step": 7, "velocity": {"weight": np.ones((1, 2))}})
    assert slots(three) == [[[1.0, 1.0]]] * 3


def test_a_rank_without_workers_counts_its_steps() -> None:
    net = nn.Linear(2, 1, bias=False)
    flat = nn.flatten([*net.parameters()])
    optimizer = SGD(flat, 0.1, named_parameters=net.named_parameters())
    workers, reducer = Workers(range(0), 2), Reducer(SerialComm(), 2)
    local = LocalUpdate([optimizer], flat, ["weight"], workers, reducer, OuterStep(1.0, 0.0))
    for _ in range(2):
        local.skip()
    assert local.state_dict()["step"] == 2


def test_losses_are_means_since_the_synchronisation_before(
    tmp_path: Path, write_mnist: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Workers are synchronised at the end of the epoch of four steps, and of the run, too."""
    write_mnist(tmp_path / "data", 24, 6)
    config = TrainConfig(
        model="mlp", dataset="mnist", data_dir=str(tmp_path / "data"), batch_size=6, epochs=2,
        local_steps=3, max_steps=6, backend="numpy", log_every=1,
    )  # fmt: skip
    found: dict[int, list[list[float]]] = {}
    micro_batch = Passes.micro_batch

    def noting(self: Passes, batch: Batch) -> list[float]:
        sums = micro_batch(self, batch)
        found.setdefault(self.state.step + 1, []).append(sums)
        return sums

    monkeypatch.setattr(Passes, "micro_batch", noting)
    Training(config, SerialComm(), RunFolder(tmp_path / "run", writes=True)).run()
    assert [step for step, _ in events(tmp_path / "run")] == [3, 4, 6]
    for (step, loss), first in zip(events(tmp_path / "run"), (1, 4, 5), strict=True):
        rows = [row for at in range(first, step + 1) for row in found[at]]
        loss_sum, _, count = np.sum(rows, axis=0)
        assert len(rows) == 2 * (step + 1 - first) and loss == pytest.approx(loss_sum / count)


@pytest.mark.parametrize(
    ("every", "before", "step", "expected"),
    [(0, 0, 9, False), (1, 3, 4, True), (5, 4, 5, True), (5, 5, 9, False), (5, 4, 11, True)],
)
def test_what_is_due_every_few_steps(every: int, before: int, step: int, expected: bool) -> None:
    assert passed(every, before, step) == expected


def test_a_run_without_exchange_is_refused_before_it_begins(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["train", "--out", str(tmp_path / "run"), "--outer-lr", "0.5"]
    assert main(words) == 2
    assert "--outer-lr: expected 1.0 without --local-steps" in capsys.readouterr().err


def test_workers_are_synchronised_with_the_same_bits_on_any_ranks(
    mpirun: Any, tmp_path: Path, write_mnist: Any
) -> None:
    """Three workers on one rank and on two; the last period of the run is a short one."""
    write_mnist(tmp_path / "data", 40, 16)
    words = ["--dataset", "mnist", "--data-dir", str(tmp_path / "data"), "--batch-size", "10"]
    words += ["--model", "mlp", "--micro-batches", "3", *DILOCO]
    for ranks in (1, 2):
        train(mpirun, ranks, tmp_path / str(ranks), *words)
    found = bits(tmp_path / "1")
    assert found == bits(tmp_path / "2")
    assert [step for step, _ in events(tmp_path / "1")] == [3, 4]
    held = tensors(tmp_path / "1")
    rows = held["workers/velocity/1.weight"]
    assert len(rows) == 3 and (rows[0] != rows[1]).any() and held["outer/1.weight"].any()


@pytest.mark.slow
def test_workers_synchronised_in_each_step_train_as_one(mpirun: Any, tmp_path: Path) -> None:
    """In float64: an average of weights after one step each is one of gradients."""
    words = ["--model", "lenet", "--micro-batches", "4", "--max-steps", "10", "--dtype", "float64"]
    for name, more in (
        ("local", ["--local-steps", "1"]),
        ("whole", []),
        ("two", ["--local-steps", "2"]),
    ):
        train(mpirun, 1, tmp_path / name, *words, *more)
    local, whole, two = (tensors(tmp_path / name) for name in ("local", "whole", "two"))
    shared = [name for name in whole if name.startswith(("model/", "optimizer/"))]
    assert len(shared) == 16
    for name in shared:
        np.testing.assert_allclose(local[name], whole[name], rtol=0, atol=1e-12)
    assert max(np.abs(two[name] - whole[name]).max() for name in shared) > 1e-6
    losses = [np.array(events(tmp_path / name)) for name in ("local", "whole")]
    np.testing.assert_allclose(losses[0], losses[1], rtol=0, atol=1e-12)


@pytest.mark.slow
def test_a_run_goes_on_with_the_same_bits_on_other_ranks(
    mpirun: Any, tmp_path: Path, write_mnist: Any
) -> None:
    """With batch norm, a last step that leaves workers without samples, and more ranks than
    workers; checkpoints come with the synchronisation after they are due, comparisons too."""
    write_mnist(tmp_path / "data", 83, 29)
    words = ["--dataset", "mnist", "--data-dir", str(tmp_path / "data"), "--model", "resnet20"]
    words += ["--batch-size", "10", "--micro-batches", "4", "--epochs", "2", "--eval-batch-size"]
    words += ["11", "--checkpoint-every", "2", "--keep-checkpoints", "9", "--compare-every", "2"]
    whole, out = tmp_path / "whole", tmp_path / "stopped"
    train(mpirun, 1, whole, *words, *DILOCO)
    steps = [int(file.stem[5:]) for file in sorted((whole / "checkpoints").glob("step-*.h5"))]
    assert steps == [3, 6, 9, 12, 15, 18]
    train(mpirun, 5, out, *words, *DILOCO, "--max-steps", "3")
    train(mpirun, 3, out, *words, "--resume", "auto", "--max-steps", "9")
    train(mpirun, 2, out, *words, "--resume", "auto")
    assert bits(out) == bits(whole)


@pytest.mark.slow
def test_the_ledger_counts_an_exchange_a_period(mpirun: Any, tmp_path: Path) -> None:
    words = ["--model", "mlp", "--micro-batches", "2", "--max-steps", "12"]
    sent = {}
    for name, more in (
        ("whole", ["--hierarchical", "off"]), ("local", ["--local-steps", "4"]),
    ):  # fmt: skip
        train(mpirun, 2, tmp_path / name, *words, *more)
        rows = json.loads((tmp_path / name / "ledger.json").read_text())
        sent[name] = sum(
            row["calls"] * row["bytes_sent"] for row in rows
            if row.get("primitive") == "allreduce" and row["scope"] in ("gradients", "weights")
        )  # fmt: skip
    assert sent["whole"] == 4 * sent["local"] > 0


@pytest.mark.slow
@pytest.mark.parametrize("outer", [[], ["--outer-lr", "0.5", "--outer-momentum", "0.5"]])
def test_workers_learn(mpirun: Any, tmp_path: Path, outer: list[str]) -> None:
    words = ["--model", "lenet", "--max-steps", "250", "--local-steps", "10", "--lr", "0.01"]
    result = train(mpirun, 2, tmp_path / "run", *words, *outer)
    assert result["test_accuracy"] > 0.9
