"""The profile of a model on this host as text."""

from __future__ import annotations

from collections.abc import Sequence

from ..phases import SHORT, WHOLE
from ..precision import PRECISIONS, named
from .model.profile import KernelReport, ProfileReport
from .text_table import Column, fit, name_column, text_table

COLUMNS = (
    name_column("layer"), Column("pass", is_text=True), Column("ms"), Column("share", 4),
    Column("GFLOP/s", 1), Column("FLOP/byte", 5), Column("bound ms", 2),
    Column("roof", 3, is_text=True),
)  # fmt: skip
LEAST = 1e-3  # least share of the time of a layer with a row of its own


def as_text(report: ProfileReport) -> str:
    """Return a table of the layers with at least a thousandth of the time, the others in one row
    and the totals, then notes that explain them."""
    rows = [
        (one.layer or WHOLE, SHORT.get(one.phase, one.phase), *_figures([one]), _roof(one))
        for one in report.layers
        if one.share >= LEAST
    ]
    if small := [one for one in report.layers if one.share < LEAST]:
        rows.append((f"{len(small)} under 0.1%", "", *_figures(small), ""))
    table = text_table(COLUMNS, rows, ("all", "", *_figures(report.layers), ""))
    lines = [
        *_quick(report),
        named(f"kernels take {1e3 * report.seconds:.2f} ms", report.precision)
        + f"; this machine does at most {report.roofs.gflops:.0f} GFLOP/s in "
        f"{report.roofs.precision} and {report.roofs.gbytes:.1f} GB/s in one thread",
        f"energy of a step, in joules: {report.energy}",
        *[
            f"{phase}: convolutions are {100 * share.macs:.1f}% of the MACs, "
            f"{100 * share.seconds:.1f}% of the time"
            for phase, share in report.conv_share.items()
            if share.macs
        ],
    ]
    return "\n".join([*table, "", *map(fit, lines)])


def _figures(rows: Sequence[KernelReport]) -> list[str]:
    """Return the figures of some rows, summed; "-" where there are no FLOP."""
    seconds, bound = sum(r.seconds for r in rows), sum(r.bound_seconds for r in rows)
    macs, moved = sum(r.cost.macs for r in rows), sum(r.bytes for r in rows)
    return [
        f"{1e3 * seconds:.3f}",
        f"{100 * sum(r.share for r in rows):.1f}%",
        f"{2e-9 * macs / seconds:.1f}" if macs and seconds else "-",
        f"{2 * macs / moved:.1f}" if macs and moved else "-",
        f"{1e3 * bound:.3f}",
    ]


def _roof(row: KernelReport) -> str:
    """Return the roof that limits a row, with a mark where the row is faster than it allows."""
    return f"{row.roof}{'*' * row.beats_its_bound}"


def _quick(report: ProfileReport) -> list[str]:
    """Return an explanation of rows that are faster than their bounds, nothing without any."""
    rows = [one for one in report.layers if one.beats_its_bound and one.share >= LEAST]
    reasons = []
    if any(row.roof == "memory" for row in rows):
        reasons.append("operands that are still in a cache need not come from memory")
    saving = [row.cost for row in rows if row.cost.executed < row.cost.macs]
    if saving:
        executed, macs = sum(c.executed for c in saving), sum(c.macs for c in saving)
        reasons.append(
            f"Winograd's method executes {100 * executed / macs:.0f}% of the multiplications that "
            "GFLOP/s count, two FLOP a MAC"
        )
    if any(row.roof == "compute" and row.cost.executed >= row.cost.macs for row in rows):
        reasons.append(_low_roof(report.roofs.precision, report.precision))
    return [f"* faster than its bound: {'; '.join(reasons)}"] if rows else []


def _low_roof(measured: str, precision: str) -> str:
    """Return why products in a precision are faster than the roof, as measured in one."""
    if measured != precision:
        return f"nothing is known of {precision}: the roof is that of {measured}"
    roof = f"a {measured} matrix product, which gives the roof,"
    if measured != PRECISIONS[0]:
        roof = f"the products and convolutions in {measured} that give the roof"
    return f"{roof} ran slower than this layer"
