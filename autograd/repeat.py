"""Calls that are repeated without Python: what a backend's recording needs around it. Inputs are
copied to memory of its own, results from there; books and gradients are kept as ever."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Collection, Iterable, Sequence
from threading import RLock
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np

from . import backends, context
from .array import Array, NDArray, Spec, array
from .backends import Recordable, Recording
from .deferred import compute_all, settle
from .guards import DependencyRecorder, Guards
from .ledger import CallBatch, Ledger
from .live import Lifetimes, PeakMemory
from .memory import memory_limit
from .recent import KINDS, RECORDINGS, Recent
from .tensor import Tensor
from .threads import get_num_threads
from .watch import MAKES, Dispatched

LONG = 4 * RECORDINGS  # calls for which a recording is kept that is not used


def recordable(name: str) -> Recordable | None:
    """Return a backend if its calls can be recorded now: by one thread, and without a limit of
    memory, which the recording's own might exceed."""
    if get_num_threads() > 1 or memory_limit():
        return None
    backend = backends.get(name)
    return backend if isinstance(backend, Recordable) else None


class CallSignature(NamedTuple):
    """What decides which calls are made: which inputs are one and the same, their shapes, how they
    lie, which of them the engine made, where the calls run, and whether they are put on a tape."""

    same: tuple[int, ...]
    specs: tuple[Spec, ...]
    lie: tuple[Any, ...]
    backend: str
    phase: str
    scope: str
    taped: bool


def call_signature(state: context.Context, arrays: Sequence[Array]) -> CallSignature:
    """Return what decides which calls are made."""
    ids = [id(a) for a in arrays]
    same = tuple([ids.index(i) for i in ids])
    specs = tuple([a.spec for a in arrays])
    lie = tuple([(a.root.made, a.value.strides if a.has_numbers else ()) for a in arrays])
    taped = state.tape is not None
    return CallSignature(same, specs, lie, state.backend, state.phase, state.scope, taped)


def check_inputs(inputs: Sequence[Any]) -> None:
    """TypeError for an input that is no tensor."""
    for i, x in enumerate(inputs):
        if not isinstance(x, Tensor):
            raise TypeError(f"trace: input {i} is no tensor but of type {type(x).__name__}")


def opened(result: Any) -> tuple[Sequence[Tensor], type | None]:
    """Return the tensors of a result, and in what they were: None for a single one. TypeError for
    others."""
    container = None if isinstance(result, Tensor) else type(result)
    tensors: Sequence[Tensor] = [result] if container is None else result
    if container not in (None, tuple, list):
        raise TypeError(f"trace: the function must return tensors, not a {container.__name__}")
    for i, t in enumerate(tensors):
        if not isinstance(t, Tensor):
            raise TypeError(f"trace: result {i} is no tensor but of type {type(t).__name__}")
    return tensors, container


class Shared:
    """What all recordings of one function share: their memory, so that they are repeated one at a
    time. After as many as are kept they begin with new memory, which lacks what those needed that
    are gone."""

    def __init__(self) -> None:
        self.lock = RLock()
        self.newest: weakref.ref[Any] | None = None
        self.made = 0

    def recording(self, backend: Recordable) -> Recording:
        """Return a new recording, beside an older one if there is one."""
        beside = self.newest() if self.newest and self.made % RECORDINGS else None
        made = backend.recording(beside)
        self.newest, self.made = weakref.ref(made), self.made + 1
        return made


class Replay:
    """Calls to repeat: from inputs in memory of their own to results there, one call at a time.
    `written` is what they write to besides. A result that is an input, or that comes from elsewhere
    (ids in `foreign`), is given as it is."""

    def __init__(
        self, capture: Capture, results: list[Array], batch: CallBatch, written: Iterable[Array],
        foreign: Collection[int],
    ) -> None:  # fmt: skip
        self.recording, self.lock = capture.recording, capture.shared.lock
        self.inputs, self.batch, self.written = capture.values, batch, [*written]
        inputs = [id(a) for a in capture.inputs]
        self.results: list[int | Array] = []
        self.made: dict[int, tuple[NDArray, bool]] = {}
        for a in results:
            if id(a) in inputs:
                self.results.append(inputs.index(id(a)))
            elif id(a) in foreign:
                self.results.append(a)
            else:
                self.recording.hold(a.value)
                self.made[id(a)] = a.value, a.made
                self.results.append(-1 - [*self.made].index(id(a)))

    def collect(self, inputs: Sequence[Array]) -> list[Array]:
        """Return the results, copies of those that are made."""
        copies = []
        for value, made in self.made.values():
            copies.append(array(value.copy("K")))
            copies[-1].made = made
        found = []
        for where in self.results:
            if isinstance(where, Array):
                found.append(where)
            else:
                found.append(inputs[where] if where >= 0 else copies[-1 - where])
        return found

    def run(self, inputs: Sequence[Array], ledger: Ledger) -> list[Array]:
        """Replay the calls for other inputs of the same shapes."""
        with self.lock:
            for mine, given in zip(self.inputs, inputs, strict=True):
                mine[...] = given.value
            for root in self.written:
                settle(root)
            self.recording.repeat()
            for root in self.written:
                root.written()
            made = self.collect(inputs)
        ledger.count_batch(self.batch)
        return made


class Capture:
    """A `with` block in which calls are recorded: run them on `inputs`, then call `end`."""

    def __init__(self, backend: Recordable, shared: Shared, given: Sequence[Array]) -> None:
        self.shared, self.given = shared, given
        compute_all()
        self.recording = shared.recording(backend)
        self.values = [np.array(a.value, order="K") for a in given]
        self.inputs = [array(value) for value in self.values]
        for mine, a in zip(self.inputs, given, strict=True):
            mine.made = a.root.made
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
        self, results: list[Array], batch: CallBatch, written: Iterable[Array],
        foreign: Collection[int],
    ) -> Replay:  # fmt: skip
        """Return what was recorded, with these results, which are in `results` then."""
        for a in results:
            a.realize()
        repeat = Replay(self, results, batch, written, foreign)
        self.results = repeat.collect(self.given)
        return repeat

    def give_back(self) -> None:
        """Write what became of the inputs to where they came from."""
        for mine, a in zip(self.values, self.given, strict=True):
            a.write(mine)


class StepRecorder(DependencyRecorder):
    """Watches a step of training: what it is filed under, what it makes, which leaves get their
    gradients, and whether it could be repeated (`refused` tells why not)."""

    training = True

    def __init__(self, inputs: Sequence[Array], ledger: Ledger, recording: Recording) -> None:
        super().__init__(inputs, ledger)
        self.recording = recording
        self.keys: list[Any] = []
        self.lifetimes = Lifetimes()
        self.given: dict[int, Array] = {}  # from elsewhere
        self.leaves: list[Tensor] = []
        self.refused = ""

    def add(self, call: Dispatched) -> None:
        """Take down what a call is filed under and what it makes."""
        super().add(call)
        self.keys.append(call.key)
        self.lifetimes.add(call)
        self.given.update((id(a), a) for a in call.args if not self.makes(a))

    def refuse(self, what: str) -> None:
        """Remember that calls would not do the same again."""
        self.refused = self.refused or what

    def deliver(self, leaf: Tensor) -> None:
        """Take down a leaf that gets its gradient, the first one, in a flat buffer."""
        if leaf.slot is None or leaf.grad is not None or leaf.hooks:
            self.refuse("delivers a gradient to a tensor with another, with hooks or without slot")
        else:
            self.leaves.append(leaf)

    def announce(self, leaf: Tensor) -> None:
        """Tell those who wait for a gradient, now and in each repetition."""
        slot, state = leaf.slot, context.current()

        def told() -> None:
            if slot is not None:
                leaf.grad = Tensor(slot)
            fields = {"phase": state.phase, "scope": state.scope, "tape": state.tape}
            with context.using(observer=None, **fields):
                leaf.announce()

        self.recording.effect(told)

    def check(self) -> None:
        """Find out, behind the function, what its calls would not do again."""
        if self.writes_inputs:
            self.refuse("writes to an input")
        if any(p.grad is None or p.grad.data is not p.slot for p in self.leaves):
            self.refuse("takes a gradient away again; do so around the call")
        if self.recording.spoiled:
            self.refuse("has something computed by others, or for others")

    def survivors(self) -> None:
        """Find arrays that outlive the function, which would not be made anew; give them memory of
        their own."""
        for r in self._made.values():
            a = r()
            if a is None:
                continue
            self.refuse("keeps a tensor that it computes")
            if a.has_numbers and self.recording.owns(a.value):
                a.detach()


class CapturedLeaf(NamedTuple):
    """A leaf, where its gradient goes, and whether somebody waits for it."""

    tensor: Tensor
    slot: Array
    told: bool

    def untouched(self) -> bool:
        """Tell whether it is as it was before the step that was recorded: without a gradient, which
        would be added to, without hooks, and with somebody or nobody who waits."""
        p = self.tensor
        as_it_was = p.grad is None and p.slot is self.slot and p.requires_grad
        return as_it_was and not p.hooks and bool(p.post_grad_hooks) == self.told


class CapturedStep:
    """A step that can be repeated: what it depends on, leaves, and in what its results are; `used`
    is the number of the call that did so last."""

    def __init__(
        self, repeat: Replay, guards: Guards, leaves: Iterable[Tensor], container: type | None
    ) -> None:
        self.repeat, self.guards, self.container = repeat, guards, container
        self.leaves = [
            CapturedLeaf(p, p.slot, bool(p.post_grad_hooks)) for p in leaves if p.slot is not None
        ]
        self.used = 0

    def applies(self) -> bool:
        """Tell whether all is as it was, leaves too."""
        return all([leaf.untouched() for leaf in self.leaves]) and self.guards.hold()

    def run(self, arrays: Sequence[Array], ledger: Ledger) -> Any:
        """Replay it."""
        made = self.repeat.run(arrays, ledger)
        for leaf in self.leaves:
            leaf.tensor.grad = Tensor(leaf.slot)
        return _bare([Tensor(a) for a in made], self.container)


class TrainingTrace:
    """What `trace` returns for a step of training: the first call of a kind runs the function, the
    second one records it, later ones repeat that, if they can."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        # By signature: why calls are not replayed, their recordings (none after the first call),
        # and the peaks of the first call.
        self.refused: Recent[CallSignature, str] = Recent(KINDS)
        self.recorded: Recent[CallSignature, list[CapturedStep]] = Recent(KINDS)
        self.peaks: Recent[CallSignature, CallBatch] = Recent(KINDS)
        self.shared, self.calls = Shared(), 0

    def __call__(self, *inputs: Tensor) -> Any:
        state = context.current()
        check_inputs(inputs)
        if state.observer is not None:
            return self.function(*inputs)  # within another trace
        backend, arrays = recordable(state.backend), [x.data for x in inputs]
        known = all([x.data.has_numbers and not x.requires_grad for x in inputs])
        key = call_signature(state, arrays)
        if backend is None or not known:
            return self._plain(inputs, key, state)
        self.calls += 1
        recorded = self.recorded.find(key)
        for one in recorded or ():
            if one.applies():
                one.used = self.calls
                return one.run(arrays, state.ledger)
        if recorded is None:
            self.recorded[key] = []
        elif (
            self.refused.find(key) is None
            and not any(one.guards.hold() for one in recorded)
            and self._room()
        ):
            return self._record(backend, key, inputs, state.ledger)
        return self._plain(inputs, key, state)

    def _plain(self, inputs: Sequence[Tensor], key: CallSignature, state: context.Context) -> Any:
        """Run the function as it is; in the first call of a kind see what is alive."""
        peaks = self.peaks.find(key)
        if peaks is not None:
            result = opened(self.function(*inputs))
        else:
            watch = PeakMemory(state.ledger)
            with context.using(observer=watch):
                result = opened(self.function(*inputs))
            peaks = self.peaks[key] = CallBatch((), (), watch.lifetimes.peaks())
        state.ledger.count_batch(peaks)
        return _bare(*result)

    def _room(self) -> bool:
        """Make room for another recording: what was not used for long goes."""
        every = [(one.used, key, one) for key, some in self.recorded.all() for one in some]
        if len(every) < RECORDINGS:
            return True
        used, key, oldest = min(every, key=lambda entry: entry[0])
        if self.calls - used > LONG:
            self.recorded[key].remove(oldest)
            return True
        return False

    def _record(
        self, backend: Recordable, key: CallSignature, inputs: Sequence[Tensor], ledger: Ledger
    ) -> Any:
        """Run the function and keep what it does, if it can be done again."""
        with Capture(backend, self.shared, [x.data for x in inputs]) as capture:
            steps = StepRecorder(capture.inputs, ledger, capture.recording)
            with context.using(observer=steps):
                mine = [Tensor(a) for a in capture.inputs]
                tensors, container = opened(self.function(*[mine[i] for i in key.same]))
            made = [t.data for t in tensors]
            if {id(a.root) for a in made} & {id(a) for a in steps.created}:
                steps.refuse(f"returns a tensor that it {MAKES}")
            batch = CallBatch(steps.keys, steps.stashes, steps.lifetimes.peaks())
            ledger.add_peaks(batch.peaks)
            given = {id(a.root) for a in steps.given.values()}
            written = [a for a in steps.written.values() if id(a) in given]
            foreign = {id(a) for a in made if not steps.makes(a)}
            repeat = capture.end(made, batch, written, foreign)
            steps.check()
        if steps.writes_inputs:
            capture.give_back()
        del tensors, made
        steps.survivors()
        if steps.refused:
            self.refused[key] = steps.refused
        else:
            guards = Guards(steps, self.function)
            one = CapturedStep(repeat, guards, steps.leaves, container)
            one.used = self.calls
            self.recorded[key].append(one)
        return _bare([Tensor(a) for a in capture.results], container)


def _bare(tensors: Sequence[Tensor], container: type | None) -> Any:
    """Return tensors without their history, in what they were."""
    bare = {id(t): Tensor(t.data) for t in tensors}
    every = [bare[id(t)] for t in tensors]
    return every[0] if container is None else container(every)
