"""`tallygrad cost`: exact counts without data, prices on machines, and what is refused."""

from __future__ import annotations

import csv
import io
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import tallygrad.autograd as ag
from tallygrad.autograd import context
from tallygrad.autograd.ledger import Cost, Ledger
from tallygrad.trainer.cli import main
from tallygrad.trainer.cost import machines
from tallygrad.trainer.cost.machines import machine
from tallygrad.trainer.cost.machines.systolic.array import estimate
from tallygrad.trainer.cost.pricing import exchanged
from tallygrad.trainer.cost.workload import LayerShape, LayerWork, ShapeRecorder, count
from tallygrad.trainer.errors import UserError

# What keys of machines take, as messages say it.
ENERGY = "expected 0 or a number from 1e-21 to 1e+21, got"
RATE = "expected a number from 1e-21 to 1e+21, got"
SIZE = "expected a whole number from 1 to 1e+21, got"

PRICES = """name = "mine"
kind = "prices"
source = "a test"
[energy_pj]
mac = 2.0
add = 1.0
mul = 1
div = 0
cmp = 0.5
exp = 10.0
dram_byte = 100.0
"""


def described(*words: str, capsys: pytest.CaptureFixture[str]) -> Any:
    assert main(["cost", *words, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_lenet_to_the_integer(capsys: pytest.CaptureFixture[str]) -> None:
    found = described("lenet", "--training", "--ranks", "4", capsys=capsys)
    totals = found["totals"]
    assert (totals["conv_weights"], totals["fc_weights"]) == (25_500, 405_000)
    assert (totals["conv_macs"], totals["fc_macs"]) == (1_888_000, 405_000)
    assert totals["inference_macs"] == 2_293_000 and totals["weights"] == 430_500
    assert totals["parameters"] == 431_080
    training = totals["training"]
    assert training["forward_macs"] == training["backward_weights_macs"] == 2_293_000
    assert training["backward_data_macs"] == 2_293_000 - 288_000
    assert training["total_macs"] == 6_591_000
    assert totals["training_over_inference"] == 6_591_000 / 2_293_000
    assert training["update_bytes"] == 5 * 4 * 431_080 + 4  # and the learning rate
    assert training["exchange_bytes_per_rank"] == 2 * 3 * 4 * 431_080 // 4
    layers = {layer["name"]: layer for layer in found["layers"]}
    shape = {"N": 1, "M": 50, "C": 20, "H": 12, "W": 12, "R": 5, "S": 5, "E": 8, "F": 8, "U": 1}
    assert layers["conv2"]["shape"] == {**shape, "groups": 1}
    assert layers["conv2"]["weights"] == 25_000 and layers["conv2"]["parameters"] == 25_050
    assert layers["conv1"]["backward_data_macs"] == 0 and layers["fc1"]["kind"] == "fc"


@pytest.mark.parametrize("name", ["lenet", "lenet5", "resnet20", "mlp"])
def test_work_grows_with_the_batch_and_shapes_give_it(name: str) -> None:
    shape = (3, 32, 32) if name == "resnet20" else (1, 28, 28)
    one, many = (count(name, n, shape, 10, training=True) for n in (1, 7))
    for a, b in zip(one.layers, many.layers, strict=True):
        for phase in ("forward", "backward_data", "backward_weights"):
            assert 7 * a.macs(phase) == b.macs(phase)
        assert sum(s.macs for s in a.shapes) == a.macs("forward")
        assert a.stashed <= b.stashed and a.weights == b.weights
    assert one.parameters == many.parameters and one.peak < many.peak
    plain = count(name, 7, shape, 10, training=False)
    assert plain.phase("forward").macs == many.phase("forward").macs
    assert plain.peak < many.peak and "backward_data" not in plain.ledger.by("phase")


def test_mixed_precision_has_the_same_work_and_half_the_bytes(
    capsys: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip("ml_dtypes", reason="ml_dtypes is not installed")
    found = []
    for precision in ("float32", "bf16"):
        words = ["cost", "resnet20", "--batch", "32", "--training", "--json"]
        assert main([*words, "--precision", precision]) == 0
        found.append(json.loads(capsys.readouterr().out))
    plain, mixed = (report["totals"] for report in found)
    assert plain["training"]["total_macs"] == mixed["training"]["total_macs"]
    assert mixed["training"]["total_bytes"] < 0.52 * plain["training"]["total_bytes"]
    assert 0.5 < mixed["activation_bytes_stashed"] / plain["activation_bytes_stashed"] < 0.52
    assert found[1]["conventions"]["bytes"].startswith("bfloat16 and float32; ")


def test_inference_in_bf16_reads_weights_of_two_bytes(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("ml_dtypes", reason="ml_dtypes is not installed")
    found = [
        described("lenet", "--precision", precision, capsys=capsys)["totals"]
        for precision in ("float32", "bf16")
    ]
    plain, mixed = (totals["inference_bytes"] for totals in found)
    assert 0.5 < mixed / plain < 0.51  # images come in float32


def test_what_is_dropped_is_not_alive() -> None:
    ledger = Ledger()
    recorder = ShapeRecorder(ledger)
    with context.using(backend="meta", ledger=ledger, observer=recorder), ag.no_grad():
        x = ag.relu(ag.ones(250))
        for _ in range(9):
            x = ag.relu(x)
        kept = [ag.relu(x) for _ in range(5)]
        ag.relu(x)  # which nobody reads
        kept[0] + kept[4]
    alive = recorder.lifetimes.alive()
    assert alive[:10] == [1000] + 9 * [2000]
    assert alive[10:] == [2000, 3000, 3000, 3000, 3000, 4000, 3000]


def test_groups_are_seen() -> None:
    shape = LayerShape(2, 256, 96, 27, 27, 5, 5, 27, 27, (1, 1), 2)
    assert shape.macs == 2 * 223_948_800  # AlexNet's second layer, with groups


def test_inference_alone(capsys: pytest.CaptureFixture[str]) -> None:
    totals = described("lenet", "--batch", "3", capsys=capsys)["totals"]
    assert totals["inference_macs"] == 3 * 2_293_000 and "training" not in totals


def test_a_line_a_layer(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cost", "resnet20", "--training", "--csv"]) == 0
    rows = [*csv.DictReader(io.StringIO(capsys.readouterr().out))]
    macs = sum(int(row["forward_macs"]) for row in rows)
    assert macs == 40_551_040 and {row["kind"] for row in rows} == {"conv", "fc", "other"}


def test_the_table_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cost", "lenet", "--training", "--machine", "horowitz45"]) == 0
    out = capsys.readouterr().out
    assert "20x12x12 * 50x5x5 -> 8x8" in out and "training 6,591,000 MACs, 2.8744 times" in out
    assert "training on horowitz45: " in out and "82.3% in convolutions" in out


@pytest.mark.parametrize("name", [name for name in machine.names() if name != "host"])
def test_machines_price_every_layer_and_pass(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    found = described("lenet", "--training", "--machine", name, capsys=capsys)
    assert found["machine"]["name"] == name and found["machine"]["source"]
    total = found["totals"]["on_machine"]
    energy = "energy_macs" if name == "eyeriss-isca16" else "energy_joules"
    assert 0 < total["inference"][energy] < total["training"][energy]
    parts = [p for layer in found["layers"] for p in layer["passes"].values()]
    for key in total["training"]:
        whole = total["training"][key]
        optimizer = whole - sum(p[key] for p in parts)
        assert -1e-9 * whole <= optimizer  # which is no layer
    assert found["layers"][0]["passes"].keys() == {"forward", "backward_weights"}


@pytest.mark.parametrize("dataflow", ["os", "ws", "is"])
def test_layers_on_an_array(dataflow: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["lenet", "--batch", "4", "--training", "--machine", f"systolic-{dataflow}"]
    found = described(*words, capsys=capsys)
    layers = {layer["name"]: layer["passes"] for layer in found["layers"]}
    assert layers["conv2"].keys() == {"forward", "backward_data", "backward_weights"}
    assert layers["pool1"] == {} and layers["conv1"].keys() == {"forward", "backward_weights"}
    product = (4 * 64, 500, 50)  # pixels, window, filters of the second convolution
    alone = estimate(*product, 32, 32, dataflow)
    traffic = alone.input_reads + alone.filter_reads + alone.output_writes
    price = layers["conv2"]["forward"]
    assert price["global_buffer_bytes"] == 2 * traffic
    assert price["cycles"] == 1 + max(alone.cycles, -(-traffic // 128))
    assert price["latency_seconds"] == pytest.approx(1e-9 * price["cycles"])
    dram = 4 * 20 * 144 + 25_000 + 4 * 50 * 64
    assert price["dram_bytes"] == 2 * dram
    joules = 1.5 * 4 * 1_600_000 + 2.5 * traffic + 320 * dram
    assert price["energy_joules"] == pytest.approx(1e-12 * joules)
    assert price["active_pes"] == pytest.approx(1024 * price["utilization"])


def test_layers_on_eyeriss(capsys: pytest.CaptureFixture[str]) -> None:
    """AlexNet's third layer alone, in the mapping of the paper's Table V."""
    layer = LayerWork("conv3", "conv", costs={"forward": Cost(macs=598_081_536)})
    layer.shapes.append(LayerShape(4, 384, 256, 13, 13, 3, 3, 13, 13, (1, 1), 1))
    price = machine.load("eyeriss").price_layer(layer, "forward")
    assert price is not None
    assert price.active_pes == 156
    assert price.global_buffer_bytes == pytest.approx(50.2e6, abs=0.1e6)
    assert price.latency_seconds == pytest.approx(21.8e-3, rel=0.2)
    assert machine.load("eyeriss").price_layer(layer, "backward_data") is None
    layer.shapes[0] = layer.shapes[0]._replace(U=(1, 2))
    with pytest.raises(
        UserError, match="conv3, forward: stride: expected the same for rows and columns, got 1, 2"
    ):
        machine.load("eyeriss").price_layer(layer, "forward")


def test_a_folder_is_no_machine(tmp_path: Path) -> None:
    folder = tmp_path / "folder.toml"
    folder.mkdir()
    with pytest.raises(UserError, match=r"folder.toml: Is a directory"):
        machine.load(str(folder))


def test_prices_by_hand(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(PRICES)
    mine = machine.load(str(file))
    cost = Cost(macs=5, add=3, mul=2, div=7, cmp=4, exp=1, bytes_read=6, bytes_written=2)
    price = mine.price(cost)
    levels = {"arithmetic": (10 + 3 + 2 + 0 + 2 + 10) * 1e-12, "memory": 800e-12}
    assert price.levels == pytest.approx(levels) and price.dram_bytes == 8
    assert price.joules == pytest.approx(827e-12)
    etann = machine.load("etann").price(Cost(macs=4_000_000_000))
    assert etann.to_json() == {"energy_joules": 3.0, "latency_seconds": 2.0}


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("mac = 2.0", "", f"energy_pj.mac: {ENERGY} nothing"),
        ("mac = 2.0", 'mac = "2"', f"energy_pj.mac: {ENERGY} '2'"),
        ("mac = 2.0", "mac = true", f"energy_pj.mac: {ENERGY} T"),
        ("mac = 2.0", "mac = -1", f"energy_pj.mac: {ENERGY} -1"),
        ("mac = 2.0", "mac = inf", f"energy_pj.mac: {ENERGY} i"),
        ("mac = 2.0", "mac = 2.0\nmca = 1", "unknown key 'energy_pj.mca'; did you mean 'mac'?"),
        ("[energy_pj]", "[energy]", "unknown key 'energy'; did you mean 'energy_pj'?"),
        ('kind = "prices"', 'kind = "price"', "kind: expected one of events, prices, row-sta"),
        ('kind = "prices"', 'kind = "throughput"', "unknown key 'energy_pj'"),
        ("mac = 2.0", "mac = nan", f"energy_pj.mac: {ENERGY} n"),
        ("mac = 2.0", "mac = [1]", f"energy_pj.mac: {ENERGY} ["),
        ("mac = 2.0", "mac = 1e300", f"mac: {ENERGY} 1e+300"),
        ("mac = 2.0", "mac = 1" + "0" * 300, f"mac: {ENERGY} 1000"),
        ("mac = 2.0", "mac = 1" + "0" * 5000, "not valid TOML"),
        ("mac = 2.0", "mac = 1e-300", f"mac: {ENERGY} 1e-300"),
        ("mac = 2.0", '"m\\nc" = 1', "unknown key 'energy_pj.m\\nc'"),
        ("mac = 2.0", "mac = " + "[" * 3000, "not valid TOML"),
        ("[energy_pj]\n", "", "unknown key 'mac'"),
        ("[energy_pj]", "[[energy_pj]]", "energy_pj: expected a table of mac, add, mul"),
        ('kind = "prices"', 'kind = ["prices"]', "throughput, got ['prices']"),
        ('kind = "prices"', 'kind = "prices"\nunit = "mac"', "unknown key 'unit'"),
        ('kind = "prices"', 'kind = "prices"\ndataflow = "os"', "unknown key 'dataflow'"),
        ('kind = "prices"', 'kind = "prices"\nbits = -8', "bits: expected a whole number from 1"),
        ('kind = "prices"', 'kind = "prices"\nnote = 8', "note: expected a text, got 8"),
        ('kind = "prices"', 'kind = "host"', "throughput, got 'host'"),
        ('name = "mine"', "", "name: expected a text, got nothing"),
        ("mac = 2.0", "mac 2.0", "not valid TOML"),
        ("mine", "\udcff", "not valid TOML: 'utf-8' codec can't decode byte 0xff"),
    ],
)
def test_bad_machine_files(tmp_path: Path, old: str, new: str, said: str) -> None:
    file = tmp_path / "bad.toml"
    file.write_bytes(PRICES.replace(old, new).encode(errors="surrogateescape"))
    with pytest.raises(UserError) as caught:
        machine.load(str(file))
    assert said in str(caught.value) and str(file) in str(caught.value)
    assert str(caught.value).isprintable() and len(str(caught.value)) < 400


@pytest.mark.parametrize(
    ("name", "key", "value", "said"),
    [
        ("systolic-os", "rows", "0", f"array.rows: {SIZE} 0"),
        ("systolic-os", "columns", "2.5", f"array.columns: {SIZE} 2.5"),
        ("systolic-os", "sram_words", "-1", f"array.sram_words: {RATE} -1"),
        ("systolic-os", "clock_hz", "0.0", f"array.clock_hz: {RATE} 0.0"),
        ("systolic-os", "dataflow", '"rs"', "dataflow: expected one of os, ws, is, got 'rs'"),
        ("systolic-os", "dataflow", "{}", "dataflow: expected one of os, ws, is, got {}"),
        ("eyeriss", "psum_words", "nan", f"chip.psum_words: {SIZE} nan"),
        ("eyeriss", "bank_bytes", "0", f"chip.bank_bytes: {SIZE} 0"),
        ("eyeriss-isca16", "unit", '"pj"', "unit: expected one of mac, got 'pj'"),
        ("etann", "watts", "inf", f"throughput.watts: {RATE} inf"),
        ("truenorth", "event", "'26'", f"energy_pj.event: {ENERGY}"),
    ],
)
def test_bad_numbers_of_other_kinds(
    tmp_path: Path, name: str, key: str, value: str, said: str
) -> None:
    lines = (machine.FOLDER / f"{name}.toml").read_text().splitlines()
    changed = [f"{key} = {value}" if line.startswith(f"{key} =") else line for line in lines]
    file = tmp_path / "bad.toml"
    file.write_text("\n".join(changed))
    with pytest.raises(UserError, match=re.escape(said)):
        machine.load(str(file))


@pytest.mark.parametrize("name", ["eyeriss", "systolic-os", "systolic-ws", "etann", "truenorth"])
@pytest.mark.parametrize("size", [1.0, 1e20])
def test_machines_of_any_size_price_a_model(
    tmp_path: Path, name: str, size: float, capsys: pytest.CaptureFixture[str]
) -> None:
    """All numbers as small, or as large, as can be, but for the buffer; in finite numbers."""
    lines = (machine.FOLDER / f"{name}.toml").read_text().splitlines()
    file = tmp_path / "any.toml"
    keep = ("buffer_bytes", "filter_bytes", "bank_bytes", "word_bytes", "bits")
    for i, line in enumerate(lines):
        key, _, value = line.partition(" = ")
        if value[:1].isdigit() and key not in keep:
            lines[i] = f"{key} = {size}"
    file.write_text("\n".join(lines))
    found = described("lenet", "--machine", str(file), capsys=capsys)
    prices = found["totals"]["on_machine"]["inference"].values()
    assert prices and all(0 < price < 1e60 for price in prices)


def test_a_chip_that_is_too_small_names_layer_key_and_value(tmp_path: Path) -> None:
    file = tmp_path / "small.toml"
    text = (machine.FOLDER / "eyeriss.toml").read_text()
    file.write_text(text.replace("buffer_bytes = 102400", "buffer_bytes = 4096"))
    said = "conv1, forward: chip.buffer_bytes: expected at least 8192, in banks of 4096, for "
    with pytest.raises(UserError, match=re.escape(said)):
        price = machine.load(str(file)).price_layer
        for layer in count("lenet", 1, (1, 28, 28), 10, training=False).layers:
            price(layer, "forward")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["lenets"], "unknown model 'lenets'; did you mean 'lenet'?"),
        (["lenet", "--input", "3,4"], "--input: expected C,H,W, such as 3,224,224, got '3,4'"),
        (
            ["lenet", "--input", "1,-8,8"],
            "--input: expected C,H,W, such as 3,224,224, got '1,-8,8'",
        ),
        (["lenet", "--input", "1,8,8"], "lenet: expected images of at least 16 x 16, got 8 x 8"),
        (["lenet", "--batch", "0"], "--batch: expected at least 1, got 0"),
        (["lenet", "--ranks", "0"], "--ranks: expected at least 1, got 0"),
        (["lenet", "--machine", "eniac"], "no machine 'eniac'; choose from "),
        (["lstm", "--machine", "systolic-os"], "got 2236416 other MACs in lstm, forward"),
        (["lenet", "--machine", "nowhere.toml"], "nowhere.toml: No such file"),
        (["lenet", "--zeros", "x.toml"], "--zeros: expected a --machine too"),
        (["lenet", "--zeros", "x.toml", "--machine", "etann"], "got etann of kind throughput"),
        (["lenet", "--zeros", "x.toml", "--machine", "truenorth"], "x.toml: No such file"),
    ],
)
def test_what_does_not_fit_gives_one_line(
    words: list[str], said: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        raise SystemExit(main(["cost", *words]))
    assert end.value.code == 2
    err = capfd.readouterr().err
    assert said in err and err.count("\n") == 1


def test_no_mpi_and_no_llvm_is_loaded() -> None:
    code = (
        "import sys; from tallygrad.trainer.cli import main; main(['cost', 'lenet']);"
        "print(sorted({'mpi4py', 'h5py', 'llvmlite'} & {m.partition('.')[0] for m in sys.modules}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_a_ring_sends_almost_twice_the_gradients() -> None:
    assert exchanged(60_965_224, 4) == 365_791_344  # AlexNet with biases
    assert exchanged(1000, 1) == 0


@pytest.mark.parametrize("words", [[], ["--csv"], ["--json"]], ids=str)
@pytest.mark.parametrize("name", ["", "horowitz45", "truenorth", "etann"])
def test_a_recurrent_model_is_shown(
    name: str, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Its layer has MACs, but no shape in the survey's letters."""
    chosen = ["--machine", name] if name else []
    assert main(["cost", "lstm", "--training", *chosen, *words]) == 0
    assert "lstm" in capsys.readouterr().out


def test_prices_are_in_the_csv(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["cost", "lenet", "--training", "--machine", "systolic-os"]
    assert main([*words, "--csv"]) == 0
    rows = [*csv.DictReader(io.StringIO(capsys.readouterr().out))]
    assert main([*words, "--json"]) == 0
    layers = json.loads(capsys.readouterr().out)["layers"]
    for row, layer in zip(rows, layers, strict=True):
        for phase, price in layer["passes"].items():
            for key, value in price.items():
                assert float(row[f"{phase}_{key}"]) == value
    assert isinstance(layers[0]["passes"]["forward"]["cycles"], int)


@pytest.mark.parametrize("file", sorted(machine.FOLDER.glob("*.toml")), ids=lambda file: file.stem)
def test_numbers_of_machines_have_their_source_beside_them(file: Path) -> None:
    """In the line, or in a line above those of its table."""
    said = False
    for line in file.read_text("utf-8").splitlines():
        if line.startswith("["):
            said = False
        said = said or line.startswith("#")
        if re.match(r"\w+ = [\d.]", line) and not line.startswith("bits"):
            assert said or "#" in line, line


@pytest.mark.parametrize("words", [1, 5, 11])
def test_scratchpads_of_unequal_size(words: int, tmp_path: Path) -> None:
    text = (machine.FOLDER / "eyeriss.toml").read_text("utf-8")
    file = tmp_path / "small.toml"
    file.write_text(text.replace("filter_words = 224", f"filter_words = {words}"), "utf-8")
    assert main(["cost", "lenet", "--machine", str(file)]) == 0


NEW_KIND = """
from dataclasses import dataclass
from typing import ClassVar

from tallygrad.trainer.cost.machines.machine import RATE, Fields, Machine
from tallygrad.trainer.cost.price import Price


@dataclass(frozen=True, kw_only=True)
class Clocked(Machine):
    cycles_per_mac: float
    kind = "clocked"
    fields: ClassVar[Fields] = {"cycles_per_mac": RATE}

    def price(self, cost, events=None):
        return Price(latency_seconds=self.cycles_per_mac * cost.macs)
"""


def test_a_new_kind_of_machine_is_one_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder := tmp_path / "kinds").mkdir()
    (folder / "clocked.py").write_text(NEW_KIND)
    monkeypatch.setattr(machines, "__path__", [*machines.__path__, str(folder)])
    monkeypatch.setattr(machine, "_KINDS", {**machine.kinds()})
    monkeypatch.setattr(machine, "kinds", machine.kinds.__wrapped__)
    file = tmp_path / "mine.toml"
    file.write_text('name = "mine"\nkind = "clocked"\nsource = "a test"\ncycles_per_mac = 2\n')
    found = described("lenet", "--machine", str(file), capsys=capsys)
    assert found["totals"]["on_machine"]["inference"] == {"latency_seconds": 2 * 2_293_000}
    monkeypatch.delitem(sys.modules, f"{machines.__name__}.clocked")
