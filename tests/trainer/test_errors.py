"""What foreign text may do to a terminal: nothing, wherever it is quoted."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tallygrad.datasets import DataError
from tallygrad.datasets.formats.unpickle import unpickle
from tallygrad.trainer.cli import main
from tallygrad.trainer.errors import LONGEST, TAIL, UserError, one_line, printable, show, warn

NASTY = "\x1b[2J\x07\r\u202eevil\u200b\x9b31m\ud800"


def clean(text: str) -> bool:
    """Tell whether a text is lines of printable characters."""
    return all(line.isprintable() for line in text.split("\n"))


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain text, größer, 数字", "plain text, größer, 数字"),
        ("\x1b[2J", "\\x1b[2J"),
        ("a\rb\x7f\x9b", "a\\rb\\x7f\\x9b"),
        ("\u202eabc\u2066\u200f\ufeff", "\\u202eabc\\u2066\\u200f\\ufeff"),
        ("\ud800\U000e0001", "\\ud800\\U000e0001"),
    ],
)
def test_printable(text: str, shown: str) -> None:
    assert printable(text) == shown


def test_messages_are_one_line_of_bounded_length() -> None:
    assert one_line("a\nb\r\nc\u2028d") == "a b c d"
    cut = one_line(ValueError("a" * 9_999_900 + "b" * 100))
    assert cut.startswith("a" * (LONGEST - TAIL) + "... (10,000,000 characters) ...aaa")
    assert cut.endswith("a" + "b" * 100) and len(cut) < LONGEST + 50
    for kind in (UserError, DataError):
        assert str(kind(f"f: {NASTY}\nnext")) == one_line(f"f: {NASTY}\nnext")
    assert clean(str(UserError(NASTY)))


def test_what_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    show(f"one\n{NASTY}")
    warn(NASTY + "\n")
    out, err = capsys.readouterr()
    assert out == f"one\n{printable(NASTY)}\n" and clean(out)
    assert err == f"tallygrad: warning: {one_line(NASTY)}\n" and clean(err)


def test_pickles_are_quoted_so(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(DataError) as caught:
        unpickle(b"\x80\x02c\x1b[2Jos\nsys\x1b]0;tem\n.", "f")
    assert clean(str(caught.value))


NETWORK = """
name = "n"
source = "s"
note = "{nasty}"
[hosts]
ranks = 2
[inside]
latency_seconds = 1e-6
bytes_per_second = 8e9
source = "{nasty}"
[exchange]
reduction_bytes_per_second = 4e9
[compute]
model = "mlp"
input = [1, 28, 28]
classes = 10
source = "{nasty}"
parameters = ["a{nasty}"]
bytes = [8]
[[compute.step]]
batch = 64
busy = 1
seconds = [0.01]
sweep = 0.009
ready = [0.004]
"""
KEY = json.dumps(NASTY[:-1])  # TOML has no surrogates
TABLE = NETWORK.replace("{nasty}", KEY[1:-1])


@pytest.mark.parametrize(
    ("command", "text"),
    [
        ("train --config", f"{KEY} = 1"),
        ("train --config", f"[{KEY}]\na = 1"),
        ("train --config", f"model = {KEY}"),
        ("plan mlp --network", f"{KEY} = 1"),
        ("plan mlp --network", f"name = 'a'\nsource = 'b'\n[hosts]\n{KEY} = 1"),
        ("plan mlp --network", TABLE.replace("[compute]", f"[compute]\n{KEY} = 1")),
        ("plan mlp --network", TABLE.replace("busy = 1", f"busy = 1\n{KEY} = 1")),
        ("cost mlp --machine", f"name = {KEY}\nkind = {KEY}\nsource = 'c'"),
        ("cost mlp --machine truenorth --zeros", f"{KEY} = 1"),
        ("cost mlp --machine truenorth --zeros", f"[fc1]\n{KEY} = 1"),
        ("cost mlp --machine truenorth --zeros", f"[{KEY}]\ninput = 1"),
        ("cost mlp --machine truenorth --zeros", f"[fc1]\ninput = {KEY}"),
    ],
)
def test_files_of_options_are_quoted_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str, text: str
) -> None:
    file = tmp_path / "file.toml"
    file.write_text(text, "utf-8")
    assert main([*command.split(), str(file)]) == 2
    said = capsys.readouterr().err
    assert said.startswith("tallygrad: error: ")
    assert clean(said) and "\\x1b[2J" in said


def test_a_plan_is_printed_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "network.toml"
    file.write_text(TABLE, "utf-8")
    assert main(["plan", "mlp", "--network", str(file), "--ranks", "1,2"]) == 0
    out, err = capsys.readouterr()
    assert out.count("\\x1b[2J") == 3 and clean(out) and clean(err)
