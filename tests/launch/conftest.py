"""Fixtures for tests of the launcher."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from tallygrad.launch import mpirun


@pytest.fixture
def fake_trainer(tmp_path: Path) -> Callable[[str], str]:
    """Return fake_trainer(code): a PYTHONPATH on which that is the trainer. Skip without mpirun."""
    try:
        mpirun.find_mpirun()
    except mpirun.LaunchError as error:
        pytest.skip(str(error))

    def make(code: str) -> str:
        package = tmp_path / "fake" / "tallygrad" / "trainer"
        package.mkdir(parents=True)
        (package / "__init__.py").touch()
        (package / "__main__.py").write_text(code)
        return os.pathsep.join(filter(None, [str(tmp_path / "fake"), os.environ.get("PYTHONPATH")]))

    return make


@pytest.fixture
def make_hosts(bench_package: Any, tmp_path: Path) -> Iterator[Callable[[int], Any]]:
    """Return make_hosts(count): `Hosts` n1, n2, ... until the test ends; see `bench/hosts.py`."""
    module = import_module("bench.hosts")
    if reason := module.why_not():
        pytest.skip(reason)
    with ExitStack() as stack:
        yield lambda count: stack.enter_context(module.Hosts(count, tmp_path / "hosts"))
