"""What an installed Tallygrad carries besides its modules, and what is said of it."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
FOLDERS: dict[str, str] = PYPROJECT["tool"]["setuptools"]["package-dir"]


def installed_data() -> set[Path]:
    """Return the files that `package-data` names."""
    tables = PYPROJECT["tool"]["setuptools"]
    found = set()
    for package in tables["packages"]:
        folder = ROOT.joinpath(*package.split(".")[1:])
        for owner, patterns in tables["package-data"].items():
            if owner in ("*", package):
                found |= {path for pattern in patterns for path in folder.glob(pattern)}
    return found


def test_every_package_is_installed() -> None:
    found = {
        ".".join(("tallygrad", *path.parent.relative_to(ROOT).parts))
        for folder in FOLDERS.values()
        for path in (ROOT / folder).rglob("__init__.py")
    }
    assert sorted(PYPROJECT["tool"]["setuptools"]["packages"]) == sorted(found)
    wings = ("autograd", "datasets", "launch", "trainer")
    assert {f"tallygrad.{wing}": wing for wing in wings} == FOLDERS


def test_every_module_lies_in_a_package() -> None:
    for folder in FOLDERS.values():
        for path in (ROOT / folder).rglob("*.py"):
            assert (path.parent / "__init__.py").exists(), f"{path} would not be installed"


def test_every_preset_is_installed() -> None:
    presets = {path for folder in FOLDERS.values() for path in (ROOT / folder).rglob("*.toml")}
    assert len(presets) > 10
    assert presets - installed_data() == set()


@pytest.mark.parametrize("folder", FOLDERS.values())
def test_type_checkers_may_read_each_folder(folder: str) -> None:
    assert ROOT / folder / "py.typed" in installed_data()


def test_the_citation_names_the_same_version_and_licence() -> None:
    project = PYPROJECT["project"]
    lines = (ROOT / "CITATION.cff").read_text(encoding="utf-8").splitlines()
    fields = dict(re.findall(r"^(\w[\w-]*): (\S.*)$", "\n".join(lines), re.MULTILINE))
    assert fields["version"] == project["version"]
    assert fields["license"] == project["license"]
    assert f"  - name: {project['authors'][0]['name']}" in lines
    assert project["authors"][0]["name"] in (ROOT / "LICENSE").read_text(encoding="utf-8")
