"""`tallygrad train`: train a model, alone or on the ranks that a launcher started."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from .. import config
from ..errors import show
from . import ranks

DESCRIPTION = """Train a model: alone, under mpirun, or with `tallygrad launch -n 4 -- train`.
Flags override the file given with --config, which overrides the defaults."""
LESS_MEMORY = "take a smaller --batch-size, more --micro-batches, or more ranks on other hosts"


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add `--config` and a flag for each field of TrainConfig."""
    config.add_flags(parser)


def run(options: dict[str, Any]) -> int:
    """Train, or go on with a training; return the exit status."""
    values = config.gather(options.pop("config"), options)
    with ranks.meet("train", values.get("threads", 0), values, LESS_MEMORY) as (comm, stop):
        from ..components.resume import occupy
        from ..cost.report.ledger import bill, sparsity
        from ..loop import Training
        from ..summary import continuation, outcome

        with occupy(values, comm) as (chosen, source, folder):
            training = Training(chosen, comm, folder, source, stop=stop)
            result = training.run()
        if training.stopped:
            if comm.rank == 0:
                print(continuation(training.state.step, chosen, comm.size, folder.path),
                      file=sys.stderr, flush=True)  # fmt: skip
            return stop.status
        if comm.rank == 0:
            ledger = training.record.total
            table = [bill(ledger), *sparsity(ledger, training.state.step)]
            show("\n" + "\n".join(table) + "\n")
            lines = outcome(result, training.parts.task, folder.path)
            show("\n".join([*lines, *training.timeline.lines]))
    return 0
