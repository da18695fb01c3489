"""What a run shows and leaves behind, apart from training."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from tallygrad.autograd.backends import Building, built, watching
from tallygrad.autograd.ledger import Cost, Ledger
from tallygrad.trainer.errors import UserError
from tallygrad.trainer.files import write_whole
from tallygrad.trainer.logs import Progress, RunFolder
from tallygrad.trainer.report import bill, short


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_bar_on_a_terminal_shows_speed_loss_accuracy_and_time_left() -> None:
    screen = Terminal()
    progress = Progress(4, 1, True, stream=screen)
    progress.bar.mininterval = 0.0  # type: ignore[union-attr]
    progress.step(0, 64, 0.5, 0.75)
    progress.step(0, 64, 0.25, 1.0)
    progress.say("a line")
    progress.close()
    shown = screen.getvalue()
    assert "images/s, loss 0.2500, accuracy 100.00%" in shown and "3/4" in shown
    assert "\na line\n" in shown or "\ra line\n" in shown


def test_plain_lines_come_now_and_then_elsewhere() -> None:
    for every, lines in ((0.0, 3), (60.0, 0)):
        out = io.StringIO()
        progress = Progress(10, 0, True, stream=out, every=every)
        for _ in range(3):
            progress.step(1, 32, 0.5, 0.5)
        said = out.getvalue().splitlines()
        assert len(said) == lines and "\r" not in out.getvalue()
        assert all("epoch 2, step " in line and "s left" in line for line in said)


@pytest.mark.parametrize("terminal", [True, False])
def test_long_compiling_is_shown_and_short_is_not(terminal: bool) -> None:
    out = Terminal() if terminal else io.StringIO()
    progress = Progress(9, 0, True, stream=out)
    shown: list[str] = []
    with watching(progress.compiling):
        for made, seconds in ((4, 0.9), (12, 1.5), (13, 1.6)):
            built(Building(made, 3, seconds))
            shown.append(out.getvalue())
        progress.step(0, 1, 0.5, 0.5)
        before = out.getvalue()
        built(Building(14, 3, 1.7))
        assert out.getvalue() == before
    assert "compiling" not in shown[0]
    assert "compiling kernels: 12 made, 3 from the cache" in shown[1]
    # A terminal's line is written anew; elsewhere lines come now and then.
    assert ("13 made" in shown[2]) == terminal
    assert "13 kernels compiled in 1.6 s\n" in before
    built(Building(99, 3, 9.9))
    assert "99" not in out.getvalue()
    progress.close()


def test_other_ranks_are_silent() -> None:
    out = Terminal()
    progress = Progress(3, 0, False, stream=out, every=0.0)
    progress.compiling(Building(9, 0, 9.0))
    progress.step(0, 1, 0.0, 0.0)
    progress.say("nothing")
    progress.close()
    assert out.getvalue() == ""


def event(kind: str, step: int) -> dict[str, object]:
    return {"event": kind, "step": step, "epoch": step, "lr": 0.1, "train_loss": 1.0 / step}


def test_rewind_drops_what_a_killed_run_did_after_its_checkpoint(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run", writes=True)
    folder.open(resumes=False)
    for step in (1, 2, 3):
        folder.log(event("step", step))
        folder.log(event("epoch", step))
    with (folder.path / "log.jsonl").open("a") as out:
        out.write('{"event": "step", "st')
    folder.write_json("result.json", {})
    assert [e["event"] for e in folder.rewind(2, 2)] == ["step", "epoch"]
    lines = (folder.path / "log.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 1, 2, 2]
    rows = (folder.path / "metrics.csv").read_text().splitlines()
    assert len(rows) == 3 and rows[0].startswith("epoch,step,lr") and rows[2].startswith("2,2,")
    assert not (folder.path / "result.json").exists()
    assert folder.rewind(2, 1) == []
    lines = (folder.path / "log.jsonl").read_text().splitlines()
    kinds = [json.loads(line)["event"] for line in lines]
    assert kinds == ["step", "epoch", "step"]


def test_a_folder_that_writes_nothing(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run", writes=False)
    folder.open(resumes=False)
    folder.log(event("epoch", 1))
    folder.write_json("config.json", {})
    folder.rewind(0, 0)
    assert not (tmp_path / "run").exists()


def test_a_whole_file_or_none(tmp_path: Path) -> None:
    target = tmp_path / "x.json"
    write_whole(target, "old")
    with pytest.raises(UnicodeEncodeError):
        write_whole(target, "new \ud800")
    assert target.read_text() == "old" and [p.name for p in tmp_path.iterdir()] == ["x.json"]
    with pytest.raises(UserError, match=r"none/x\.json"):
        write_whole(tmp_path / "none" / "x.json", "text")


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0"), (999, "999"), (1000, "1.00k"), (2_293_000, "2.29M"), (12_345, "12.3k"),
     (999_600, "1.00M"), (123_456_789, "123M"), (5e20, "500E")],
)  # fmt: skip
def test_three_digits_and_a_unit(number: float, text: str) -> None:
    assert short(number) == text


def test_bill_adds_up_and_states_the_ratio() -> None:
    ledger = Ledger()
    for phase, macs in (("forward", 100), ("backward_data", 80), ("backward_weights", 100)):
        ledger.count(("fc", phase, "matmul", "numpy", Cost(macs=macs, add=3, bytes_read=7)), 10)
    ledger.count(("", "evaluate", "matmul", "numpy", Cost(macs=50, saved=20)))
    text = bill(ledger)
    total = text.splitlines()[-2].split()
    assert total[:5] == ["total", "2.85k", "2.83k", "90", "210"]
    assert "training costs 2.8000 times" in text
