"""Compare an sdist and a wheel with the checkout: `contents.py DIST`, from the checkout's root.

The sdist holds every file that git tracks. The wheel holds every module of the packages, every
TOML file in their folders, `py.typed`, what `package-data` names and the licence, and nothing else.
"""

from __future__ import annotations

import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

# What only git has, and what setuptools adds to an sdist.
ONLY_IN_GIT = {".gitignore"}
GENERATED = {"PKG-INFO", "setup.cfg"}


def tracked() -> set[str]:
    """Return the files that git tracks, as paths from the root."""
    command = ["git", "ls-files", "-z"]
    answer = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return set(filter(None, answer.split("\0")))


def sdist_faults(archive: Path, files: set[str]) -> list[str]:
    """Return a line for each file that an sdist lacks or should not have."""
    with tarfile.open(archive) as tar:
        members = (member.name.partition("/")[2] for member in tar if member.isfile())
        present = {name for name in members if not name.startswith("tallygrad.egg-info/")}
    return compare(archive.name, present - GENERATED, files - ONLY_IN_GIT)


def wheel_faults(archive: Path, files: set[str]) -> list[str]:
    """Return a line for each file that a wheel lacks or should not have."""
    table = tomllib.loads(Path("pyproject.toml").read_text())["tool"]["setuptools"]
    inside = {name for name in files if name.partition("/")[0] in table["package-dir"].values()}
    named = {
        path.as_posix()
        for package, patterns in table["package-data"].items()
        if package != "*"
        for pattern in patterns
        for path in Path(*package.split(".")[1:]).glob(pattern)
    }
    needed = {name for name in inside if name.endswith((".py", ".toml", "py.typed"))}
    expected = {f"tallygrad/{name}" for name in needed | (inside & named)}
    with zipfile.ZipFile(archive) as wheel:
        names = set(wheel.namelist())
    present = {name for name in names if ".dist-info/" not in name}
    licences = {name.partition(".dist-info/")[2] for name in names} & {"licenses/LICENSE"}
    return compare(archive.name, present | licences, expected | {"licenses/LICENSE"})


def compare(archive: str, present: set[str], expected: set[str]) -> list[str]:
    """Return a line for each name that only one of the two sets has."""
    missing = [
        f"{archive}: expected {name}, got no such file" for name in sorted(expected - present)
    ]
    return missing + [f"{archive}: unexpected file {name}" for name in sorted(present - expected)]


def main(folder: Path) -> int:
    """Print the faults of the archives in `folder`, and return the exit status."""
    (sdist,), (wheel,) = folder.glob("*.tar.gz"), folder.glob("*.whl")
    files = tracked()
    faults = sdist_faults(sdist, files) + wheel_faults(wheel, files)
    print(*faults or [f"{sdist.name} and {wheel.name} have the expected contents"], sep="\n")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
