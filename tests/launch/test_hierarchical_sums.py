"""Training on several ranks of several hosts: hosts sum first, and send less."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tallygrad.launch import mpirun
from tallygrad.trainer.components.checkpoint import load

pytestmark = pytest.mark.hosts
GRADIENTS = 1_076_264  # bytes of the gradients of mlp
STEPS = 12


def test_hosts_sum_first_with_the_same_bits_and_fewer_bytes(
    make_hosts: Callable[[int], Any],
    alone: Callable[[], AbstractContextManager[None]],
    tmp_path: Path,
) -> None:
    try:
        mpirun.find_mpirun()
    except mpirun.LaunchError as error:
        pytest.skip(str(error))
    hosts = make_hosts(2)
    sent, weights = {}, {}
    for way in ("auto", "off"):
        before, out = hosts.sent("n1"), tmp_path / way
        words = ["--hosts", "n1:2,n2:2", "--", "train", "--model", "mlp", "--dataset", "digits"]
        words += ["--max-steps", str(STEPS), "--eval-batch-size", "1000", "--out", str(out)]
        command = [sys.executable, "-m", "tallygrad.trainer", "launch", *words]
        environment = {**os.environ, **hosts.environment}
        with alone():
            done = subprocess.run(
                [*command, "--hierarchical", way], env=environment, capture_output=True, text=True,
                timeout=240,
            )  # fmt: skip
        assert done.returncode == 0, done.stderr
        line = "sums     among 2 ranks through shared memory, then among 2 nodes"
        assert (line in done.stderr) == (way == "auto"), done.stderr
        sent[way] = hosts.sent("n1") - before
        weights[way] = load(out / f"checkpoints/step-{STEPS:08}.h5").tensors
    for name, value in weights["off"].items():
        np.testing.assert_array_equal(weights["auto"][name], value, name)
    # Of each host's gradients once a step, rather than of those of its ranks with all others.
    assert STEPS * GRADIENTS < sent["auto"] < sent["off"] - STEPS * GRADIENTS / 2
