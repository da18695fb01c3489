"""Injected bit flips: what is counted, and a few real ones."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from importlib import import_module
from pathlib import Path
from random import Random
from typing import Any

import pytest

from tallygrad.launch import mpirun as launcher

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def flips(bench_package: Any) -> Any:
    return import_module("bench.flips")


def test_plans_cover_all_kinds_places_and_ranks(flips: Any) -> None:
    found = flips.plan(["weights", "messages"], 400, 3, Random(0))
    assert [flip.step for flip in found] == [*range(4, 404)]
    assert {(f.kind, f.place) for f in found} == {
        *(("weights", place) for place in flips.PLACES["weights"]), ("messages", "message"),
    }  # fmt: skip
    assert {flip.rank for flip in found} == {0, 1, 2}


def test_flips_are_judged_by_what_was_said_and_by_the_state(flips: Any) -> None:
    planned = [flips.Flip(step, "weights", "rest", 1, 0, 0, 0) for step in range(1, 7)]
    sound = [{"state": str(step), "done": ["", ""], "lines": []} for step in range(1, 7)]

    def step(number: int, *lines: str, state: str = "", tensor: str = "a.weight") -> dict[str, Any]:
        return {"state": state or str(number), "done": ["", tensor], "lines": lines}

    flipped = [
        step(1, "rank 1: wrong gradient of a.weight"),
        step(2, "rank 0: wrong gradient of b.weight", "rank 1: weights of b.weight changed"),
        step(3),
        step(4, tensor=""),
        step(5, state="other"),
        step(6, state="another"),
    ]
    verdicts = [*flips.judge(planned, sound, flipped)]
    assert [v.flip.step for v in verdicts] == [1, 2, 3, 5]  # nothing was flipped in 4; 6 is another
    assert [v.found for v in verdicts] == [True, True, False, False]
    assert [v.rank for v in verdicts] == [True, False, False, False]
    assert [v.layer for v in verdicts] == [True, False, False, False]
    assert [v.missed for v in verdicts] == [False, False, False, True]
    head, weights, *_, everything = [line.split() for line in flips.table(verdicts)]
    assert head == ["kind", "flips", "no", "effect", "found", "rank", "layer", "repaired", "missed"]
    assert weights == ["weights", "4", "1", "2", "1", "1", "2", "1"]
    assert everything == ["all", *weights[1:]]


@pytest.mark.parametrize(
    ("tensor", "line", "named"),
    [
        ("conv1.weight", "rank 0: wrong gradient of conv1.weight and 1 more", True),
        ("conv1", "rank 0: wrong gradient of conv1.weight", True),
        ("conv1", "rank 0: wrong gradient of layer1.conv1.weight", False),
        ("conv1 or bn1", "rank 0: wrong statistics of bn1.running_mean", True),
        ("conv1", "rank 0: wrong gradient of conv10.weight", False),
        ("", "rank 0: wrong gradient of conv10.weight", False),
    ],
)
def test_a_layer_is_named_by_its_whole_name(
    flips: Any, tensor: str, line: str, named: bool
) -> None:
    flip = flips.Flip(1, "weights", "rest", 0, 0, 0, 0)
    assert flips.Verdict(flip, tensor, [line], True).layer == named


@pytest.mark.slow
def test_real_flips_are_found_named_and_repaired(
    alone: Callable[[], AbstractContextManager[None]],
) -> None:
    try:
        launcher.find_mpirun()
    except launcher.LaunchError as error:
        pytest.skip(str(error))
    command = [sys.executable, "-m", "bench", "flips", "--ranks", "3", "--flips", "45"]
    with alone():
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = [line.split() for line in done.stdout.splitlines()[-7:]]
    counts = {kind: [*map(int, numbers)] for kind, *numbers in rows}
    for kind, (_, _, found, rank, layer, repaired, missed) in counts.items():
        assert missed == 0 and found == rank == repaired > 0
        assert layer == found or kind in ("activations", "all")
    assert counts["all"][0] > 30 and counts["all"][2] > 20
