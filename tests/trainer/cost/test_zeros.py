"""Zeros on machines: shares of a sampled run or a file, events, coded images; this machine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tallygrad.autograd.ledger import Cost, Ledger, SparsitySample
from tallygrad.datasets.formats.idx import write_idx
from tallygrad.trainer.calibration import host
from tallygrad.trainer.cli import main
from tallygrad.trainer.components.state import read_ledger
from tallygrad.trainer.cost.billing import price_run
from tallygrad.trainer.cost.machines import machine
from tallygrad.trainer.cost.machines.eyeriss.row_stationary import (
    EYERISS,
    ConvShape,
    MapZeros,
    estimate,
    passes,
)
from tallygrad.trainer.cost.phases import PASSES
from tallygrad.trainer.cost.roofline import Roofs
from tallygrad.trainer.cost.run import Run
from tallygrad.trainer.cost.sparsity import nonzero_macs
from tallygrad.trainer.errors import UserError

pytestmark = pytest.mark.usefixtures("wide")

STEPS, SAMPLED = 5, 2
BARE = ("b", "forward")  # a layer that was not sampled


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a run whose second and fourth step were sampled."""
    folder = tmp_path_factory.mktemp("zeros")
    draw = np.random.default_rng(0)
    for name in ("train", "t10k"):
        images = draw.integers(0, 256, (40, 28, 28), np.uint8)
        write_idx(folder / f"{name}-images-idx3-ubyte", images)
        write_idx(folder / f"{name}-labels-idx1-ubyte", draw.integers(0, 10, 40, np.uint8))
    words = ["train", "--model", "lenet", "--dataset", "mnist", "--data-dir", str(folder)]
    words += ["--backend", "numpy", "--threads", "1", "--batch-size", "8", "--micro-batches", "1"]
    for name, every in (("run", "every=2"), ("plain", "off")):
        assert main([*words, "--sparsity", every, "--out", str(folder / name)]) == 0
    return folder / "run"


def asked(*words: str, capsys: pytest.CaptureFixture[str]) -> Any:
    capsys.readouterr()
    assert main([*words, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def ledger_of(run: Path) -> Ledger:
    return Ledger.from_json(json.loads((run / "ledger.json").read_text()))


def test_a_bill_tells_what_was_sampled(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = asked("bill", str(run), capsys=capsys)["sparsity"]
    assert (found["sampled_steps"], found["steps"]) == (SAMPLED, STEPS)
    samples = ledger_of(run).sampled
    for key in ("macs", "nonzero_macs", "gradient_zeros", "weights"):
        field = {"nonzero_macs": "nonzero"}.get(key, key)
        total = sum(getattr(one, field) for one in samples.values())
        phases = sum(p[key] for p in found["phases"].values())
        layers = sum(p[key] for layer in found["layers"] for p in layer["phases"].values())
        assert found["total"][key] == phases == layers == total > 0
    layers = {layer["name"]: layer["phases"] for layer in found["layers"]}
    assert [*layers] == ["conv1", "conv2", "fc1", "fc2"]
    # Each pooling of 2 x 2 sends the gradient on to one of four: conv1's is zero elsewhere.
    assert 0.75 <= layers["conv1"]["backward_weights"]["gradient_zero_share"] < 0.8
    assert layers["conv1"]["forward"]["gradient_zero_share"] is None
    assert "backward_data" not in layers["conv1"]
    assert main(["bill", str(run)]) == 0
    out = capsys.readouterr().out
    assert "sampled on 2 of 5 steps; not counted: evaluation" in out
    assert "sparsity" not in asked("bill", str(run.parent / "plain"), capsys=capsys)


def test_events_of_a_run(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """26 pJ for each MAC without a zero, by layer and pass as sampled; else an upper bound."""
    found = asked("bill", str(run), "--machine", "truenorth", capsys=capsys)
    sampled, total = ledger_of(run), 0.0
    for row in sampled.rows():
        phase = "forward" if row.key.phase == "evaluate" else row.key.phase
        one = [s for k, s in sampled.sampled.items() if k[:2] == (row.key.scope, phase)]
        if row.cost.macs:
            total += row.cost.macs * one[0].nonzero / one[0].macs
    assert found["total"]["events"] == pytest.approx(total)
    assert total < found["total"]["macs"]
    assert found["total"]["energy_joules"] == pytest.approx(26e-12 * total)
    for key in ("events", "energy_joules"):
        assert found["total"][key] == pytest.approx(sum(p[key] for p in found["phases"].values()))
        layers = sum(p[key] for layer in found["layers"] for p in layer["phases"].values())
        parts = sum(p.get(key, 0.0) for p in found["parts"].values())
        assert found["total"][key] == pytest.approx(layers) == parts
        (epoch,) = found["each_epoch"]  # which is all of it
        assert found["total"][key] == pytest.approx(epoch[key])
    assert found["machine"]["zeros"] == "events as sampled on 2 of 5 steps"
    plain = asked("bill", str(run.parent / "plain"), "--machine", "truenorth", capsys=capsys)
    assert plain["total"]["events"] == plain["total"]["macs"] == found["total"]["macs"]
    assert "every MAC is an event, an upper bound" in plain["machine"]["zeros"]


def test_evaluation_and_layers_that_were_not_sampled() -> None:
    ledger = Ledger()
    for scope, phase in (*[("a", p) for p in ("forward", "recompute", "evaluate")], BARE):
        ledger.count((scope, phase, "linear", "numpy", Cost(macs=100)), 3)
    ledger.sample(("a", "forward", "linear", "numpy"), SparsitySample(1, macs=100, nonzero=25))
    known = {("a", phase): 75.0 for phase in ("forward", "recompute", "evaluate")}
    assert nonzero_macs(ledger) == known | {BARE: 300.0}
    priced = price_run(Run("x.h5", ledger, 3, None, 3, 1.0), machine.load("truenorth"))
    assert [priced.of(Cost(), *key).events for key in (("a",), (None, "forward"))] == [225, 375]
    lost = {"forward": Cost(macs=60), "evaluate": Cost(macs=300)}
    assert priced.part(lost).events == pytest.approx(375 / 10 + 75)


def test_a_model_is_priced_with_the_zeros_of_a_run(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["cost", "lenet", "--training", "--machine", "truenorth"]
    dense = asked(*words, capsys=capsys)
    assert dense["totals"]["on_machine"]["training"]["events"] == 6_591_000
    assert dense["machine"]["zeros"]["source"] is None
    newest = max((run / "checkpoints").glob("step-*.h5"))
    for source in (run, newest):
        found = asked(*words, "--zeros", str(source), capsys=capsys)
        layers = {layer["name"]: layer for layer in found["layers"]}
        for (scope, phase, *_), one in ledger_of(run).sampled.items():
            macs = layers[scope][f"{phase}_macs"]
            price = layers[scope]["passes"][phase]
            assert price["events"] == pytest.approx(macs * one.nonzero / one.macs)
            assert price["energy_joules"] == pytest.approx(26e-12 * price["events"])
        assert found["machine"]["zeros"]["source"] == f"{source}, sampled on 2 of 5 steps"
        assert not found["machine"]["zeros"]["without"]
    assert main([*words, "--zeros", str(run)]) == 0
    assert "sampled on 2 of 5 steps" in capsys.readouterr().out
    assert main(words) == 0
    assert "every MAC is an event: an upper bound" in capsys.readouterr().out


# Eyeriss, JSSC 2017, Table V, AlexNet: zeros of each CONV layer's input; see
# test_row_stationary.py, which holds the estimates against the chip.
INPUTS = {"conv1": 0.0001, "conv2": 0.387, "conv3": 0.725, "conv4": 0.793, "conv5": 0.776}


@pytest.mark.parametrize("form", ["toml", "json"])
def test_eyeriss_codes_images_with_the_zeros_of_a_file(
    tmp_path: Path, form: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / f"alexnet.{form}"
    tables = {name: {"input": share} for name, share in INPUTS.items()}
    tables["conv5"]["output"] = 0.776
    toml = [f"[{n}]\n" + "\n".join(f"{k} = {v}" for k, v in t.items()) for n, t in tables.items()]
    file.write_text("\n".join(toml) if form == "toml" else json.dumps(tables))
    words = ["cost", "alexnet", "--batch", "4", "--machine", "eyeriss"]
    dense, found = (asked(*words, *more, capsys=capsys) for more in ([], ["--zeros", str(file)]))
    assert found["machine"]["zeros"]["without"] == ["fc6", "fc7", "fc8"]
    layers = {layer["name"]: layer for layer in found["layers"]}
    shares = [*INPUTS.values(), 0.776]
    for i, name in enumerate(INPUTS):
        shape = ConvShape(*layers[name]["shape"].values())
        mine = estimate(shape, EYERISS, zeros=MapZeros(shares[i], shares[i + 1]))
        assert layers[name]["passes"]["forward"]["dram_bytes"] == mine.dram_bytes
    # Zeros of DRAM's traffic alone: 15.4 MB on the chip, within the 10% of the other tests.
    total = sum(layers[name]["passes"]["forward"]["dram_bytes"] for name in INPUTS)
    assert total == pytest.approx(15.4e6, rel=0.1)
    before, after = (f["totals"]["on_machine"]["inference"] for f in (dense, found))
    assert after["dram_bytes"] < before["dram_bytes"]
    assert after["cycles"] == before["cycles"]


def test_each_pass_has_its_own_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Gradients are the images of backward-data, and go out as the layer before reads them."""
    file = tmp_path / "zeros.toml"
    file.write_text("[conv1]\ngradient = 0.9\ninput = 0.2\n[conv2]\ngradient = 0.8\ninput = 0.6\n")
    words = ["cost", "lenet", "--batch", "2", "--training", "--machine", "eyeriss"]
    found = asked(*words, "--zeros", str(file), capsys=capsys)
    conv2 = next(layer for layer in found["layers"] if layer["name"] == "conv2")
    shape = passes(ConvShape(2, 50, 20, 12, 12, 5, 5, 8, 8))
    expected = {
        "forward": MapZeros(0.6, 0.0), "backward_data": MapZeros(0.8, 0.9),
        "backward_weights": MapZeros(0.6, 0.0),
    }  # fmt: skip
    for phase in PASSES:
        mine = estimate(shape[phase], EYERISS, zeros=expected[phase])
        assert conv2["passes"][phase]["dram_bytes"] == mine.dram_bytes


def test_events_of_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What is not told of a pass is the product of its factors' shares, as if independent."""
    file = tmp_path / "zeros.json"
    file.write_text(json.dumps({
        "conv1": {"forward": 0.25}, "fc1": {"input": 0.5, "weights": 0.2, "gradient": 0.9},
    }))  # fmt: skip
    words = ["cost", "lenet", "--training", "--machine", "truenorth", "--zeros", str(file)]
    found = asked(*words, capsys=capsys)
    layers = {layer["name"]: layer["passes"] for layer in found["layers"]}
    assert layers["conv1"]["forward"]["events"] == 72_000
    macs = 400_000
    shares = {"forward": 0.5 * 0.8, "backward_data": 0.1 * 0.8, "backward_weights": 0.5 * 0.1}
    for phase, share in shares.items():
        assert layers["fc1"][phase]["events"] == pytest.approx(macs * share)
    assert layers["fc2"]["forward"]["events"] == 5000
    assert found["machine"]["zeros"]["without"] == ["conv2", "fc2"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[conv1]\ninput = 1.5", "conv1.input: expected a number from 0 to 1, got 1.5"),
        ("[conv1]\ninput = -0.1", "conv1.input: expected a number from 0 to 1, got -0.1"),
        ("[conv1]\ninput = nan", "conv1.input: expected a number from 0 to 1, got nan"),
        ("[conv1]\ninput = true", "conv1.input: expected a number from 0 to 1, got True"),
        ("[conv1]\ninput = 'x'", "conv1.input: expected a number from 0 to 1, got 'x'"),
        ("[conv1]\ninputs = 0.5", "unknown key 'conv1.inputs'; did you mean 'input'?"),
        ("[conv7]\ninput = 0.5", "lenet has no layer 'conv7'; did you mean 'conv"),
        ("[a.conv1]\ninput = 0.5", "lenet has no layer 'a.conv1'"),
        ("[conv1]\ninput = 0.5\n[conv1.more]\ninput = 0.5", "conv1.input: expected a table of"),
        ("input = 0.5", "input: expected a table of shares, got 0.5"),
        ("", "expected a table of shares, got {}"),
        ("[conv1]", "conv1: expected a table of shares, got {}"),
        ("conv1", "not valid TOML"),
        ("a = " + "[" * 3000, "not valid TOML"),
        ("# \udcff", "not valid TOML: 'utf-8' codec"),
    ],
)
def test_bad_files_of_zeros(
    tmp_path: Path, text: str, said: str, capfd: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "zeros.toml"
    file.write_bytes(text.encode(errors="surrogateescape"))
    assert main(["cost", "lenet", "--machine", "truenorth", "--zeros", str(file)]) == 2
    err = capfd.readouterr().err
    assert said in err and str(file) in err and err.count("\n") == 1


@pytest.mark.parametrize("text", ["[1, 2]", "3", "[" * 100_000, '{"conv1": [0.5]}', "nan", "{"])
def test_bad_json(tmp_path: Path, text: str, capfd: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "zeros.json"
    file.write_text(text)
    assert main(["cost", "lenet", "--machine", "truenorth", "--zeros", str(file)]) == 2
    err = capfd.readouterr().err
    assert str(file) in err and err.count("\n") == 1 and len(err) < 400


def test_runs_that_do_not_do(run: Path, capfd: pytest.CaptureFixture[str]) -> None:
    words = ["cost", "lenet", "--machine", "truenorth", "--zeros"]
    assert main([*words, str(run.parent / "plain")]) == 2
    assert (
        "expected a run that counted zeros: train with --sparsity every=K" in capfd.readouterr().err
    )
    assert main(["cost", "resnet20", *words[2:], str(run)]) == 2
    assert "expected a run of resnet20, got a run of lenet" in capfd.readouterr().err


KEY = {"scope": "a", "phase": "forward", "primitive": "linear", "backend": "numpy"}


@pytest.mark.parametrize(
    "entry",
    [
        {"sampled_steps": "many"}, {"sampled_steps": None}, {**KEY, "sampled": 3},
        {**KEY, "sampled": {"macs": "x"}}, {**KEY, "sampled": {"macs": float("inf")}},
        {"sampled": {"macs": 3}}, {**KEY, "sampled": {"nonzero": 10**400}},
        {"sampled_steps": 10**400}, {**KEY, "peak": 10**400}, {**KEY, "stashed": 10**400},
    ],
)  # fmt: skip
def test_ledger_whose_samples_cannot_be_read(entry: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"run.h5: ledger: cannot be read"):
        read_ledger(Path("run.h5"), {"ledger": [entry]})


@pytest.mark.parametrize("energy", [None, (10.0, 14.0), (14.0, 10.0)])
def test_this_machine(
    run: Path, energy: tuple[float, float] | None, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """Roofs as measured; joules only where the counters are there and have not begun anew."""
    counts = iter((energy or (None, None)) * 5)
    seconds = iter((0.0, 2.0) * 5)
    monkeypatch.setattr(host, "calibrate", lambda: Roofs(100.0, 10.0))
    monkeypatch.setattr(host, "joules", lambda: next(counts))
    monkeypatch.setattr(host, "perf_counter", lambda: next(seconds))
    known = energy == (10.0, 14.0)
    here = host.load("host")
    assert here.has_energy is known and here.note.startswith("100 GFLOP/s and 10.0 GB/s")
    price = here.price(Cost(macs=10**9, bytes_read=10**6))  # 20 ms of arithmetic, 0.1 of memory
    assert price.latency_seconds == pytest.approx(0.02)
    assert price.joules == (pytest.approx(0.04) if known else None)
    found = asked("cost", "lenet", "--training", "--machine", "host", capsys=capsys)
    conv2 = next(layer for layer in found["layers"] if layer["name"] == "conv2")
    moved = 4 * (20 * 144 + 25_000 + 50 + 50 * 64)
    bound = max(2e-11 * 1_600_000, 1e-10 * moved)
    assert conv2["passes"]["forward"]["latency_seconds"] == pytest.approx(bound)
    assert found["machine"]["measured"]["gflops"] == 100.0
    assert ("energy_joules" in found["totals"]["on_machine"]["training"]) is known
    assert ("energy_joules" in found["machine"]) is not known
    assert main(["bill", str(run), "--machine", "host"]) == 0
    out = capsys.readouterr().out
    assert (
        "times are those of calls one" in out
        and ("2.0 W by RAPL" if known else "energy is not available") in out
    )
    found = asked("bill", str(run), "--machine", "host", capsys=capsys)
    for key in ("latency_seconds", "energy_joules") if known else ("latency_seconds",):
        layers = sum(p[key] for layer in found["layers"] for p in layer["phases"].values())
        phases = sum(p[key] for p in found["phases"].values())
        assert found["total"][key] == pytest.approx(layers) == pytest.approx(phases)
        assert found["total"][key] == pytest.approx(found["each_epoch"][0][key])
    assert ("energy_joules" in found["total"]) is known
    status = main(["bill", str(run), "--machine", "host", "--co2", "300"])
    assert status == (0 if known else 2)
    if not known:
        assert "--co2: " in capsys.readouterr().err


def test_an_unknown_machine_names_this_one() -> None:
    assert {"host", "truenorth"} < {*machine.names()}
    with pytest.raises(UserError, match=r"no machine 'hots'; did you mean 'host'\?"):
        machine.load("hots")
