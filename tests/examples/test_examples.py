"""Every example: short, its figure within its band, and on the page as it is printed."""

from __future__ import annotations

import re
import runpy
from pathlib import Path
from typing import Any

import pytest

from tallygrad.trainer.cost.report.units import short

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = sorted(p.stem for p in (ROOT / "examples").glob("*.py") if p.stem != "shared")
PAGE = (ROOT / "docs" / "examples.md").read_text(encoding="utf-8")
ROWS = dict(
    re.findall(r"^\| \[[^\]]+\]\(\.\./examples/(\w+)\.py\) \| (.*) \|$", PAGE, re.MULTILINE)
)
QUICK = {"hopfield", "perceptron"}


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    return lambda name: runpy.run_path(str(ROOT / "examples" / f"{name}.py"))["main"]()


@pytest.mark.parametrize(
    "name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in EXAMPLES]
)
def test_the_figure_lies_within_its_band(
    name: str, run: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    outcome = run(name)
    low, high = outcome.band
    assert low <= outcome.result <= high
    printed = capsys.readouterr().out
    assert f"expected in {low:g} to {high:g}" in printed and "reference" in printed
    _, _, result, _, macs, inferences = ROWS[name].split(" | ")
    assert low <= float(result) <= high
    assert (macs, inferences) == (short(outcome.macs), short(outcome.inferences))


def test_examples_are_short_and_all_on_the_page() -> None:
    assert [*ROWS] and {*ROWS} == {*EXAMPLES}
    for name in EXAMPLES:
        lines = (ROOT / "examples" / f"{name}.py").read_text(encoding="utf-8").splitlines()
        assert len(lines) <= 60, name
