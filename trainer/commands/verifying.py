"""The work of `tallygrad verify`: start the trials and compare them."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from itertools import product
from pathlib import Path
from typing import TypeAlias

from ...autograd import models
from ..build import mixed
from ..calibration.outcome import RESULT, TRIAL, Outcome, Trial
from ..distributed.verification.corruption import Corrupted
from ..errors import UserError
from ..own_models import registered
from .ranks import Start
from .verify import VerifyOptions
from .verify_report import Comparison, VerifyReport

TIMED_OUT = 124  # status of a job that has taken longer than it may
PATIENCE = 600.0  # seconds for a trial; the first one compiles
Run: TypeAlias = Callable[[Trial], Outcome]


class Different(UserError):
    """Trainings that should be alike are not."""

    status = 1


def verify(
    options: VerifyOptions, ranks: Sequence[int], threads: Sequence[int], start: Start | None,
    why: str = "",
) -> VerifyReport:  # fmt: skip
    """Return the comparison. `start` runs a command on ranks of this host; without it, for the
    reason `why`, one rank is all there is. UserError for an unknown model, and for bf16 where it is
    not to be had."""
    mixed(options.precision)
    try:
        name = registered(options.model, options.model_args)
        models.takes_classes(name)  # there is one of this name
    except ValueError as error:
        raise UserError(str(error)) from error
    options = replace(options, model=name)
    note = ""
    if start is None and any(count > 1 for count in ranks):
        note, ranks = f"threads only: {why}", [1]
    return compare(options, ranks, threads, lambda trial: run_trial(trial, start), note)


def compare(
    options: VerifyOptions, ranks: Sequence[int], threads: Sequence[int], run: Run, note: str = ""
) -> VerifyReport:
    """Run a trial for each number of ranks and threads, in ascending order, and compare them; where
    ranks sum in shared memory, one more by messages for each number of ranks."""
    wanted = [
        Trial(
            model=options.model, dataset=options.dataset, data_dir=options.data_dir,
            batch_size=options.batch_size, micro_batches=options.micro_batches,
            steps=options.steps, backend=options.backend, precision=options.precision,
            ranks=p, threads=t,
        )
        for p, t in product(ranks, threads)
    ]  # fmt: skip
    first, reference = wanted[0], run(wanted[0])

    def against(trial: Trial) -> Comparison:
        outcome = reference if trial is first else run(trial)
        return Comparison(trial, outcome, outcome.difference(reference))

    trials: list[Comparison] = []
    for trial in wanted:
        trials.append(against(trial))
        if trials[-1].outcome.shares and trial.threads == first.threads:
            trials.append(against(replace(trial, sums="messages")))
    parts = options.micro_batches
    control = against(replace(first, micro_batches=parts // 2 if parts > 1 else 2))
    most = ranks[-1]
    mpi = against(replace(first, ranks=most, sums="mpi")) if most > 2 else None
    return VerifyReport(trials, control, mpi, note)


def run_trial(trial: Trial, start: Start | None) -> Outcome:
    """Run a trial: several ranks under `start`, one in a process without MPI. UserError where it
    fails, after its own message."""
    what = f"verify: {trial.title}, {trial.micro_batches} micro-batches"
    print(what, file=sys.stderr, flush=True)
    with tempfile.TemporaryDirectory(prefix="tallygrad-verify-") as name:
        folder = Path(name)
        (folder / TRIAL).write_text(json.dumps(asdict(trial)), "utf-8")
        command = ["verify", "--worker", name]
        if start is not None and trial.ranks > 1:
            status = start(trial.ranks, command, PATIENCE)
        else:
            line = [sys.executable, "-P", "-m", "tallygrad.trainer", *command]
            status = subprocess.run(line, stdin=subprocess.DEVNULL, check=False).returncode
        if status == Corrupted.status:  # the ranks themselves have said which tensor differs
            raise Different(f"verify: {trial.title}: the ranks hold different weights")
        if status or not (folder / RESULT).exists():
            how = f"took more than {PATIENCE:g} s; take fewer --steps"
            how = how if status == TIMED_OUT else f"ended with status {status}"
            raise UserError(f"verify: the training on {trial.title} {how}")
        return Outcome.from_json((folder / RESULT).read_text("utf-8"))
