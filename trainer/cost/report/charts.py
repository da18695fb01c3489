"""Charts as SVG: stacked bars, and points and lines on logarithmic axes.

Widths are shares of the page's and heights are pixels, so that a chart fills a phone and a desk
alike, and its text has one size on both. Colours and marks are classes of the page's style.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple
from xml.etree.ElementTree import Element

from .markup import element
from .units import tick as tick_text

SVG = "http://www.w3.org/2000/svg"
ROW = 40  # pixels of a bar with its label
BAR = 14
HEIGHT = 340  # of a chart with axes
TOP, BOTTOM = 26, 44  # of it, for the names of the axes and the numbers
LEFT, RIGHT = 0.13, 0.97  # shares of the width that numbers may lie between
MOST_TICKS = 5
PAGE, LETTER = 640, 7  # pixels of a chart that names have room on, and of a letter
LONGEST = 28  # characters of a label
MARKS = (
    "M-5,0a5,5 0 1,0 10,0a5,5 0 1,0 -10,0z",
    "M-4.5,-4.5h9v9h-9z",
    "M0,-6L6,0L0,6L-6,0z",
    "M0,-6L5.5,4.5H-5.5z",
    "M-5.5,-4.5H5.5L0,6z",
    "M-6,-2H-2V-6H2V-2H6V2H2V6H-2V2H-6z",
)


class Bar(NamedTuple):
    """A row of a chart: sizes of its parts, one a series, and what stands at its end."""

    label: str
    parts: Sequence[float]
    text: str


class Point(NamedTuple):
    """A mark: both coordinates, the number of its series, what it is, and its name."""

    x: float
    y: float
    series: int
    label: str
    name: str = ""  # written beside it, where there is room


class ChartLine(NamedTuple):
    """Straight from one point to the next, in the colour of a series, or as a roof."""

    points: Sequence[tuple[float, float]]
    series: int | None = None


class LogAxis(NamedTuple):
    """A logarithmic axis: from its lowest to its highest number, and marked numbers."""

    low: float
    high: float
    ticks: tuple[float, ...]

    def place(self, value: float) -> float:
        """Return where a number lies, 0 to 1."""
        span = math.log10(self.high) - math.log10(self.low)
        return (math.log10(value) - math.log10(self.low)) / span


def bars(key: str, title: str, about: str, rows: Sequence[Bar]) -> Element:
    """Return horizontal bars of stacked parts; the longest fills the width."""
    longest = max((math.fsum(map(_size, row.parts)) for row in rows), default=0.0) or 1.0
    chart = _chart(key, title, about, ROW * len(rows))
    for i, row in enumerate(rows):
        chart.append(element("text", shorten(row.label), x=0, y=ROW * i + 16))
        chart.append(
            element("text", row.text, x="100%", y=ROW * i + 16, text_anchor="end", class_="value")
        )
        at = 0.0
        for series, part in enumerate(map(_size, row.parts)):
            if part:
                width = part / longest
                chart.append(_bar(at, width, ROW * i + 22, series, f"{row.label}: {row.text}"))
                at += width
    return chart


def _bar(at: float, width: float, y: float, series: int, label: str) -> Element:
    return element(
        "rect", element("title", label), x=_share(at), width=_share(width), y=y, height=BAR,
        class_=f"s{series}",
    )  # fmt: skip


def log_chart(
    key: str, title: str, about: str, names: tuple[str, str], points: Sequence[Point],
    lines: Sequence[ChartLine] = (), binary: bool = False,
) -> Element:  # fmt: skip
    """Return points and lines on two logarithmic axes with the given names; all coordinates must
    be `drawable`. `binary` marks powers of two on the horizontal axis."""
    ends = [end for line in lines for end in line.points]
    x = axis([p.x for p in points] + [a for a, _ in ends], 2 if binary else 10)
    y = axis([p.y for p in points] + [b for _, b in ends])
    chart = _chart(key, title, about, HEIGHT)
    chart.append(element("text", names[1], x=0, y=14, class_="axis"))
    chart.append(
        element("text", names[0], x="100%", y=HEIGHT - 6, text_anchor="end", class_="axis")
    )
    chart.extend(_grid(x, y))
    for line in lines:
        kind = "roof" if line.series is None else f"line l{line.series}"
        for (x1, y1), (x2, y2) in zip(line.points, line.points[1:], strict=False):
            chart.append(
                element(
                    "line", x1=_across(x, x1), y1=_down(y, y1), x2=_across(x, x2), y2=_down(y, y2),
                    class_=kind,
                )
            )  # fmt: skip
    for p in points:
        chart.append(mark(p.series, p.label, x=_across(x, p.x), y=_down(y, p.y)))
    chart.extend(_names(points, x, y))
    return chart


def _grid(x: LogAxis, y: LogAxis) -> list[Element]:
    """Return the lines of a grid and their numbers."""
    marks = []
    for tick in y.ticks:
        high = _down(y, tick)
        marks.append(element("line", x1=0, x2="100%", y1=high, y2=high, class_="grid"))
        marks.append(element("text", tick_text(tick), x=0, y=high - 3))
    for tick in x.ticks:
        at = _across(x, tick)
        marks.append(element("line", x1=at, x2=at, y1=TOP, y2=HEIGHT - BOTTOM, class_="grid"))
        marks.append(
            element("text", tick_text(tick), x=at, y=HEIGHT - BOTTOM + 16, text_anchor="middle")
        )
    return marks


def _names(points: Sequence[Point], x: LogAxis, y: LogAxis) -> list[Element]:
    """Return the names of points, the first ones first, each where it covers no mark and no other
    name on a page of `PAGE` pixels; one that has no such place is left to the table."""
    at = [(PAGE * (LEFT + (RIGHT - LEFT) * x.place(p.x)), _down(y, p.y)) for p in points]
    taken = [(across - 6, down - 6, across + 6, down + 6) for across, down in at]
    names = []
    for p, (across, down) in zip(points, at, strict=True):
        wide = LETTER * len(text := shorten(p.name))
        for dx, dy, anchor, left in (
            (9, 4, "start", 9.0),
            (-9, 4, "end", -9 - wide),
            (0, -9, "middle", -wide / 2),
            (0, 18, "middle", -wide / 2),
        ):
            box = (across + left, down + dy - 10, across + left + wide, down + dy + 2)
            fits = box[0] >= 0 and box[2] <= PAGE and box[1] >= TOP and box[3] <= HEIGHT - BOTTOM
            if text and fits and not any(_overlap(box, other) for other in taken):
                taken.append(box)
                names.append(element("text", text, x=_across(x, p.x), dx=dx, y=down + dy,
                                    text_anchor=anchor, class_="name"))  # fmt: skip
                break
    return names


def _overlap(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def drawable(*values: float) -> bool:
    """Tell whether numbers have a place on a logarithmic axis."""
    return all(1e-40 < value < 1e40 for value in values)


def mark(series: int, label: str, **place: str | float) -> Element:
    """Return the mark of a series, at a place within a chart."""
    shape = element("path", element("title", label), d=MARKS[series % len(MARKS)])
    shape.set("class", f"s{series}")
    return element("svg", shape, width=1, height=1, overflow="visible", **place)


def axis(values: Sequence[float], base: int = 10) -> LogAxis:
    """Return an axis that holds all values, which are positive, with some room beside them."""
    low, high = min(values), max(values)
    room = max((high / low) ** 0.05, 1.3)
    low, high = low / room, high * room
    first, last = (math.log(end, base) for end in (low, high))
    powers = range(math.ceil(first - 1e-9), math.floor(last + 1e-9) + 1)
    step = -(-len(powers) // MOST_TICKS) or 1
    ticks = tuple(float(base) ** p for p in powers if p % step == 0)
    if len(ticks) < 2:
        digits = 10.0 ** math.floor(math.log10(low))
        steps = [digits * k for k in (1, 2, 3, 5, 7, 10, 15, 20, 30, 50, 70, 100)]
        ticks = tuple(tick for tick in steps if low <= tick <= high)[:MOST_TICKS]
    return LogAxis(low, high, ticks)


def shorten(label: str) -> str:
    """Return a label that fits beside its number on a phone; names differ at their ends."""
    return label if len(label) <= LONGEST else f"\u2026{label[1 - LONGEST :]}"


def _chart(key: str, title: str, about: str, height: int) -> Element:
    return element(
        "svg", element("title", title, id=f"{key}-title"), element("desc", about, id=f"{key}-desc"),
        xmlns=SVG, role="img", aria_labelledby=f"{key}-title {key}-desc", width="100%",
        height=height,
    )  # fmt: skip


def _size(value: float) -> float:
    return value if 0 < value < math.inf else 0.0


def _share(part: float) -> str:
    return f"{100 * part:.4f}%"


def _across(axis: LogAxis, value: float) -> str:
    return _share(LEFT + (RIGHT - LEFT) * axis.place(value))


def _down(axis: LogAxis, value: float) -> float:
    return round(HEIGHT - BOTTOM - (HEIGHT - BOTTOM - TOP) * axis.place(value), 2)
