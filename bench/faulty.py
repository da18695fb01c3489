"""The trainer with a fault in it: what ranks run in place of `tallygrad.trainer`.

`TALLYGRAD_FAULT` names the fault and the rank that has it, as in `kill:1`. When it comes to step
`AT` that rank writes the time and the names of its MPI's segments of shared memory into the file
`TALLYGRAD_FAULT_MARK` and lets it happen, once.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tallygrad.autograd import Tensor
from tallygrad.launch import reap
from tallygrad.trainer import build, cli, loop
from tallygrad.trainer.components import checkpoint
from tallygrad.trainer.errors import UserError
from tallygrad.trainer.threads import launched_rank

AT = 6
OUTSIDE = 0.3  # seconds of a step, while something outside happens


class Injected(Exception):
    """A fault that was asked for."""


def mark() -> None:
    """Say that the fault happens now."""
    path = Path(os.environ["TALLYGRAD_FAULT_MARK"])
    part = path.with_suffix(f".{os.getpid()}")
    part.write_text(json.dumps([time.time(), sorted(reap.segments())]))
    part.rename(path)  # whole at once: somebody waits for it


def at_step(happen: Callable[[], None]) -> None:
    """Let something happen at the beginning of step `AT`."""
    step = loop.Training.step

    def wrapped(self: loop.Training, batch: Any) -> list[float]:
        if self.state.step == AT:
            mark()
            happen()
        return step(self, batch)

    loop.Training.step = wrapped  # type: ignore[method-assign]


def kill(number: int) -> None:
    """Send this rank a signal that it cannot handle."""
    at_step(lambda: os.kill(os.getpid(), number))


def backward() -> None:
    """Raise in the backward pass."""
    whole = Tensor.backward
    calls = []

    def wrapped(self: Tensor, *arguments: Any, **named: Any) -> None:
        calls.append(1)
        if len(calls) > AT:
            mark()
            raise Injected("backward")
        whole(self, *arguments, **named)

    Tensor.backward = wrapped  # type: ignore[method-assign]


def loader() -> None:
    """Raise in the thread that reads the data."""
    load = build.load_data

    def wrapped(*arguments: Any) -> build.Data:
        data = load(*arguments)
        source, calls = data.train.dataset, []
        read = source.read

        def reading(indices: Any) -> Any:
            calls.append(1)
            if len(calls) > AT:
                mark()
                raise Injected("loader")
            return read(indices)

        object.__setattr__(source, "read", reading)
        return data

    build.load_data = wrapped  # type: ignore[assignment]


def disk() -> None:
    """Note when a checkpoint cannot be written: the disk is full in truth."""
    write = checkpoint.write

    def wrapped(*arguments: Any) -> None:
        try:
            write(*arguments)
        except UserError:
            mark()
            raise

    checkpoint.write = wrapped  # type: ignore[assignment]


def mismatch() -> None:
    """Build another model than the other ranks."""
    create = build.create_model

    def wrapped(name: str, *rest: Any) -> Any:
        mark()
        return create("lenet", *rest)

    build.create_model = wrapped  # type: ignore[assignment]


def memory() -> None:
    """Take memory until there is none, as a leak does where `ulimit -v` limits it."""

    def leak() -> None:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = pages * resource.getpagesize() + (64 << 20)
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        taken: list[bytearray] = []
        while True:
            taken.append(bytearray(1 << 20))

    at_step(leak)


def outside() -> None:
    """Tell the one outside to act, and go slowly from then on."""
    step = loop.Training.step

    def wrapped(self: loop.Training, batch: Any) -> list[float]:
        if self.state.step == AT and self.comm.rank == 0:
            mark()
        if self.state.step >= AT:
            time.sleep(OUTSIDE)
        return step(self, batch)

    loop.Training.step = wrapped  # type: ignore[method-assign]


def slow() -> None:
    """Let each step take as long as that of a large model."""
    step = loop.Training.step

    def wrapped(self: loop.Training, batch: Any) -> list[float]:
        time.sleep(float(os.environ["TALLYGRAD_FAULT_SECONDS"]))
        return step(self, batch)

    loop.Training.step = wrapped  # type: ignore[method-assign]


FAULTS: dict[str, Callable[[], None]] = {
    "kill": lambda: kill(signal.SIGKILL),
    "stop": lambda: kill(signal.SIGSTOP),
    "backward": backward,
    "loader": loader,
    "disk": disk,
    "mismatch": mismatch,
    "memory": memory,
    "outside": outside,
    "slow": slow,
}


def main() -> int:
    """Run the trainer with the fault, if this is the rank to have it."""
    kind, _, rank = os.environ.get("TALLYGRAD_FAULT", "").partition(":")
    if kind and int(rank or -1) in (-1, launched_rank(os.environ)):
        FAULTS[kind]()
    return cli.main(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
