"""The kill storm: a supervised run of which a random rank is killed again and again.

`python -m bench storm --steps 4000 -- --model resnet20 --dataset cifar10 --data-dir DATA` runs the
trainer's options after `--` undisturbed and through a storm. It tells whether the final weights are
equal, the steps lost to each kill, and the goodput: the time that the steps take undisturbed, as
measured before and after, over the time of the storm. With `--step-seconds` each step waits too, as
if the model were larger: what else runs on this host then changes little. The run to compare the
weights with does not wait.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import tempfile
import threading
import time
import uuid
from collections.abc import Sequence
from contextlib import suppress
from math import inf
from pathlib import Path
from typing import Any

from .options import BenchParser, counted, positive
from .trial import TRIAL, left_of, processes_of, start, weights

TIMED = 200  # undisturbed steps that tell how long one takes
RANKS = ("PMI_RANK", "OMPI_COMM_WORLD_RANK")


class Storm:
    """Kills a random rank of a trial every `pause` seconds, in a thread, for `limit` seconds or
    until the run ends. `kills` has the seconds and the rank of each; `step` is where the run in
    the folder `out` was at the end of the storm, after `seconds`."""

    def __init__(self, trial: str, out: Path, pause: float, limit: float, seed: int) -> None:
        self.kills: list[tuple[float, int]] = []
        self.step, self.seconds = 0, 0.0
        self._trial, self._out, self._random = trial, out, random.Random(seed)
        self._pause, self._limit, self._begun = pause, limit, time.monotonic()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def end(self) -> None:
        """End the storm."""
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._over.wait(self._pause) and self._elapsed < self._limit:
            if ranks := self._ranks():
                rank = self._random.choice(sorted(ranks))
                with suppress(OSError):
                    os.kill(ranks[rank], 9)
                    self.kills.append((round(self._elapsed, 1), rank))
        self.seconds = self._elapsed
        with suppress(OSError, IndexError):  # a run may end before its first step
            self.step = steps_of(self._out)[-1]["step"]

    @property
    def _elapsed(self) -> float:
        return time.monotonic() - self._begun

    def _ranks(self) -> dict[int, int]:
        """Return the process of each rank, as far as they have started."""
        named = ((env.get(name, ""), p) for p, env in processes_of(self._trial) for name in RANKS)
        return {int(rank): process for rank, process in named if rank.isdecimal()}


def launch(how: str, flags: list[str], command: list[str], **env: str) -> float:
    """Run the launcher, whose errors go to stderr; return the seconds it took."""
    begun = time.monotonic()
    job = start(how, flags, command, **env)
    assert job.stderr is not None
    for line in job.stderr:
        if line.startswith("tallygrad: "):
            print(f"{time.monotonic() - begun:7.1f} {line}", end="", flush=True)
    if job.wait():
        raise subprocess.CalledProcessError(job.returncode, job.args)
    return time.monotonic() - begun


def steps_of(out: Path) -> list[dict[str, Any]]:
    """Return the steps in the log of a run, without a line that is still being written."""
    lines = (out / "log.jsonl").read_text().splitlines(keepends=True)
    events = [json.loads(line) for line in lines if line.endswith("\n")]
    return [event for event in events if event["event"] == "step"]


def step_seconds(out: Path) -> float:
    """Return the seconds that a run has taken for a step, without its first steps."""
    steps = steps_of(out)
    first, last = steps[len(steps) // 4], steps[-1]
    return float((last["seconds"] - first["seconds"]) / (last["step"] - first["step"]))


def report(out: Path, storm: Storm, wall: float, step: float, trial: str) -> str:
    """Return what came of a storm, in a run that took `wall` seconds, of steps that take so many
    seconds undisturbed."""
    log = out / "restarts.json"  # absent where nothing was lost
    restarts = json.loads(log.read_text()) if log.exists() else []
    lost = [restart["reached"] - restart["step"] for restart in restarts]  # the log has each step
    ranks = [rank for _, rank in storm.kills]
    counts = ", ".join(f"{ranks.count(rank)} of rank {rank}" for rank in sorted(set(ranks)))
    goodput = storm.step * step / storm.seconds
    return "\n".join([
        f"kills {len(ranks)}: {counts}; restarts {len(restarts)}",
        f"steps lost to a kill: {max(lost, default=0)} at most, {sum(lost)} in all: {lost}",
        f"storm: {storm.step} steps in {storm.seconds:.0f} s, goodput {goodput:.1%}",
        f"run: {wall:.0f} s; processes left: {len(left_of(trial))}",
    ])  # fmt: skip


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Return the options."""
    parser = BenchParser("python -m bench storm", description=__doc__, allow_abbrev=False)
    parser.add_argument("--steps", type=counted, required=True)
    parser.add_argument("--step-seconds", type=float, default=0.0, help="seconds a step waits")
    parser.add_argument("--every", type=positive, default=15.0, help="seconds between kills")
    parser.add_argument("--minutes", type=positive, default=inf, help="of the storm (default: all)")
    parser.add_argument("--ranks", type=counted, default=4)
    parser.add_argument("--checkpoint-every", type=int, default=0)
    parser.add_argument("--memory-copy-every", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("trainer", nargs="*", help="options of the trainer")
    return parser.parse_args(arguments)


def run(arguments: Sequence[str]) -> int:
    """Run the storm and print what came of it; return 1 where the weights came out otherwise."""
    options = parse(arguments)
    flags = ["-n", str(options.ranks)]
    words = ["train", *options.trainer, "--max-steps", str(options.steps), "--threads", "1",
             "--epochs", "1000000", "--eval-every", "1000000", "--log-every", "1"]  # fmt: skip
    keeping = ["--checkpoint-every", str(options.checkpoint_every), "--memory-copy-every",
               str(options.memory_copy_every)]  # fmt: skip
    slow = {"TALLYGRAD_FAULT": "slow", "TALLYGRAD_FAULT_SECONDS": str(options.step_seconds)}
    with tempfile.TemporaryDirectory(prefix="storm-") as name:
        calm, out, trial = Path(name, "calm"), Path(name, "storm"), uuid.uuid4().hex
        launch("run", flags, [*words, "--out", str(calm)])
        env = slow if options.step_seconds else {}

        def undisturbed(when: str) -> float:
            timed = Path(name, when)
            launch("run", flags, [*words, "--max-steps", str(TIMED), "--out", str(timed)], **env)
            seconds = step_seconds(timed)
            print(f"undisturbed {when}: {seconds:.3f} s a step", flush=True)
            return seconds

        before = undisturbed("before")
        storm = Storm(trial, out, options.every, 60 * options.minutes, options.seed)
        patient = [*flags, "--retries", "50", "--backoff", "0.1"]
        command = [*words, *keeping, "--out", str(out)]
        try:
            wall = launch("run_supervised", patient, command, **env, **{TRIAL: trial})
        finally:
            storm.end()
        step = (before + undisturbed("after")) / 2
        print(report(out, storm, wall, step, trial))
        same = weights(out, options.steps) == weights(calm, options.steps)
    print(f"final weights and optimizer's state equal to the undisturbed run's: {same}")
    return 0 if same else 1
