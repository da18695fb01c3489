"""Tables for the terminal: every line fits; what does not is shortened, wrapped, or left out."""

from __future__ import annotations

import pytest

from tallygrad.trainer.cost.report.text_table import (
    Column,
    fit,
    name_column,
    terminal_width,
    text_table,
)

COLUMNS = (
    name_column("layer"), Column("shape", 2, is_text=True), Column("forward MACs"),
    Column("backward data MACs", 3), Column("how it is known", is_text=True, wraps=True),
)  # fmt: skip
ROWS = [
    ("conv1", "3x32x32 * 16x3x3 -> 32x32", "442k", "0", "exact: from shapes"),
    ("a.very.long.path.to.stage3.2.conv2", "", "2.36M", "12.1M", "unknown: it needs a run"),
]
TOTAL = ("total", "", "2.80M", "12.1M", "")


def at(width: int, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setenv("COLUMNS", str(width))
    return text_table(COLUMNS, ROWS, TOTAL)


def test_a_wide_terminal_has_all_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    assert at(140, monkeypatch) == [
        "layer                               shape                      forward MACs  "
        "backward data MACs  how it is known",
        "-" * 120,
        "conv1                               3x32x32 * 16x3x3 -> 32x32          442k  "
        "                 0  exact: from shapes",
        "a.very.long.path.to.stage3.2.conv2                                    2.36M  "
        "             12.1M  unknown: it needs a run",
        "-" * 120,
        "total                                                                 2.80M  "
        "             12.1M",
    ]


def test_heads_wrap_first(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = at(106, monkeypatch)
    assert [" ".join(line.split()) for line in lines[:3]] == [
        "backward",
        "forward data",
        "layer shape MACs MACs how it is known",
    ]
    assert lines[5].startswith("a.very.long.path.to.stage3.2.conv2 ")


def test_texts_wrap_and_columns_go(monkeypatch: pytest.MonkeyPatch) -> None:
    assert at(60, monkeypatch) == [
        "                            forward",
        "layer                          MACs  how it is known",
        "-" * 60,
        "conv1                          442k  exact: from shapes",
        "..g.path.to.stage3.2.conv2    2.36M  unknown: it needs a run",
        "-" * 60,
        "total                         2.80M",
        "(not shown: shape, backward data MACs; COLUMNS=120 shows",
        "  all)",
    ]


@pytest.mark.parametrize("width", [*range(20, 100, 7)])
def test_every_line_fits(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = at(width, monkeypatch)
    assert max(map(len, lines)) <= width
    assert any(line.split()[0].endswith("2") and "2.36M" in line for line in lines)


def test_what_the_note_promises_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not any("not shown" in line for line in at(120, monkeypatch))


@pytest.mark.parametrize(("columns", "width"), [("72", 72), ("3", 20), ("", 80), ("many", 80)])
def test_columns_of_the_terminal(columns: str, width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """As shutil.get_terminal_size: no terminal and no number are 80."""
    monkeypatch.setenv("COLUMNS", columns)
    monkeypatch.setattr("os.get_terminal_size", lambda *given: (_ for _ in ()).throw(OSError))
    assert terminal_width() == width
    lines = fit("words " * 30).splitlines()
    assert max(map(len, lines)) <= width and lines[1].startswith("  words")


def test_no_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert text_table((name_column("layer"), Column("MACs")), []) == ["layer  MACs", "-" * 11]


def test_a_number_keeps_its_unit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "30")
    assert fit("digits: 60,000 train, 10,000 test images") == (
        "digits: 60,000 train,\n  10,000 test images"
    )
    assert fit("epochs, and in memory there 4 MB") == "epochs, and in memory there\n  4 MB"
    assert fit("no cut, 4 MB") == "no cut, 4 MB"
