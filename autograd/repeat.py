"""Calls that are repeated without Python: what a backend's recording needs around it. Inputs are
copied to memory of its own, results from there; books and gradients are kept as ever."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from threading import Lock
from types import TracebackType
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from . import backends, context
from .array import Array, NDArray, Spec, array
from .backends import Recordable, Recording
from .deferred import compute_all
from .ledger import Batch, Ledger
from .primitive import Known, Primitive
from .tensor import Tensor
from .threads import get_num_threads
from .watch import MAKES, Watch

Slots: TypeAlias = list[tuple[Tensor, Array]]
MANY = 8  # recordings of one function, each with memory of its own


def recordable(name: str) -> Recordable | None:
    """Return a backend if its calls can be recorded now: by one thread."""
    backend = backends.get(name)
    return backend if isinstance(backend, Recordable) and get_num_threads() == 1 else None


class Kind(NamedTuple):
    """What decides which calls are made: which inputs are one and the same, their shapes, and where
    they run."""

    same: tuple[int, ...]
    specs: tuple[Spec, ...]
    backend: str
    phase: str
    scope: str


def kind(state: context.Context, arrays: Sequence[Array]) -> Kind:
    """Return what decides which calls are made."""
    ids = [id(a) for a in arrays]
    same = tuple([ids.index(i) for i in ids])
    specs = tuple([a.spec for a in arrays])
    return Kind(same, specs, state.backend, state.phase, state.scope)


def still_there(arrays: Sequence[Array]) -> bool:
    """Tell whether what calls read from elsewhere is where they know it."""
    return not any([a.left for a in arrays])


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


class Repeat:
    """Calls to repeat: from inputs in memory of their own to results there, one call at a time."""

    def __init__(
        self, recording: Recording, inputs: list[NDArray], results: list[Array], batch: Batch
    ) -> None:
        self.recording, self.inputs, self.batch = recording, inputs, batch
        self.values = [a.value for a in results]
        self.places = [results.index(a) for a in results]
        self.lock = Lock()

    def run(self, inputs: Sequence[Array], ledger: Ledger) -> list[Array]:
        """Repeat the calls for other inputs of the same shapes."""
        with self.lock:
            for mine, given in zip(self.inputs, inputs, strict=True):
                mine[...] = given.value
            self.recording.repeat()
            made = [array(value.copy("K")) for value in self.values]
        ledger.count_batch(self.batch)
        return [made[place] for place in self.places]


class Repeating:
    """A `with` block in which calls are recorded: run them on `inputs`, then call `end`; behind it,
    `results` are there."""

    def __init__(self, backend: Recordable, inputs: Sequence[Array]) -> None:
        compute_all()
        self.recording = backend.recording()
        self.values = [np.array(a.value, order="K") for a in inputs]
        self.inputs = [array(value) for value in self.values]
        self.results: list[Array] = []

    def __enter__(self) -> Repeating:
        self.recording.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.recording.__exit__(kind, error, trace)

    def end(self, results: list[Array], batch: Batch) -> Repeat:
        """Return what was recorded, with these results."""
        for a in results:
            self.recording.hold(a.value)
        repeat = Repeat(self.recording, self.values, results, batch)
        copies = [array(value.copy("K")) for value in repeat.values]
        self.results = [copies[place] for place in repeat.places]
        return repeat


class Steps(Watch):
    """Watches a step of training: what it is filed under, what it makes, which leaves get their
    gradients, and whether it could be repeated (`refused` tells why not)."""

    training = True

    def __init__(self, ledger: Ledger, recording: Recording) -> None:
        super().__init__(ledger)
        self.recording = recording
        self.keys: list[Any] = []
        self.given: dict[int, Array] = {}  # from elsewhere
        self._made: dict[int, weakref.ref[Array]] = {}
        self.slots: Slots = []
        self.refused = ""

    def add(
        self, primitive: Primitive, known: Known, args: Sequence[Array], made: Sequence[Array],
        key: Any, ledger: Ledger,
    ) -> None:  # fmt: skip
        """Take down what a call is filed under and what it makes."""
        super().add(primitive, known, args, made, key, ledger)
        self.keys.append(key)
        for a in args:
            own = self._made.get(id(a))
            if own is None or own() is not a:
                self.given[id(a)] = a
        self._made.update((id(a), weakref.ref(a)) for a in made)

    def refuse(self, what: str) -> None:
        """Remember that calls would not do the same again."""
        self.refused = self.refused or what

    def deliver(self, leaf: Tensor) -> None:
        """Take down a leaf that gets its gradient, the first one, in a flat buffer."""
        if leaf.slot is None or leaf.grad is not None or leaf.hooks:
            self.refuse("delivers a gradient to a tensor with another, with hooks or without slot")
        else:
            self.slots.append((leaf, leaf.slot))

    def announce(self, leaf: Tensor) -> None:
        """Tell those who wait for a gradient, now and in each repetition."""

        slot = leaf.slot

        def told() -> None:
            if slot is not None:
                leaf.grad = Tensor(slot)
            with context.using(trace=None):
                leaf.announce()

        self.recording.effect(told)

    def settle(self) -> None:
        """Give arrays that outlive the recording memory of their own."""
        for r in self._made.values():
            a = r()
            if a is not None and a.has_numbers:
                a.detach()


class Recorded(NamedTuple):
    """A step that can be repeated: arrays that it has from elsewhere, leaves and where their
    gradients go, and in what its results are."""

    repeat: Repeat
    given: tuple[Array, ...]
    slots: Slots
    container: type | None

    def applies(self) -> bool:
        """Tell whether weights lie where they did, and leaves are as they were before the step:
        without gradients, which would be added to, and without hooks."""
        untouched = [p.grad is None and p.slot is slot and not p.hooks for p, slot in self.slots]
        return all(untouched) and still_there(self.given)

    def run(self, arrays: Sequence[Array], ledger: Ledger) -> Any:
        """Repeat it."""
        made = self.repeat.run(arrays, ledger)
        for leaf, slot in self.slots:
            slot.written()
            leaf.grad = Tensor(slot)
        return _bare([Tensor(a) for a in made], self.container)


class TracedTraining:
    """What `trace` returns for a step of training: the first call of a kind runs the function, the
    second one records it, later ones repeat that, if they can."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        self.refused: dict[Kind, str] = {}  # why a kind of call is not repeated
        self.recorded: dict[Kind, list[Recorded]] = {}  # empty after the first call

    def __call__(self, *inputs: Tensor) -> Any:
        state = context.current()
        check_inputs(inputs)
        backend = None if state.trace is not None else recordable(state.backend)
        arrays = [x.data for x in inputs]
        if backend is None or not all([a.has_numbers for a in arrays]):
            return self.function(*inputs)
        key = kind(state, arrays)
        recorded = self.recorded.get(key)
        for one in recorded or ():
            if one.applies():
                return one.run(arrays, state.ledger)
        known = [one for one in recorded or () if still_there(one.given)]
        if recorded is not None and not known and key not in self.refused:
            return self._record(backend, key, inputs, state.ledger)
        self.recorded.setdefault(key, [])
        return _bare(*opened(self.function(*inputs)))

    def _record(
        self, backend: Recordable, key: Kind, inputs: Sequence[Tensor], ledger: Ledger
    ) -> Any:
        """Run the function and keep what it does, if it can be done again."""
        with Repeating(backend, [x.data for x in inputs]) as repeating:
            steps = Steps(ledger, repeating.recording)
            with context.using(trace=steps):
                mine = [Tensor(a) for a in repeating.inputs]
                tensors, container = opened(self.function(*[mine[i] for i in key.same]))
            made = [t.data for t in tensors]
            if {id(a.root) for a in made} & {id(a) for a in steps.created}:
                steps.refuse(f"returns a tensor that it {MAKES}")
            repeat = repeating.end(made, Batch(steps.keys, steps.stashes))
        del tensors, made
        steps.settle()
        given = (*steps.given.values(),)
        if not still_there(given):
            steps.refuse("reads memory that a tensor has left")
        if sum(map(len, self.recorded.values())) >= MANY:
            steps.refuse(f"is recorded for {MANY} kinds of calls already")
        if steps.refused:
            self.refused[key] = steps.refused
        else:
            self.recorded[key].append(Recorded(repeat, given, steps.slots, container))
        return _bare([Tensor(a) for a in repeating.results], container)


def _bare(tensors: Sequence[Tensor], container: type | None) -> Any:
    """Return tensors without their history, in what they were."""
    bare = [Tensor(t.data) for t in tensors]
    return bare[0] if container is None else container(bare)
