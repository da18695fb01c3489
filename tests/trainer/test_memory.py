"""What is said where memory does not suffice: one line that names what did not fit."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tallygrad.autograd as ag
from tallygrad.autograd import backends, context, nn
from tallygrad.autograd.memory import OutOfMemory
from tallygrad.trainer import build, memory
from tallygrad.trainer.calibration import kernels
from tallygrad.trainer.calibration.rehearsal import Rehearsal, Silent
from tallygrad.trainer.cli import main
from tallygrad.trainer.errors import UserError


@pytest.mark.parametrize("backend", ["numpy", "llvm"])
def test_the_layer_is_named(backend: str) -> None:
    """No system has 2^46 bytes: nothing is taken."""
    try:
        backends.get(backend)
    except ImportError as error:
        pytest.skip(str(error))
    with context.using(backend=backend):
        layer = nn.Sequential(nn.Linear(1, 1 << 20))
        x = ag.from_numpy(np.broadcast_to(np.float32(1), (1 << 24, 1)))
        with pytest.raises(UserError) as error, memory.memory_errors("take less"):
            layer(x).numpy()
    said = str(error.value)
    assert said.startswith("not enough memory: Unable to allocate") and said.endswith("; take less")
    assert "(0, forward: linear of (16777216, 1) and (1048576, 1) and (1048576,))" in said
    assert "\n" not in said


def test_an_error_that_says_nothing_has_a_line_too() -> None:
    with (
        pytest.raises(UserError, match="no more memory is available; take less"),
        memory.memory_errors("take less"),
    ):
        raise MemoryError


@pytest.mark.parametrize(
    ("command", "where", "way"),
    [
        ("profile lenet", "calibration.kernels.measure", "take a smaller --batch"),
        ("cost lenet", "cost.workload.count", "take a smaller --batch"),
        ("plan lenet", "cost.workload.count", "take a smaller --batch"),
        ("train --dataset digits", "components.resume.occupy", "take a smaller --batch-size, more"),
        ("eval run", "inference.evaluate_checkpoint", "take a smaller --batch-size"),
        ("predict run", "inference.predict", "take fewer --samples"),
        ("inspect run", "commands.inspect.describe", "free some memory"),
        ("bill run", "components.recorded_run.read", "free some memory"),
    ],
)
def test_every_command_says_it_in_a_line(
    command: str, where: str, way: str, monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    def full(*given: object, **options: object) -> None:
        raise MemoryError("Unable to allocate 9 TiB")

    monkeypatch.setattr(f"tallygrad.trainer.{where}", full)
    assert main(command.split()) == 71
    err = capfd.readouterr().err
    assert f"tallygrad: error: not enough memory: Unable to allocate 9 TiB; {way}" in err
    assert err.count("\n") == 1


def test_what_is_counted_before_a_step_is_counted_in_its_precision(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Kernels are tuned for the types of the training, and a limit is held against its bytes."""
    pytest.importorskip("ml_dtypes", reason="ml_dtypes is not installed")

    def full(*given: object) -> None:
        raise OutOfMemory(1, 1)

    needed = []
    for precision, name in (("float32", "None"), ("bf16", "bfloat16")):
        job = Rehearsal(Silent(0, 1), "resnet20", (3, 32, 32), 10, 8, 1.0, precision=precision)
        types: list[str] = []
        monkeypatch.setattr(
            build, "tune", lambda *given, seen=types: seen.append(str(context.current().autocast))
        )
        job.training.tune()
        assert types == [name]
        monkeypatch.setattr(job.training.passes, "step", full)
        with pytest.raises(UserError, match="--memory-limit") as error:
            job.step()
        needed.append(float(str(error.value).split()[1]))
    assert 0.5 < needed[1] / needed[0] < 0.6


LACKING = """
import socket, sys, threading
from tallygrad.trainer import cli, loop
step, beside = loop.Training.gradients, sys.argv.pop(1) == "thread"
def lack():
    raise MemoryError("Unable to allocate 9 TiB")
def lacking(self, batch):
    if self.comm.rank == 1 and self.state.step == 1:
        threading.Thread(target=lack).start() if beside else lack()
        threading.Event().wait()
    return step(self, batch)
loop.Training.gradients = lacking
socket.gethostname = lambda: "n7"
sys.exit(cli.main(sys.argv[1:]))
"""


WORDS = ["train", "--model", "mlp", "--max-steps", "2", "--out"]


@pytest.mark.parametrize("where", ["main", "thread"])
def test_the_rank_that_lacks_memory_is_named(mpirun: Any, tmp_path: Path, where: str) -> None:
    done = mpirun(2, LACKING, where, *WORDS, str(tmp_path / "run"))
    assert done.returncode == 71 and "Traceback" not in done.stderr
    (line,) = [line for line in done.stderr.splitlines() if "tallygrad: error" in line]
    assert re.search(
        r"error: rank 1 on n7 \(process \d+\), training, step 2, mpirun\d*/snippet\d*\.py:6: "
        r"not enough memory: Unable to allocate 9 TiB; take a smaller --batch-size", line,
    )  # fmt: skip


def test_a_limit_that_is_too_low_is_an_error_to_correct(mpirun: Any, tmp_path: Path) -> None:
    limited = ["-m", "tallygrad.trainer", *WORDS, str(tmp_path / "run"), "--memory-limit", "0.1MB"]
    done = mpirun(2, limited)
    assert done.returncode == 2
    assert re.search(
        r"error: rank [01] on \S+ \(process \d+\), training, step 1, components/passes.py:\d+: "
        r"--memory-limit: .* MB of results", done.stderr,
    )  # fmt: skip


def test_a_command_whose_module_does_not_fit_says_it_too(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def full(name: str) -> None:
        raise MemoryError

    monkeypatch.setattr("tallygrad.trainer.commands.dispatch.load", full)
    assert main(["cost", "lenet"]) == 71
    said = "tallygrad: error: not enough memory: no more memory is available; free some memory\n"
    assert capfd.readouterr().err == said


@pytest.mark.parametrize("batch", [100_000_000, 10**18])
def test_a_batch_that_cannot_fit_is_not_tried(
    batch: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(kernels, "measure", lambda *given: pytest.fail("it was tried"))
    monkeypatch.setattr(memory, "available", lambda: 16e9)
    assert main(["profile", "lenet", "--batch", str(batch), "--training"]) == 2
    err = capsys.readouterr().err
    assert f"not enough memory: --batch {batch} needs about " in err and err.count("\n") == 1
    fitting = int(err.rpartition("--batch ")[2])
    assert 50_000 < fitting < 250_000  # a step on one image keeps some 70 kB


def test_what_can_be_had(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(memory, "CGROUP", tmp_path)
    assert memory.available() == float("inf")
    (tmp_path / "meminfo").write_text("MemTotal: 9 kB\nMemAvailable: 5 kB\nSwapFree: 2 kB\n\n")
    assert memory.available() == 7 * 1024
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("1000\n")
    assert memory.available() == 7 * 1024
    (tmp_path / "memory.max").write_text("3000\n")
    assert memory.available() == 2000


def test_a_limit_of_address_space_counts() -> None:
    """In a process of its own, whose limit cannot trouble the others."""
    limit = 8 << 30
    code = f"""
import resource
from tallygrad.trainer import memory
resource.setrlimit(resource.RLIMIT_AS, ({limit}, {limit}))
memory.MEMINFO = memory.CGROUP = memory.Path("/nowhere")
print(memory.available())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    left = float(done.stdout)
    assert 0.8 * limit < left < limit - (10 << 20)
