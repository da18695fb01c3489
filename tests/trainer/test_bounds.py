"""Files, options and variables with numbers and depths beyond all bounds: one line each."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tallygrad.autograd import nn
from tallygrad.autograd.ledger import Cost
from tallygrad.autograd.optim import SGD, schedules
from tallygrad.trainer import parsing
from tallygrad.trainer.cli import main
from tallygrad.trainer.components import checkpoint, history, state
from tallygrad.trainer.components.logs import RunFolder
from tallygrad.trainer.components.record import RESULT, is_result
from tallygrad.trainer.cost.price import Price
from tallygrad.trainer.cost.report.bill_text import _epochs
from tallygrad.trainer.cost.report.model.bill import EpochReport, PricedCost
from tallygrad.trainer.distributed.launchers import expected_size
from tallygrad.trainer.errors import UserError
from tallygrad.trainer.images import read_images
from tallygrad.trainer.inference import ranges
from tallygrad.trainer.tasks.classification import Classification
from tallygrad.trainer.threads import HostCores, configure, local_ranks

DEEP = "[" * 100_000
LONG = "9" * 5000

pytestmark = pytest.mark.timeout(60)


@pytest.mark.parametrize(
    ("kind", "text", "why"),
    [
        ("JSON", DEEP, "expected at most 32 levels, got more"),
        ("JSON", "[" * 40 + "]" * 40, "expected at most 32 levels, got more"),
        ("JSON", "9" * 400, "expected numbers of at most 1024 bits, got 1329"),
        ("TOML", f"a = {DEEP}", "expected at most 32 levels, got more"),
        ("TOML", f"a = {'[' * 40}{']' * 40}", "expected at most 32 levels, got more"),
        ("TOML", f"epochs = 0x{'f' * 5000}", "expected numbers of at most 1024 bits, got 20000"),
        ("TOML", f"a = 1\n{'a.' * 200_000}a = 1", "expected keys of at most 32 parts"),
        ("TOML", f"[{'a . ' * 200_000}a]", "expected keys of at most 32 parts"),
        ("TOML", f"""{'"a".' * 20}{"'a'." * 20}a = 1""", "expected keys of at most 32 parts"),
        ("TOML", "a = 1 # " + "x" * (1 << 24), "expected at most 16777216 bytes, got more"),
        ("TOML", "a = \udcff", "not valid TOML"),
    ],
)
def test_files_of_options(tmp_path: Path, kind: str, text: str, why: str) -> None:
    path = tmp_path / "file"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(UserError) as caught:
        parsing.read_toml_or_json("--option", path, kind)
    said = str(caught.value)
    assert (
        said.startswith(f"--option: {path}: not valid {kind}: ") and why in said and len(said) < 500
    )


def test_what_is_within_bounds_is_read(tmp_path: Path) -> None:
    path = tmp_path / "file"
    dotted = ".".join("a" * 31)
    path.write_text(f"{dotted} = [{', '.join(['0.5'] * 1000)}]\nb = 'a.b.'\nc = {2**1000}\n")
    held = parsing.read_toml_or_json("--option", path)
    assert held["b"] == "a.b." and held["c"] == 2**1000


@pytest.mark.parametrize("text", [DEEP, "9" * 400, "{", "[NaN", "\udcff"])
def test_files_of_a_run_that_cannot_be_read_are_none(tmp_path: Path, text: str) -> None:
    folder = RunFolder(tmp_path, writes=True)
    (tmp_path / "a.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    assert folder.read_json("a.json") is None
    good = {"event": "step", "step": 3, "epoch": 1}
    lines = [text, json.dumps(good), f'{{"step": {text}}}', f'{{"step": 4, "seconds": {text}}}']
    data = "\n".join(lines).encode("utf-8", "surrogateescape")
    (tmp_path / "log.jsonl").write_bytes(data)
    assert folder.events(2) == [good]
    folder.rewind(3, 1)
    assert (tmp_path / "log.jsonl").read_text() == json.dumps(good) + "\n"


@pytest.mark.parametrize("text", ["Infinity", "NaN", "1e999", '{"a": [-Infinity]}'])
def test_files_of_a_run_hold_finite_numbers(tmp_path: Path, text: str) -> None:
    """What is read goes into other files, which have no other numbers."""
    (tmp_path / "provenance.json").write_text(text)
    folder = RunFolder(tmp_path, writes=True)
    folder.write_json("again.json", {"before": folder.read_json("provenance.json")})
    assert json.loads((tmp_path / "again.json").read_text()) == {"before": None}


@pytest.mark.parametrize(
    "change", [{"test_accuracy": "0.9"}, {"steps": None}, {"wall_seconds": [1]}, {"best_step": "x"}]
)
def test_a_result_is_made_of_numbers(change: dict[str, Any]) -> None:
    whole = {name: 1.0 for name in RESULT} | {"test_accuracy": 1.0, "checkpoint": "c"}
    whole["best_step"] = 3

    def fits(content: object) -> bool:
        return is_result(content, ("accuracy",))

    assert fits(whole) and fits(whole | {"best_accuracy": None})
    assert not fits(whole | change) and not fits([]) and not fits({})


@pytest.mark.parametrize("step", [float("inf"), float("nan"), -1, 1.5, "3", True, None, 1 << 70])
def test_an_optimizer_takes_steps_that_are_counts(step: Any) -> None:
    layer = nn.Linear(2, 3)
    optimizer = SGD(layer.parameters(), lr=0.1, momentum=0.9)
    before = optimizer.state_dict()
    other = {name: value + 1 for name, value in before["velocity"].items()}
    with pytest.raises(ValueError, match="SGD: step: expected a whole number from 0 up, got"):
        optimizer.load_state_dict(before | {"step": step, "velocity": other})
    after = optimizer.state_dict()
    assert after["step"] == 0
    for name, value in before["velocity"].items():
        np.testing.assert_array_equal(after["velocity"][name], value)


@pytest.mark.parametrize("name", ["cosine", "one-cycle"])
def test_schedules_of_no_length(name: str) -> None:
    with pytest.raises(ValueError, match=r"expected a total below 2\^63, got one of 1329 bits"):
        schedules.by_name(name, 0.1, 10**400)


@pytest.mark.parametrize("option", ["epochs", "batch-size", "seed", "max-steps"])
def test_options_beyond_all_counts(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    for digits in ("9" * 400, LONG):
        assert main(["train", f"--{option}", digits]) == 2
        assert f"--{option}: " in capsys.readouterr().err.replace("argument ", "")


@pytest.mark.parametrize(
    ("command", "told"),
    [
        (["plan", "mlp", "--ranks", LONG], "--ranks: "),
        (["plan", "mlp", "--batch", "9" * 400], "--batch: expected less than"),
        (["cost", "mlp", "--batch", "9" * 400], "--batch: expected less than"),
        (["cost", "mlp", "--ranks", LONG], "--ranks: expected a whole number"),
        (["profile", "mlp", "--steps", "9" * 400], "--steps: expected less than"),
        (["cost", "mlp", "--input", f"1,28,{LONG}"], "--input: "),
        (["inspect", "a" * 5000], "File name too long"),
        (["bill", "a" * 5000], "File name too long"),
        (["eval", "a" * 5000], "File name too long"),
        (["train", "--resume", "a" * 5000], "File name too long"),
        (["train", "--config", "a" * 5000], "File name too long"),
        (["train", "--out", "a" * 5000, "--resume", "auto"], "File name too long"),
    ],
)
def test_commands(command: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os._exit", lambda status: None)
        try:
            status: Any = main(command)
        except SystemExit as end:
            status = end.code
    said = capsys.readouterr().err
    assert status == 2 and told in said and len(said) < 3000


def test_samples() -> None:
    for text in (LONG, f"0-{LONG}", f"{LONG}-{LONG}", "1-", "-1", "0-9,x"):
        with pytest.raises(UserError, match="--samples"):
            ranges(text, 10)
    assert ranges("0-2,9", 10) == [0, 1, 2, 9]


def test_variables_of_the_environment() -> None:
    machine = HostCores(4, 4)
    assert configure({"OMP_NUM_THREADS": LONG}, machine) == 4
    assert configure({"OMP_NUM_THREADS": "3"}, machine) == 3
    for name in ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MV2_COMM_WORLD_SIZE"):
        assert expected_size({name: LONG}) is None
        assert expected_size({name: "4"}) == 4 and expected_size({name: "0"}) == 0
    slurm = {"SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": LONG, "SLURM_STEP_TASKS_PER_NODE": LONG}
    assert expected_size(slurm) is None
    assert local_ranks(slurm) == local_ranks({"MPI_LOCALNRANKS": LONG}) == 1
    assert HostCores.here({"SLURM_CPUS_ON_NODE": LONG}).cores >= 1


@pytest.mark.parametrize("seconds", [float("inf"), float("nan"), 10**400, -(2**101)])
def test_the_state_on_record_counts_something(seconds: float) -> None:
    fresh = state.State(Classification.metrics)
    held = fresh.state_dict()
    fresh.load_state_dict(held)
    assert fresh.seconds == 0
    for change in ({"seconds": seconds}, {"sums": [0, seconds, 0]}, {"images": seconds}):
        with pytest.raises(ValueError, match=r": expected .*, got "):
            fresh.load_state_dict(held | change)
    assert fresh.state_dict() == held


def test_epochs_without_a_price_are_shown() -> None:
    epochs = [
        EpochReport(1, 1, 1, 1.0, 0.0, PricedCost(Cost(), price), {})
        for price in (Price(2.0), Price())
    ]
    lines = _epochs(epochs)
    assert len(lines) >= 3 and lines[-1].split()[-1] == "-"


def test_restarts_that_are_no_list(tmp_path: Path) -> None:
    for held in ({"a": 1}, 3, "text", [1], [{"step": float("inf")}], [None]):
        with pytest.raises(UserError, match="restarts"):
            history.restarts(tmp_path, held)


def npy(header: str) -> bytes:
    text = header.encode("latin1")
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text


@pytest.mark.parametrize(
    "header",
    [
        "(" * 9000 + ")" * 900,
        "{'descr': " + "[" * 4000 + "]" * 4000 + ", 'fortran_order': False, 'shape': (1,)}",
        "{'descr': '|u1', 'fortran_order': False, 'shape': (" + "9" * 5000 + ",)}",
        "{'descr': '|u1', 'fortran_order': False, 'shape': (" + "1," * 2000 + ")}",
        "{'descr': '|u1', 'fortran_order': False, 'shape': (-1, 10**9)}",
        "{'descr': [('\\x1b[2J', '|u1')], 'fortran_order': False, 'shape': (1,)}",
        "{'descr': '|O', 'fortran_order': False, 'shape': (1,)}",
        "{'descr': ('|u1', " + "9" * 4000 + "), 'fortran_order': False, 'shape': (1,)}",
        "-" * 9000 + "1",
    ],
)
def test_headers_of_npy(tmp_path: Path, header: str) -> None:
    path = tmp_path / "x.npy"
    path.write_bytes(npy(header) + bytes(1000))
    with pytest.raises(UserError) as caught:
        read_images(path, (1, 28, 28))
    assert str(caught.value).startswith(f"{path}: ") and str(caught.value).isprintable()


def sealed(path: Path, index: bytes) -> Path:
    """Write a file with a true seal around an index."""
    contents = index + b"\n" + bytes(1000)
    path.write_bytes(checkpoint._seal(memoryview(contents)) + contents)
    return path


def index(name: str, shape: str) -> str:
    return f'{{"digest": "", "arrays": [[{name}, "|u1", [{shape}], 0]]}}'


@pytest.mark.parametrize(
    "make",
    [
        lambda: DEEP,
        lambda: index('"a"', ",".join(["9"] * 200_000)),
        lambda: index('"a"', "9" * 4000),
        lambda: index('"\\u001b[2J\\u202e"', "9999"),
        lambda: index(f'"{"n" * 1_000_000}"', "9999"),
        lambda: index("[" * 900 + "]" * 900, "1"),
    ],
)
def test_indices_of_checkpoints(tmp_path: Path, make: Callable[[], str]) -> None:
    path = sealed(tmp_path / "step-00000001.h5", make().encode())
    with pytest.raises(UserError) as caught:
        checkpoint.load(path)
    assert str(caught.value).isprintable() and len(str(caught.value)) < 2500
