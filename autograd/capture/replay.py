"""Replay captured calls without Python.

A backend records the addresses of its kernels and their arguments. Here is what such a recording
needs around it: inputs are copied to memory of its own, results from there, and the ledger and the
gradients are kept as in a plain run."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Collection, Iterable, Sequence
from functools import partial
from threading import RLock
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np

from .. import backends, context
from ..array import Array, NDArray, array
from ..backends import BackendRecording, Recordable
from ..deferred import compute_all, realize_readers
from ..ledger import CallBatch, Ledger
from ..memory import memory_limit
from ..recent import RECORDINGS
from ..storage import Storage
from ..tensor import Tensor
from ..threads import get_num_threads
from .guards import DependencyRecorder, Guards
from .observer import Dispatched, Renewal
from .peak_memory import Lifetimes


def recordable(name: str) -> Recordable | None:
    """Return a backend if its calls can be recorded now, else None.

    That takes one thread, and no memory limit, which the recording's own memory might exceed."""
    if get_num_threads() > 1 or memory_limit():
        return None
    backend = backends.get(name)
    return backend if isinstance(backend, Recordable) else None


class SharedMemory:
    """The memory that all recordings of one function share, which is why they are replayed one at a
    time.

    Every RECORDINGS recordings it starts afresh: the old memory also holds what recordings needed
    that no longer exist."""

    def __init__(self) -> None:
        self.lock = RLock()
        self.newest: weakref.ref[Any] | None = None
        self.count = 0

    def recording(self, backend: Recordable) -> BackendRecording:
        """Return a new recording, beside an older one if there is one."""
        beside = self.newest() if self.newest and self.count % RECORDINGS else None
        recording = backend.recording(beside)
        self.newest, self.count = weakref.ref(recording), self.count + 1
        return recording


class Replay:
    """Calls to replay, from inputs in memory of their own to results there.

    `written` is what they write to besides. A result that is an input, or that comes from elsewhere
    (ids in `foreign`), is returned as it is."""

    def __init__(
        self, capture: Capture, results: list[Array], batch: CallBatch, written: Iterable[Storage],
        foreign: Collection[int],
    ) -> None:  # fmt: skip
        self.recording, self.lock = capture.recording, capture.shared.lock
        self.inputs, self.batch, self.written = capture.values, batch, [*written]
        inputs = [id(a) for a in capture.inputs]
        # Of each result: an array from elsewhere, the position of an input (from 0 up), or of a
        # computed array (from -1 down).
        self.results: list[int | Array] = []
        self.computed: dict[int, tuple[NDArray, bool]] = {}
        for a in results:
            if id(a) in inputs:
                self.results.append(inputs.index(id(a)))
            elif id(a) in foreign:
                self.results.append(a)
            else:
                self.recording.hold(a.value)
                self.computed[id(a)] = a.value, a.storage.owned
                self.results.append(-1 - [*self.computed].index(id(a)))

    def collect(self, inputs: Sequence[Array]) -> list[Array]:
        """Return the results: of those that are computed, copies."""
        copies = []
        for value, owned in self.computed.values():
            copies.append(array(value.copy("K")))
            copies[-1].storage.owned = owned
        results = []
        for source in self.results:
            if isinstance(source, Array):
                results.append(source)
            else:
                results.append(inputs[source] if source >= 0 else copies[-1 - source])
        return results

    def run(self, inputs: Sequence[Array], ledger: Ledger) -> list[Array]:
        """Replay the calls for other inputs of the same shapes."""
        with self.lock:
            for value, a in zip(self.inputs, inputs, strict=True):
                value[...] = a.value
            for storage in self.written:
                realize_readers(storage)
            self.recording.replay()
            for storage in self.written:
                storage.version += 1
            results = self.collect(inputs)
        ledger.count_batch(self.batch)
        return results


class Capture:
    """A `with` block in which calls are recorded: run them on `inputs`, then call `end`."""

    def __init__(
        self, backend: Recordable, shared: SharedMemory, originals: Sequence[Array]
    ) -> None:
        self.shared, self.originals = shared, originals
        compute_all()  # or calls from before the recording would be recorded with it
        self.recording = shared.recording(backend)
        self.values = [np.array(a.value, order="K") for a in originals]
        self.inputs = [array(value) for value in self.values]
        for a, original in zip(self.inputs, originals, strict=True):
            a.storage.owned = original.storage.owned
        self.results: list[Array] = []

    def __enter__(self) -> Capture:
        self.shared.lock.acquire()
        try:
            self.recording.__enter__()
        except BaseException:
            self.shared.lock.release()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self.recording.__exit__(kind, error, trace)
        finally:
            self.shared.lock.release()

    def end(
        self, results: list[Array], batch: CallBatch, written: Iterable[Storage],
        foreign: Collection[int],
    ) -> Replay:  # fmt: skip
        """Return what was recorded; afterwards `results` are the results of this first run."""
        for a in results:
            a.realize()
        replay = Replay(self, results, batch, written, foreign)
        self.results = replay.collect(self.originals)
        return replay

    def copy_back(self) -> None:
        """Write what became of the inputs back to where they came from."""
        for value, original in zip(self.values, self.originals, strict=True):
            original.write(value)


class StepRecorder(DependencyRecorder):
    """Observes a training step.

    It records what calls are filed under, what they compute, which leaves get their gradients, and
    whether the step could be replayed (`refused` tells why not, `changed` what it changes of
    Python's state)."""

    training = True

    def __init__(
        self,
        inputs: Sequence[Array],
        ledger: Ledger,
        function: Callable[..., Any],
        recording: BackendRecording,
    ) -> None:
        super().__init__(inputs, ledger, function)
        self.recording = recording
        self.keys: list[Any] = []
        self.lifetimes = Lifetimes()
        self.foreign: dict[int, Array] = {}  # arrays from elsewhere
        self.renewed: dict[int, Array] = {}  # flat buffers whose narrow copies were read
        self.leaves: list[Tensor] = []
        self.refused = self.changed = ""

    def add(self, call: Dispatched) -> None:
        """Record what a call is filed under and what it computes."""
        super().add(call)
        self.keys.append(call.key)
        self.lifetimes.add(call)
        self.foreign.update((id(a), a) for a in call.args if not self.computed(a))

    def reads_narrow(self, weights: Array, renew: Renewal) -> None:
        """Renew the copy of a flat buffer, now and in each replay; after the calls have changed
        the weights, renewing is one of them."""
        copy = weights.storage.narrow
        if self.has_written(weights):
            renew(True)
        elif id(weights) not in self.renewed or not (copy and copy.is_current(weights)):
            self.renewed[id(weights)] = weights
            self.recording.effect(partial(renew, False))

    def refuse(self, what: str) -> None:
        """Remember the first reason why a replay would not do the same again."""
        self.refused = self.refused or what

    def deliver(self, leaf: Tensor) -> None:
        """Record a leaf that gets its gradient, the first one, in a flat buffer."""
        if leaf.slot is None or leaf.grad is not None or leaf.hooks:
            self.refuse("delivers a gradient to a tensor with another, with hooks or without slot")
        else:
            self.leaves.append(leaf)

    def announce(self, leaf: Tensor) -> None:
        """Call the hooks of a final gradient, now and in each replay."""
        slot, state = leaf.slot, context.current()
        fields = {"phase": state.phase, "scope": state.scope, "tape": state.tape}

        def call_hooks() -> None:
            if slot is not None:
                leaf.grad = Tensor(slot)
            with context.using(observer=None, **fields):
                leaf.announce()

        self.recording.effect(call_hooks)

    def check(self) -> None:
        """Find out, after the function returned, what a replay would not repeat."""
        self.changed = self.python.changed()
        if self.changed:
            self.refuse(self.changed)
        if self.writes_inputs:
            self.refuse("writes to an input")
        if any(p.grad is None or p.grad.array is not p.slot for p in self.leaves):
            self.refuse("takes a gradient away again; do so around the call")
        if self.recording.spoiled:
            self.refuse("has something computed by others, or for others")

    def detach_survivors(self) -> None:
        """Give arrays that outlive the function memory of their own, and refuse: a replay would
        not compute them anew."""
        for a in self.alive():
            self.refuse("keeps a tensor that it computes")
            if a.has_numbers and self.recording.owns(a.value):
                a.detach()


class CapturedLeaf(NamedTuple):
    """A leaf, where its gradient goes, and whether a hook waits for it."""

    tensor: Tensor
    slot: Array
    hooked: bool

    def untouched(self) -> bool:
        """Tell whether a leaf is as it was before the captured step.

        It requires a gradient but has none, its slot is the same, no hook changes its gradient, and
        it has post_grad_hooks only if it had some then."""
        p = self.tensor
        unchanged = p.grad is None and p.slot is self.slot and p.requires_grad
        return unchanged and not p.hooks and bool(p.post_grad_hooks) == self.hooked


class CapturedStep:
    """A training step that can be replayed: its guards, its leaves, and the container of its
    results.

    `used` is the number of the call that replayed it last."""

    def __init__(
        self, replay: Replay, guards: Guards, leaves: Iterable[Tensor], container: type | None
    ) -> None:
        self.replay, self.guards, self.container = replay, guards, container
        self.leaves = [
            CapturedLeaf(p, p.slot, bool(p.post_grad_hooks)) for p in leaves if p.slot is not None
        ]
        self.used = 0

    def applies(self) -> bool:
        """Tell whether nothing has changed, leaves included."""
        return all([leaf.untouched() for leaf in self.leaves]) and self.guards.hold()

    def run(self, arrays: Sequence[Array], ledger: Ledger) -> Any:
        """Replay the step, and give its leaves their gradients."""
        results = self.replay.run(arrays, ledger)
        for leaf in self.leaves:
            leaf.tensor.grad = Tensor(leaf.slot)
        return pack([Tensor(a) for a in results], self.container)


def pack(tensors: Sequence[Tensor], container: type | None) -> Any:
    """Return tensors without their history, in the container that they came in."""
    detached = {id(t): Tensor(t.array) for t in tensors}
    every = [detached[id(t)] for t in tensors]
    return every[0] if container is None else container(every)
