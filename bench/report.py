"""Rows of results, and their tables. docs/bench.md explains columns and JSON keys."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeAlias

from .cases import DTYPES, TORCH_MODES, Case
from .measure import Times
from .profile import ProfileLine

Row: TypeAlias = dict[str, Any]
_HEAD = (
    "case", "mode", "dtype", "ours ms", "(min)", "torch ms", "(min)", "torch mode", "ratio",
    "to float32", "GFLOP/s", "of peak",
)  # fmt: skip


@dataclass(frozen=True)
class Result:
    """A measurement of a case in a mode: times by contender, and Tallygrad's MACs per step, by
    type."""

    case: Case
    mode: str
    times: Mapping[str, Times]
    macs: Mapping[str, int]


def ours(dtype: str) -> str:
    """Return the name of Tallygrad in a type among the contenders."""
    return f"ours {dtype}"


def rows(result: Result, peak: float) -> list[Row]:
    """Return a row per type, which compares Tallygrad with torch's fastest mode of that type.

    `peak` is the sgemm peak in GFLOP/s.
    """
    return [_row(result, dtype, peak) for dtype in DTYPES if ours(dtype) in result.times]


def _row(result: Result, dtype: str, peak: float) -> Row:
    modes = {name: result.times[name] for name in TORCH_MODES if name in result.times}
    alike = [name for name in modes if TORCH_MODES[name] == dtype]
    mode = min(alike, key=lambda name: modes[name].median, default=None)
    torch = modes[mode] if mode else None
    mine = result.times[ours(dtype)]
    plain = result.times.get(ours("float32")) if dtype != "float32" else None
    gflops = 2e-6 * result.macs[dtype] / mine.median
    return {
        "case": result.case.name,
        "mode": result.mode,
        "dtype": dtype,
        "ours_ms": asdict(mine),
        "torch_ms": asdict(torch) if torch else None,
        "torch_mode": mode,
        "ratio": torch.median / mine.median if torch else None,
        "to_float32": plain.median / mine.median if plain else None,
        "gflops": gflops,
        "peak_share": gflops / peak,
        "torch_modes": {name: asdict(times) for name, times in modes.items()},
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
        each = {(row["case"], row["mode"]): _by_mode(row, modes) for row in rows}
        lines += ["", *columns(("torch, median ms", "mode", *modes), [*each.values()])]
    return "\n".join([*lines, *[f"note: {note}" for note in host["notes"]]])


def _shown(row: Row) -> list[str]:
    return [
        *(row["case"], row["mode"], row["dtype"]),
        *_times(row["ours_ms"]),
        *_times(row["torch_ms"]),
        row["torch_mode"] or "-",
        *("-" if row[key] is None else f"{row[key]:.2f}" for key in ("ratio", "to_float32")),
        f"{row['gflops']:.1f}",
        f"{row['peak_share']:.2f}",
    ]


def _times(times: Mapping[str, float] | None) -> tuple[str, str]:
    return (number(times["median"]), f"({number(times['min'])})") if times else ("-", "-")


def _by_mode(row: Row, modes: Sequence[str]) -> list[str]:
    measured = row["torch_modes"]
    ms = [number(measured[name]["median"]) if name in measured else "-" for name in modes]
    return [row["case"], row["mode"], *ms]


def profile_table(title: str, parts: Sequence[ProfileLine]) -> str:
    """Return the profile of a step as a table."""
    head = (title, "calls", "ms", "share", "GFLOP/s")
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
