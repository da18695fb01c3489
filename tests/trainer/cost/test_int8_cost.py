"""What inference with 8-bit integers costs."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from tallygrad.trainer.cli import main
from tallygrad.trainer.cost.machines.machine import load
from tallygrad.trainer.cost.pricing import cost_report
from tallygrad.trainer.cost.workload import count


def report(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    assert main(["cost", *words, "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


@pytest.mark.parametrize("name", ["lenet", "resnet20"])
def test_macs_and_layers_are_those_of_float32_and_bytes_are_fewer(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    exact, found = (report(capsys, name, "--precision", p) for p in ("float32", "int8"))
    plain, ours = (
        {layer["name"]: layer for layer in one["layers"] if layer["weights"]}
        for one in (exact, found)
    )
    assert plain.keys() == ours.keys()
    for key in ("kind", "shape", "weights", "parameters"):
        assert [v[key] for v in plain.values()] == [v[key] for v in ours.values()]
    assert exact["totals"]["inference_macs"] == found["totals"]["inference_macs"]
    assert exact["totals"]["inference_bytes"] > 1.2 * found["totals"]["inference_bytes"]
    assert found["conventions"]["bytes"].startswith("int8 and float32; ")
    if name == "lenet":  # rounding, then the product: x, scale, factors; q, w, factors, bias;
        moved = 4 * 784 + 4 + 80 + (784 + 500 + 80 + 80) + (784 + 80) + 4 * 11520  # q, factors; y
        assert ours["conv1"]["bytes_read"] + ours["conv1"]["bytes_written"] == moved


def test_machines_price_integers_or_say_that_they_do_not(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Horowitz, 45 nm: 0.2 pJ for a product of 8 bits and 0.1 pJ for a 32-bit sum, 4.6 pJ for both
    in float32; words of 8 bits take half of those of 16."""
    work = count("lenet", 4, (1, 28, 28), 10, training=False, precision="int8")
    cost = work.ledger.total()
    for name, less in (("horowitz45", 4.3e-12 * cost.macs), ("systolic-ws", None)):
        machine = load(name)
        found = cost_report(work, machine=machine)
        price, note = found.totals.inference_price, found.machine and found.machine.precision_note
        assert price is not None and note == "" and found.metrics.hardware["bits"].value == 8
        if less is not None:
            assert price.joules == pytest.approx((machine.price(cost).joules or 0) - less)
        else:
            exact = cost_report(replace(work, precision="float32"), machine=machine)
            wide = exact.totals.inference_price
            assert wide is not None
            assert price.levels["mac"] == pytest.approx(wide.levels["mac"] * 0.3 / 1.5)
            for level in ("sram", "dram"):
                assert price.levels[level] == pytest.approx(wide.levels[level] / 2)
            assert price.dram_bytes == (wide.dram_bytes or 0) / 2
    for name, said in (
        ("eyeriss", "has words of 16 bits in any precision: int8 is priced as float32"),
        ("etann", "nothing is known of int8: a MAC is priced as in float32"),
    ):
        assert main(["cost", "lenet", "--precision", "int8", "--machine", name]) == 0
        assert said in capsys.readouterr().out


def test_training_in_int8_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cost", "lenet", "--training", "--precision", "int8"]) == 2
    said = "--precision: expected float32 or bf16 in training, got int8\n"
    assert capsys.readouterr().err == f"tallygrad: error: {said}"
