"""Which checkpoint a run goes on from, and with which options."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from itertools import chain, count
from pathlib import Path
from typing import Any

from ...datasets import is_own
from .. import combinations
from .. import config as options
from ..config import AUTO, TrainConfig
from ..distributed.comm import Comm
from ..errors import UserError
from ..files import user_errors
from ..lock import Lock
from ..own_models import pinned
from ..user_code import label, names_code
from . import history
from .checkpoint import CheckpointFolder, load, newest_checkpoint
from .logs import RunFolder
from .memory_copies import newer_in_memory
from .packed import load_state
from .state import State, recorded


@dataclass
class Heritage:
    """What a run goes on with that has lost ranks: the options that it has settled, the record of
    its lock, whose holder may be among the lost, and the checkpoint that it has begun from, for as
    long as it has none of its own."""

    options: dict[str, Any] = field(default_factory=dict)
    lock: str = ""
    source: str = ""

    def settle(self, config: TrainConfig, folder: Path, lock: str, source: str) -> None:
        """Keep what the run has begun with."""
        # On record, so that a run that goes on has as many on whatever number of ranks.
        self.options = {"out": str(folder), "resume": AUTO, "micro_batches": config.micro_batches}
        if config.hierarchical == "on":  # what is left of the nodes may not allow it
            self.options["hierarchical"] = "auto"
        self.lock, self.source = lock, source

    def share(self, comm: Comm) -> None:
        """Take that of rank 0: a rank may have been lost while the others heard of it."""
        text = json.dumps([self.options, self.lock, self.source]).encode()
        self.options, self.lock, self.source = json.loads(comm.bcast_bytes(text))


@contextmanager
def occupy(
    chosen: Mapping[str, Any], comm: Comm, heritage: Heritage | None = None
) -> Iterator[tuple[TrainConfig, Path | None, RunFolder]]:
    """Yield the options of a run, the checkpoint that it goes on from, None for a new run, and its
    folder, held for it until the end. Rank 0 decides for all: others may see older files. With a
    `heritage` the run goes on from that, and settles it. UserError where it would overwrite or mix
    runs, or where another run holds the folder."""
    heritage = heritage or Heritage()
    chosen = {**chosen, **heritage.options}
    with ExitStack() as stack:
        lock, text, out = None, b"", Path(chosen.get("out") or "")
        if comm.rank == 0 and chosen.get("out"):
            # Before anything in it is read: a run that still writes would change it.
            lock = stack.enter_context(Lock(out, inherits=heritage.lock))
        is_auto = chosen.get("resume") == AUTO and bool(chosen.get("out"))
        found = newer_in_memory(comm, out) if is_auto else None
        if comm.rank == 0:
            config, source = _decide(chosen, found, heritage.source)
            config = pinned(config)
            # On record, so that a run that goes on keeps it, on whatever number of ranks.
            config = replace(config, micro_batches=config.micro_batches_on(comm.size))
            lock = lock or stack.enter_context(Lock(_new_folder(config), created=True))
            where = [str(source or ""), str(lock.folder), lock.record]
            text = json.dumps([config.to_json(), *where]).encode()
        values, name, path, record = json.loads(comm.bcast_bytes(text))
        config, folder = TrainConfig(**values), RunFolder(Path(path), comm.rank == 0, lock)
        heritage.settle(config, folder.path, record, name)
        yield config, Path(name) if name else None, folder


def _new_folder(config: TrainConfig) -> Path:
    """Make a folder that no other run has, named after the model, the data set and the time."""
    name = f"{label(config.model)}-{label(config.dataset)}-{time.strftime('%Y%m%d-%H%M%S')}"
    for suffix in chain([""], map("-{}".format, count(2))):
        path = Path("runs", name + suffix)
        with user_errors(path), suppress(FileExistsError):
            path.mkdir(parents=True)
            return path
    raise AssertionError("count ended")


def _decide(
    chosen: Mapping[str, Any], in_memory: Path | None, begun_from: str = ""
) -> tuple[TrainConfig, Path | None]:
    if chosen.get("data_dir"):
        chosen = {**chosen, "data_dir": str(Path(chosen["data_dir"]).absolute())}
    if is_own(chosen.get("dataset", "")) and not names_code(chosen["dataset"]):
        chosen = {**chosen, "dataset": str(Path(chosen["dataset"]).absolute())}
    config = TrainConfig(**chosen)
    if not config.resume:
        return config, None
    if config.resume == AUTO:
        source = in_memory or _newest(config.out) or (Path(begun_from) if begun_from else None)
    else:
        source = newest_checkpoint(Path(config.resume))
    if source is None:  # a new run, or one killed before its first checkpoint
        print(f"tallygrad: {config.out}: nothing to resume, training starts anew",
              file=sys.stderr, flush=True)  # fmt: skip
        begun = RunFolder(Path(config.out), writes=False).read_json("config.json")
        return _resume(chosen, begun if isinstance(begun, dict) else {}), None
    checkpoint = load_state(source)
    if config.resume != AUTO and config.out:
        step = int(recorded(source, checkpoint.meta, "step", int))
        _refuse_mixing(source, step, Path(config.out))
    return _resume(chosen, recorded(source, checkpoint.meta, "config", dict)), source


def _resume(chosen: Mapping[str, Any], before: Mapping[str, Any]) -> TrainConfig:
    config = options.resume(chosen, before)
    options.refuse_code(config.to_json(), chosen, "the run to resume")
    return combinations.inherit(config, chosen)


def _newest(out: str) -> Path | None:
    """Return the newest checkpoint of a run folder that verifies, None where there is none yet."""
    if not out:
        raise UserError("--resume auto: expected --out with the run folder, got none")
    folder = Path(out) / "checkpoints"
    newest = CheckpointFolder(folder).newest() if os.path.isdir(folder) else None
    if newest is None and any(folder.glob("*.h5")):
        raise UserError(f"--resume auto: no valid checkpoint in {folder}")
    return newest


def _refuse_mixing(source: Path, step: int, out: Path) -> None:
    """UserError where the run folder holds another run, or steps beyond the chosen one."""
    if not RunFolder(out, writes=False).holds():
        return
    folder = out / "checkpoints"
    if source.resolve().parent != folder.resolve():
        raise UserError(f"--out: expected the run folder of {source} or a new one, got {out}")
    newest = CheckpointFolder(folder).newest()
    last = step if newest is None else int(load(newest).meta.get("step", step))
    if last > step:
        raise UserError(
            f"--resume: expected the newest checkpoint of --out, {newest} at step {last}, "
            f"got {source} at step {step}; name another --out to keep the later steps"
        )


def settle(folder: RunFolder, config: TrainConfig, now: State) -> None:
    """Let the folder's log end at the checkpoint, and record the work lost by that where the
    run before died: one that came to its end left a result, one that was stopped says so last."""
    before, earlier = (folder.read_json(f"{n}.json") for n in ("config", "restarts"))
    died = folder.read_json("result.json") is None and bool(folder.holds())
    last = [event.get("event") for event in folder.events(-1)][-1:]
    beyond = folder.rewind(now.step, now.epoch)
    if not config.resume or not folder.writes:
        return
    known = history.restarts(folder.path / "restarts.json", earlier or [])
    if len(known) > len(now.restarts):
        now.restarts = [restart._asdict() for restart in known]
    if died and last != ["stop"]:
        every = before.get("log_every") if isinstance(before, dict) else None
        every = every if isinstance(every, int) and every > 0 else config.log_every
        now.restarts = [*now.restarts, history.lost_work(beyond, now.step, now.seconds, every)]
        folder.write_json("restarts.json", now.restarts)
