"""Every example: short, its figure within its band, and on the page as it is printed."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = sorted(p.stem for p in (ROOT / "examples").glob("*.py") if p.stem != "shared")
PAGE = (ROOT / "docs" / "examples.md").read_text(encoding="utf-8")
ROWS = dict(
    re.findall(r"^\| \[[^\]]+\]\(\.\./examples/(\w+)\.py\) \| (.*) \|$", PAGE, re.MULTILINE)
)
QUICK = {"hopfield", "perceptron"}
DEPENDENT = {"cart_pole", "pseudo_labels"}  # their work depends on what they find
STEPS = {"k": 1e3, "M": 1e6, "G": 1e9}
PRINTED = re.compile(
    r"result +(\S+) .*, expected in (\S+) to (\S+)\nreference +\S+ .*\n"
    r"training +(\S+) MACs = .*\n.* other operations\nworth +(\S+) inferences of \S+ MACs\n$"
)


@pytest.mark.parametrize(
    "name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in EXAMPLES]
)
def test_the_figure_lies_within_its_band(name: str) -> None:
    command = [sys.executable, f"examples/{name}.py"]
    # Threads of BLAS that wait for one another would take the cores from other tests.
    env = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    ended = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=env, timeout=280)
    assert ended.returncode == 0, ended.stderr
    printed = PRINTED.search(ended.stdout)
    assert printed, ended.stdout
    result, low, high, macs, inferences = printed.groups()
    assert float(low) <= float(result) <= float(high)
    _, _, figure, _, *bill = ROWS[name].split(" | ")
    assert float(low) <= float(figure) <= float(high)
    if name in DEPENDENT:
        for told, counted in zip(bill, (macs, inferences), strict=True):
            assert number(told) == pytest.approx(number(counted), rel=0.3)
    else:
        assert bill == [macs, inferences]
    if name == "rnn":  # shown on the page, too
        assert ended.stdout[ended.stdout.index("training") :] in PAGE


def number(text: str) -> float:
    return float(text[:-1]) * STEPS[text[-1]]


def test_examples_are_short_and_all_on_the_page() -> None:
    assert [*ROWS] and {*ROWS} == {*EXAMPLES}
    for name in EXAMPLES:
        lines = (ROOT / "examples" / f"{name}.py").read_text(encoding="utf-8").splitlines()
        assert len(lines) <= 60, name
