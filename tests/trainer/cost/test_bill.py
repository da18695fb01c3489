"""`tallygrad bill`: what a run cost, from its own ledger."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tallygrad.autograd.ledger import Ledger
from tallygrad.trainer.cli import main
from tallygrad.trainer.components import recorded_run
from tallygrad.trainer.components.checkpoint import load
from tallygrad.trainer.components.recorded_run import read
from tallygrad.trainer.cost.billing import bill_report, price_run
from tallygrad.trainer.cost.machines.machine import load as load_machine
from tallygrad.trainer.cost.workload import count
from tallygrad.trainer.errors import UserError

STEPS, BATCH = 6, 32


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a run that was stopped and went on."""
    out = tmp_path_factory.mktemp("bill") / "run"
    words = ["train", "--model", "lenet", "--dataset", "digits", "--batch-size", str(BATCH)]
    words += ["--backend", "numpy", "--threads", "1", "--micro-batches", "1", "--out", str(out)]
    for steps in (4, STEPS):
        assert main([*words, "--max-steps", str(steps), "--resume", "auto"]) == 0
    return out


def billed(run: Path, *words: str, capsys: pytest.CaptureFixture[str]) -> Any:
    capsys.readouterr()
    assert main(["bill", str(run), "--json", *words]) == 0
    return json.loads(capsys.readouterr().out)


def test_it_adds_up_to_the_ledger(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = billed(run, capsys=capsys)
    ledger = Ledger.from_json(json.loads((run / "ledger.json").read_text()))
    assert found["total"]["macs"] == ledger.total().macs > 0
    assert found["total"]["bytes_read"] == ledger.total().bytes_read
    for key in ("macs", "other_ops", "bytes_written"):
        phases = sum(p[key] for p in found["phases"].values())
        layers = sum(p[key] for layer in found["layers"] for p in layer["phases"].values())
        assert found["total"][key] == phases == layers
    for key in ("activation_bytes_stashed", "peak_bytes"):
        every = [p[key] for layer in found["layers"] for p in layer["phases"].values()]
        whole = sum if key == "activation_bytes_stashed" else max
        assert whole(every) == whole(p[key] for p in found["phases"].values()) > 0
    predicted = count("lenet", BATCH, (1, 28, 28), 10, training=True)
    peaks = {name: phase["peak_bytes"] for name, phase in found["phases"].items()}
    assert max(peaks.values()) == predicted.peak > peaks["evaluate"] > 0
    assert (found["steps"], found["images"]) == (STEPS, STEPS * BATCH)
    assert found["epochs"] is None and "per_epoch" not in found
    assert found["training_over_inference"] == 6_591_000 / 2_293_000
    assert found["inferences"] == pytest.approx(STEPS * BATCH * 6_591_000 / 2_293_000)


def test_it_is_what_shapes_alone_predict(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """To the integer, across a resume."""
    found = billed(run, capsys=capsys)
    predicted = count("lenet", BATCH, (1, 28, 28), 10, training=True)
    for phase in ("forward", "backward_data", "backward_weights", "update"):
        cost, mine = predicted.phase(phase), found["phases"][phase]
        assert mine["macs"] == STEPS * cost.macs
        assert mine["bytes_read"] == STEPS * cost.bytes_read
        assert mine["other_ops"] == STEPS * sum(cost[1:6])


def test_mixed_precision_is_billed_as_it_was_trained(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("ml_dtypes", reason="ml_dtypes is not installed")
    words = ["train", "--model", "mlp", "--batch-size", "32", "--micro-batches", "1"]
    words += ["--threads", "1", "--max-steps", "2", "--precision", "bf16", "--out", str(tmp_path)]
    assert main(words) == 0
    found = billed(tmp_path, "--machine", "systolic-os", capsys=capsys)
    assert found["precision"] == "bf16"
    predicted = count("mlp", 32, (1, 28, 28), 10, training=True, precision="bf16")
    for phase in ("forward", "backward_data", "backward_weights", "update"):
        assert found["phases"][phase]["bytes_read"] == 2 * predicted.phase(phase).bytes_read
    note = found["machine"]["precision_note"]
    assert note == "has words of 16 bits in any precision: bf16 is priced as float32"
    found = billed(tmp_path, "--machine", "horowitz45", capsys=capsys)
    total, machine = read(tmp_path).ledger.total(), load_machine("horowitz45")
    expected = (machine.price(total).joules or 0) - 2.6e-12 * total.macs
    assert found["total"]["energy_joules"] == pytest.approx(expected)
    assert main(["bill", str(tmp_path), "--machine", "etann"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert re.search(r"64 images, \d+\.\d s, in bf16 ", said)
    assert re.search(r"[\d.]+ s; nothing is known of bf16", said)  # at least, in float32


@pytest.mark.parametrize("name", ["systolic-os", "eyeriss-isca16"])
def test_layers_are_priced_by_their_shapes(
    run: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Steps and evaluations take as often what `tallygrad cost` tells of one, the last and smaller
    batch of an evaluation included."""
    found = billed(run, "--machine", name, capsys=capsys)
    prices = {}
    for batch, kind in ((BATCH, "training"), (BATCH, "inference"), (16, "inference")):
        words = ["cost", "lenet", "--batch", str(batch), "--json", "--machine", name]
        assert main([*words, *(["--training"] if kind == "training" else [])]) == 0
        totals = json.loads(capsys.readouterr().out)["totals"]
        prices[batch, kind] = totals["on_machine"][kind]
    energy = "energy_macs" if name == "eyeriss-isca16" else "energy_joules"
    evaluations = 2
    for key in (energy, "latency_seconds", "dram_bytes"):
        steps = STEPS * prices[BATCH, "training"][key]
        tested = 312 * prices[BATCH, "inference"][key] + prices[16, "inference"][key]
        assert found["parts"]["training"][key] == pytest.approx(steps)
        assert found["parts"]["evaluation"][key] == pytest.approx(evaluations * tested)
        assert found["total"][key] == pytest.approx(steps + evaluations * tested)
        layers = sum(p.get(key, 0.0) for layer in found["layers"] for p in layer["phases"].values())
        assert found["total"][key] == pytest.approx(layers)


def test_the_ledger_of_another_model_is_not_priced(run: Path) -> None:
    record = read(run)
    machine = load_machine("systolic-os")
    for changed, said in (
        ({"model": "lenet5"}, "lenet5"),
        ({"input": None}, "expected a model's name and input [C, H, W], got 'lenet' and None"),
        ({"input": [1, 28, -28]}, "above 0 as input and classes, got [1, 28, -28] and 10"),
        ({"model": "vgg99"}, "unknown depth of vgg '99'"),
    ):
        with pytest.raises(UserError, match=re.escape(said)):
            price_run(replace(record, **changed), machine)


def test_prices_and_carbon(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = billed(run, "--machine", "horowitz45", "--co2", "300", capsys=capsys)
    joules = found["total"]["energy_joules"]
    assert joules == pytest.approx(sum(p["energy_joules"] for p in found["phases"].values()))
    assert found["grams_co2"] == pytest.approx(joules / 3.6e6 * 300)
    assert found["machine"]["name"] == "horowitz45"
    assert main(["bill", str(run), "--machine", "horowitz45", "--co2", "300"]) == 0
    out = capsys.readouterr().out
    assert "training costs 2.8744 times" in out and "at 300 g a kilowatt hour" in out
    assert "not recorded: steps of a run that died since" in out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--co2", "300"], "--co2: expected a --machine too, which knows the energy"),
        (
            ["--co2", "-1", "--machine", "etann"],
            "--co2: expected grams per kilowatt hour from 0 to 1e+06, got -1.0",
        ),
        (["--machine", "eniac"], "no machine 'eniac'"),
        (
            ["--machine", "eyeriss-isca16", "--co2", "3"],
            "--co2: expected a machine with energies in joules, got",
        ),
    ],
)
def test_what_does_not_fit(
    run: Path, words: list[str], said: str, capfd: pytest.CaptureFixture[str]
) -> None:
    capfd.readouterr()
    assert main(["bill", str(run), *words]) == 2
    err = capfd.readouterr().err
    assert said in err and err.count("\n") == 1


def test_no_run(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["bill", str(tmp_path)]) == 2
    assert f"{tmp_path}: no valid checkpoint" in capfd.readouterr().err


def test_epochs_are_those_of_the_run(run: Path) -> None:
    checkpoint = load(Path(read(run).source))
    meta = {**checkpoint.meta, "step": 25, "epoch": 2, "step_in_epoch": 5}
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(recorded_run, "load", lambda file: replace(checkpoint, meta=meta))
        later = read(run)
    assert later.epochs == 2.5
    per_epoch = bill_report(later).to_json()["per_epoch"]
    assert per_epoch["seconds"] == later.seconds / 2.5
