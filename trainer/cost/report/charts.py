"""Charts as SVG: stacked bars, and points and lines on logarithmic axes.

Horizontal positions are percentages of the page's width and vertical ones pixels, so a chart fits a
phone and a desktop, with text of the same size on both. There is no viewBox, which would scale the
text. Colours and marks are classes of the page's style sheet (`page.style`): series i has the class
`si`, and its lines have `li`.
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
BAR = 14  # pixels of the bar itself
HEIGHT = 340  # pixels of a chart with axes
TOP, BOTTOM = 26, 44  # pixels of its margins, for the names of the axes and their numbers
LEFT, RIGHT = 0.13, 0.97  # shares of the width between which values are drawn
MOST_TICKS = 5
# Names of points are laid out for a page of this width in pixels, with letters of this width: the
# style sheet hides them on narrower pages.
PAGE, LETTER = 640, 7
LONGEST = 28  # characters of a label
# A mark per series, centred on (0, 0): they tell series apart without colours, too.
MARKS = (
    "M-5,0a5,5 0 1,0 10,0a5,5 0 1,0 -10,0z",
    "M-4.5,-4.5h9v9h-9z",
    "M0,-6L6,0L0,6L-6,0z",
    "M0,-6L5.5,4.5H-5.5z",
    "M-5.5,-4.5H5.5L0,6z",
    "M-6,-2H-2V-6H2V-2H6V2H2V6H-2V2H-6z",
)


class Bar(NamedTuple):
    """A row of a bar chart: its label, the sizes of its parts, one per series, and the text at its
    end."""

    label: str
    parts: Sequence[float]
    text: str


class Point(NamedTuple):
    """A mark: its coordinates, the number of its series, the text of its tooltip, and the name
    written beside it."""

    x: float
    y: float
    series: int
    label: str
    name: str = ""  # written beside it, where there is room


class ChartLine(NamedTuple):
    """A line through points, in the colour of a series, or the line of a roof for None."""

    points: Sequence[tuple[float, float]]
    series: int | None = None


class LogAxis(NamedTuple):
    """A logarithmic axis: its ends, which are above 0, and the numbers that are marked."""

    low: float
    high: float
    ticks: tuple[float, ...]

    def position(self, value: float) -> float:
        """Return the position of a number between the ends, 0 to 1."""
        span = math.log10(self.high) - math.log10(self.low)
        return (math.log10(value) - math.log10(self.low)) / span


def bars(key: str, title: str, about: str, rows: Sequence[Bar]) -> Element:
    """Return a chart of horizontal bars of stacked parts; the longest one fills the width.

    `key` makes the ids of title and description unique in the page. Parts that are not positive
    and finite have no width.
    """
    longest = max((math.fsum(map(_size, row.parts)) for row in rows), default=0.0) or 1.0
    chart = _chart(key, title, about, ROW * len(rows))
    for i, row in enumerate(rows):
        chart.append(element("text", shorten(row.label), x=0, y=ROW * i + 16))
        chart.append(
            element("text", row.text, x="100%", y=ROW * i + 16, text_anchor="end", class_="value")
        )
        left = 0.0
        for series, part in enumerate(map(_size, row.parts)):
            if part:
                width = part / longest
                chart.append(_bar(left, width, ROW * i + 22, series, f"{row.label}: {row.text}"))
                left += width
    return chart


def _bar(left: float, width: float, y: float, series: int, label: str) -> Element:
    return element(
        "rect", element("title", label), x=_share(left), width=_share(width), y=y, height=BAR,
        class_=f"s{series}",
    )  # fmt: skip


def log_chart(
    key: str, title: str, about: str, names: tuple[str, str], points: Sequence[Point],
    lines: Sequence[ChartLine] = (), binary: bool = False,
) -> Element:  # fmt: skip
    """Return a chart of points and lines on two logarithmic axes; `names` are those of the
    horizontal and the vertical axis. All coordinates must be `drawable`. `binary` marks powers of
    two on the horizontal axis."""
    ends = [end for line in lines for end in line.points]
    x = axis([p.x for p in points] + [end_x for end_x, _ in ends], 2 if binary else 10)
    y = axis([p.y for p in points] + [end_y for _, end_y in ends])
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
    """Return the lines of the grid and the numbers of both axes."""
    marks = []
    for tick in y.ticks:
        pixels = _down(y, tick)
        marks.append(element("line", x1=0, x2="100%", y1=pixels, y2=pixels, class_="grid"))
        marks.append(element("text", tick_text(tick), x=0, y=pixels - 3))
    for tick in x.ticks:
        left = _across(x, tick)
        marks.append(element("line", x1=left, x2=left, y1=TOP, y2=HEIGHT - BOTTOM, class_="grid"))
        marks.append(
            element("text", tick_text(tick), x=left, y=HEIGHT - BOTTOM + 16, text_anchor="middle")
        )
    return marks


def _names(points: Sequence[Point], x: LogAxis, y: LogAxis) -> list[Element]:
    """Return the names of points, earlier points first.

    Each name goes right of its mark, left, above or below, wherever it first covers no mark and no
    other name on a page of `PAGE` pixels. A name that fits nowhere is left to the table.
    """
    centres = [(PAGE * (LEFT + (RIGHT - LEFT) * x.position(p.x)), _down(y, p.y)) for p in points]
    occupied = [(across - 6, down - 6, across + 6, down + 6) for across, down in centres]
    names = []
    for p, (across, down) in zip(points, centres, strict=True):
        width = LETTER * len(text := shorten(p.name))
        for dx, dy, anchor, left in (
            (9, 4, "start", 9.0),
            (-9, 4, "end", -9 - width),
            (0, -9, "middle", -width / 2),
            (0, 18, "middle", -width / 2),
        ):
            box = (across + left, down + dy - 10, across + left + width, down + dy + 2)
            fits = box[0] >= 0 and box[2] <= PAGE and box[1] >= TOP and box[3] <= HEIGHT - BOTTOM
            if text and fits and not any(_overlap(box, other) for other in occupied):
                occupied.append(box)
                names.append(element("text", text, x=_across(x, p.x), dx=dx, y=down + dy,
                                    text_anchor=anchor, class_="name"))  # fmt: skip
                break
    return names


def _overlap(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    """Tell whether two boxes overlap: left, top, right and bottom."""
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def drawable(*values: float) -> bool:
    """Tell whether numbers can be drawn on a logarithmic axis: positive, finite and not extreme."""
    return all(1e-40 < value < 1e40 for value in values)


def mark(series: int, label: str, **position: str | float) -> Element:
    """Return the mark of a series with a tooltip; `position` are x and y within the chart."""
    shape = element("path", element("title", label), d=MARKS[series % len(MARKS)])
    shape.set("class", f"s{series}")
    return element("svg", shape, width=1, height=1, overflow="visible", **position)


def axis(values: Sequence[float], base: int = 10) -> LogAxis:
    """Return an axis that spans all values, which must be positive, with a margin at both ends.

    Ticks are powers of `base`, at most `MOST_TICKS` of them; a range of less than two powers has
    round decimal numbers instead.
    """
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
    """Return a label of at most `LONGEST` characters, which fits beside its number on a phone. It
    loses its beginning, as names of layers differ at their ends."""
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
    return _share(LEFT + (RIGHT - LEFT) * axis.position(value))


def _down(axis: LogAxis, value: float) -> float:
    return round(HEIGHT - BOTTOM - (HEIGHT - BOTTOM - TOP) * axis.position(value), 2)
