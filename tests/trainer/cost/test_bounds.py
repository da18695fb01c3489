"""Bounds of a pass: compulsory traffic, and the roof that binds."""

from __future__ import annotations

import math

import pytest

from tallygrad.trainer.cost.machines import machine
from tallygrad.trainer.cost.machines.host import Host
from tallygrad.trainer.cost.roofline import Roofline, Roofs, compulsory_words, intensity
from tallygrad.trainer.cost.workload import LayerShape

ROOFS = Roofline(100.0, 20.0)


@pytest.mark.parametrize(
    ("shape", "megabytes"),
    [  # AlexNet, batch 4, words of 16 bit
        (LayerShape(4, 96, 3, 227, 227, 11, 11, 55, 55, (4, 4), 1), 3.63),
        (LayerShape(4, 256, 96, 27, 27, 5, 5, 27, 27, (1, 1), 2), 2.67),
        (LayerShape(4, 384, 256, 13, 13, 3, 3, 13, 13, (1, 1), 1), 2.63),
        (LayerShape(4, 384, 384, 13, 13, 3, 3, 13, 13, (1, 1), 2), 2.37),
        (LayerShape(4, 256, 384, 13, 13, 3, 3, 13, 13, (1, 1), 2), 1.75),
    ],
)
def test_what_memory_must_move(shape: LayerShape, megabytes: float) -> None:
    assert 2e-6 * compulsory_words(shape) == pytest.approx(megabytes, abs=0.005)


@pytest.mark.parametrize(
    ("macs", "moved", "seconds", "roof"),
    [
        (1000, 20, 10.0, "compute"),
        (100, 400, 20.0, "memory"),
        (100, 20, 1.0, "compute"),  # at the ridge
        (0, 20, 1.0, "memory"),
        (0, 0, 0.0, "compute"),
    ],
)
def test_what_binds(macs: int, moved: int, seconds: float, roof: str) -> None:
    assert ROOFS.bound(macs, moved) == (pytest.approx(seconds), roof)
    if seconds and macs:
        assert ROOFS.attainable(intensity(macs, moved)) == pytest.approx(macs / seconds)


def test_the_ridge() -> None:
    assert ROOFS.ridge == 5.0 and ROOFS.attainable(5.0) == 100.0
    assert ROOFS.attainable(2.5) == 50.0 and ROOFS.attainable(math.inf) == 100.0
    assert (intensity(3, 0), intensity(0, 0)) == (math.inf, 0.0)


def test_roofs_of_machines() -> None:
    # The paper's peak; 60 MHz of 64 bit.
    assert machine.load("eyeriss").roofline == (33.6e9, 480e6, "DRAM")
    assert machine.load("systolic-os").roofline == (1024e9, 256e9, "global buffer")
    here = Host(name="host", source="", roofs=Roofs(gflops=64.0, gbytes=8.0)).roofline
    assert here is not None and here[:2] == pytest.approx((32e9, 8e9))
    for name, most in (("etann", 2e9), ("horowitz45", None)):
        other = machine.load(name)
        assert other.peak == most and other.roofline is None
