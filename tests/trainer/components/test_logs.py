"""What a run leaves behind, apart from training."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tallygrad.autograd.ledger import Cost, Ledger
from tallygrad.trainer.components.checkpoint import save
from tallygrad.trainer.components.logs import RunFolder
from tallygrad.trainer.cost.report.ledger import bill
from tallygrad.trainer.cost.report.units import short
from tallygrad.trainer.errors import UserError
from tallygrad.trainer.files import temporary, write_whole


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


def test_temporaries_are_collected_and_pipes_are_not_awaited(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path, writes=True)
    (stale := tmp_path / ".ledger.json~gone~1.tmp").touch()
    os.utime(stale, (1, 1))
    folder.open(resumes=False)
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoints"]
    for name in ("log.jsonl", "result.json"):
        os.mkfifo(tmp_path / name)
    assert folder.read_json("result.json") is None and folder.events(0) == []
    with pytest.raises(UserError, match=r"log\.jsonl: not a regular file"):
        folder.rewind(0, 0)
    for name in ("log.jsonl", "result.json"):
        (tmp_path / name).unlink()
    folder.log(event("step", 1))
    (tmp_path / "result.json").mkdir()
    with pytest.raises(UserError, match=r"cannot write .*result\.json: Is a directory"):
        folder.rewind(0, 0)


def test_a_whole_file_or_none(tmp_path: Path) -> None:
    target = tmp_path / "x.json"
    write_whole(target, "old")
    with pytest.raises(UnicodeEncodeError):
        write_whole(target, "new \ud800")
    assert target.read_text() == "old" and [p.name for p in tmp_path.iterdir()] == ["x.json"]
    with pytest.raises(UserError, match=r"none/x\.json"):
        write_whole(tmp_path / "none" / "x.json", "text")


def test_a_link_in_place_of_the_temporary_is_not_written_through(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (victim := tmp_path / "victim").write_text("old")
    target = tmp_path / "x"
    for write in (lambda: write_whole(target, "new"), lambda: save(target, {}, {})):
        temporary(target).symlink_to(victim)
        with monkeypatch.context() as patch:  # as if it was made right after
            patch.setattr(Path, "unlink", lambda *args, **options: None)
            with pytest.raises(UserError, match=r"cannot write .*x: File exists"):
                write()
        assert not temporary(target).is_symlink()
    assert victim.read_text() == "old" and [*tmp_path.iterdir()] == [victim]


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
