"""README and docs: their Python blocks run, and what they link, name and call exists."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
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


CODE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
LLVM = ROOT / "autograd" / "backends" / "llvm"


def read(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def pages(found: Callable[[str], object]) -> list[str]:
    """Return the pages in which something is found: a test of others could not fail."""
    return [page for page in PAGES if found(page)]


def blocks(page: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```$", read(page), re.MULTILINE | re.DOTALL)


def test_blocks_are_found() -> None:
    assert {"README.md", "docs/cost.md", "docs/engine.md", "docs/tracing.md"} <= {*pages(blocks)}
    assert len(blocks("README.md")) >= 2


@pytest.mark.parametrize("page", pages(blocks))
def test_python_blocks_run(page: str) -> None:
    names: dict[str, object] = {"__name__": "example"}
    for number, block in enumerate(blocks(page)):
        exec(compile(block, f"{page}, block {number + 1}", "exec"), names)


def headings(page: str, level: str) -> list[str]:
    """Return the names by which links reach a page's headings, as GitHub makes them."""
    heads = re.findall(rf"^{level} (.+)$", CODE.sub("", read(page)), re.MULTILINE)
    return [re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads]


def contents(page: str) -> list[str]:
    """Return the sections that a page's table of contents links, in its order."""
    tables = re.findall(r"^(?:\[[^\n]+\]\(#[\w-]+\)(?: ·\s|\n· |\s))+", read(page), re.MULTILINE)
    return re.findall(r"\]\(#([\w-]+)\)", tables[0]) if tables else []


@pytest.mark.parametrize(
    "page", pages(lambda page: contents(page) or len(headings(page, "##")) >= 4)
)
def test_a_table_of_contents_has_every_section(page: str) -> None:
    assert contents(page) == headings(page, "##")


def test_the_readme_leads_to_every_page() -> None:
    linked = re.findall(r"\]\((docs/[\w.]+)\)", read("README.md"))
    assert {page for page in PAGES if page.startswith("docs/")} == {*linked}


def links(page: str) -> list[str]:
    found = re.findall(r"\]\(([^):]+)\)|(?:src|href)=\"([^\":]+)\"", read(page))
    return [markdown or html for markdown, html in found]


@pytest.mark.parametrize("page", pages(links))
def test_links_between_pages_lead_somewhere(page: str) -> None:
    for target in links(page):
        name, _, anchor = target.partition("#")
        path = (ROOT / page).parent / name if name else ROOT / page
        assert path.exists(), target
        assert not anchor or anchor in headings(str(path.relative_to(ROOT)), "#+"), target


def files(page: str) -> list[str]:
    """Return the files and folders that a page names in code font."""
    folders = "autograd|bench|datasets|docs|launch|tests|trainer"
    whole = re.findall(rf"[`>]((?:{folders})/[\w./*-]*)(?:`|</title>)", read(page))
    return whole + re.findall(r"`([a-z_/*]+\.py)`", read(page))


@pytest.mark.parametrize("page", [*pages(files), "docs/architecture.svg"])
def test_files_that_a_page_names_exist(page: str) -> None:
    """A name is a path from the root or from the llvm backend, or the name of a file anywhere."""
    names = files(page)
    assert names
    for name in names:
        anywhere = [] if "/" in name else [p for f in FOLDERS for p in (ROOT / f).rglob(name)]
        assert any(ROOT.glob(name)) or any(LLVM.glob(name)) or anywhere, name


@cache
def words() -> set[str]:
    """Return the words of all code and tables; tests name the keys that code composes."""
    folders = [ROOT / folder for folder in (*FOLDERS, "tests")]
    paths = [p for f in folders for p in f.rglob("*") if p.suffix in (".py", ".toml")]
    return {word for p in paths for word in re.findall(r"\w+", p.read_text(encoding="utf-8"))}


def identifiers(page: str) -> list[str]:
    """Return the identifiers in code font: `ab_cd`, `AbCd`, `ab()` and, on their own, `AB_CD`."""
    spans = re.findall(r"`([^`\n]+)`", CODE.sub("", read(page)))
    pattern = r"(?<![\w$/-])([a-z]+(?:_[a-z]+)+|[A-Z][a-z]+[A-Z]\w*|[a-z]\w*(?=\())(?![\w/.-])"
    constants = [span for span in spans if re.fullmatch(r"[A-Z_]{4,}", span) and span != "FILE"]
    return [word for span in spans for word in re.findall(pattern, span)] + constants


@pytest.mark.parametrize("page", [p for p in pages(identifiers) if p != "CHANGELOG.md"])
def test_identifiers_that_a_page_names_exist(page: str) -> None:
    own = {*re.findall(r"\w+", " ".join(CODE.findall(read(page))))}
    missing = {*identifiers(page)} - words() - own
    assert not missing, missing


def test_the_picture_shows_the_files_that_its_titles_name() -> None:
    text = read("docs/architecture.svg")
    titles = re.findall(r"<rect .*<title>(.*)</title>", text)
    shown = re.findall(r'class="folder".*>(.*)</text>\n.*class="file".*>(.*)</text>', text)
    assert len(titles) == 20
    assert titles == [folder + name for folder, name in shown]


@cache
def options(command: str) -> set[str]:
    """Return the options that the help of a command lists."""
    is_bench = re.match(r"bench\b", command)
    words = ["-m", *command.split()] if is_bench else ["-m", "tallygrad.trainer", command]
    answer = subprocess.run(
        [sys.executable, *words, "--help"], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert answer.returncode == 0, answer.stderr
    return set(re.findall(r"(?<![\w-])--?[a-zA-Z][\w-]*", answer.stdout))


def commands(page: str) -> list[tuple[str, str]]:
    """Return the commands of the shell blocks of a page, each with its arguments."""
    found = []
    for block in re.findall(r"^```sh\n(.*?)^```$", read(page), re.MULTILINE | re.DOTALL):
        for line in block.splitlines():
            for words in re.split(r" -- ", line.partition("#")[0]):
                if match := re.search(
                    r"\b(?:tallygrad |python -m (?=bench)|^(?=train ))(\w+)(.*)", words
                ):
                    found.append((match[1], match[2]))
    return found


@pytest.mark.parametrize("page", pages(commands))
def test_commands_in_pages_have_the_options_that_are_used(page: str) -> None:
    for command, arguments in commands(page):
        if command == "bench" and (name := re.match(r" [a-z]+\b", arguments)):
            command += name[0]
        used = set(re.findall(r"(?<!\S)--?[a-zA-Z][\w-]*", arguments))
        assert used <= options(command), (command, used - options(command))
