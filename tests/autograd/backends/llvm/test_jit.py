"""Compiled kernels on disk: kept, found again, made anew where they are damaged, and limited."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("llvmlite", reason="llvmlite is not installed")

from tallygrad.autograd.backends import llvm
from tallygrad.autograd.backends.llvm.compiler import cache, jit, language
from tallygrad.autograd.backends.llvm.compiler.isa import targets


def test_an_alias_is_a_pointer() -> None:
    with pytest.raises(ValueError, match=r"aliases: expected names of pointers \(x, y\), got 'z'"):
        language.KernelBuilder(targets.target(), "float32", ("x", "y"), aliases=("x", "z"))


def copying(target: targets.Target, size: int) -> language.KernelBuilder:
    k = language.KernelBuilder(target, "float32", ("x", "y"))
    x, y = k.arguments
    for start, count, width in language.pieces(size, k.lanes):
        with k.loop(count) as i:
            k.store(k.load(k.at(x, (i, width), start), width), k.at(y, (i, width), start), width)
    return k


def copied(size: int) -> bool:
    """Compile a kernel of a size, or load it; tell whether it copies and touches nothing else."""
    jit._build.cache_clear()
    function = jit.build(copying, targets.target(), size)
    x, y = np.arange(size + 2, dtype=np.float32), np.full(size + 2, -1, np.float32)
    function(x.ctypes.data + 4, y.ctypes.data + 4)
    return y[0] == y[-1] == -1 and np.array_equal(x[1:-1], y[1:-1])


def forget() -> None:
    for known in (cache.opened, cache._warn, jit._build):
        known.cache_clear()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Return the folder of kernels below an empty cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    forget()
    yield tmp_path / "tallygrad" / "kernels"
    forget()


def test_kernels_are_kept_and_damaged_ones_made_anew(folder: Path) -> None:
    before = jit.statistics.compiled
    for _ in range(3):
        assert copied(21)
    assert jit.statistics.compiled == before + 1
    (kept,) = folder.iterdir()
    content = kept.read_bytes()
    assert kept.stat().st_mode & 0o077 == 0 and folder.stat().st_mode & 0o077 == 0
    truncated = (b"", content[:40], content[:-1])
    wrong = (content[:-1] + b"?", b"\0" + content[1:], hashlib.sha256(b"").digest())
    for damaged in (*truncated, *wrong):
        kept.write_bytes(damaged)
        assert copied(21)
        assert kept.read_bytes() == content
    assert jit.statistics.compiled == before + 1 + 6


def test_what_the_name_does_not_stand_for_is_not_taken(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other sources, another processor: another name."""
    assert copied(3)
    monkeypatch.setattr(jit, "_sources", lambda: "changed")
    assert copied(3)
    assert len([*folder.iterdir()]) == 2
    if len(targets.available()) > 1:
        jit.build(copying, targets.target(targets.available()[1]), 3)
        assert len([*folder.iterdir()]) == 3


def test_an_edit_to_any_file_of_the_backend_changes_the_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also in a file that is added, renamed, or that gets what another one loses."""

    def key() -> str:
        jit._sources.cache_clear()
        return jit._key(copying, targets.target(), (3,))

    assert Path(llvm.__file__).parent == jit.BACKEND
    backend = tmp_path / "llvm"
    shutil.copytree(jit.BACKEND, backend, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(jit, "BACKEND", backend)
    files = [path for path in backend.rglob("*") if path.suffix == ".py"]
    assert {"fusion.py", "conv_direct.py", "linear.py", "layout.py"} <= {f.name for f in files}
    seen = {key()}
    for file in files:
        content = file.read_bytes()
        file.write_bytes(content + b"#")
        seen.add(key())
        file.write_bytes(content)
    (backend / "kernels" / "other.py").touch()
    seen.add(key())
    (backend / "kernels" / "other.py").rename(backend / "plans" / "other.py")
    seen.add(key())
    assert len(seen) == 1 + len(files) + 2
    jit._sources.cache_clear()


OTHER = 12345  # somebody else's number
TOLD = "kernels are not kept (XDG_CACHE_HOME can name another folder)"
root_only = pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files to other users")


@pytest.mark.parametrize("mode", [0o777, 0o770, 0o702, 0o1777])
def test_a_folder_that_others_write_to_is_not_trusted(
    folder: Path, capsys: pytest.CaptureFixture[str], mode: int
) -> None:
    folder.mkdir(parents=True)
    folder.chmod(mode)
    assert copied(5) and copied(6)
    said = f"{folder}: others may write to it (mode {mode:o}); {TOLD}"
    assert capsys.readouterr().err == f"tallygrad: warning: {said}\n"
    assert not [*folder.iterdir()]


def test_no_folder_above_may_be_others(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """They could put another folder in its place; in a sticky one, such as /tmp, they cannot."""
    shared = folder.parents[1] / "shared"
    shared.mkdir()
    monkeypatch.setenv("XDG_CACHE_HOME", str(shared / "mine"))
    shared.chmod(0o777)
    assert copied(5)
    assert f"{shared}: others may write to it (mode 777)" in capsys.readouterr().err
    assert not [*shared.iterdir()]
    shared.chmod(0o1777)
    forget()
    assert copied(5) and not capsys.readouterr().err
    assert len([*(shared / "mine/tallygrad/kernels").iterdir()]) == 1


@root_only
@pytest.mark.parametrize("part", ["", "tallygrad", "tallygrad/kernels"])
def test_a_folder_of_another_user_is_not_trusted(
    folder: Path, capsys: pytest.CaptureFixture[str], part: str
) -> None:
    folder.mkdir(parents=True)
    given = folder.parents[1] / part
    os.chown(given, OTHER, OTHER)
    assert copied(5)
    said = f"{given}: belongs to user {OTHER}, not {os.geteuid()}; {TOLD}"
    assert said in capsys.readouterr().err
    assert not [*folder.iterdir()]


def test_to_another_user_this_folder_is_not_safe(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if os.geteuid() == 0:
        pytest.skip("what belongs to root is safe for all")
    folder.mkdir(parents=True)
    monkeypatch.setattr(os, "geteuid", lambda: OTHER)
    assert copied(5) and TOLD in capsys.readouterr().err
    assert not [*folder.iterdir()]


def test_a_planted_file_is_not_run(folder: Path) -> None:
    """A link, a pipe, a file that others may write to or own: compiled anew, never read."""
    assert copied(21)
    (kept,) = folder.iterdir()
    good = folder.parents[1] / "good"
    good.write_bytes(kept.read_bytes())

    def linked() -> None:
        kept.symlink_to(good)

    def pipe() -> None:
        os.mkfifo(kept)

    def writable() -> None:
        kept.write_bytes(good.read_bytes())
        kept.chmod(0o666)

    def others() -> None:
        kept.write_bytes(good.read_bytes())
        os.chown(kept, OTHER, OTHER)

    before = jit.statistics.compiled
    plants = [linked, pipe, writable, *([others] if os.geteuid() == 0 else [])]
    for plant in plants:
        kept.unlink()
        plant()
        assert copied(21)
        assert kept.is_file() and not kept.is_symlink() and kept.stat().st_mode & 0o077 == 0
    assert jit.statistics.compiled == before + len(plants) and good.exists()


@pytest.mark.parametrize("name", ["kernels", "tallygrad"])
def test_a_link_is_no_folder_and_what_it_leads_to_stays(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setenv(cache.LIMIT, "0.000001")
    documents = tmp_path / "documents"
    (documents / "kernels").mkdir(parents=True)
    papers = [documents / "paper", documents / "kernels/paper"]
    for paper in papers:
        paper.write_bytes(bytes(100))
    link = folder if name == "kernels" else folder.parent
    link.parent.mkdir(exist_ok=True)
    link.symlink_to(documents)
    assert copied(5)
    assert f"{link}: is a link, or no folder; {TOLD}" in capsys.readouterr().err
    assert all(paper.exists() for paper in papers)


def test_links_above_the_folder_may_lead_to_a_safe_one(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "home").symlink_to("disk")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    assert copied(5)
    assert len([*(tmp_path / "disk/tallygrad/kernels").iterdir()]) == 1


def test_a_folder_exchanged_meanwhile_is_not_read(folder: Path) -> None:
    assert copied(21)
    moved = folder.with_name("moved")
    folder.rename(moved)
    folder.mkdir()
    (old,) = moved.iterdir()
    (folder / old.name).write_bytes(hashlib.sha256(b"code").digest() + b"code")
    kept = cache.opened()
    assert kept is not None and kept.read(old.name) == old.read_bytes()[cache.CHECK :]


@pytest.mark.parametrize("relative", ["", "cache", "~/.cache"])
def test_without_a_home_nothing_is_kept(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, relative: str,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """A folder named `~` below the current one would be another's, as would a relative one."""
    monkeypatch.setenv("XDG_CACHE_HOME", relative)
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    monkeypatch.chdir(tmp_path)
    assert copied(5)
    said = f"tallygrad: warning: ~/.cache: no home folder is known; {TOLD}\n"
    assert capsys.readouterr().err == said
    assert not [*tmp_path.iterdir()]


def test_no_folder_is_no_obstacle(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder.parent.mkdir()
    folder.write_text("a file")
    assert copied(5)
    assert f"{folder}: is a link, or no folder; {TOLD}" in capsys.readouterr().err


@pytest.mark.parametrize("late", [False, True])
def test_a_folder_that_cannot_be_written_is_told_once(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], late: bool
) -> None:
    """Read-only from the start, or full when the file is to take its name."""

    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    assert cache.opened() is not None
    monkeypatch.setattr(os, "replace" if late else "open", fail)
    assert copied(5) and copied(6)
    said = f"tallygrad: warning: {folder}: Read-only file system; {TOLD}\n"
    assert capsys.readouterr().err == said
    assert not [*folder.iterdir()]


def test_the_longest_unread_files_go_first(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(cache.LIMIT, "0.01")
    kept = cache.opened()
    assert kept is not None
    for number in range(9):
        kept.write(str(number), bytes(1000))
        os.utime(folder / str(number), (number, number))
    assert kept.read("2") == bytes(1000)
    kept.write("9", bytes(1000))
    assert {p.name for p in folder.iterdir()} == {"2", "4", "5", "6", "7", "8", "9"}
    assert sum(p.stat().st_size for p in folder.iterdir()) <= 7500
    cache.opened.cache_clear()
    again = cache.opened()
    assert again is not None
    for number in range(10, 13):  # whoever comes later counts the files that are there
        again.write(str(number), bytes(1000))
        assert again.size == sum(p.stat().st_size for p in folder.iterdir()) <= 10000
    assert len([*folder.iterdir()]) == 7 + 3 - 3


@pytest.mark.parametrize("text", ["-1", "much", "nan", "inf"])
def test_a_limit_that_is_none_is_told(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], text: str
) -> None:
    monkeypatch.setenv(cache.LIMIT, text)
    kept = cache.opened()
    assert kept is not None and kept.limit == 256_000_000
    assert f"{cache.LIMIT}: expected MB, got {text!r:.60}; taking 256" in capsys.readouterr().err


def test_a_limit_of_zero_keeps_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(cache.LIMIT, "0")
    assert copied(5) and not folder.exists()


WRITING = """
import sys
from tallygrad.autograd.backends.llvm.compiler import cache
kept = cache.opened()
for turn in range(300):
    kept.write("shared", bytes([turn % 251, 7]) * 20_000)
    assert len(kept.read("shared")) == 40_000
    kept.write(f"{sys.argv[1]}-{turn}", bytes(1000))
"""


def test_two_processes_may_write_and_remove_at_once(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Never half a file, and never an error, while both of them remove old files too."""
    monkeypatch.setenv(cache.LIMIT, "0.2")
    both = [
        subprocess.Popen([sys.executable, "-c", WRITING, name], stderr=subprocess.PIPE, text=True)
        for name in "ab"
    ]
    for process in both:
        _, said = process.communicate(timeout=120)
        assert process.returncode == 0 and not said, said
    assert sum(p.stat().st_size for p in folder.iterdir()) <= 400_000
