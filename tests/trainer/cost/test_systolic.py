"""Systolic arrays: closed forms against an array that really computes, and against SCALE-Sim."""

from __future__ import annotations

import csv
import fcntl
import os
import random
import subprocess
import sys
from fractions import Fraction
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tallygrad.trainer.cost.machines.systolic.array import (
    DATAFLOWS,
    estimate,
    gemms,
    stalled_cycles,
)

Matrix = NDArray[np.int64]


class Walk(NamedTuple):
    """What an array did: cycles that passed, words read along its left and its top, and written."""

    cycles: int
    left: int
    top: int
    writes: int
    result: Matrix


def feed(tile: Matrix, lanes: int, cycle: int) -> tuple[Matrix, NDArray[np.bool_], int]:
    """Return what enters each lane in a cycle, lane i being i cycles late; a lane beyond the tile
    (lanes, steps) gets empty slots. The last value is the number of words read."""
    values, slots, words = np.zeros(lanes, np.int64), np.zeros(lanes, bool), 0
    for lane in range(lanes):
        slots[lane] = 0 <= cycle - lane < tile.shape[1]
        if slots[lane] and lane < tile.shape[0]:
            values[lane] = tile[lane, cycle - lane]
            words += 1
    return values, slots, words


def shift(registers: NDArray[Any], entering: NDArray[Any], axis: int) -> NDArray[Any]:
    """Move all values one unit on along an axis."""
    kept = np.delete(registers, -1, axis)
    return np.concatenate([np.expand_dims(entering, axis), kept], axis)


def walk_outputs(x: Matrix, w: Matrix, rows: int, columns: int) -> Walk:
    """Multiply x (m, k) by w (k, n): sums stay, x moves to the right and w moves down."""
    cycles = left = top = writes = 0
    result = np.zeros((x.shape[0], w.shape[1]), np.int64)
    for i, j in product(range(0, x.shape[0], rows), range(0, w.shape[1], columns)):
        x_tile, w_tile = x[i : i + rows], w[:, j : j + columns].T
        across = down = sums = np.zeros((rows, columns), np.int64)
        flying, cycle = np.zeros((rows, columns), bool), 0
        while cycle == 0 or flying.any():
            values, slots, words = feed(x_tile, rows, cycle)
            across, flying = shift(across, values, 1), shift(flying, slots, 1)
            left += words
            values, _, words = feed(w_tile, columns, cycle)
            down = shift(down, values, 0)
            top += words
            sums = sums + across * down
            cycles, cycle = cycles + bool(flying.any()), cycle + 1
        used = sums[: len(x_tile), : len(w_tile)]
        result[i : i + rows, j : j + columns] = used
        writes += used.size
    return Walk(cycles, left, top, writes, result)


def walk_held(x: Matrix, w: Matrix, rows: int, columns: int) -> Walk:
    """Multiply x (m, k) by w (k, n): w stays, x moves to the right and partial sums move down."""
    cycles = left = top = writes = 0
    result = np.zeros((x.shape[0], w.shape[1]), np.int64)
    for i, j in product(range(0, w.shape[0], rows), range(0, w.shape[1], columns)):
        tile = w[i : i + rows, j : j + columns]
        held = across = sums = np.zeros((rows, columns), np.int64)
        for row in reversed(range(rows)):
            entering = np.zeros(columns, np.int64)
            if row < len(tile):
                entering[: tile.shape[1]] = tile[row]
                top += tile.shape[1]
            held, cycles = shift(held, entering, 0), cycles + 1
        flying, cycle, out = np.zeros((rows, columns), bool), 0, [0] * columns
        while cycle == 0 or flying.any():
            values, slots, words = feed(x[:, i : i + rows].T, rows, cycle)
            across, flying = shift(across, values, 1), shift(flying, slots, 1)
            left += words
            sums = shift(sums, np.zeros(columns, np.int64), 0) + held * across
            for column in np.flatnonzero(flying[-1, : tile.shape[1]]):
                result[out[column], j + column] += sums[-1, column]
                out[column] += 1
                writes += 1
            cycles, cycle = cycles + bool(flying.any()), cycle + 1
    return Walk(cycles, left, top, writes, result)


def walk(x: Matrix, w: Matrix, rows: int, columns: int, dataflow: str) -> Walk:
    """Multiply on an array; `left` are the words of x, `top` those of w."""
    if dataflow == "os":
        return walk_outputs(x, w, rows, columns)
    if dataflow == "ws":
        return walk_held(x, w, rows, columns)
    turned = walk_held(w.T, x.T, rows, columns)
    return turned._replace(left=turned.top, top=turned.left, result=turned.result.T)


size, side = st.integers(1, 9), st.integers(1, 4)


@pytest.mark.parametrize("dataflow", DATAFLOWS)
@settings(max_examples=80, deadline=None, derandomize=True)
@given(size, size, size, side, side)
def test_an_array_that_computes_counts_the_same(
    dataflow: str, m: int, k: int, n: int, rows: int, columns: int
) -> None:
    numbers = np.random.default_rng([m, k, n])
    x, w = numbers.integers(-9, 9, (m, k)), numbers.integers(-9, 9, (k, n))
    seen = walk(x, w, rows, columns, dataflow)
    assert np.array_equal(seen.result, x @ w)
    found = estimate(m, k, n, rows, columns, dataflow)
    assert found[:4] == (seen.cycles - 1, seen.left, seen.top, seen.writes)
    assert found.utilization == m * k * n / (rows * columns * seen.cycles)
    assert 0 < found.utilization <= 1


def test_counts_are_exact_for_any_size() -> None:
    huge = 10**30 + 1
    found = estimate(huge, 3, huge, 2, 2, "is")
    assert found.output_writes == 2 * huge**2 and found.filter_reads == 3 * huge * (huge + 1) // 2
    m, k, n = np.array([100_000, 70_000, 50_000], np.int32)
    assert estimate(m, k, n, 8, 8, "os") == estimate(100_000, 70_000, 50_000, 8, 8, "os")


@pytest.mark.parametrize("name", ["m", "k", "n", "rows", "columns"])
def test_a_size_below_1_is_named(name: str) -> None:
    sizes = {**dict.fromkeys(["m", "k", "n", "rows", "columns"], 2), name: 0}
    with pytest.raises(ValueError, match=rf"^{name}: .* at least 1, got 0"):
        estimate(**sizes, dataflow="os")


def test_an_unknown_dataflow_is_named_with_the_known() -> None:
    with pytest.raises(ValueError, match="dataflow: expected one of os, ws, is, got 'rs'"):
        estimate(1, 1, 1, 1, 1, "rs")


def test_cycles_are_bound_by_the_bandwidth() -> None:
    found = estimate(8, 10, 8, 8, 8, "os")
    assert found.cycles == 23 and sum(found[1:4]) == 224
    assert stalled_cycles(found, 10) == 23
    assert stalled_cycles(found, 8) == 28 and stalled_cycles(found, Fraction(1, 3)) == 672
    assert stalled_cycles(found, 1, words=23) == 23 and stalled_cycles(found, 1, words=24) == 24
    assert stalled_cycles(found, 0.7, words=70) == 100 and stalled_cycles(found, 2, words=0) == 23
    assert stalled_cycles(found, 3, words=10**30) == (10**30 + 2) // 3
    for bandwidth in (0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match=rf"bandwidth: .*, got {bandwidth}"):
            stalled_cycles(found, bandwidth)
    with pytest.raises(ValueError, match=r"words: .* got -1"):
        stalled_cycles(found, 1, words=-1)


def test_passes_of_a_layer() -> None:
    assert gemms(n=4, m=6, c=10, r=5, s=3, e=7, f=8, groups=2) == {
        "forward": (4 * 7 * 8, 5 * 5 * 3, 3, 2),
        "backward_data": (4 * 7 * 8, 3, 5 * 5 * 3, 2),
        "backward_weights": (5 * 5 * 3, 4 * 7 * 8, 3, 2),
    }
    with pytest.raises(ValueError, match="groups: expected a divisor of m = 6 and c = 10, got 3"):
        gemms(1, 6, 10, 1, 1, 1, 1, groups=3)
    with pytest.raises(ValueError, match="f: expected a size of at least 1, got -2"):
        gemms(1, 6, 10, 1, 1, 1, -2)
    with pytest.raises(ValueError, match="groups: expected a size of at least 1, got 0"):
        gemms(1, 6, 10, 1, 1, 1, 1, groups=0)


def test_passes_of_alexnet() -> None:
    # Sze et al., Proc. IEEE 2017, Table II: 724M MACs forward. Filters, channels, r, e, groups.
    layers = [(96, 3, 11, 55, 1), (256, 96, 5, 27, 2), (384, 256, 3, 13, 1), (384, 384, 3, 13, 2)]
    layers += [(256, 384, 3, 13, 2), (4096, 9216, 1, 1, 1), (4096, 4096, 1, 1, 1)]
    layers += [(1000, 4096, 1, 1, 1)]
    forward = training = 0
    for m, c, r, e, groups in layers:
        macs = {
            name: gemm.m * gemm.k * gemm.n * gemm.times
            for name, gemm in gemms(1, m, c, r, r, e, e, groups).items()
        }
        forward += macs["forward"]
        training += sum(macs.values()) - (macs["backward_data"] if m == 96 else 0)
    assert (forward, training) == (724_406_816, 2_067_805_248)


def test_neither_mpi_nor_numpy_is_loaded() -> None:
    code = (
        "import sys, tallygrad.trainer.cost.machines.systolic.array;"
        "bad = [name for name in ('mpi4py', 'numpy') if name in sys.modules];"
        "assert not bad, bad"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


VERSION = "3.0.0"
CONFIGURATION = """
[general]
run_name = run
[run_presets]
InterfaceBandwidth = CALC
UseRamulatorTrace = False
[architecture_presets]
ArrayHeight = {rows}
ArrayWidth = {columns}
IfmapSramSzkB = 1024
FilterSramSzkB = 1024
OfmapSramSzkB = 1024
IfmapOffset = 0
FilterOffset = 10000000
OfmapOffset = 20000000
Dataflow = {dataflow}
ReadRequestBuffer = 64
WriteRequestBuffer = 64
[layout]
IfmapCustomLayout = False
IfmapSRAMBankBandwidth = 10
IfmapSRAMBankNum = 10
IfmapSRAMBankPort = 2
FilterCustomLayout = False
FilterSRAMBankBandwidth = 10
FilterSRAMBankNum = 10
FilterSRAMBankPort = 2
[sparsity]
SparsitySupport = False
"""
DRIVER = """
from scalesim.scale_sim import scalesim
for kind in ("gemm", "conv"):
    files = dict(config="array.cfg", topology=f"{kind}.csv", layout="layout.csv")
    tool = scalesim(save_disk_space=True, verbose=False, input_type_gemm=kind == "gemm", **files)
    tool.run_scale(top_path=kind)
"""
ARRAYS = [(4, 4), (1, 6), (5, 1), (8, 3), (3, 16)]
EACH = 30  # products, and as many convolutions, for each dataflow and array


class Case(NamedTuple):
    """A layer of a topology file: its line, and its product (m, k) by (k, n)."""

    line: str
    m: int
    k: int
    n: int


@pytest.fixture(scope="module")
def scale_sim() -> Path:
    """The Python of an environment that has SCALE-Sim, made once and kept in the user's cache."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    name = f"scalesim-{VERSION}-{sys.implementation.cache_tag}"
    folder = base / "tallygrad" / "test-environments" / name
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_suffix(".lock").open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        python = folder / "bin" / "python"
        if not python.exists() or call(python, "-c", "import scalesim.scale_sim").returncode:
            make_environment(folder)
    return python


def make_environment(folder: Path) -> None:
    """Install SCALE-Sim and what its simulation imports; skip where there is no way to get it."""
    answer = call(sys.executable, "-m", "venv", "--clear", str(folder))
    if answer.returncode:
        pytest.skip(f"no virtual environment for SCALE-Sim: {answer.stdout.strip()[-200:]}")
    # It makes an int of an array of one element, which NumPy 2.4 refuses.
    packages = [f"scalesim=={VERSION}", "numpy<2.4", "tqdm"]
    options = ["--no-deps", "--no-input", "--retries", "1", "--disable-pip-version-check"]
    answer = call(folder / "bin" / "python", "-m", "pip", "install", *options, *packages)
    if "No matching distribution" in answer.stdout:
        pytest.skip(f"pip cannot reach SCALE-Sim: {answer.stdout.strip().splitlines()[-1]}")
    assert answer.returncode == 0, answer.stdout


def call(*command: str | Path, folder: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run a program; `stdout` is all that it says."""
    both: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    clean = {name: text for name, text in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(command, cwd=folder, env=clean, stdin=subprocess.DEVNULL, **both)


def draw(seed: str) -> dict[str, list[Case]]:
    """Return random small layers by kind of topology file."""
    numbers = random.Random(seed)
    gemm, conv = [], []
    for i in range(EACH):
        m, k, n = (numbers.randint(1, 20) for _ in range(3))
        gemm.append(Case(f"gemm{i}, {m}, {n}, {k},", m, k, n))
        e, f, r, s, c = (numbers.randint(1, most) for most in (5, 4, 3, 3, 3))
        filters, stride = numbers.randint(1, 20), numbers.randint(1, 3)
        image = [(e - 1) * stride + r, (f - 1) * stride + s]
        line = ", ".join(map(str, [f"conv{i}", *image, r, s, c, filters, stride]))
        conv.append(Case(f"{line},", *gemms(1, filters, c, r, s, e, f)["forward"][:3]))
    return {"gemm": gemm, "conv": conv}


def report(folder: Path, name: str) -> list[dict[str, str]]:
    """Read one of the tool's reports, a row for each layer."""
    with (folder / f"{name}.csv").open(newline="") as stream:
        return list(csv.DictReader(stream, skipinitialspace=True))


@pytest.mark.parity
@pytest.mark.parametrize("array", ARRAYS, ids=lambda array: "x".join(map(str, array)))
@pytest.mark.parametrize("dataflow", DATAFLOWS)
def test_agrees_with_scale_sim(
    dataflow: str, array: tuple[int, int], scale_sim: Path, tmp_path: Path
) -> None:
    """Cycles, reads and writes are the tool's to the integer, but for two quirks of the tool:

    - "Total Cycles" is the index of the last cycle, counted from 0: one less than the cycles that
      pass. So is `GemmEstimate.cycles`, but `utilization` counts that cycle; the tool's does not.
    - With output stationary, "SRAM OFMAP Writes" is m n and rows + columns for each fold: the tool
      adds the sides of each fold to their product. The words that it hands on to DRAM are m n.
    """
    rows, columns = array
    settings = CONFIGURATION.format(rows=rows, columns=columns, dataflow=dataflow)
    (tmp_path / "array.cfg").write_text(settings)
    (tmp_path / "layout.csv").write_text("no layout,\n")
    cases = draw(f"{dataflow} {rows} {columns}")
    for kind, layers in cases.items():
        lines = ["a header,", *[layer.line for layer in layers]]
        (tmp_path / f"{kind}.csv").write_text("\n".join(lines))
    answer = call(scale_sim, "-W", "ignore", "-c", DRIVER, folder=tmp_path)
    assert answer.returncode == 0, answer.stdout
    for kind, layers in cases.items():
        compute = report(tmp_path / kind / "run", "COMPUTE_REPORT")
        access = report(tmp_path / kind / "run", "DETAILED_ACCESS_REPORT")
        assert len(compute) == len(access) == EACH
        for layer, spent, moved in zip(layers, compute, access, strict=True):
            compare(layer, array, dataflow, {**spent, **moved})


def compare(case: Case, array: tuple[int, int], dataflow: str, row: dict[str, str]) -> None:
    """Compare one layer with its row of the tool's reports."""
    found = estimate(case.m, case.k, case.n, *array, dataflow)
    folds = -(-case.m // array[0]) * -(-case.n // array[1])
    quirk = folds * sum(array) if dataflow == "os" else 0
    expected = {
        "Total Cycles": found.cycles,
        "Stall Cycles": 0,
        "SRAM IFMAP Reads": found.input_reads,
        "SRAM Filter Reads": found.filter_reads,
        "SRAM OFMAP Writes": found.output_writes + quirk,
        "DRAM OFMAP Writes": found.output_writes,
    }
    assert {name: int(row[name]) for name in expected} == expected, case.line
    passed = found.utilization * (found.cycles + 1) / found.cycles
    assert float(row["Overall Util %"]) == pytest.approx(100 * passed), case.line
