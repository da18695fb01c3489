"""The calibration of `tallygrad plan`: slowest ranks, a process alone, and a real one."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import pytest

from tallygrad.launch import mpirun as launcher
from tallygrad.trainer.calibration import measure as calibrate
from tallygrad.trainer.calibration.measure import LEVELS, QUANTILES, measure, mixed
from tallygrad.trainer.calibration.rehearsal import Rehearsal
from tallygrad.trainer.calibration.result import Calibration, CalibrationTask
from tallygrad.trainer.cli import main
from tallygrad.trainer.distributed.comm import SerialComm

pytestmark = pytest.mark.usefixtures("wide")


def test_ranks_that_differ_have_the_slowest_of_their_own() -> None:
    draw = np.random.default_rng(0)
    a, b, c = (draw.normal(mean, 1.0, 100_000) for mean in (10.0, 10.0, 14.0))
    quantiles = {name: np.quantile(x, LEVELS) for name, x in zip("abc", (a, b, c), strict=True)}
    for first, second, slowest in (("a", "b", np.maximum(a, b)), ("a", "c", np.maximum(a, c))):
        both = mixed(np.stack([quantiles[first], quantiles[second]]))
        assert (np.diff(both) >= 0).all()
        of_two = np.interp(0.5**0.5, LEVELS, both)
        assert of_two == pytest.approx(np.median(slowest), rel=2e-3)
    assert mixed(quantiles["c"][None]) == pytest.approx(quantiles["c"])
    constant = np.repeat([[2.0], [3.0]], QUANTILES, 1)
    assert mixed(constant)[-1] == 3.0


@pytest.mark.parametrize(
    ("expected", "batches", "precision"), [(0.0, [1, 4], "float32"), (1e9, [1], "bf16")]
)
def test_a_process_alone_measures_computing(
    expected: float, batches: list[int], precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a network is known and no rank can be started; what would take too long is left out."""
    if precision == "bf16":
        pytest.importorskip("ml_dtypes", reason="ml_dtypes is not installed")
    monkeypatch.setattr(calibrate, "_expected", lambda result, share: expected)
    task = CalibrationTask("mlp", (1, 28, 28), 10, (1, 4), (), 1.0, 1.0, precision)
    trained: list[str] = []

    class Kept(Rehearsal):
        def warm(self) -> None:
            trained.append(self.training.config.precision)
            super().warm()

    monkeypatch.setattr(calibrate, "Rehearsal", Kept)
    result = measure(SerialComm(), task)
    assert trained == [precision] * len(batches)
    assert Calibration.from_json(json.loads(json.dumps(result.to_json()))) == result
    times = result.step_times(task, "here")
    assert times.fits("mlp", (1, 28, 28), 10, precision)
    assert [(s.batch, s.busy) for s in times.steps] == [(n, 1) for n in batches]
    assert result.link is None and not result.network().known
    for step in times.steps:
        assert 0 < step.ready[0] <= step.ready[-1] <= step.sweep < step.seconds[-1]
        assert [*step.seconds] == sorted(step.seconds) and len(step.seconds) == QUANTILES


def test_a_real_calibration_comes_to_an_end(
    alone: Callable[[], AbstractContextManager[None]],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    try:
        launcher.find_mpirun()
    except launcher.LaunchError as error:
        pytest.skip(str(error))
    file = str(tmp_path / "here.toml")
    # One image: that is measured however busy the machine is, and so is its check.
    words = ["plan", "mlp", "--batch", "1", "--ranks", "1,2", "--scaling", "both", "--json"]
    with alone():
        assert main([*words, "--seconds", "3", "--save", file]) == 0
    said = capfd.readouterr()
    found = json.loads(said.out)
    told = [line for line in said.err.splitlines() if line.startswith("plan: measuring ")]
    assert [line.split()[2] for line in told] == ["messages", "steps", "steps"]
    assert "messages between 2 ranks" in told[0] and "of 2 ranks at once for about" in told[2]
    assert (found["check"][0]["ranks"], found["check"][0]["batch_per_rank"]) == (2, 1)
    for held in found["check"]:
        assert held["seconds"] > 0 and held["predicted_seconds"] > 0 and held["steps"] >= 8
        assert held["error"] == pytest.approx(held["predicted_seconds"] / held["seconds"] - 1)
    inside, exchange = found["network"]["inside"], found["network"]["exchange"]
    assert inside["latency"] > 0 and inside["bandwidth"] > 0 and inside["source"]
    assert exchange["reduction"] > 0 and exchange["factor"] > 0 and 0 <= exchange["overlap"] <= 1
    assert exchange["fixed_order_factor"] > 0
    assert exchange["overlap"] == max(exchange["overlap_poll"], exchange["overlap_thread"])
    one, two = found["plans"]["weak"]
    assert one["exposed_seconds"] == 0 < two["exposed_seconds"] < two["step_seconds"]
    assert main([*words, "--network", file]) == 0
    again = json.loads(capfd.readouterr().out)["plans"]["weak"][1]
    assert again["step_seconds"] == pytest.approx(two["step_seconds"], rel=1e-4)
