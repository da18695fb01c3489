"""Optimizers by the command line: their settings, their checkpoints, their work."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tallygrad.autograd import models, nn, optim
from tallygrad.autograd.optim import Falling, Lookahead
from tallygrad.trainer import build, cli, config
from tallygrad.trainer.components.checkpoint import load
from tallygrad.trainer.config import TrainConfig
from tallygrad.trainer.cost.workload import count
from tallygrad.trainer.tasks.classification import Classification

Train = Callable[..., int]


@pytest.fixture
def train(tmp_path: Path, write_mnist: Any) -> Train:
    write_mnist(tmp_path / "data", 24, 6)
    words = [
        "train", "--model", "mlp", "--dataset", "mnist", "--data-dir", str(tmp_path / "data"),
        "--batch-size", "8", "--backend", "numpy", "--epochs", "2", "--log-every", "1",
    ]  # fmt: skip
    return lambda out, *more: cli.main([*words, "--out", str(tmp_path / out), *more])


def bits(out: Path) -> dict[str, bytes]:
    tensors = load(max((out / "checkpoints").glob("step-*.h5"))).tensors
    return {name: value.tobytes() for name, value in tensors.items()}


@pytest.mark.parametrize("name", optim.names())
def test_settings_that_are_not_given_are_those_of_the_optimizer(name: str) -> None:
    made = TrainConfig(optimizer=name)
    own = {"lr": made.lr, **build.optimizer_settings(made)}
    shown = {n: value for n, value in optim.defaults(name).items() if n in made.to_json()}
    if name == "sgd":
        shown |= {"lr": 0.02, "momentum": 0.9, "weight_decay": 5e-4}
    if name == "muon":
        shown |= {"adjust_lr_fn": "match_rms_adamw"}
    assert own == {n: value for n, value in shown.items() if value is not False}
    assert len(own) > 2


def test_settings_on_record_are_those_of_the_run(tmp_path: Path) -> None:
    made = TrainConfig(optimizer="adamw", betas="0.8,0.95")
    assert (made.lr, made.weight_decay, made.momentum) == (1e-3, 1e-2, None)
    file = tmp_path / "config.json"
    file.write_text(json.dumps(made.to_json()))
    assert TrainConfig(**config.gather(str(file), {})) == made
    assert config.resume({"lr": 0.5}, made.to_json()) == TrainConfig(
        optimizer="adamw", betas="0.8,0.95", lr=0.5
    )
    assert build.optimizer_settings(made)["betas"] == (0.8, 0.95)


def test_a_run_goes_on_with_its_optimizer(train: Train, tmp_path: Path) -> None:
    words = ("--optimizer", "adamw", "--betas", "0.8,0.95", "--eps", "1e-6", "--amsgrad")
    assert train("whole", *words) == 0
    assert train("parts", *words, "--max-steps", "4") == 0
    assert train("parts", "--resume", "auto", "--max-steps", "0") == 0
    expected = bits(tmp_path / "whole")
    assert bits(tmp_path / "parts") == expected
    slots = {name.split("/")[1] for name in expected if name.startswith("optimizer/")}
    assert slots == {"exp_avg", "exp_avg_sq", "max_exp_avg_sq"}
    record = json.loads((tmp_path / "parts" / "config.json").read_text())
    assert (record["betas"], record["eps"], record["amsgrad"]) == ("0.8,0.95", 1e-6, True)
    rows = json.loads((tmp_path / "parts" / "ledger.json").read_text())
    updates = [row for row in rows if row.get("phase") == "update"]
    assert [(row["primitive"], row["calls"]) for row in updates] == [("adam", 6)]


@pytest.mark.parametrize(("words", "said"), [
    (["--optimizer", "adam", "--momentum", "0.9"],
     "--momentum: expected none with --optimizer adam, got 0.9"),
    (["--betas", "0.9,0.99"], "--betas: expected none with --optimizer sgd, got 0.9,0.99"),
    (["--optimizer", "adam", "--centered"],
     "--centered: expected none with --optimizer adam, got True"),
    (["--optimizer", "adam", "--betas", "0.9"],
     "--betas: expected two numbers in [0, 1), such as 0.9,0.999, got '0.9'"),
    (["--optimizer", "adam", "--betas", "0.9,1"], "0.9,0.999, got '0.9,1'"),
    (["--optimizer", "adam", "--eps", "-1"], "--eps: expected at least 0.0, got -1.0"),
    (["--optimizer", "rprop", "--etas", "2,3"],
     "--etas: expected numbers below and above 1, such as 0.5,1.2, got '2,3'"),
    (["--optimizer", "rprop", "--step-sizes", "1,0"],
     "--step-sizes: expected two numbers of at least 0, the smaller one first, such as 1e-6,50, "),
    (["--optimizer", "rprop", "--weight-decay", "1"],
     "--weight-decay: expected none with --optimizer rprop, got 1.0"),
    (["--optimizer", "muon", "--adjust-lr-fn", "adamw"],
     "--adjust-lr-fn: expected original or match_rms_adamw, got 'adamw'"),
    (["--optimizer", "adma"], "--optimizer: unknown optimizer 'adma'; did you mean 'adam'"),
    (["--lookahead", "5"], "--lookahead: expected off, or steps, a share and perhaps a power, "),
    (["--lookahead", "0,0.5"], "such as 5,0.5 or 5,0.2,3, got '0,0.5'"),
    (["--lookahead", "5,0.5,1,1"], "such as 5,0.5 or 5,0.2,3, got '5,0.5,1,1'"),
    (["--ema", "1"], "--ema: expected 0.0 to 0.999999, got 1.0"),
    (["--ema", "0.9", "--local-steps", "2"], "--ema: expected 0.0 with --local-steps 2, which"),
    (["--lookahead", "2,0.5", "--local-steps", "2"], "--lookahead: expected off with --local-step"),
    (["--power", "2"], "--power: expected none with --schedule cosine, got 2.0"),
    (["--gamma", "0.5", "--schedule", "constant"],
     "--gamma: expected none with --schedule constant, got 0.5"),
    (["--milestones", "1"], "--milestones: expected none with --schedule cosine, got 1"),
    (["--schedule", "step", "--milestones", "2,1"],
     "--milestones: expected rising numbers of epochs, such as 30,60, got '2,1'"),
    (["--plateau-factor", "0.5"], "-factor: expected none with --schedule cosine, got 0.5"),
    (["--schedule", "plateau"], "--schedule plateau: expected --validation above 0, or data with"),
    (["--schedule", "plateau", "--plateau-metric", "mae"],
     "--plateau-metric: unknown metric 'mae'; choose from loss, accuracy"),
    (["--schedule", "plateau", "--plateau-factor", "1"], "expected factor in [0, 1), got 1.0"),
    (["--schedule", "ExponentialLR"], "unknown value 'ExponentialLR'; did you mean 'exponential'"),
])  # fmt: skip
def test_options_that_do_not_fit_are_refused_in_a_line(
    train: Train, capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    assert train("out", *words) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert said in line


def test_muon_takes_no_momentum(train: Train) -> None:
    """Its nesterov is its own default, and no option that a user could leave out."""
    assert train("out", "--optimizer", "muon", "--momentum", "0", "--max-steps", "1") == 0


def test_another_optimizer_does_not_go_on(train: Train, capsys: pytest.CaptureFixture[str]) -> None:
    assert train("out", "--optimizer", "rmsprop", "--max-steps", "1") == 0
    assert train("out", "--optimizer", "adam", "--resume", "auto") == 2
    assert "--optimizer: expected rmsprop as in " in capsys.readouterr().err


@pytest.mark.parametrize(("name", "operations", "words"), [
    ("adam", 13, 7), ("adamw", 14, 7), ("rmsprop", 9, 5), ("adagrad", 7, 5), ("nadam", 16, 7),
    ("radam", 13, 7), ("adamax", 9, 7), ("adadelta", 16, 7), ("asgd", 3, 5), ("rprop", 4, 7),
])  # fmt: skip
def test_the_cost_of_a_step_has_the_work_of_the_update(
    name: str, operations: int, words: int
) -> None:
    """Operations and words that are moved, for each parameter."""
    work = count("mlp", 1, (1, 28, 28), 10, training=True, optimizer=name)
    cost = work.phase("update")
    done = cost.add + cost.mul + cost.div + cost.exp
    assert done == operations * work.parameters
    assert cost.bytes_read + cost.bytes_written == 4 * words * work.parameters


def changes(out: Path, name: str) -> dict[str, Any]:
    """Return what a step has changed of the weights, by the checkpoints before and after."""
    folder = out / "checkpoints"
    first, last = (load(folder / f"step-{step:08}.h5").tensors for step in (1, 2))
    found = {n: last[n].astype("float64") - first[n] for n in last if n.startswith(name)}
    assert len(found) == 6
    return found


@pytest.mark.parametrize(("option", "order"), [("--clip-norm", 2), ("--clip-value", np.inf)])
def test_a_clipped_gradient_moves_weights_so_far(
    train: Train, tmp_path: Path, option: str, order: float
) -> None:
    words = ["--momentum", "0", "--weight-decay", "0", "--lr", "1", "--schedule", "constant"]
    words += ["--max-steps", "2", "--checkpoint-every", "1"]
    moved = []
    for name, clip in (("free", "0"), ("clipped", "0.001")):
        assert train(name, *words, option, clip) == 0
        every = np.concatenate([x.ravel() for x in changes(tmp_path / name, "model/").values()])
        moved.append(np.linalg.norm(every, order))
    assert moved[1] == pytest.approx(1e-3, rel=1e-3) and moved[0] > 1e-2
    rows = json.loads((tmp_path / "clipped" / "ledger.json").read_text())
    clips = [r for r in rows if r.get("primitive") in ("clip_to_norm", "clip_to_value")]
    assert [(r["scope"], r["phase"], r["calls"]) for r in clips] == [("optimizer", "update", 2)]


def test_biases_may_be_left_out_of_decay(
    train: Train, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--lr", "0.1", "--weight-decay", "1", "--max-steps", "2", "--checkpoint-every", "1"]
    words += ["--eps", "1e9", "--optimizer", "adamw"]
    assert train("all", *words) == 0
    assert train("some", *words, "--no-decay-norm-bias") == 0
    # With so large an eps nothing but decay moves the weights.
    for name, biases in (("all", True), ("some", False)):
        for parameter, x in changes(tmp_path / name, "model/").items():
            assert (np.abs(x).max() > 1e-4) == (biases or x.ndim > 1), parameter
    assert train("none", "--weight-decay", "0", "--no-decay-norm-bias") == 2
    said = "--no-decay-norm-bias: expected --weight-decay above 0, got 0.0"
    assert said in capsys.readouterr().err


def test_averages_are_evaluated_and_go_on(
    train: Train, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--ema", "0.5", "--lookahead", "2,0.5", "--lr", "0.1")
    assert train("whole", *words) == 0
    assert "weights  evaluated: their moving average, decay 0.5" in capsys.readouterr().err
    assert train("parts", *words, "--max-steps", "4") == 0
    assert train("parts", "--resume", "auto", "--max-steps", "0") == 0
    expected = bits(tmp_path / "whole")
    assert bits(tmp_path / "parts") == expected
    parameter = next(n for n in expected if n.startswith("optimizer/ema/"))
    assert expected[parameter] != expected[parameter.replace("optimizer/ema/", "model/")]
    losses = [json.loads((tmp_path / n / "result.json").read_text())["test_loss"]
              for n in ("whole", "parts")]  # fmt: skip
    capsys.readouterr()
    last = max((tmp_path / "whole" / "checkpoints").glob("step-*.h5"))
    assert cli.main(["eval", str(last), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["weights"] == "moving average" and said["loss"] == losses[0] == losses[1]


def test_the_best_average_is_tested(
    train: Train, tmp_path: Path, write_mnist: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """The one that was evaluated at the best step, not the last one."""
    write_mnist(tmp_path / "more", 24, 400)
    words = ("--ema", "0.5", "--validation", "8", "--lr", "0.1", "--epochs", "4", "--momentum", "0")
    words += ("--data-dir", str(tmp_path / "more"))
    assert train("run", *words) == 0
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["best_step"] < result["steps"]
    capsys.readouterr()
    assert cli.main(["eval", str(tmp_path / "run"), "--split", "test", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["accuracy"] == result["best_test_accuracy"] != result["test_accuracy"]


@pytest.mark.parametrize(("text", "alpha"), [("5,0.25", 0.25), ("5,0.25,2", Falling(0.25, 10, 2))])
def test_the_share_of_lookahead_may_fall(text: str, alpha: object) -> None:
    model = models.create("lenet", input_shape=(1, 28, 28))
    flat = nn.flatten([*model.parameters()])
    made = build.create_optimizer(TrainConfig(lookahead=text), Classification(), model, flat, 10)
    assert made.averages == [Lookahead(5, alpha)]


def test_norms_have_a_rate_of_their_own() -> None:
    model = models.create("resnet20", input_shape=(3, 8, 8))
    flat = nn.flatten([*model.parameters()])
    made = build.create_optimizer(TrainConfig(norm_lr=64.0), Classification(), model, flat, 10)
    factors = zip(flat.parameters, made.groups[0].factors, strict=True)
    scaled = {id(p) for p, factor in factors if factor == 64}
    assert scaled == {id(p) for name, p in model.named_parameters() if ".bn" in f".{name}"}
    assert 0 < len(scaled) < len(flat.parameters)


@pytest.mark.parametrize(("words", "rates"), [
    (["--schedule", "step", "--milestones", "1", "--gamma", "0.5"], [1, 1, 1, 0.5, 0.5, 0.5]),
    (["--schedule", "step"], [1, 1, 1, 0.1, 0.01, 0.01]),
    (["--schedule", "exponential", "--gamma", "0.125"], [1, 0.5, 0.25, 0.125, 0.0625, 0.03125]),
    (["--schedule", "polynomial", "--power", "2"], [(1 - t / 6) ** 2 for t in range(6)]),
    (["--schedule", "polynomial", "--warmup-steps", "3"], [0.25, 5 / 12, 0.5, 0.5, 1 / 3, 1 / 6]),
])  # fmt: skip
def test_schedules_over_two_epochs_of_three_steps(
    train: Train, tmp_path: Path, words: list[str], rates: list[float]
) -> None:
    assert train("run", "--lr", "1e-3", *words) == 0
    events = map(json.loads, (tmp_path / "run" / "log.jsonl").read_text().splitlines())
    found = [1e3 * event["lr"] for event in events if event["event"] == "step"]
    assert found == pytest.approx(rates)


def test_a_run_may_go_on_with_another_schedule(train: Train, tmp_path: Path) -> None:
    words = ("--schedule", "exponential", "--gamma", "0.5")
    assert train("run", *words, "--max-steps", "3") == 0
    assert train("run", "--resume", "auto", "--max-steps", "0", "--schedule", "constant") == 0
    record = json.loads((tmp_path / "run" / "config.json").read_text())
    assert (record["schedule"], record["gamma"]) == ("constant", None)
