"""What `bench network` and `bench simulated` compare. No test looks at a measured time."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
COMPARED = """
from bench.network import bandwidth, compare
from bench.network_rank import Result, Task
task = Task("lenet", (1, 28, 28), 10, 4, 1.0, 1.0)
found = Result(1e-3, 9.5e5, 1e9, 0.02, 0.5, 0.6, ("a", "b"), (3_000_000, 3_000_000))
row = compare("8mbit", found, task, 3)
wire = 4 * (1e-3 + 1e6 / 9.5e5) + (2 + 2 / 3) * 3e6 / 1e9
short = (1 + 2 + 3) * 1e-3  # of figures, and of whether to go on
assert abs(row.exchange - 2 * wire - short) < 1e-4 * wire, (row.exchange, wire)
assert abs(row.step - row.exchange - 0.02) < 1e-9 and bandwidth("8mbit") == 1e6 * 1448 / 1514
assert row.error == row.step / 0.6 - 1
assert row.limit == "links" and row._replace(rate="10mbit").limit == "cores"
"""


def python(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *words]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=250)


def test_a_row_compares_a_step_with_its_prediction() -> None:
    answer = python("-c", COMPARED)
    assert answer.returncode == 0, answer.stderr


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (
            ["network", "--rates", "1gbps"],
            "--rates: expected such as 100mbit or 10gbit, got '1gb",
        ),
        (["network", "--ranks", "1,2"], "expected numbers of ranks from 2 up, got '1,2'"),
    ],
)
def test_options_out_of_range(words: list[str], expected: str) -> None:
    answer = python("-m", "bench", *words)
    assert answer.returncode == 2 and expected in answer.stderr
    assert answer.stderr.startswith("python -m bench network: ") and answer.stderr.count("\n") == 1


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("smpirun"), reason="no SimGrid here")
def test_long_messages_take_as_long_as_simulated() -> None:
    """On a flat network, where a formula and a simulation of the same messages must agree."""
    answer = python("-m", "bench", "simulated", "--models", "lenet", "--ranks", "4")
    assert answer.returncode == 0, answer.stderr
    cells = answer.stdout.splitlines()[-1].split()
    assert cells[:2] == ["lenet", "4"]
    assert abs(float(cells[4])) < 2 and abs(float(cells[7])) < 2
