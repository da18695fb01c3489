"""Standard streams that are closed or full: work is done, and said where it can be."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SHORT = "train --model mlp --dataset digits --backend numpy --max-steps 1 --eval-batch-size 5000"


def run(words: str, streams: str) -> tuple[int, str]:
    """Return status and what stderr still got."""
    line = f"exec {sys.executable} -m tallygrad.trainer {words} {streams}"
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, timeout=60)
    return done.returncode, done.stderr


@pytest.mark.parametrize("streams", ["2>&-", "<&- >&- 2>&-", ">&-", "2>/dev/full"])
def test_a_run_is_whole_where_nobody_is_told(streams: str, tmp_path: Path) -> None:
    status, err = run(f"{SHORT} --out {tmp_path}/run", streams)
    assert status == 0 and "Traceback" not in err
    assert (tmp_path / "run" / "result.json").read_bytes().endswith(b"}\n")
    files = [p for p in (tmp_path / "run").rglob("*") if p.is_file()]
    assert len(files) == 8 and not any(b"epoch 1/1:" in p.read_bytes() for p in files)


@pytest.mark.parametrize(
    ("words", "streams", "status", "said"),
    [
        ("cost lenet", ">&-", 0, ""),
        ("cost lenet", ">&- 2>&-", 0, ""),
        ("cost nothing", ">&-", 2, "tallygrad: error: unknown model 'nothing'"),
        ("cost nothing", "2>&-", 2, ""),
        ("cost lenet", ">/dev/full", 2, "tallygrad: error: cannot write to standard output: No sp"),
        ("--help", ">&-", 0, ""),
    ],
)
def test_output_is_dropped_or_its_loss_told(
    words: str, streams: str, status: int, said: str
) -> None:
    found, err = run(words, streams)
    assert found == status and err.startswith(said) and err.count("\n") == bool(said), err


def test_a_full_disk_under_the_output_keeps_the_run(tmp_path: Path) -> None:
    status, err = run(f"{SHORT} --out {tmp_path}/run", ">/dev/full")
    assert status == 2 and err.splitlines()[-1].startswith("tallygrad: error: cannot write to st")
    assert (tmp_path / "run" / "result.json").exists()


def test_progress_that_nobody_reads_does_not_end_a_run(tmp_path: Path) -> None:
    line = f"{sys.executable} -m tallygrad.trainer {SHORT} --out {tmp_path}/run"
    reader = subprocess.Popen(["true"], stdin=subprocess.PIPE)
    reader.wait()
    done = subprocess.run(line.split(), stderr=reader.stdin, stdout=subprocess.DEVNULL, timeout=60)
    reader.communicate()
    assert done.returncode == 0 and (tmp_path / "run" / "result.json").exists()
