"""What this host multiplies in bf16 and int8, and commands that price such work on it."""

from __future__ import annotations

import json
import re
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from tallygrad.autograd import Ledger, get_num_threads, set_num_threads
from tallygrad.trainer.calibration import host, narrow, roofs
from tallygrad.trainer.calibration.kernels import default_backend
from tallygrad.trainer.cli import main
from tallygrad.trainer.cost.cluster.network import Exchange, Network, as_toml
from tallygrad.trainer.cost.cluster.step_time import Step, StepTimes
from tallygrad.trainer.cost.cluster.traffic import Link
from tallygrad.trainer.cost.roofline import Roofs

WIDE = Roofs(gflops=100.0, gbytes=10.0)
SPEED = {"bf16": 1600.0, "int8": 6400.0}
PRODUCT, CONVOLUTION = 32**3, 2 * 4 * 4 * 16 * 16 * 9  # MACs of those that the tests measure


@pytest.fixture
def metered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Roofs of this host as given, and a joule a second."""
    monkeypatch.setattr(host, "calibrate", lambda: WIDE)
    monkeypatch.setattr(roofs, "calibrate", lambda: WIDE)
    for name in ("joules", "perf_counter"):
        monkeypatch.setattr(host, name, map(float, count()).__next__)


def known(precision: str, wide: Roofs) -> Roofs:
    return wide._replace(gflops=SPEED[precision], precision=precision)


def asked(capsys: pytest.CaptureFixture[str], *words: str) -> Any:
    capsys.readouterr()
    assert main([*words, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def text(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    capsys.readouterr()
    assert main([*words]) == 0
    return " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("precision", ["bf16", "int8"])
def test_the_roof_is_that_of_the_fastest_kernel(
    precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a clock that ticks whenever it is read: a call takes a second."""
    pytest.importorskip("ml_dtypes", reason="ml_dtypes is not installed")
    if default_backend() == "numpy":
        pytest.skip("the backend llvm is not installed")
    ledger, threads = Ledger(), get_num_threads()
    set_num_threads(threads + 1)
    monkeypatch.setattr(narrow, "SIZES", (32,))
    monkeypatch.setattr(narrow, "IMAGES", ((2, 16, 4),))
    monkeypatch.setattr(narrow, "perf_counter", map(float, count()).__next__)
    monkeypatch.setattr(narrow, "Ledger", lambda: ledger)
    wide = WIDE._replace(gflops=1e-9)
    try:
        found, after = narrow.narrow(precision, wide), get_num_threads()
    finally:
        set_num_threads(threads)
    assert found == (pytest.approx(2e-9 * CONVOLUTION), wide.gbytes, precision)
    calls = 2 + narrow.REPEATS
    assert ledger.total().macs == calls * (PRODUCT + CONVOLUTION)
    assert after == threads + 1
    assert narrow.narrow(precision, WIDE) == (WIDE.gflops, WIDE.gbytes, precision)


def test_what_is_not_installed_is_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: object) -> Any:
        raise ImportError("bfloat16 needs ml_dtypes")

    monkeypatch.setattr(narrow, "_rate", missing)
    assert narrow.narrow("bf16", WIDE) is None
    monkeypatch.setattr(narrow, "_rate", lambda *_: 1.0)
    monkeypatch.setattr(narrow, "default_backend", lambda: "numpy")
    assert narrow.narrow("int8", WIDE) is None


@pytest.mark.usefixtures("metered")
@pytest.mark.parametrize(("precision", "words"), [("bf16", ["--training"]), ("int8", [])])
def test_this_host_prices_macs_as_fast_as_it_does_them(
    precision: str, words: list[str], monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    if precision == "bf16":
        pytest.importorskip("ml_dtypes", reason="ml_dtypes is not installed")
    monkeypatch.setattr(host, "narrow", known)
    words = ["cost", "resnet20", "--batch", "64", "--machine", "host", *words]
    wide, found = asked(capsys, *words), asked(capsys, *words, "--precision", precision)
    assert wide["machine"]["measured"] == {"gflops": 100.0, "gbytes": 10.0, "watts": 1.0}
    assert found["machine"]["measured"] == {
        **wide["machine"]["measured"],
        "gflops": SPEED[precision],
    }
    assert "precision_note" not in found["machine"]
    assert f"products and convolutions in {precision}" in found["machine"]["source"]
    layer = next(one for one in found["layers"] if one["name"] == "stage3.2.conv2")
    work, speed = layer["passes"]["forward"], SPEED[precision]
    expected = max(2e-9 * layer["forward_macs"] / speed, 1e-10 * layer["forward_bytes"])
    assert work["latency_seconds"] == work["energy_joules"] == pytest.approx(expected)
    said = text(capsys, *words, "--precision", precision)
    assert f"{SPEED[precision]:.0f} GFLOP/s in {precision} and 10.0 GB/s" in said


@pytest.mark.usefixtures("metered")
def test_times_on_this_host_are_no_lower_bounds(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Fused calls take less. Without a roof of its own, a precision is priced as float32."""
    words = ["cost", "lenet", "--machine", "host"]
    monkeypatch.setattr(host, "narrow", lambda *_: None)
    for precision, is_told in (("float32", False), ("int8", True)):
        said = text(capsys, *words, "--precision", precision)
        assert "at least" not in said and "fused calls, caches and Winograd's method" in said
        note = "nothing is known of int8: a MAC is priced as in float32"
        assert (note in said) is is_told
        found = asked(capsys, *words, "--precision", precision)
        assert found["machine"].get("precision_note") == (note if is_told else None)
        assert found["machine"]["measured"]["gflops"] == 100.0
        assert found["machine"]["time_note"].startswith("times are those of calls one by one")


@pytest.mark.usefixtures("metered")
def test_runs_and_plans_are_priced_in_their_precision(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("ml_dtypes", reason="ml_dtypes is not installed")
    run = ["train", "--model", "mlp", "--batch-size", "32", "--micro-batches", "1", "--max-steps"]
    run += ["2", "--dataset", "digits", "--threads", "1", "--precision", "bf16"]
    assert main([*run, "--out", str(tmp_path / "run")]) == 0
    seconds, joules = [], []
    near = Network("by hand", "", "", 1, 0, Link(1e-6, 1e9), None, Exchange(2e9, 1.0))
    step = Step(4, 1, (0.010, 0.010, 0.030), 0.009, (0.002, 0.008))
    times = StepTimes(
        "lenet", (1, 28, 28), 10, "by hand", ("b", "a"), (600_000, 400_000), (step,), "bf16"
    )
    (file := tmp_path / "saved.toml").write_text(as_toml(near, times))
    plan = ["plan", "lenet", "--network", str(file), "--ranks", "1", "--precision", "bf16"]
    plan += ["--machine", "host", "--batch", "512"]
    for measured in (known, lambda *_: None):
        monkeypatch.setattr(host, "narrow", measured)
        bill = asked(capsys, "bill", str(tmp_path / "run"), "--machine", "host")
        assert ("precision_note" in bill["machine"]) is (measured is not known)
        seconds.append(bill["total"]["latency_seconds"])
        found = asked(capsys, *plan)
        notes = [note for note in found["notes"] if note.startswith("host: nothing is known")]
        assert len(notes) == (measured is not known)
        joules.append(found["plans"]["weak"][0]["energy_joules"])
    assert seconds[0] < seconds[1] and joules[0] < joules[1]


@pytest.mark.usefixtures("metered")
def test_a_profile_has_the_roof_of_its_precision(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("ml_dtypes", reason="ml_dtypes is not installed")
    words = ["profile", "lenet", "--steps", "1", "--backend", "numpy", "--precision", "bf16"]
    monkeypatch.setattr(narrow, "narrow", known)
    found = asked(capsys, *words)
    assert found["roofs"] == {"gflops": 1600.0, "gbytes_per_second": 10.0, "precision": "bf16"}
    conv2 = next(one for one in found["layers"] if one["layer"] == "conv2")
    assert conv2["bound_seconds"] == max(conv2["macs"] / 8e11, 1e-10 * conv2["bytes"])
    assert "at most 1600 GFLOP/s in bf16 and 10.0 GB/s" in text(capsys, *words)
    monkeypatch.setattr(narrow, "narrow", lambda *_: None)
    assert asked(capsys, *words)["roofs"]["precision"] == "float32"
    assert re.search("at most 100 GFLOP/s in float32 and", text(capsys, *words))
