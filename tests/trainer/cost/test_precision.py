"""Prices of work in bfloat16, on machines that tell its energy and on those that do not."""

from __future__ import annotations

from pathlib import Path

import pytest

from tallygrad.autograd.ledger import Cost
from tallygrad.trainer.cost.machines.machine import FOLDER, load, names
from tallygrad.trainer.cost.pricing import cost_report
from tallygrad.trainer.cost.report.pages import of_cost
from tallygrad.trainer.cost.report.text import as_text
from tallygrad.trainer.cost.workload import count
from tallygrad.trainer.errors import UserError

HOROWITZ = (FOLDER / "horowitz45.toml").read_text()


def test_macs_take_the_energy_of_their_type() -> None:
    """Horowitz, 45 nm: 1.1 pJ for a float16 product and 0.9 pJ for a float32 sum, 4.6 pJ for both
    in float32. All else costs the same, by the operation and by the byte."""
    pytest.importorskip("ml_dtypes", reason="ml_dtypes is not installed")
    machine = load("horowitz45")
    work = count("mlp", 4, (1, 28, 28), 10, training=True, precision="bf16")
    report, cost = cost_report(work, machine=machine), work.ledger.total()
    price = report.totals.training_price
    assert price is not None and price.joules == pytest.approx(
        (machine.price(cost).joules or 0) - 2.6e-12 * cost.macs
    )
    assert report.machine is not None and report.machine.precision_note == ""
    assert report.metrics.hardware["bits"].value == 16
    assert "bfloat16" in report.machine.note and report.machine.note in of_cost(report, machine)


def test_other_machines_say_how_they_price_it() -> None:
    pytest.importorskip("ml_dtypes", reason="ml_dtypes is not installed")
    said = {}
    for name in names()[:-1]:  # without this host
        machine = load(name)
        if name == "horowitz45":
            continue
        mixed = machine.at("bf16")
        assert mixed.at("bf16") is mixed and machine.at("float32") is machine
        said[name] = mixed.precision_note
    assert said.pop("truenorth") == said.pop("etann")
    note = "has words of 16 bits in any precision: bf16 is priced as float32"
    assert set(said.values()) == {note} and len(said) > 5
    for precision, is_told in (("float32", False), ("bf16", True)):
        work = count("mlp", 1, (1, 28, 28), 10, training=False, precision=precision)
        report = cost_report(work, machine=load("etann"))
        line = "nothing is known of bf16: a MAC is priced as in float32"
        assert (line in as_text(report)) == (line in of_cost(report, load("etann"))) == is_told
        assert report.machine is not None
        assert report.machine.to_json().get("precision_note") == (line if is_told else None)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("mac = 2.0 ", "mak = 2.0 ", "unknown key 'bf16.energy_pj.mak'; did you mean 'mac'?"),
        ("mac = 2.0 ", "mac = -2.0 ", "bf16.energy_pj.mac: expected 0 or a number from 1e-21"),
        ("[bf16]\nbits = 16", "[bf16]\nbit = 16", "unknown key 'bf16.bit'; did you mean 'bits'?"),
        ("[bf16]\nbits = 16", "[bf16]\nname = 'x'", "bf16.name: expected none, as it is the"),
        ("[bf16]\nbits = 16", "[bf16]\n[bf16.bits]\nx = 1", "bf16.bits: expected"),
        ("bits = 32", "bits = 32\nbf16 = 3", "bf16: expected a table, got 3"),
    ],
)
def test_what_differs_is_checked_like_the_rest(
    tmp_path: Path, old: str, new: str, said: str
) -> None:
    text = HOROWITZ.partition("[bf16]")[0] if "bf16 = 3" in new else HOROWITZ
    assert old in text
    (file := tmp_path / "mine.toml").write_text(text.replace(old, new, 1))
    with pytest.raises(UserError) as error:
        load(str(file))
    assert said in str(error.value) and "mine.toml: " in str(error.value)


def test_any_key_of_a_machine_may_differ(tmp_path: Path) -> None:
    (file := tmp_path / "mine.toml").write_text(
        'name = "mine"\nkind = "throughput"\nsource = "by hand"\n[throughput]\n'
        "macs_per_second = 1e9\nwatts = 2.0\n[bf16.throughput]\nmacs_per_second = 4e9\n"
    )
    machine, cost = load(str(file)), Cost(macs=8 * 10**9)
    seconds = [machine.at(name).price(cost).latency_seconds for name in ("float32", "bf16")]
    assert seconds == [8.0, 2.0] and machine.at("bf16").price(cost).joules == 4.0
    assert machine.at("bf16").at("bf16") is machine.variants[0]
