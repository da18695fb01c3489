"""`tallygrad train`: train a model, alone or on the ranks that a launcher started."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from .. import config
from ..errors import show, warn
from . import ranks

if TYPE_CHECKING:
    from ..components.logs import RunFolder
    from ..components.resume import Heritage
    from ..config import TrainConfig
    from ..distributed.comm import Comm
    from ..loop import Training
    from ..stop import Stop

DESCRIPTION = """Train a model: alone, under mpirun, or with `tallygrad launch -n 4 -- train`.
Flags override the file given with --config, which overrides --recipe, which overrides the
defaults."""
LESS_MEMORY = "take a smaller --batch-size, more --micro-batches, or more ranks on other hosts"


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add `--config` and a flag for each field of TrainConfig."""
    config.add_flags(parser)


def run(options: dict[str, Any]) -> int:
    """Train, or go on with a training; return the exit status."""
    values = config.gather(options.pop("config"), options, options.pop("recipe"))
    with ranks.arrive(values.get("threads", 0), values) as (comm, stop):
        from ..components.resume import Heritage
        from ..distributed.failures.guard import Shrunk

        heritage, whole = Heritage(), comm
        while True:
            try:
                with ranks.together(comm, "train", values, LESS_MEMORY):
                    status = _train(values, comm, stop, heritage)
            except Shrunk as shrunk:
                comm = shrunk.comm
                stop.says = comm.rank == 0
                if comm.rank == 0:
                    warn(shrunk)
                continue
            if comm is not whole:
                ranks.leave(status)
            return status


def _train(values: dict[str, Any], comm: Comm, stop: Stop, heritage: Heritage) -> int:
    """Train on the ranks of `comm`, which may be what is left of a larger job."""
    from ..components.resume import occupy
    from ..loop import Training

    heritage.share(comm)
    with occupy(values, comm, heritage) as (chosen, source, folder):
        training = Training(chosen, comm, folder, source, stop=stop)
        result = training.run()
    if comm.rank == 0:
        _report(training, result, chosen, folder)
    return stop.status if training.stopped else 0


def _report(
    training: Training, result: Mapping[str, Any], chosen: TrainConfig, folder: RunFolder
) -> None:
    from ..cost.report.ledger import bill, sparsity
    from ..summary import continuation, outcome

    step, ranks = training.state.step, training.comm.size
    if training.stopped:
        print(continuation(step, chosen, ranks, folder.path), file=sys.stderr, flush=True)
        return
    ledger = training.record.total
    show("\n" + "\n".join([bill(ledger), *sparsity(ledger, step)]) + "\n")
    lines = outcome(result, chosen, training.parts.task, folder.path)
    show("\n".join([*lines, *training.timeline.lines]))
