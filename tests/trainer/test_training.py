"""`tallygrad train` and what comes after it, on one rank and on the embedded data set."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tallygrad.trainer.components.checkpoint import load, save

TALLYGRAD = [sys.executable, "-m", "tallygrad.trainer"]
SMALL = ["--dataset", "digits", "--batch-size", "32", "--eval-batch-size", "500"]


def run(*words: str, status: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run([*TALLYGRAD, *words], capture_output=True, text=True, timeout=200)
    assert done.returncode == status, done.stderr
    return done


def train(out: Path, *words: str, status: int = 0) -> subprocess.CompletedProcess[str]:
    return run("train", *SMALL, "--out", str(out), *words, status=status)


def read(out: Path, name: str) -> Any:
    return json.loads((out / name).read_text())


def test_a_limit_of_memory_is_kept_told_and_shown(tmp_path: Path) -> None:
    pytest.importorskip("llvmlite", reason="llvmlite is not installed")
    lenet = ["--model", "lenet", "--max-steps", "1"]
    done = train(tmp_path / "a", *lenet, "--memory-limit", "0.5MB", status=2)
    said = complaint(done)
    assert "--memory-limit: 0." in said and "MB of results needed, the limit is 0.5 MB" in said
    fitting = int(said.split("try --batch-size ")[1].split(",")[0])
    assert 0 < fitting < 32
    done = train(tmp_path / "b", *lenet, "--memory-limit", "0.005", status=2)
    assert "the limit is 0.005 MB; give it more" in complaint(done)
    done = train(tmp_path / "c", *lenet, "--memory-limit", "1GB")
    assert ", memory " in done.stderr
    peak = read(tmp_path / "c", "result.json")["memory_peak"]
    assert 1e6 < peak == events(tmp_path / "c", "epoch")[0]["memory_peak"] < 1e9
    done = train(tmp_path / "d", *lenet, "--memory-limit", "1GB", "--backend", "numpy", status=2)
    assert "expected --backend llvm, got numpy" in complaint(done)


def events(out: Path, kind: str) -> list[dict[str, Any]]:
    lines = (out / "log.jsonl").read_text().splitlines()
    return [e for e in map(json.loads, lines) if e["event"] == kind]


def complaint(done: subprocess.CompletedProcess[str]) -> str:
    lines = [line for line in done.stderr.splitlines() if "tallygrad: error:" in line]
    assert len(lines) == 1 and "Traceback" not in done.stderr, done.stderr
    return lines[0]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "lenet"
    done = train(out, "--model", "lenet", "--max-steps", "250", "--log-every", "10", "--lr", "0.01")
    assert "test accuracy" in done.stdout and "backward, weights" in done.stdout
    return out


def test_run_folder_is_complete_and_lenet_learns(trained: Path) -> None:
    result = read(trained, "result.json")
    assert result["test_accuracy"] > 0.9 and result["steps"] == 250 and result["ranks"] == 1
    assert result["optimizer_bytes"] == 4 * 431_080  # momentum
    assert set(result) >= {
        "test_accuracy", "test_loss", "train_loss", "epochs", "steps", "ranks",
        "images_per_second", "wall_seconds", "macs", "checkpoint",
    }  # fmt: skip
    steps = events(trained, "step")
    assert [e["step"] for e in steps] == list(range(10, 251, 10))
    assert steps[-1]["loss"] < steps[0]["loss"] / 2
    assert read(trained, "config.json")["model"] == "lenet"
    facts = read(trained, "provenance.json")
    assert facts["versions"]["numpy"] == np.__version__ and facts["ranks"] == 1
    with (trained / "metrics.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert float(rows[-1]["test_accuracy"]) == result["test_accuracy"]
    assert not [p for p in trained.rglob("*") if p.name.startswith(".")]


def test_ledger_of_a_run_holds_every_mac(trained: Path) -> None:
    by_phase: dict[str, int] = {}
    for entry in read(trained, "ledger.json"):
        macs = entry.get("macs", 0) * entry.get("calls", 0)
        by_phase[entry["phase"]] = by_phase.get(entry["phase"], 0) + macs
    images, first_conv = 250 * 32, 20 * 25 * 24 * 24
    assert by_phase["forward"] == by_phase["backward_weights"] == images * 2_293_000
    assert by_phase["backward_data"] == images * (2_293_000 - first_conv)
    assert by_phase["evaluate"] == 10_000 * 2_293_000
    assert read(trained, "result.json")["macs"] == sum(by_phase.values())


def test_mixed_precision_learns_and_is_kept(tmp_path: Path) -> None:
    pytest.importorskip("ml_dtypes", reason="ml_dtypes is not installed")
    words = ["--model", "mlp", "--max-steps", "60", "--lr", "0.01"]
    for precision in ("float32", "bf16"):
        done = train(tmp_path / precision, *words, "--precision", precision)
        # Beside what is trained, how: with which instructions, or in float32.
        assert ("\nbf16     " in done.stdout + done.stderr) == (precision == "bf16")
    plain, mixed = (read(tmp_path / name, "result.json") for name in ("float32", "bf16"))
    assert mixed["test_loss"] != plain["test_loss"] == pytest.approx(mixed["test_loss"], rel=0.02)
    kept = load(max((tmp_path / "bf16" / "checkpoints").glob("step-*.h5"))).tensors
    assert {a.dtype.name for name, a in kept.items() if name.startswith("model/")} == {"float32"}
    found = json.loads(run("eval", str(tmp_path / "bf16"), "--json").stdout)
    assert found["loss"] == pytest.approx(mixed["test_loss"], rel=1e-6)
    assert found["precision"] == "bf16"
    again = [*words, "--max-steps", "61", "--resume", "auto"]
    said = complaint(train(tmp_path / "bf16", *again, "--precision", "float32", status=2))
    assert "--precision: expected bf16 as in " in said and said.endswith("got float32")
    said = complaint(train(tmp_path / "c", "--precision", "bf16", "--dtype", "float64", status=2))
    assert "--dtype: expected float32 with --precision bf16, got float64" in said


def test_eval_agrees_with_the_training(trained: Path) -> None:
    result = read(trained, "result.json")
    found = json.loads(run("eval", str(trained), "--json").stdout)
    assert found["accuracy"] == result["test_accuracy"] and found["samples"] == 10_000
    assert found["precision"] == "float32"
    assert found["loss"] == pytest.approx(result["test_loss"], rel=1e-5)


def test_predict_reads_samples_and_files(trained: Path, tmp_path: Path) -> None:
    lines = run("predict", str(trained), "--samples", "0-3,7", "--json").stdout.splitlines()
    answers = [json.loads(line) for line in lines]
    assert [a["index"] for a in answers] == [0, 1, 2, 3, 7]
    assert sum(a["name"] == a["label"] for a in answers) >= 4
    file = tmp_path / "images.npy"
    np.save(file, np.zeros((2, 28, 28), np.uint8))
    assert len(run("predict", str(trained), str(file)).stdout.splitlines()) == 2
    np.save(file, np.zeros((2, 32, 32), np.uint8))
    refused = complaint(run("predict", str(trained), str(file), status=2))
    assert "got an array of shape (2, 32, 32)" in refused
    np.save(file, np.zeros((0, 28, 28), np.uint8))
    assert "expected at least one image" in complaint(
        run("predict", str(trained), str(file), status=2)
    )
    header = file.read_bytes().replace(b"(0, 28, 28), }         ", b"(999999999, 28, 28), } ")
    assert b"999999999" in header
    file.write_bytes(header)
    assert str(file) in complaint(run("predict", str(trained), str(file), status=2))
    file.write_bytes(b"no array")
    assert str(file) in complaint(run("predict", str(trained), str(file), status=2))
    wrong = run("predict", str(trained), "--samples", "5-10000", status=2)
    assert "expected rising ranges within 0-9999, got" in complaint(wrong)


def test_inspect_shows_a_run(trained: Path) -> None:
    shown = json.loads(run("inspect", str(trained), "--json").stdout)
    assert "conv1.weight" in json.dumps(shown["tensors"]) and shown["meta"]["step"] == 250
    assert "conv1.weight" in run("inspect", str(trained)).stdout


def test_an_occupied_folder_is_not_overwritten(trained: Path) -> None:
    before = (trained / "log.jsonl").read_text()
    assert "expected a folder without a run" in complaint(
        train(trained, "--max-steps", "1", status=2)
    )
    assert (trained / "log.jsonl").read_text() == before


def weights(out: Path, step: int) -> dict[str, np.ndarray]:
    return load(out / "checkpoints" / f"step-{step:08d}.h5").tensors


def same(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> bool:
    return a.keys() == b.keys() and all(a[n].tobytes() == b[n].tobytes() for n in a)


@pytest.mark.parametrize("model", ["lenet", "lstm"])
def test_killed_and_resumed_ends_with_the_same_bits(model: str, tmp_path: Path) -> None:
    size = "--batch-size 8 --eval-batch-size 1000 --eval-every 99 --log-every 1"
    words = ["--model", model, "--checkpoint-every", "4", "--max-steps", "14", *size.split()]
    words += ["--keep-checkpoints", "9999"]
    train(tmp_path / "whole", *words)
    broken = tmp_path / "broken"
    process = subprocess.Popen(
        [*TALLYGRAD, "train", *SMALL, "--out", str(broken), *words, "--max-steps", "100000"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 120
    while not (broken / "checkpoints" / "step-00000008.h5").exists():
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    for later in (broken / "checkpoints").glob("step-*.h5"):
        if int(later.stem[5:]) > 8:
            later.unlink()
    assert not (broken / "result.json").exists()
    with (broken / "log.jsonl").open("a") as log:
        log.write('{"event": "step", "step": 99, "loss": 0}\n{"event": "st')
    train(broken, *words, "--resume", "auto")
    assert same(weights(tmp_path / "whole", 14), weights(broken, 14))
    once, twice = (events(tmp_path / n, "step") for n in ("whole", "broken"))
    assert [(e["step"], e["loss"]) for e in once] == [(e["step"], e["loss"]) for e in twice]
    one, two = (read(tmp_path / n, "result.json") for n in ("whole", "broken"))
    assert one["macs"] == two["macs"] and one["test_loss"] == two["test_loss"]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_results_do_not_depend_on_the_number_of_threads(
    dtype: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["--model", "lenet", "--batch-size", "160", "--max-steps", "6", "--dtype", dtype]
    train(tmp_path / "one", *words, "--threads", "1")
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    train(tmp_path / "three", *words)
    counts = [read(tmp_path / n, "provenance.json")["threads_per_rank"] for n in ("one", "three")]
    assert counts == [1, 3]
    assert same(weights(tmp_path / "one", 6), weights(tmp_path / "three", 6))


def test_resume_keeps_the_options_that_are_not_given_anew(trained: Path, tmp_path: Path) -> None:
    words = ["--model", "mlp", "--momentum", "0.5", "--lr", "0.01", "--augment", "none"]
    train(tmp_path / "a", *words, "--max-steps", "4", "--log-every", "1")
    run("train", "--out", str(tmp_path / "a"), "--resume", "auto", "--max-steps", "6")
    made = read(tmp_path / "a", "config.json")
    assert (made["model"], made["momentum"], made["lr"]) == ("mlp", 0.5, 0.01)
    assert [e["step"] for e in events(tmp_path / "a", "step")] == [1, 2, 3, 4, 5, 6]
    assert [e["step"] for e in events(tmp_path / "a", "epoch")] == [6]
    facts = read(tmp_path / "a", "provenance.json")
    assert facts["resumed_from"].endswith("step-00000004.h5")
    assert "--momentum" in facts["before"]["command"]
    file = str(tmp_path / "a" / "checkpoints" / "step-00000006.h5")
    run("train", "--out", str(tmp_path / "b"), "--resume", file, "--max-steps", "8", "--lr", "0")
    assert (tmp_path / "b" / "checkpoints" / "best.h5").exists()
    assert read(tmp_path / "b", "result.json")["steps"] == 8
    mixed = train(tmp_path / "b", "--resume", file, status=2)
    assert "--out: expected the run folder of" in complaint(mixed)
    older = str(tmp_path / "a" / "checkpoints" / "step-00000004.h5")
    refused = train(tmp_path / "a", "--resume", older, status=2)
    assert "at step 4; name another --out" in complaint(refused)


def test_resume_auto_without_a_usable_checkpoint(tmp_path: Path) -> None:
    words = ["--model", "mlp", "--max-steps", "3", "--log-every", "1", "--resume", "auto"]
    needs = run("train", "--resume", "auto", status=2)
    assert "--resume auto: expected --out with the run folder, got none" in complaint(needs)
    train(tmp_path / "a", *words)
    for file in (tmp_path / "a" / "checkpoints").iterdir():
        file.write_bytes(file.read_bytes()[:-9])
    assert "no valid checkpoint in" in complaint(train(tmp_path / "a", *words, status=2))
    for file in (tmp_path / "a" / "checkpoints").iterdir():
        file.unlink()
    run("train", "--out", str(tmp_path / "a"), "--resume", "auto", "--max-steps", "2")
    assert [e["step"] for e in events(tmp_path / "a", "step")] == [1, 2]
    assert read(tmp_path / "a", "config.json")["model"] == "mlp"


def test_a_complete_run_is_left_as_it_is(tmp_path: Path) -> None:
    a = tmp_path / "a"
    train(a, "--model", "mlp", "--max-steps", "3", "--log-every", "1")
    before = {p: p.read_bytes() for p in a.rglob("*") if p.is_file()}
    for more in ([], ["--max-steps", "2"]):
        words = ["--resume", "auto", "--max-steps", "3", *more]
        done = run("train", "--out", str(a), *words)
        assert "test accuracy" in done.stdout
        assert {p: p.read_bytes() for p in a.rglob("*") if p.is_file()} == before
    words = ["--resume", str(a), "--out", str(tmp_path / "b"), "--max-steps", "3"]
    new = run("train", *words, status=2)
    assert "nothing is left to train" in complaint(new) and not (tmp_path / "b").exists()
    (a / "log.jsonl").unlink()
    (a / "result.json").unlink()
    assert "which has best.h5; continue it with --resume auto" in complaint(
        train(a, "--max-steps", "1", status=2)
    )


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"ledger": None}, "ledger: expected list, got None"),
        ({"ledger": [5]}, "ledger: cannot be read"),
        ({"config": [1]}, "config: expected dict, got [1]"),
        ({"sums": [1.0]}, "sums: expected 3 numbers, got [1.0]"),
        ({"epoch": "x"}, "epoch: expected int, got 'x'"),
    ],
)
def test_odd_records_give_one_line(
    change: dict[str, Any], said: str, trained: Path, tmp_path: Path
) -> None:
    held = load(trained / "checkpoints" / "step-00000250.h5")
    save(tmp_path / "odd.h5", held.tensors, {**held.meta, **change})
    done = train(tmp_path / "run", "--resume", str(tmp_path / "odd.h5"), status=2)
    assert said in complaint(done) and not (tmp_path / "run").exists()


def test_a_reader_that_leaves_is_no_fault(trained: Path) -> None:
    words = " ".join([*TALLYGRAD, "predict", str(trained), "--samples", "0-3000"])
    done = subprocess.run(["bash", "-c", f"{words} | head -1"], capture_output=True, text=True)
    assert len(done.stdout.splitlines()) == 1
    assert all(line.startswith("compiling kernels") for line in done.stderr.splitlines())


def test_resume_refuses_another_run(trained: Path, tmp_path: Path) -> None:
    file = str(trained / "checkpoints" / "step-00000250.h5")
    done = train(tmp_path / "a", "--model", "mlp", "--resume", file, status=2)
    assert f"--model: expected lenet as in {file}, got mlp" in complaint(done)
    done = train(tmp_path / "b", "--resume", file, "--seed", "5", status=2)
    assert f"--seed: expected 0 as in {file}, got 5" in complaint(done)
    damaged = tmp_path / "damaged.h5"
    damaged.write_bytes((trained / "checkpoints" / "best.h5").read_bytes()[:-100])
    assert str(damaged) in complaint(train(tmp_path / "c", "--resume", str(damaged), status=2))
    missing = str(tmp_path / "none.h5")
    assert missing in complaint(train(tmp_path / "d", "--resume", missing, status=2))
    assert not any((tmp_path / name / "log.jsonl").exists() for name in "abcd")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--batch-size", "70000"], ("70000", "60000")),
        (["--model", "lenett"], ("--model", "lenett", "lenet")),
        (["--dataset", "digitss"], ("digitss", "digits")),
        (["--dataset", "mnist", "--data-dir", "/dev/null/none"], ("/dev/null/none",)),
        (["--out", "/dev/null/run"], ("/dev/null",)),
        (["--momentum", "0", "--nesterov"], ("--nesterov", "--momentum", "0.0")),
        (["--warmup-steps", "5000"], ("--warmup-steps", "got 5000", "1875")),
    ],
)
def test_bad_input_gives_one_line(words: list[str], said: tuple[str, ...], tmp_path: Path) -> None:
    line = complaint(train(tmp_path / "run", "--max-steps", "2", *words, status=2))
    assert all(word in line for word in said), line
    assert not (tmp_path / "run" / "log.jsonl").exists()


@pytest.mark.filterwarnings("ignore")
def test_a_loss_that_is_not_finite_ends_with_status_3(tmp_path: Path) -> None:
    words = ["--model", "mlp", "--lr", "1e9", "--schedule", "constant", "--max-steps", "50"]
    line = complaint(train(tmp_path / "loss", *words, status=3))
    assert "loss: expected a finite number at step" in line and "got nan" in line
    assert "a smaller --lr than 1000000000.0" in line
    words += ["--lr", "1e39", "--max-steps", "2", "--checkpoint-every", "1"]
    line = complaint(train(tmp_path / "run", *words, status=3))
    assert "weights: expected finite numbers after step" in line
    for name in ("loss", "run"):
        assert not [*(tmp_path / name / "checkpoints").iterdir()]
        assert not (tmp_path / name / "result.json").exists()


def test_plain_lines_where_stderr_is_no_terminal(tmp_path: Path) -> None:
    done = train(tmp_path / "run", "--model", "mlp", "--max-steps", "3")
    assert "epoch 1/1: train loss" in done.stderr and "\r" not in done.stderr


@pytest.mark.skipif("TALLYGRAD_DATA" not in os.environ, reason="TALLYGRAD_DATA is not set")
@pytest.mark.parametrize(
    ("dataset", "model", "least"), [("mnist", "lenet", 0.92), ("cifar10", "mlp", 0.33)]
)
def test_real_data(dataset: str, model: str, least: float, tmp_path: Path) -> None:
    words = ["--dataset", dataset, "--model", model, "--max-steps", "150", "--lr", "0.01"]
    result_path = tmp_path / "run"
    run("train", *words, "--batch-size", "32", "--out", str(result_path))
    assert read(result_path, "result.json")["test_accuracy"] > least
