"""What `--html` may replace: a file of its own, and nothing else."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tallygrad.trainer.calibration import kernels
from tallygrad.trainer.cli import main
from tallygrad.trainer.cost.report.markup import MARK


def listed() -> list[tuple[str, int, int, int]]:
    """Return what this folder holds: reading changes none of it."""
    found = [(name, os.lstat(name)) for name in os.listdir()]
    return sorted((name, s.st_mode, s.st_size, s.st_mtime_ns) for name, s in found)


@pytest.mark.parametrize(
    ("place", "said"),
    [("nowhere/page.html", "cannot write nowhere/page.html: No such file or directory"),
     (".", "--html: expected a new file or a page of tallygrad, got ., a folder"),
     ("pipe", "got pipe, no regular file"), ("x" * 300, "File name too long"),
     ("notes", "got notes, a file with other content; --force replaces it"),
     ("link", "got link, a link to page; --force replaces it"),
     ("dangling", "got dangling, a link to nothing; --force replaces it")],
)  # fmt: skip
@pytest.mark.parametrize("command", ["cost", "profile"])
def test_where_no_page_can_be_written(
    command: str, place: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    os.mkfifo("pipe")
    Path("notes").write_text("mine")
    assert main(["cost", "lenet", "--html", "page"]) == 0
    for link, target in (("link", "page"), ("dangling", "nothing")):
        Path(link).symlink_to(target)
    before = listed()
    monkeypatch.setattr(kernels, "measure", lambda *given: pytest.fail("work came first"))
    capfd.readouterr()
    assert main([command, "lenet", "--html", place]) == 2
    out, err = capfd.readouterr()
    assert said in err and err.count("\n") == 1
    assert not out and listed() == before


def test_what_may_be_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages, empty files, and with --force other files and links, never what a link points to."""
    monkeypatch.chdir(tmp_path)
    Path("empty").touch()
    Path("notes").write_text("mine")
    Path("target").write_text("theirs")
    Path("link").symlink_to("target")
    for name, more in (("page", []), ("page", []), ("empty", []), ("notes", ["--force"]),
                       ("link", ["--force"])):  # fmt: skip
        assert main(["cost", "lenet", "--html", name, *more]) == 0
        assert Path(name).read_text("utf-8").startswith(MARK)
    assert Path("target").read_text() == "theirs" and not Path("link").is_symlink()
    assert main(["cost", "lenet", "--html", ".", "--force"]) == 2


@pytest.mark.parametrize("where", ["pipe", "file"])
def test_standard_output_is_written_not_replaced(where: str, tmp_path: Path) -> None:
    """By a link like /dev/stdout, which root would replace by a file."""
    file, link = tmp_path / "out", tmp_path / "stdout"
    link.symlink_to("/proc/self/fd/1")
    line = [sys.executable, "-m", "tallygrad.trainer", "cost", "lenet", "--html", str(link)]
    if where == "file":
        with open(file, "wb") as out:
            subprocess.run(line, stdout=out, check=True)
        text = file.read_bytes()
    else:
        text = subprocess.run(line, capture_output=True, check=True).stdout
    assert text.startswith(MARK.encode()) and b"</html>\nlayer" in text
    assert link.is_symlink() and {*tmp_path.iterdir()} - {file} == {link}


def test_a_page_that_fails_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = tmp_path / "page.html"
    page.write_text(MARK + "old")

    def full(*given: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("os.fsync", full)
        assert main(["cost", "lenet", "--html", str(page)]) == 2
    assert page.read_text() == MARK + "old" and [*tmp_path.iterdir()] == [page]
    assert main(["cost", "lenet", "--html", str(page)]) == 0
    assert "old" not in page.read_text("utf-8")
