"""Multiplications that kernels execute, beside the nominal ones."""

from __future__ import annotations

import numpy as np
import pytest

import tallygrad.autograd as ag
from tallygrad.autograd import context
from tallygrad.autograd.ledger import Cost

pytest.importorskip("llvmlite", reason="llvmlite is not installed")

from tallygrad.autograd.backends.llvm.kernels.conv_winograd_transforms import (
    evaluate,
    images,
    interpolate,
    price,
    values,
)


def ledger_of(backend: str, stride: int = 1) -> ag.Ledger:
    """Return the ledger of a convolution, 16 to 32 channels, 8x8 images, and of its gradients."""
    with context.using(backend=backend, ledger=ag.Ledger()) as state:
        x = ag.zeros(2, 16, 8, 8, dtype=np.float32)
        w = ag.zeros(32, 16, 3, 3, dtype=np.float32)
        x.requires_grad = w.requires_grad = True
        ag.conv2d(x, w, padding=1, stride=stride).sum().backward()
    return state.ledger


def executed(ledger: ag.Ledger) -> dict[str, int]:
    return {r.key.primitive: r.cost.executed for r in ledger if r.cost.macs}


def test_winograd_executes_fewer_and_counts_what_it_does() -> None:
    nominal, fewer = ledger_of("meta"), ledger_of("llvm:winograd")
    each = 2 * 64 * 32 * 16 * 9
    assert {r.cost.macs for r in nominal if r.cost.macs} == {each}
    assert set(executed(nominal).values()) == {each}
    # 8 tiles of 36 products a pair of channels; transforms of x and y; those of the weights.
    patch, weights = price(evaluate, images(6), 6), values(6, 3, scaled=True)
    y, dy = price(interpolate, values(6, 4), 6), price(evaluate, values(6, 4), 4)
    spread, collect = price(evaluate, weights, 3), price(interpolate, weights, 6)
    assert executed(fewer) == {
        "conv2d": 8 * (36 * 512 + 16 * patch + 32 * y) + 512 * spread,
        "conv2d_dx": 8 * (36 * 512 + 32 * patch + 16 * y) + 512 * spread,
        "conv2d_dw": 8 * (36 * 512 + 16 * patch + 32 * dy) + 512 * collect,
    }
    assert max(executed(fewer).values()) < each / 2
    assert nominal == fewer and nominal.counts() == fewer.counts()
    assert nominal.total() == fewer.total()._replace(saved=0)


def test_a_transform_of_two_rows_by_hand() -> None:
    """Rows of B^T of F(2, 3) have factors of one only; of F(4, 3) not: 12 transforms."""
    assert price(evaluate, images(4), 4) == 0
    assert price(evaluate, images(6), 6) % 12 == 0 < price(evaluate, images(6), 6)


def test_direct_convolution_multiplies_zeros_of_borders_too() -> None:
    plain = executed(ledger_of("llvm:direct"))
    strided = executed(ledger_of("llvm:direct", stride=2))
    assert set(plain.values()) == {2 * 64 * 32 * 16 * 9}
    # Each of the four kinds of pixels of x is reached by its own taps: 9 in all, 16 pixels each.
    assert set(strided.values()) == {2 * 16 * 32 * 16 * 9}
    with context.using(backend="llvm:direct", ledger=ag.Ledger()) as state:
        x = ag.zeros(1, 2, 4, 4, dtype=np.float32)
        x.requires_grad = True
        ag.conv2d(x, ag.zeros(3, 2, 3, 3, dtype=np.float32)).sum().backward()
    assert executed(state.ledger) == {"conv2d": 4 * 54, "conv2d_dx": 16 * 54}


def test_the_ledger_keeps_what_was_executed() -> None:
    ledger = ledger_of("llvm:winograd")
    entries = ledger.to_json()
    shown = {e["primitive"]: e["executed"] for e in entries if "executed" in e}
    assert shown == executed(ledger) and len(shown) == 3
    again = ag.Ledger.from_json(entries)
    assert executed(again) == shown and again.to_json() == entries
    cost = Cost(macs=10, saved=4)
    assert cost.times(3).executed == 18 and cost.plus(cost).executed == 12
