"""Rows of results, and their tables. docs/bench.md explains columns and JSON keys."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeAlias

from .cases import FLOAT32_MODES, Case
from .measure import Times
from .profile import ProfileLine

Row: TypeAlias = dict[str, Any]
OURS = "ours"
_HEAD = (
    "case", "mode", "dtype", "ours ms", "(min)", "torch ms", "(min)", "torch mode", "ratio",
    "GFLOP/s", "of peak",
)  # fmt: skip


@dataclass(frozen=True)
class Result:
    """A measurement of a case in a mode: times by contender, and Tallygrad's MACs per step."""

    case: Case
    mode: str
    times: Mapping[str, Times]
    macs: int


def rows(result: Result, peak: float) -> list[Row]:
    """Return a row that compares with torch's fastest float32 mode and, if measured, one with bf16.

    `peak` is the sgemm peak in GFLOP/s.
    """
    plain = [name for name in FLOAT32_MODES if name in result.times]
    best = min(plain, key=lambda name: result.times[name].median, default=None)
    first = [_row(result, "float32", best, peak)]
    return first + ([_row(result, "bfloat16", "bf16", peak)] if "bf16" in result.times else [])


def _row(result: Result, dtype: str, mode: str | None, peak: float) -> Row:
    ours = result.times[OURS]
    torch = result.times[mode] if mode else None
    gflops = 2e-6 * result.macs / ours.median
    return {
        "case": result.case.name,
        "mode": result.mode,
        "dtype": dtype,
        "ours_ms": asdict(ours),
        "torch_ms": asdict(torch) if torch else None,
        "torch_mode": mode,
        "ratio": torch.median / ours.median if torch else None,
        "gflops": gflops,
        "peak_share": gflops / peak,
        "torch_modes": {k: asdict(v) for k, v in result.times.items() if k != OURS},
    }


def table(rows: Sequence[Row], host: Mapping[str, Any]) -> str:
    """Return host, rows and notes as text; a second table has the modes of torch."""
    core = "no core in particular" if host["core"] is None else f"core {host['core']}"
    torch = f"torch {host['torch']}" if host["torch"] else "no torch"
    lines = [
        f"{host['cpu']}, {core}, sgemm peak {host['sgemm_peak_gflops']:.1f} GFLOP/s",
        f"python {host['python']}, numpy {host['numpy']}, {torch}, backend {host['backend']}, "
        f"{host['date']}",
        "",
        *columns(_HEAD, [_shown(row) for row in rows]),
    ]
    modes = list(dict.fromkeys(name for row in rows for name in row["torch_modes"]))
    if len(modes) > 1:
        each = [row for row in rows if row["dtype"] == "float32"]
        head = ("torch, median ms", "mode", *modes)
        lines += ["", *columns(head, [_by_mode(row, modes) for row in each])]
    return "\n".join([*lines, *[f"note: {note}" for note in host["notes"]]])


def _shown(row: Row) -> list[str]:
    return [
        *(row["case"], row["mode"], row["dtype"]),
        *_times(row["ours_ms"]),
        *_times(row["torch_ms"]),
        row["torch_mode"] or "-",
        "-" if row["ratio"] is None else f"{row['ratio']:.2f}",
        f"{row['gflops']:.1f}",
        f"{row['peak_share']:.2f}",
    ]


def _times(times: Mapping[str, float] | None) -> tuple[str, str]:
    return (number(times["median"]), f"({number(times['min'])})") if times else ("-", "-")


def _by_mode(row: Row, modes: Sequence[str]) -> list[str]:
    measured = row["torch_modes"]
    ms = [number(measured[name]["median"]) if name in measured else "-" for name in modes]
    return [row["case"], row["mode"], *ms]


def profile_table(result: Result, parts: Sequence[ProfileLine]) -> str:
    """Return the profile of a step as a table."""
    head = (f"{result.case.name} {result.mode}", "calls", "ms", "share", "GFLOP/s")
    shown = [
        [
            part.name,
            f"{part.calls:g}" if part.calls else "",
            number(part.ms),
            f"{part.share:.1%}",
            "-" if part.gflops is None else f"{part.gflops:.1f}",
        ]
        for part in parts
    ]
    return "\n".join(columns(head, shown))


def number(ms: float) -> str:
    """Return milliseconds with four significant digits, or more if the integer part has more."""
    return f"{ms:.{3 if ms < 10 else 2 if ms < 100 else 1}f}"


def columns(head: Sequence[str], body: Sequence[Sequence[str]]) -> list[str]:
    """Return lines of aligned columns; columns of numbers are right-aligned."""
    widths = [max(map(len, column)) for column in zip(head, *body, strict=True)]
    right = [all(_numeric(row[i]) for row in body) for i in range(len(head))]
    lines = [
        "  ".join(
            cell.rjust(width) if to_right else cell.ljust(width)
            for cell, width, to_right in zip(row, widths, right, strict=True)
        ).rstrip()
        for row in (head, *body)
    ]
    return [lines[0], "-" * max(map(len, lines)), *lines[1:]]


def _numeric(cell: str) -> bool:
    return cell in ("", "-") or cell.strip("(%)").replace(".", "", 1).replace("-", "").isdecimal()
