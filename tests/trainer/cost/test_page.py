"""Pages of `cost`, `bill` and `profile`: whole, safe, right, and readable; in a real browser where
there is one, which is told from $TALLYGRAD_BROWSER or PATH."""

from __future__ import annotations

import importlib.util
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType
from typing import Any
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

import numpy as np
import pytest

from tallygrad.autograd.ledger import Cost, Ledger
from tallygrad.trainer.calibration.kernels import Measured, profile_report
from tallygrad.trainer.cli import main
from tallygrad.trainer.components.checkpoint import save
from tallygrad.trainer.cost.cluster.allreduce import doubling_volume, ring_volume
from tallygrad.trainer.cost.machines import machine
from tallygrad.trainer.cost.pricing import cost_report
from tallygrad.trainer.cost.report.charts import (
    Bar,
    ChartLine,
    Point,
    axis,
    bars,
    log_chart,
    shorten,
)
from tallygrad.trainer.cost.report.figures import MOST_ROWS
from tallygrad.trainer.cost.report.markup import clean
from tallygrad.trainer.cost.report.page import DARK, LIGHT, SERIES
from tallygrad.trainer.cost.report.pages import of_cost, of_profile
from tallygrad.trainer.cost.report.units import cell, si, tick
from tallygrad.trainer.cost.roofline import Roofs
from tallygrad.trainer.cost.workload import count

pytestmark = pytest.mark.usefixtures("wide")

EVIL = "<script>alert(1)</script>\"'&\u202e\x07<img src=x onerror=alert(2)>"
VOID = {"meta"}
NS = "{http://www.w3.org/2000/svg}"
ALL = ("Work", "Energy by pass", "Energy by layer", "Roofline", "Memory",
       "Training against inference", "Communication")  # fmt: skip
WITHOUT = {"Energy by pass", "Energy by layer", "Roofline"}


class Reader(HTMLParser):
    """Reads a page strictly: elements with their own texts, and the source of each SVG."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len(dict(attrs)) == len(attrs)
        self.seen.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append((self.open[-1] if self.open else "", data))


def sections(page: str) -> dict[str, Element]:
    """Return the sections by their headings, parsed as XML."""
    body = page[page.index("<body>") : page.index("</html>")]
    found = ElementTree.fromstring(body).iter("section")
    return {str(section.findtext("h2")): section for section in found}


def charts(section: Element) -> list[Element]:
    return [svg for div in section.findall("div") for svg in div.findall(f"{NS}svg")]


def table(section: Element) -> list[list[str]]:
    (found,) = section.iter("table")
    return [["".join(c.itertext()) for c in row] for row in found.iter("tr")]


def of(name: str, training: bool, on: str = "", model: str = "") -> tuple[dict[str, Any], str]:
    shape = (3, 32, 32) if name.startswith("resnet") else (1, 28, 28)
    chip = machine.load(on) if on else None
    report = cost_report(count(name, 2, shape, 10, training), machine=chip)
    report = replace(report, model=model or name)
    return report.to_json(), of_cost(report, chip)


def billed(folder: Path, scope: str = "", machine: str = "horowitz45") -> str:
    """Return the page of the bill of a made-up run of two ranks."""
    ledger = Ledger()
    work = {"forward": 90, "backward_data": 80, "backward_weights": 90, "evaluate": 30}
    for layer, scale in (("conv1", 1), ("conv2", 5)):
        for phase, macs in work.items():
            cost = Cost(macs=scale * macs, bytes_read=scale * 64, bytes_written=32)
            ledger.count((layer + scope, phase, "conv2d", "numpy", cost), 7)
            ledger.peak((layer + scope, phase, "conv2d", "numpy"), scale * 1000 + macs)
    sent = Cost(bytes_sent=1000, bytes_read=1000, messages=2)
    ledger.count((f"gradients{scope}", "communicate", "allreduce", "numpy", sent), 14)
    record = {
        "step": 7, "epoch": 1, "step_in_epoch": 0, "images": 70, "seconds": 2.0, "accuracy": 0.5,
        "model": scope or "lenet", "ranks": 2, "ledger": ledger.to_json(),
    }  # fmt: skip
    file = folder / "step-00000007.h5"
    save(file, {"model/conv1.weight": np.ones((2, 3), np.float32)}, record)
    page = folder / "bill.html"
    words = ["--machine", machine] if machine else []
    assert main(["bill", str(file), "--html", str(page), *words]) == 0
    return page.read_text("utf-8")


def profiled(layer: str = "conv1") -> str:
    rows = [
        Measured(layer, "forward", "conv", 0.03, Cost(macs=3 * 10**8, bytes_read=2 * 10**7)),
        Measured(layer, "backward_weights", "conv", 0.02, Cost(macs=10**8, bytes_read=10**8)),
        Measured("", "update", "other", 0.01, Cost(add=10, bytes_written=4 * 10**7)),
    ]
    return of_profile(profile_report("lenet", 1, "numpy", rows, Roofs(100.0, 10.0), None))


PAGES: dict[str, Callable[[Path], tuple[str, set[str]]]] = {  # with what they have no chart of
    "inference": lambda _: (of("lenet", False)[1], {*WITHOUT, *ALL[5:]}),
    "training": lambda _: (of("lenet", True)[1], WITHOUT),
    "chip": lambda _: (of("lenet", True, "eyeriss")[1], set()),
    "relative": lambda _: (of("lenet", True, "eyeriss-isca16")[1], set()),
    "array": lambda _: (of("resnet20", True, "systolic-ws")[1], set()),
    "prices": lambda _: (of("lenet", True, "horowitz45")[1], {"Roofline"}),
    "power": lambda _: (of("lenet", True, "etann")[1], WITHOUT),
    "bill": lambda folder: (billed(folder), {"Roofline"}),
    "bill alone": lambda folder: (billed(folder, machine=""), WITHOUT),
    "profile": lambda _: (profiled(), set()),
    "evil": lambda _: (of("lenet", True, "eyeriss", model=EVIL)[1], set()),
    "evil bill": lambda folder: (billed(folder, EVIL), {"Roofline"}),
    "evil profile": lambda _: (profiled(EVIL * 9), set()),
}


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_whole_and_safe(name: str, tmp_path: Path) -> None:
    page, missing = PAGES[name](tmp_path)
    read = Reader(page)
    assert not {"script", "img", "link", "iframe", "object", "a"} & {tag for tag, _ in read.seen}
    for _, attributes in read.seen:
        assert not any(key.startswith("on") or key in ("href", "src") for key in attributes)
    assert "url(" not in page and "@import" not in page and "default-src 'none'" in page
    ids = [attributes["id"] for _, attributes in read.seen if "id" in attributes]
    assert len({*ids}) == len(ids)
    assert ("meta", "width=device-width, initial-scale=1") in [
        (tag, attributes.get("content")) for tag, attributes in read.seen
    ]
    assert not re.search("[\x00-\x08\x0b-\x1f\u202a-\u202e\ud800-\udfff]", page)
    if "evil" in name:
        text = "".join(data for _, data in read.texts)
        assert clean(EVIL) in text and EVIL not in text
    found = sections(page)
    if "profile" not in name:
        assert {*ALL} <= {*found}
    for title in [title for title in found if title in (*ALL, "Time")]:
        section = found[title]
        drawn, lines = charts(section), [p for p in section.findall("p") if p.get("class")]
        assert (len(drawn), len(lines)) == ((0, 1) if title in missing else (1, 0)), title
        for svg in drawn:
            assert svg.get("role") == "img" and svg.findtext(f"{NS}title") == title
            assert svg.findtext(f"{NS}desc") and len(table(section)) > 1
            assert svg.get("aria-labelledby") == " ".join(str(svg[i].get("id")) for i in (0, 1))
        assert all(line.text and "\n" not in line.text for line in lines)


def test_the_numbers_are_those_of_the_account() -> None:
    described, page = of("lenet", True, "eyeriss")
    found = sections(page)
    work = table(found["Work"])
    names = ("forward", "backward, data", "backward, weights", "sum")
    assert work[0] == ["", *[f"{n} (MAC)" for n in names]]
    assert work[-1] == ["sum", *[f"{2 * n:,}" for n in (2293000, 2005000, 2293000, 6591000)]]
    (chart,) = charts(found["Work"])
    widths = [float(str(r.get("width")).rstrip("%")) for r in chart.iter(f"{NS}rect")]
    sizes = [layer[f"{p}_macs"] for layer in described["layers"]
             for p in ("forward", "backward_data", "backward_weights")]  # fmt: skip
    longest = 3 * 2 * 1_600_000  # the second convolution
    assert widths == pytest.approx([100 * n / longest for n in sizes if n], abs=1e-3)
    alive = [int(row[1].replace(",", "")) for row in table(found["Memory"])[1:]]
    assert len(alive) > 4 and max(alive) == described["totals"]["peak_bytes"]
    assert max(e["peak_bytes"] for e in described["layers"]) == max(alive)
    total = described["totals"]["on_machine"]["training"]
    ledger = count("lenet", 2, (1, 28, 28), 10, True).ledger.total()
    moved = described["totals"]["training"]["total_bytes"]
    assert moved == ledger.bytes_read + ledger.bytes_written
    levels = table(found["Energy by layer"])
    assert levels[0][1:] == [
        f"{n} (J)" for n in ("MACs", "register file", "array", "buffer", "DRAM", "sum")
    ]
    keys = [f"energy_{n}_joules" for n in ("mac", "register_file", "array", "buffer", "dram")]
    assert levels[-1][1:] == [cell(total[k]) for k in [*keys, "energy_joules"]]
    assert total["energy_joules"] == pytest.approx(sum(total[k] for k in keys))
    against = table(found["Training against inference"])
    assert [row[3] for row in against[1:]] == [
        cell(described["totals"]["training_over_inference"]),
        cell(moved / described["totals"]["inference_bytes"]),
        cell(
            total["energy_joules"] / described["totals"]["on_machine"]["inference"]["energy_joules"]
        ),
    ]
    sent = table(found["Communication"])
    assert [row[0] for row in sent[1:]] == [f"{2**k:,}" for k in range(1, 13)]
    assert sent[2][1:] == [f"{2 * 3 * 4 * 431_080 // 4:,}", f"{2 * 4 * 431_080:,}"]


@pytest.mark.parametrize(
    "name", ["systolic-os", "systolic-ws", "eyeriss", "eyeriss-isca16", "horowitz45"]
)
def test_levels_add_up_to_the_energy(name: str) -> None:
    described, _ = of("lenet", True, name)
    for held in described["totals"]["on_machine"].values():
        (whole,) = [key for key in ("energy_joules", "energy_macs") if key in held]
        levels = [held[key] for key in held if key.startswith("energy_") and key != whole]
        assert len(levels) > 1 and math.fsum(levels) == pytest.approx(held[whole])
        if name == "eyeriss":  # words of 16 bit; four accesses to registers for each MAC
            assert held["energy_dram_joules"] == pytest.approx(230e-12 * held["dram_bytes"])
            buffer = 7.5e-12 * held["global_buffer_bytes"]
            assert held["energy_buffer_joules"] == pytest.approx(buffer)
            assert held["energy_register_file_joules"] == 2 * held["energy_mac_joules"]


def test_a_bill_and_a_profile(tmp_path: Path) -> None:
    found = sections(billed(tmp_path))
    assert table(found["Work"])[-1] == ["sum", "3,780", "3,360", "3,780", "1,260", "12,180"]
    assert table(found["Memory"])[1:] == [
        ["conv1", "1,090", "1,090", "1,080", "1,090", "1,030"],
        ["conv2", "5,090", "5,090", "5,080", "5,090", "5,030"],
    ]
    assert table(found["Communication"])[1:] == [
        ["gradients, allreduce", "14,000"],
        ["sum", "14,000"],
    ]
    macs, moved, _ = table(found["Training against inference"])[1:]
    assert macs[1:] == ["3,780", "10,920", cell(260 / 90)]
    # Evaluation is no training; 6 * 64 + 2 * 32 bytes a phase, and what is received.
    assert moved[1:] == [cell(7 * 448), cell(7 * 3 * 448 + 14_000), cell(3 + 14_000 / (7 * 448))]
    measured = sections(profiled())
    roofs = table(measured["Roofline"])
    assert roofs[1] == ["conv1", "forward", "15", cell(1e10), "compute", "20.0%"]
    assert roofs[2] == ["conv1", "backward, weights", "1", cell(5e9), "memory", "50.0%"]
    times = table(measured["Time"])
    assert times[2][0] == "(the model itself)" and times[-1][-1] == "0.06"


def test_names_in_a_bill_do_not_steer_a_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    billed(tmp_path, EVIL)
    out = capsys.readouterr().out
    assert "conv1<script>" in out and "gradients<script>" in out and "\\x07" in out
    assert "\x07" not in out and out.isascii()


def test_points_of_a_roofline_are_named() -> None:
    """By their layers, without covering one another; of those in one place, the longest."""
    (chart,) = charts(sections(profiled())["Roofline"])
    assert [t.text for t in chart.iter(f"{NS}text") if t.get("class") == "name"] == ["conv1"] * 2
    points = [Point(1.0, 1.0, 0, "", name) for name in ("first", "second", "a", "b", "c", "d")]
    far = Point(50.0, 40.0, 0, "", "far")
    chart = log_chart("k", "t", "a", ("x", "y"), [*points, far])
    names = [t.text for t in chart.iter("text") if t.get("class") == "name"]
    assert names[:2] == ["first", "second"] and names[-1] == "far" and len(names) < 7


def test_a_printed_page_has_all_rows() -> None:
    page = of("resnet20", True)[1]
    printed = page[page.index("@media print") :]
    assert "max-height: none; overflow: visible" in printed[: printed.index("</style>")]
    assert page.index("max-height: 24rem") < page.index("@media print")


def test_what_ranks_send() -> None:
    assert ring_volume(4 * 60_965_224, 4) == 365_791_344  # AlexNet with biases
    assert doubling_volume(1000, 2) == ring_volume(1000, 2) == 1000
    assert doubling_volume(1000, 4096) == 12_000


def test_points_lie_where_they_should() -> None:
    """A decade is as wide as the next, and roofs meet at the ridge."""
    points = [Point(1, 1, 0, "a"), Point(10, 100, 1, "b"), Point(100, 10_000, 1, "c")]
    chart = log_chart("k", "t", "d", ("x", "y"), points, [ChartLine([(1, 1), (100, 10_000)])])
    marks = chart.findall("svg")
    xs = [float(str(m.get("x")).rstrip("%")) for m in marks]
    ys = [float(str(m.get("y"))) for m in marks]
    assert xs[2] - xs[1] == pytest.approx(xs[1] - xs[0], abs=1e-3) and 13 < xs[0] < xs[2] < 97
    assert ys[0] - ys[1] == pytest.approx(ys[1] - ys[2], abs=0.02) and ys[0] > ys[2] > 26
    (roof,) = chart.findall("line[@class='roof']")
    assert [float(str(roof.get(k)).rstrip("%")) for k in ("x1", "y1", "x2", "y2")] == pytest.approx(
        [xs[0], ys[0], xs[2], ys[2]], abs=0.01
    )
    assert [p.find("title").text for m in marks for p in m] == ["a", "b", "c"]  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("values", "base", "ticks"),
    [
        ([1, 1000], 10, (1, 10, 100, 1000)),
        ([1e-9, 1e9], 10, (1e-8, 1e-4, 1, 1e4, 1e8)),
        ([2, 4096], 2, (8, 64, 512, 4096)),
        ([3], 10, (3,)),
        ([300, 600], 10, (300, 500, 700)),
    ],
)
def test_ticks(values: list[float], base: int, ticks: tuple[float, ...]) -> None:
    found = axis(values, base)
    assert found.ticks == pytest.approx(ticks)
    assert found.low < min(values) and max(values) < found.high
    assert all(0 < found.position(v) < 1 for v in (*values, *found.ticks))


def test_texts_of_numbers() -> None:
    said = {1: "1", 4096: "4096", 2e4: "20k", 7e8: "700M", 1e12: "1T", 0.01: "0.01"}
    assert {n: tick(n) for n in said} == said
    units = {2.26e-4: "226 \u00b5J", 1.5: "1.5 J", 999.7e6: "1 GJ", 1234.0: "1.23 kJ", 0: "0 J"}
    assert {n: si(n, "J") for n in units} == units
    cells: dict[Any, str] = {1234567: "1,234,567", 0.5: "0.5", 1234567.8: "1,234,568", "a": "a"}
    assert {value: cell(value) for value in cells} == cells
    assert shorten("a" * 40 + "z").endswith("az") and len(shorten("a" * 41)) == 28


def test_of_many_layers_the_largest_are_drawn() -> None:
    described, page = of("resnet110", False)
    found = sections(page)["Work"]
    (chart,) = charts(found)
    labels = [t.text for t in chart.iter(f"{NS}text")][::2]
    layers = len(table(found)) - 2  # all of them are in the table
    assert len(labels) == MOST_ROWS + 1 and labels[-1] == f"the other {layers - MOST_ROWS}"
    sizes = {e["name"]: e["forward_macs"] for e in described["layers"] if e["forward_macs"]}
    drawn = [size for name, size in sizes.items() if name in labels]
    assert min(drawn) >= max(size for name, size in sizes.items() if name not in labels)
    assert "fc" in sizes and "fc" not in labels


def test_parts_that_are_no_sizes_take_no_room() -> None:
    chart = bars("k", "t", "d", [Bar("a", [-1.0, math.nan, math.inf, 2.0], "")])
    assert [r.get("width") for r in chart.findall("rect")] == ["100.0000%"]


def luminance(colour: str) -> float:
    """Return the relative luminance of WCAG 2.2."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    r, g, b = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return 0.2126 * r + 0.7152 * g + 0.0722 * b


@pytest.mark.parametrize("theme", [LIGHT, DARK])
def test_contrast(theme: dict[str, str]) -> None:
    """As WCAG 2.2 asks: 4.5 for texts, 3 for what a chart shows."""
    back = luminance(theme["back"])
    for name, least in {"text": 4.5, "quiet": 4.5, **dict.fromkeys(SERIES, 3.0)}.items():
        pair = sorted((luminance(theme[name]), back))
        assert (pair[1] + 0.05) / (pair[0] + 0.05) >= least, name


# -- In a browser --------------------------------------------------------------------------------


def _chromium() -> ModuleType:
    path = Path(__file__).parent / "chromium.py"
    spec = importlib.util.spec_from_file_location("chromium", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    chromium = _chromium()
    with chromium.opened(chromium.find()) as page:
        yield page


SMALLEST = """Math.min(...[...document.querySelectorAll('body *')]
  .filter(e => [...e.childNodes].some(c => c.nodeType == 3 && c.data.trim()))
  .map(e => parseFloat(getComputedStyle(e).fontSize)))"""
OVERFLOW = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
SIZES = """[...document.querySelectorAll('.chart > svg')].map(e => e.getBoundingClientRect())
  .map(r => [r.left, r.right, r.height])"""
# Texts of charts that the chart's edges cut, and texts beside each other that touch.
CUT = """[...document.querySelectorAll('.chart > svg')].flatMap(s => {
  const edge = s.getBoundingClientRect()
  const boxes = [...s.querySelectorAll('text')]
    .filter(t => t.textContent && t.getClientRects().length)  // those on display
    .map(t => [t.textContent, t.getBoundingClientRect()])
  const out = boxes.filter(([, b]) => b.left < edge.left - 1 || b.right > edge.right + 1
    || b.top < edge.top - 1 || b.bottom > edge.bottom + 1)
  const met = boxes.filter(([, a], i) => boxes.some(([, b], j) => i < j && a.left < b.right
    && b.left < a.right && a.top + 2 < b.bottom - 2 && b.top + 2 < a.bottom - 2))
  return [...out, ...met].map(([text]) => text)
})"""


@pytest.mark.parametrize("name", PAGES)
def test_in_a_browser(name: str, browser: Any, tmp_path: Path) -> None:
    text, missing = PAGES[name](tmp_path)
    file = tmp_path / "page.html"
    file.write_text(text, "utf-8")
    backs = set()
    for width, dark in ((360, False), (360, True), (1200, False)):
        browser.show(file, width, dark)
        assert browser.said == [] and browser.events == [file.as_uri(), "loaded"]
        assert browser.ask(OVERFLOW) <= 0 and browser.ask("innerWidth") == width
        assert browser.ask(SMALLEST) >= 12
        sizes = browser.ask(SIZES)
        wanted = (3 if "profile" in name else len(ALL)) - len(missing)
        assert len(sizes) == wanted
        for left, right, height in sizes:
            assert height >= 30 and 0.5 * width < right - left and 0 <= left < right <= width
        if "evil" not in name:
            assert browser.ask(CUT) == []
        assert browser.ask("document.scripts.length + document.images.length") == 0
        backs.add(browser.ask("getComputedStyle(document.body).backgroundColor"))
    assert len(backs) == 2
    if name == "evil":
        assert clean(EVIL) in browser.ask("document.querySelector('h1').textContent")
        assert clean(EVIL) in browser.ask("document.title")
