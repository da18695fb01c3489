"""Trials: short trainings, each in processes of its own, whose bits are compared."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np

from ...autograd import context
from ..components import state
from ..components.logs import RunFolder
from ..config import TrainConfig
from ..distributed.comm import Comm
from ..distributed.overlap import LONGEST
from ..files import write_whole
from ..loop import Training
from ..own_models import registered, usual_task
from .outcome import RESULT, TRIAL, Outcome, Trial


def worker(comm: Comm, folder: Path) -> None:
    """Do the trial of a folder as a rank; rank 0 writes the outcome there."""
    trial = Trial(**json.loads((folder / TRIAL).read_text("utf-8")))
    outcome = run(comm, trial)
    if comm.rank == 0:
        write_whole(folder / RESULT, json.dumps(asdict(outcome)))


def run(comm: Comm, trial: Trial) -> Outcome:
    """Train for the steps of a trial; return the digests of what came out, on rank 0 of all ranks'
    micro-batches. Raises Corrupted where the ranks end with different weights."""
    training = Training(_config(trial), comm, RunFolder(Path(os.devnull), writes=False))
    parts = training.parts
    if trial.sums == "mpi":
        parts.reducer.fixed = parts.sync.reducer.fixed = False
    training.record.open()
    figures, ends = [], [perf_counter()]
    quiet = np.errstate(over="ignore", invalid="ignore", divide="ignore")
    with quiet, context.using(backend=parts.backend, ledger=training.record.ledger):
        for batch in islice(parts.data.train.endless(), trial.steps):
            figures.append(_digest(np.array(training.step(batch))))
            ends.append(perf_counter())
        parts.buffers.use_means()
        copies = parts.buffers.state_dict()
        tensors = state.capture(parts.model, parts.update.state_dict(), copies)
    # The first steps compile, capture, and try what drives the exchange.
    seconds = np.diff(ends)[LONGEST if trial.steps > LONGEST else trial.steps // 2 :]
    return Outcome(
        figures=figures,
        tensors={name: _digest(value) for name, value in tensors.items()},
        seconds=float(median(seconds)),
        library=comm.library,
        backend=parts.backend,
        shares=parts.sync.reducer.nodes is not None,
    )


def _config(trial: Trial) -> TrainConfig:
    return TrainConfig(
        model=trial.model,
        task=usual_task(registered(trial.model)),
        dataset=trial.dataset,
        data_dir=trial.data_dir,
        batch_size=trial.batch_size,
        micro_batches=trial.micro_batches,
        backend=trial.backend,
        precision=trial.precision,
        threads=trial.threads,
        epochs=trial.steps,  # at least as many as are needed
        log_every=1 << 30,
        hierarchical="auto" if trial.sums == "auto" else "off",
        compare_every=trial.steps if trial.sums != "mpi" else 0,
    )


def _digest(array: np.ndarray[Any, Any]) -> str:
    """Return a hash of the bits of an array."""
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()
