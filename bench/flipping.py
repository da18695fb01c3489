"""A rank that flips bits of its own memory and messages at known steps of a training, as faulty
hardware would: `python -m bench.flipping PLAN`, under mpirun. Nothing of this is in the trainer."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from tallygrad.autograd import Tensor, context
from tallygrad.trainer.commands.ranks import join
from tallygrad.trainer.components import verified_steps
from tallygrad.trainer.components.logs import RunFolder
from tallygrad.trainer.config import TrainConfig
from tallygrad.trainer.distributed.comm import Comm
from tallygrad.trainer.distributed.verification.trial import FIGURES
from tallygrad.trainer.loop import Training

from .flips import Flip

Numbers = np.ndarray[Any, Any]


def flip_bit(array: Numbers, index: int, bit: int) -> None:
    """Flip a bit of an element; both numbers count around."""
    at = np.unravel_index(index % array.size, array.shape)
    word = np.array(array[at]).reshape(1).view(f"u{array.dtype.itemsize}")
    word ^= np.array(1, word.dtype) << np.array(bit % (8 * array.dtype.itemsize), word.dtype)
    array[at] = word.view(array.dtype)[0]


class Injector:
    """Flips the bits that are planned for this rank. `done` says what was flipped in a step."""

    def __init__(self, training: Training, flips: dict[int, Flip]) -> None:
        self.training, self.flips = training, flips
        self.flip: Flip | None = None
        self.done = ""
        self.calls: dict[str, int] = {}
        self.messages = 0  # received in the step before
        self.turn = 0  # of the sum under way
        self.output: Tensor | None = None
        # Where a flip in what the last layer returns is first seen.
        inputs = training.verification.inputs.names
        self._end = inputs[-1] if inputs else FIGURES
        names = training.parts.model.named_modules()
        self.modules = [(n, m) for n, m in names if n and not [*m.children()]]
        self._patch()

    def begin(self, step: int) -> None:
        """Begin a step, from 1."""
        self.calls, self.done, self.output = {}, "", None
        self.flip = self.flips.get(step)
        self.state("rest")

    def end(self) -> None:
        """End a step."""
        self.messages, self.flip = self.calls.get("message", 0), None

    def is_next(self, place: str, call: int = 0) -> bool:
        """Tell whether the flip of this step is due at the n-th call of a place, from 0."""
        number = self.calls[place] = self.calls.get(place, -1) + 1
        return self.flip is not None and self.flip.place == place and number == call

    def apply(self, array: Numbers, what: str) -> None:
        """Flip the bit of this step."""
        assert self.flip is not None
        flip_bit(array, self.flip.index, self.flip.bit)
        self.done = what

    def state(self, place: str, call: int = 0) -> None:
        """Flip a bit of weights, optimizer, statistics or gradients, where one is due here."""
        if not self.is_next(place, call) or self.flip is None:
            return
        parts, kind = self.training.parts, self.flip.kind
        if kind == "statistics":
            copies = parts.buffers.copies[self.flip.index % len(parts.buffers.copies)]
            which = self.flip.index % len(copies)
            self.apply(copies[which].value, parts.buffers.names[which])
            return
        arrays = {"weights": parts.flat.data, "gradients": parts.flat.grad}
        (group,) = parts.update.optimizer.groups
        array = arrays[kind] if kind in arrays else group.slots()["velocity"]
        index = self.flip.index % array.value.size
        self.apply(array.value, parts.names[_last(parts.flat.offsets, index)])

    def _patch(self) -> None:
        training = self.training
        checker = training.verification
        run, update = checker._run, training.parts.update.step

        def running(branch: Any, batch: Any, sync: Any, use: Any) -> Any:
            self.state("before branch")
            if self.is_next("input"):
                self.apply(batch.images, self._reader(-1))
            rows = run(branch, batch, sync, use)
            self.state("after branch")
            self.state("after other branch", call=1)
            return rows

        def updating() -> None:
            self.state("before update")
            self.state("before second update", call=1)
            update()
            self.state("after update")
            self.state("after second update", call=1)

        checker._run = running  # type: ignore[method-assign]
        training.parts.update.step = updating  # type: ignore[method-assign]
        if any(flip.kind == "activations" for flip in self.flips.values()):
            self._patch_modules()
        if training.comm.size > 1:
            self._patch_messages(type(training.comm))

    def _patch_modules(self) -> None:
        for index, (_, module) in enumerate(self.modules):
            module.forward = self._forward(index, module.forward)  # type: ignore[method-assign]
        backward = Tensor.backward

        def sweeping(tensor: Tensor, *arguments: Any) -> None:
            if self.output is not None and self.is_next("saved"):
                self.apply(self.output.array.value, self._reader(self._chosen()))
            backward(tensor, *arguments)

        Tensor.backward = sweeping  # type: ignore[method-assign, assignment]

    def _chosen(self) -> int:
        assert self.flip is not None
        return self.flip.index % len(self.modules)

    def _reader(self, index: int) -> str:
        """Return the layer that reads what a module returns, with its batch norm."""
        later = [(name, m) for name, m in self.modules[index + 1 :] if [*m.parameters()]]
        names = [name for name, _ in later[:1]] or [self._end]
        return " or ".join(names + [name for name, m in later[1:2] if [*m.buffers()]])

    def _forward(self, index: int, forward: Callable[..., Any]) -> Callable[..., Any]:
        def calling(*arguments: Any) -> Any:
            result = forward(*arguments)
            if self.flip is not None and self.flip.kind == "activations" and not self.done:
                if index == self._chosen() and self.is_next("forward"):
                    self.apply(result.array.value, self._reader(index))
                elif index == self._chosen():
                    self.output = result
            return result

        return calling

    def _patch_messages(self, kind: Any) -> None:
        """Flip bits of what collectives leave on this rank."""
        gradients = self.training.verification._gradients
        add = gradients._sum

        def adding(reducer: Any, values: Any, rows: Any, turn: int) -> Any:
            self.turn = turn
            return add(reducer, values, rows, turn)

        setattr(gradients, "_sum", adding)  # noqa: B010

        def wrap(name: str, received: Callable[[Any, tuple[Any, ...]], Any]) -> None:
            method = getattr(kind, name)

            def calling(comm: Any, *arguments: Any, **options: Any) -> Any:
                result = method(comm, *arguments, **options)
                self._receive(name, received(result, arguments))
                return result

            setattr(kind, name, calling)

        wrap("allgather", lambda result, arguments: result)
        wrap("sendrecv", lambda result, arguments: arguments[1])
        for name in ("ialltoall", "iallgather"):
            wrap(name, lambda result, arguments: result)

    def _receive(self, name: str, received: Any) -> None:
        array = received[1] if isinstance(received, tuple) else received
        if not array.size:
            return
        chosen = self.flip is not None and self.flip.place == "message" and self.messages
        call = self.flip.call % self.messages if self.flip and chosen else 0
        if not self.is_next("message", call) or not chosen or self.flip is None:
            return
        if isinstance(received, tuple):  # in flight
            received[0].wait()
            received[0].wait = lambda: None
            received[0].test = lambda: True
        data = array.reshape(-1).view(np.uint8)
        self.apply(data, self._content(name, array, self.flip.index % data.size))

    def _content(self, name: str, array: Numbers, byte: int) -> str:
        """Return what a byte of an array stands for that a collective of this name has left."""
        parts, comm = self.training.parts, self.training.comm
        if name == "allgather":
            return "digests"
        if name == "sendrecv":
            starts = self.training.verification._statistics._starts
            return parts.buffers.names[_last(starts, byte % array.shape[1])]
        if array.dtype != parts.flat.dtype:
            return FIGURES
        count, index = parts.flat.data.spec.size, byte // array.itemsize
        width = array.shape[1]
        if name == "ialltoall":
            index = comm.rank * width + index % width
        if index >= count:
            return "padding"
        return parts.names[_last(parts.flat.offsets, (index - self.turn * width) % count)]


def _last(starts: Sequence[int], index: int) -> int:
    """Return the last of ascending numbers that is not above another one."""
    return int(np.searchsorted(starts, index, side="right")) - 1


def work(comm: Comm, plan: dict[str, Any]) -> None:
    """Train as planned; rank 0 writes a line per step: digest of all ranks' state, what was flipped
    on each rank, and the faults that were reported."""
    training = Training(TrainConfig(**plan["config"]), comm, RunFolder(Path(os.devnull), False))
    flips = [Flip(**fields) for fields in plan["flips"]]
    mine = {flip.step: flip for flip in flips if flip.rank == comm.rank}
    lines: list[str] = []
    setattr(verified_steps, "warn", lines.append)  # noqa: B010
    training.record.open()
    injector = Injector(training, mine)
    out = open(plan["out"], "w") if comm.rank == 0 else None  # noqa: SIM115
    quiet = np.errstate(all="ignore")
    with quiet, context.using(backend=training.parts.backend, ledger=training.record.ledger):
        for step, batch in enumerate(islice(training.parts.data.train.endless(), plan["steps"]), 1):
            injector.begin(step)
            figures = training.step(batch)
            injector.end()
            texts = comm.gather_bytes(_facts(training, figures, injector.done))
            if out is not None:
                facts = [json.loads(text) for text in texts]
                state = hashlib.sha256("".join(f["state"] for f in facts).encode()).hexdigest()
                done = [fact["done"] for fact in facts]
                print(json.dumps({"state": state, "done": done, "lines": lines}), file=out)
                lines.clear()
    if out is not None:
        out.close()


def _facts(training: Training, figures: list[float], done: str) -> bytes:
    parts = training.parts
    state = hashlib.sha256(np.array(figures).tobytes())
    state.update(parts.flat.data.value.tobytes())
    for group in parts.update.optimizer.groups:
        for slot in group.slots().values():
            state.update(slot.value.tobytes())
    for copies in parts.buffers.copies:
        for copy in copies:
            state.update(copy.value.tobytes())
    return json.dumps({"state": state.hexdigest(), "done": done}).encode()


def main() -> None:
    """Run as one of the ranks."""
    plan = json.loads(Path(sys.argv[1]).read_text("utf-8"))
    with join("flips", 1, {}, "take a smaller model") as (comm, _):
        work(comm, plan)


if __name__ == "__main__":
    main()
