"""The one writer of tables for the terminal, and of lines that fit it.

A table that is wider than the terminal first has its heads on several lines. Then texts that may
be shortened lose their beginnings, for names differ at their ends, and those that may be wrapped go
on in the next line. What is still too wide loses columns, the least important first, and says so.
"""

from __future__ import annotations

import re
import shutil
import textwrap
from collections.abc import Sequence
from typing import NamedTuple

NARROWEST = 20  # columns of a terminal for which anything is laid out
GAP = 2
WRAPPED = 24  # characters that texts are wrapped to at the least
CUT, SHORTEST = "..", 3
UNIT = re.compile(r"(?<=\d) (?=[A-Za-z]{1,9}\b)")  # the space in `4 MB`, `10 classes`
GLUE = "\N{NO-BREAK SPACE}"


class Column(NamedTuple):
    """A column: its head, how soon it is left out (0: never, else the highest first), and what its
    cells are, numbers to the right, or texts that may be shortened to `least` characters (0: not,
    while there is a column to leave out) or wrapped."""

    head: str
    order: int = 0
    is_text: bool = False
    least: int = 0
    wraps: bool = False


def name_column(head: str) -> Column:
    """Return a column of names, which stays."""
    return Column(head, is_text=True, least=24)


def terminal_width() -> int:
    """Return the columns of the terminal: $COLUMNS, else its own, else 80."""
    return max(shutil.get_terminal_size().columns, NARROWEST)


def fit(text: str) -> str:
    """Return a line cut at spaces to the terminal's width, none between a number and its unit."""
    lines = textwrap.fill(
        UNIT.sub(GLUE, text), terminal_width(), subsequent_indent="  ", break_long_words=False,
        break_on_hyphens=False,
    )  # fmt: skip
    return lines.replace(GLUE, " ")


def text_table(
    columns: Sequence[Column], rows: Sequence[Sequence[str]], total: Sequence[str] | None = None
) -> list[str]:
    """Return the lines of a table: head, rule, rows, and the total behind another rule."""
    width, every = terminal_width(), [*rows, *([total] if total else [])]
    whole = [_natural(column, cells) for column, cells in _by_column(columns, every)]
    visible = [*range(len(columns))]
    least = [_least(column, cells) for column, cells in _by_column(columns, every)]
    while _span([least[i] for i in visible]) > width and any(columns[i].order for i in visible):
        visible.remove(max(visible, key=lambda i: (columns[i].order, i)))
    widths = _widths([columns[i] for i in visible], [least[i] for i in visible],
                     [whole[i] for i in visible], width)  # fmt: skip
    shown = [columns[i] for i in visible]
    body = [_lines(shown, [row[i] for i in visible], widths) for row in every]
    heads = _lines([column._replace(wraps=True) for column in shown],
                   [column.head for column in shown], widths, below=True)  # fmt: skip
    rule = "-" * max(len(line) for lines in (heads, *body) for line in lines)
    lines = [*heads, rule, *[line for row in body[: len(rows)] for line in row]]
    if total:
        lines += [rule, *body[-1]]
    missing = [column.head for i, column in enumerate(columns) if i not in visible]
    if missing:
        note = f"(not shown: {', '.join(missing)}; COLUMNS={_span(whole)} shows all)"
        lines += fit(note).splitlines()
    return lines


def _by_column(
    columns: Sequence[Column], rows: Sequence[Sequence[str]]
) -> list[tuple[Column, list[str]]]:
    return [(column, [row[i] for row in rows]) for i, column in enumerate(columns)]


def _span(widths: Sequence[int]) -> int:
    """Return the width of a line."""
    return sum(widths) + GAP * (len(widths) - 1)


def _natural(column: Column, cells: Sequence[str]) -> int:
    return max(map(len, (column.head, *cells)))


def _least(column: Column, cells: Sequence[str]) -> int:
    """Return the least width that a column is content with."""
    longest = max(map(len, cells), default=0)
    if column.wraps:
        words = max((len(word) for cell in cells for word in cell.split()), default=0)
        longest = max(words, min(longest, WRAPPED))
    elif column.least:
        longest = min(longest, column.least)
    return max(longest, max(map(len, column.head.split()), default=0))


def _widths(
    columns: Sequence[Column], least: Sequence[int], whole: Sequence[int], width: int
) -> list[int]:
    """Return widths that fill the terminal at most: texts are first to have what is left, and last
    to lose what is missing."""
    widths = [*least]
    order = sorted(range(len(widths)), key=lambda i: not columns[i].is_text)
    for i in order:
        spare = width - _span(widths)
        extra = min(whole[i] - widths[i], spare)
        if extra > 0 and (columns[i].is_text or extra == whole[i] - widths[i]):
            widths[i] += extra
    texts = [i for i, column in enumerate(columns) if column.is_text]
    while _span(widths) > width and any(widths[i] > SHORTEST for i in texts):
        widths[max(texts, key=lambda i: widths[i])] -= 1
    return widths


def _lines(
    columns: Sequence[Column], cells: Sequence[str], widths: Sequence[int], below: bool = False
) -> list[str]:
    """Return the lines of a row; `below`: what takes fewer of them stands at the bottom."""
    parts = [_cut(*three) for three in zip(columns, cells, widths, strict=True)]
    high = max(map(len, parts))
    lines = []
    for i in range(high):
        line = []
        for column, part, width in zip(columns, parts, widths, strict=True):
            index = i - (high - len(part)) if below else i
            text = part[index] if 0 <= index < len(part) else ""
            line.append(text.ljust(width) if column.is_text else text.rjust(width))
        lines.append((" " * GAP).join(line).rstrip())
    return lines


def _cut(column: Column, cell: str, width: int) -> list[str]:
    """Return the lines of a cell."""
    if len(cell) <= width:
        return [cell]
    if column.wraps:
        return textwrap.wrap(cell, width, break_on_hyphens=False) or [""]
    return [CUT + cell[len(CUT) - width :]]
