"""Fixtures for tests of the launcher."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def make_hosts(tmp_path: Path) -> Iterator[Callable[[int], Any]]:
    """Return make_hosts(count): `Hosts` n1, n2, ... until the test ends; see `hosts.py`."""
    spec = importlib.util.spec_from_file_location("hosts", Path(__file__).with_name("hosts.py"))
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if reason := module.why_not():
        pytest.skip(reason)
    with ExitStack() as stack:
        yield lambda count: stack.enter_context(module.Hosts(count, tmp_path / "hosts"))
