"""The Python blocks of README and docs run as they stand."""

from __future__ import annotations

import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("autograd", "bench", "datasets", "docs", "launch", "trainer")
PAGES = [
    str(path.relative_to(ROOT))
    for path in sorted(
        [*ROOT.glob("*.md"), *(p for f in FOLDERS for p in (ROOT / f).rglob("*.md"))]
    )
]


def blocks(page: str) -> list[str]:
    text = (ROOT / page).read_text(encoding="utf-8")
    return re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def test_there_is_something_to_run() -> None:
    assert len(blocks("README.md")) >= 2 and len(blocks("docs/engine.md")) >= 1


@pytest.mark.parametrize("page", PAGES)
def test_python_blocks_run(page: str) -> None:
    names: dict[str, object] = {"__name__": "example"}
    for number, block in enumerate(blocks(page)):
        exec(compile(block, f"{page}, block {number + 1}", "exec"), names)


def anchors(page: Path) -> set[str]:
    """Return the names by which links reach a page's headings, as GitHub makes them."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    heads = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


@pytest.mark.parametrize("page", PAGES)
def test_a_table_of_contents_has_every_section(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    code = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
    sections = re.findall(r"^## (.+)$", code.sub("", text), re.MULTILINE)
    names = {re.sub(r"[^\w\- ]", "", section.lower()).replace(" ", "-") for section in sections}
    linked = set(re.findall(r"\]\(#([\w-]+)\)", text))
    assert names <= linked or (len(names) < 4 and not linked), names - linked


def test_the_readme_leads_to_every_page() -> None:
    linked = re.findall(r"\]\((docs/[\w.]+)\)", (ROOT / "README.md").read_text(encoding="utf-8"))
    assert {page for page in PAGES if page.startswith("docs/")} == {*linked}


@pytest.mark.parametrize("page", PAGES)
def test_links_between_pages_lead_somewhere(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^):]+)\)|(?:src|href)=\"([^\":]+)\"", text):
        name, _, anchor = (target[0] or target[1]).partition("#")
        path = ROOT / page if not name else (ROOT / page).parent / name
        assert path.exists(), target
        assert not anchor or anchor in anchors(path), target


@pytest.mark.parametrize("page", [*PAGES, "docs/architecture.svg"])
def test_files_that_a_page_names_exist(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    folders = "autograd|bench|datasets|docs|launch|tests|trainer"
    names = re.findall(rf"[`>]((?:{folders})/[\w./*-]*)(?:`|</title>)", text)
    assert names or not page.endswith(".svg")
    for name in names:
        assert any(ROOT.glob(name)), name


def test_the_picture_shows_the_files_that_its_titles_name() -> None:
    text = (ROOT / "docs" / "architecture.svg").read_text(encoding="utf-8")
    titles = re.findall(r"<rect .*<title>(.*)</title>", text)
    shown = re.findall(r'class="folder".*>(.*)</text>\n.*class="file".*>(.*)</text>', text)
    assert len(titles) == 20
    assert titles == [folder + name for folder, name in shown]


@cache
def options(command: str) -> set[str]:
    """Return the options that the help of a command lists."""
    words = ["-m", "bench"] if command == "bench" else ["-m", "tallygrad.trainer", command]
    answer = subprocess.run(
        [sys.executable, *words, "--help"], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert answer.returncode == 0, answer.stderr
    return set(re.findall(r"(?<![\w-])--?[a-zA-Z][\w-]*", answer.stdout))


def commands(page: str) -> list[tuple[str, str]]:
    """Return the commands of the shell blocks of a page, each with its arguments."""
    text = (ROOT / page).read_text(encoding="utf-8")
    found = []
    for block in re.findall(r"^```sh\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        for line in block.splitlines():
            for words in re.split(r" -- ", line.partition("#")[0]):
                if match := re.search(
                    r"\b(?:tallygrad |python -m (?=bench)|^(?=train ))(\w+)(.*)", words
                ):
                    found.append((match[1], match[2]))
    return found


@pytest.mark.parametrize("page", [page for page in PAGES if commands(page)])
def test_commands_in_pages_have_the_options_that_are_used(page: str) -> None:
    for command, arguments in commands(page):
        used = set(re.findall(r"(?<!\S)--?[a-zA-Z][\w-]*", arguments))
        assert used <= options(command), (command, used - options(command))
