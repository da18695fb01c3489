"""What the terminal shows while a command runs."""

from __future__ import annotations

import fcntl
import io
import json
import os
import re
import struct
import sys
import termios
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tallygrad.autograd import backends
from tallygrad.autograd.backends import CompileStats, notify_compiled, watching
from tallygrad.trainer.cli import main
from tallygrad.trainer.components import evaluate
from tallygrad.trainer.components.checkpoint import CheckpointFolder
from tallygrad.trainer.cost.report.units import accuracy_text, duration
from tallygrad.trainer.progress import Progress, compiling


@pytest.fixture(autouse=True)
def nothing_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "_compiled", CompileStats(0, 0, 0.0))


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_bar_on_a_terminal_shows_speed_loss_accuracy_and_time_left() -> None:
    screen = Terminal()
    progress = Progress(4, 1, True, stream=screen)
    progress.bar.mininterval = 0.0  # type: ignore[union-attr]
    progress.step(0, 64, 0.5, "75.00%")
    progress.step(0, 64, 0.25, "100.00%")
    progress.say("a line")
    progress.close()
    shown = screen.getvalue()
    assert "loss 0.2500, 100.00%" in shown and "images/s" in shown and "3/4" in shown
    assert "\na line\n" in shown or "\ra line\n" in shown


def test_plain_lines_come_now_and_then_elsewhere() -> None:
    for every, lines in ((0.0, 3), (60.0, 0)):
        out = io.StringIO()
        progress = Progress(10, 0, True, stream=out, every=every)
        for _ in range(3):
            progress.step(1, 32, 0.5, "50.00%")
        said = out.getvalue().splitlines()
        assert len(said) == lines and "\r" not in out.getvalue()
        assert all("epoch 2/1 step " in line and "s left" in line for line in said)


@pytest.mark.parametrize("terminal", [True, False])
def test_long_compiling_is_shown_and_short_is_not(terminal: bool) -> None:
    out = Terminal() if terminal else io.StringIO()
    progress = Progress(9, 0, True, stream=out)
    shown: list[str] = []
    with watching(progress.compiling):
        for made, seconds in ((4, 0.9), (12, 1.5), (13, 1.6)):
            notify_compiled(CompileStats(made, 3, seconds))
            shown.append(out.getvalue())
        progress.step(0, 1, 0.5, "50.00%")
        before = out.getvalue()
        notify_compiled(CompileStats(14, 3, 1.7))
        assert out.getvalue() == before
    assert "compiling" not in shown[0]
    assert "compiling kernels: 12 made, 3 from the cache" in shown[1]
    # A terminal's line is written anew; elsewhere lines come now and then.
    assert ("13 made" in shown[2]) == terminal
    assert "13 kernels compiled in 1.6 s\n" in before
    notify_compiled(CompileStats(99, 3, 9.9))
    assert "99" not in out.getvalue()
    progress.close()


@pytest.mark.parametrize("shows", [True, False])
def test_commands_without_steps_show_compiling(
    shows: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    with compiling(shows):
        notify_compiled(CompileStats(4, 0, 0.9))
        notify_compiled(CompileStats(9, 2, 1.5))
    notify_compiled(CompileStats(20, 2, 9.0))
    said = "compiling kernels: 9 made, 2 from the cache\n" if shows else ""
    assert capsys.readouterr().err == said


def test_other_ranks_are_silent() -> None:
    out = Terminal()
    progress = Progress(3, 0, False, stream=out, every=0.0)
    progress.compiling(CompileStats(9, 0, 9.0))
    progress.step(0, 1, 0.0, "0.00%")
    progress.say("nothing")
    progress.close()
    assert out.getvalue() == ""


def test_steps_are_those_of_the_epoch_and_the_time_left_that_of_the_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out, now = io.StringIO(), [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    progress = Progress(12, 5, True, stream=out, every=0.0, per_epoch=4, epochs=3)
    for epoch in (1, 1, 1, 2):
        now[0] += 2.0
        progress.step(epoch, 10, 0.5, "50.00%")
    assert [line.partition(":")[0] for line in out.getvalue().splitlines()] == [
        "epoch 2/3 step 2/4", "epoch 2/3 step 3/4", "epoch 2/3 step 4/4", "epoch 3/3 step 1/4",
    ]  # fmt: skip
    assert out.getvalue().endswith("loss 0.5000, 50.00%, 5 images/s, 6 s left\n")


@pytest.mark.parametrize("columns", [40, 80])
def test_every_line_fits_the_terminal(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    out = io.StringIO()
    progress = Progress(10**7, 0, True, stream=out, every=0.0, per_epoch=10**6, epochs=300)
    figures = dict.fromkeys(("train", "val", "test"), (0.98765, "98.77%"))
    progress.step(99, 2048, 1234.5678, "98.77%")
    progress.evaluating("validation", 100_000, 100_000)
    progress.epoch(300, figures, 123_456_000_000)
    lines = out.getvalue().splitlines()
    assert max(map(len, lines)) <= columns
    assert "epoch 300/300: train loss 0.9877 (98.77%)," in " ".join(out.getvalue().split())


def test_evaluation_shows_its_steps_on_a_terminal_and_elsewhere() -> None:
    for out in (Terminal(), io.StringIO()):
        progress = Progress(2, 0, True, stream=out, every=0.0)
        if progress.bar is not None:
            progress.bar.mininterval = 0.0
        progress.evaluating("test", 3, 40)
        progress.close()
        assert "evaluating on test: 3/40" in out.getvalue()


@pytest.mark.parametrize("columns", [80, 100])
def test_a_bar_is_wide_enough_to_be_one(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    screen = Terminal()
    progress = Progress(1876, 0, True, stream=screen, per_epoch=938, epochs=2)
    assert progress.bar is not None
    progress.bar.mininterval = 0.0
    for _ in range(3):
        progress.step(0, 64, 1.2345, "98.76%")
    progress.close()
    lines = [line for line in re.split(r"[\r\n]+", screen.getvalue()) if "3/938" in line]
    assert "98.76%" in lines[-1] and len(lines[-1]) <= columns
    assert len(lines[-1].split("|")[1]) >= 8
    assert lines[-1].startswith("epoch 1/2 3/938 |") and "| loss 1.2345, 98.76%, " in lines[-1]


@pytest.mark.parametrize("size", [(80, 0), (0, 0), (80, 24)])
def test_a_terminal_that_tells_no_size_has_a_bar(
    size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    reader, writer = os.openpty()
    try:
        fcntl.ioctl(writer, termios.TIOCSWINSZ, struct.pack("HHHH", *size[::-1], 0, 0))
        with open(writer, "w", closefd=False) as screen:
            progress = Progress(9, 0, True, stream=screen)
            progress.close()
        shown = os.read(reader, 4096).decode()
    finally:
        os.close(writer)
        os.close(reader)
    assert "0/9 |" in shown and 60 < max(map(len, re.split(r"[\r\n]+", shown))) <= 80


def test_a_training_draws_one_bar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    words = ["--model", "mlp", "--dataset", "digits", "--max-steps", "2", "--backend", "numpy"]
    assert main(["train", *words, "--out", str(tmp_path / "run"), "--eval-batch-size", "2000"]) == 0
    shown = screen.getvalue()
    assert "\x1b[A" not in shown, "tqdm's way up from a second bar"
    assert shown.startswith("model    mlp"), "no bar before the first step"


def test_the_usual_line_of_an_epoch_is_one_of_80_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    out = io.StringIO()
    figures = dict.fromkeys(("train", "val"), (0.5, "50.00%"))
    Progress(9, 0, True, stream=out, epochs=30).epoch(30, figures, 123_000_000)
    assert out.getvalue() == (
        "epoch 30/30: train loss 0.5000 (50.00%), val loss 0.5000 (50.00%), memory 123 MB\n"
    )


def test_compiling_does_not_count_for_the_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    out, now = io.StringIO(), [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    progress = Progress(10, 0, True, stream=out, every=0.0)
    now[0] = 20.0
    progress.compiling(CompileStats(30, 0, 19.0))
    progress.step(0, 64, 0.5, "50.00%")
    assert out.getvalue().endswith("64 images/s, 9 s left\n")


def test_kernels_of_an_earlier_training_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """The counts are those of the process; where no time has passed, no speed is shown."""
    out, now = io.StringIO(), [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    monkeypatch.setattr(backends, "_compiled", CompileStats(900, 0, 500.0))
    progress = Progress(10, 0, True, stream=out, every=0.0)
    progress.compiling(CompileStats(901, 0, 502.0))
    progress.step(0, 64, 0.5, "50.00%")
    assert out.getvalue().endswith(
        "1 kernel compiled in 2.0 s\nepoch 1/1 step 1/10: loss 0.5000, 50.00%\n"
    )
    now[0] = 4.0
    progress.step(0, 64, 0.5, "50.00%")
    assert out.getvalue().endswith(", 64 images/s, 8 s left\n")


def test_the_speed_of_a_short_run_is_that_of_its_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither the last evaluations nor the last checkpoint count, however long they take."""
    clock, late = time.monotonic, [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock() + late[0])

    def slowed(work: Any, *rest: Any, **more: Any) -> Any:
        late[0] += 10
        return work(*rest, **more)

    monkeypatch.setattr(evaluate, "evaluate", partial(slowed, evaluate.evaluate))
    save = CheckpointFolder.save
    monkeypatch.setattr(CheckpointFolder, "save", lambda *a, **b: slowed(save, *a, **b))
    words = ["--model", "mlp", "--dataset", "digits", "--max-steps", "2", "--backend", "numpy"]
    words += ["--validation", "100", "--out", str(tmp_path)]
    assert main(["train", *words, "--eval-batch-size", "2000"]) == 0
    result = json.loads((tmp_path / "result.json").read_text())
    assert 1e-6 < 128 / result["images_per_second"] < result["wall_seconds"] - late[0]
    assert late[0] == 30


def test_kernels_are_counted_in_words_that_fit() -> None:
    out = io.StringIO()
    progress = Progress(9, 0, True, stream=out)
    progress.compiling(CompileStats(1, 0, 1.2))
    progress.step(0, 1, 0.5, "50.00%")
    assert out.getvalue().endswith("1 kernel compiled in 1.2 s\n")


def test_accuracies_and_times_have_one_form() -> None:
    assert [accuracy_text(x) for x in (0.0, 0.98765, 0.99999, 1.0)] == [
        "0.00%", "98.77%", "99.99%", "100.00%",
    ]  # fmt: skip
    assert [duration(x) for x in (0.2, 59.4, 65, 7265)] == ["0 s", "59 s", "1:05", "2:01:05"]


def test_train_tells_first_what_it_trains_and_then_how_to_go_on(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "run")
    words = ["--model", "mlp", "--dataset", "digits", "--max-steps", "2", "--backend", "numpy"]
    with pytest.raises(SystemExit) as end:
        sys.exit(main(["train", *words, "--out", out, "--eval-batch-size", "2000"]))
    assert end.value.code == 0
    said = capfd.readouterr()
    head = " ".join(said.err.split())
    assert "model mlp, 269k parameters, float32" in head
    assert "data digits: 60,000 train, 10,000 test; 1x28x28, 10 classes" in head
    assert "ranks 1 x " in head and "backend numpy" in head and f"folder {out}" in head
    assert re.search(r"test accuracy \d+\.\d\d%, loss", said.out)
    assert f"tallygrad eval {out}\n" in said.out
