"""The HTML page of a report: one file without scripts or external resources."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from xml.etree.ElementTree import Element

from .charts import mark
from .figures import Figure
from .markup import document, element
from .metrics import by_reason, shown
from .model.common import Metrics
from .units import cell

LIGHT = {
    "back": "#ffffff", "text": "#1c1f23", "quiet": "#555b63", "rule": "#d5d9de",
    "s0": "#0b66b2", "s1": "#b4470f", "s2": "#25783f", "s3": "#7a3fa0", "s4": "#8a6100",
    "s5": "#5b6470",
}  # fmt: skip
DARK = {
    "back": "#14171a", "text": "#e8eaed", "quiet": "#a9b1ba", "rule": "#3a4149",
    "s0": "#5fb0f0", "s1": "#f0955a", "s2": "#62c886", "s3": "#c48be6", "s4": "#d9b44a",
    "s5": "#a3adb8",
}  # fmt: skip
SERIES = tuple(name for name in LIGHT if name.startswith("s"))
RULES = """
* { box-sizing: border-box }
html { -webkit-text-size-adjust: 100%; text-size-adjust: 100% }
body { margin: 0; background: var(--back); color: var(--text);
  font: 16px/1.5 system-ui, sans-serif; overflow-wrap: anywhere }
main { max-width: 64rem; margin: 0 auto; padding: 1rem }
h1 { font-size: 1.5rem; line-height: 1.25 }
h2 { font-size: 1.2rem; line-height: 1.25; margin: 2.5rem 0 .5rem }
p { margin: .5rem 0; max-width: 45rem }
.quiet { color: var(--quiet) }
.missing { border-left: 4px solid var(--rule); padding-left: .75rem }
.legend { list-style: none; display: flex; flex-wrap: wrap; gap: .25rem 1rem; padding: 0;
  margin: .5rem 0; font-size: .875rem }
.legend svg { width: 14px; height: 14px; margin-right: .4rem; vertical-align: -2px }
.chart { display: block; margin: .75rem 0 }
.chart > svg { display: block; width: 100% }
svg text { font-size: 13px; fill: var(--text) }
svg .value, svg .axis { fill: var(--quiet) }
.grid { stroke: var(--rule); stroke-width: 1 }
.roof { stroke: var(--text); stroke-width: 2 }
.line { stroke-width: 2 }
.scroll { overflow: auto; max-height: 24rem; border: 1px solid var(--rule) }
.scroll:focus-visible { outline: 3px solid var(--s0) }
table { border-collapse: collapse; font-size: .875rem; width: 100% }
caption { text-align: left; padding: .4rem .6rem; color: var(--quiet) }
th, td { padding: .25rem .6rem; text-align: right; white-space: nowrap;
  border-top: 1px solid var(--rule); overflow-wrap: normal }
thead th { white-space: normal; min-width: 6rem }
th:first-child, .word { text-align: left }
.words { max-height: none; margin-bottom: 1rem }
.words th, .words td { white-space: normal; min-width: 0; overflow-wrap: normal }
.words td:last-child { min-width: 9rem }
tbody th { font-weight: normal; white-space: normal; min-width: 8rem; overflow-wrap: anywhere }
svg .name { font-size: 12px }
@media (max-width: 40rem) { svg .name { display: none } }
@media print {
  .scroll { max-height: none; overflow: visible; border: 0 }
  thead { display: table-header-group }
  h2, p, caption, .legend { break-after: avoid }
  tr, .chart, .legend, dd { break-inside: avoid }
  svg .name { display: inline }
}
dt { font-weight: 600 }
dd { margin: 0 0 .5rem }
"""


def style() -> str:
    """Return the style sheet: colours for light and dark mode, and one set of rules."""
    colours = [" ".join(f"--{n}: {c};" for n, c in theme.items()) for theme in (LIGHT, DARK)]
    series = [f".{n} {{ fill: var(--{n}) }}\n.l{n[1:]} {{ stroke: var(--{n}) }}" for n in SERIES]
    return (
        f"\n:root {{ color-scheme: light dark; {colours[0]} }}\n"
        f"@media (prefers-color-scheme: dark) {{ :root {{ {colours[1]} }} }}"
        + "\n".join([RULES, *series, ""])
    )


def render(
    title: str, lead: Sequence[str], figures: Sequence[Figure], metrics: Metrics | None,
    notes: Mapping[str, str],
) -> str:  # fmt: skip
    """Return a page: title, lead lines, metrics if there are any, figures, and notes by name."""
    parts = [element("h1", title), *[element("p", line, class_="quiet") for line in lead]]
    if metrics is not None:
        parts.append(_metrics(metrics))
    parts += [_figure(figure) for figure in figures]
    if notes:
        pairs = [(element("dt", name), element("dd", text)) for name, text in notes.items()]
        listed = element("dl", *[part for pair in pairs for part in pair])
        parts.append(element("section", element("h2", "How it is counted"), listed))
    return document(*parts, title=title, style=style())


def _figure(figure: Figure) -> Element:
    section = element("section", element("h2", figure.title), element("p", figure.about))
    if figure.chart is None:
        section.append(element("p", figure.missing, class_="missing"))
        return section
    if len(figure.legend) > 1:
        bars = figure.chart.find("rect") is not None
        items = [element("li", _key(i, bars), name) for i, name in enumerate(figure.legend)]
        section.append(element("ul", *items, class_="legend"))
    section.append(element("div", figure.chart, class_="chart"))
    section.append(_table(f"{figure.title}: the numbers", figure.head, figure.rows))
    return section


def _key(series: int, is_bar: bool) -> Element:
    if is_bar:
        shape = element("rect", width=14, height=14, class_=SERIES[series % len(SERIES)])
    else:
        shape = mark(series, "", x=7, y=7)
    return element("svg", shape, aria_hidden="true", width=14, height=14)


def _table(
    caption: str,
    head: Sequence[str],
    rows: Sequence[Sequence[str | float]],
    kind: str = "scroll",
) -> Element:
    """Return a table in a box that scrolls on its own, with the keyboard too."""
    first = rows[0] if rows else head
    names = [
        element("th", name, scope="col", **_kind(value))
        for name, value in zip(head, first, strict=True)
    ]
    lines = [
        element(
            "tr",
            element("th", cell(row[0]), scope="row"),
            *[element("td", cell(value), **_kind(value)) for value in row[1:]],
        )
        for row in rows
    ]
    body = element("thead", element("tr", *names)), element("tbody", *lines)
    table = element("table", element("caption", caption), *body)
    return element("div", table, class_=kind, tabindex=0, role="region", aria_label=caption)


def _kind(value: str | float) -> dict[str, str | float]:
    return {"class_": "word"} if isinstance(value, str) else {}


def _metrics(metrics: Metrics) -> Element:
    section = element("section", element("h2", "Metrics"))
    for what, entries in metrics.groups():
        rows = [(name, shown(m), f"{m.status}: {m.how}") for name, m in by_reason(entries)]
        head = ("metric", "value", "known how")
        section.append(_table(f"Metrics of the {what}", head, rows, "scroll words"))
    return section
