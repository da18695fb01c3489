"""A function of tensors whose calls are learned once and then run without its Python: inference on
small batches, where deciding what to do next takes as long as doing it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

from . import context
from .array import Array, array
from .deferred import Call, compute
from .guards import DependencyRecorder, Guards
from .ledger import CallBatch, Ledger
from .live import Lifetimes
from .primitive import CallInfo, Primitive, perform
from .recent import KINDS, RECORDINGS, Recent
from .repeat import (
    CallSignature,
    Capture,
    Replay,
    Shared,
    TrainingTrace,
    call_signature,
    check_inputs,
    opened,
    recordable,
)
from .tensor import Tensor
from .watch import MAKES, Dispatched

Places: TypeAlias = tuple[int, ...]


class TracedCall(NamedTuple):
    """One call: the places of its operands and results, what it is filed under in the ledger, and
    the places that nothing reads any more."""

    primitive: Primitive
    known: CallInfo
    operands: Places
    results: Places
    key: Any
    done: Places


class CallRecorder(DependencyRecorder):
    """Gathers the calls that are dispatched; each array has a place, in order of its first use."""

    def __init__(self, inputs: Sequence[Array], ledger: Ledger) -> None:
        super().__init__(inputs, ledger)
        self.arrays: list[Array] = []
        self.steps: list[TracedCall] = []
        self._places: dict[int, int] = {}
        self.lifetimes = Lifetimes()
        self.given = [self.place(a) for a in inputs]

    def place(self, a: Array) -> int:
        """Return the place of an array."""
        place = self._places.setdefault(id(a), len(self.arrays))
        if place == len(self.arrays):
            self.arrays.append(a)  # which also keeps its id its own
        return place

    def add(self, call: Dispatched) -> None:
        """Take down a call."""
        super().add(call)
        self.lifetimes.add(call)
        places = tuple(map(self.place, call.args)), tuple(map(self.place, call.made))
        self.steps.append(TracedCall(call.primitive, call.info, *places, call.key, ()))


class Program:
    """Calls to run again. What is neither an input nor the result of a call, such as a weight, is
    read anew each time."""

    def __init__(
        self, calls: CallRecorder, outputs: Sequence[Array], container: type | None, guards: Guards
    ) -> None:
        self.container, self.guards = container, guards
        self.repeat: Replay | None = None
        self.repeatable = not calls.writes_inputs
        if {id(a.root) for a in outputs} & {id(a) for a in calls.created}:
            raise RuntimeError(f"trace: the function returns a tensor that it {MAKES}")
        self.inputs, self.outputs = calls.given, [calls.place(a) for a in outputs]
        computed = {place for step in calls.steps for place in step.results}
        dropped = computed | {*self.inputs}
        self.arrays = [None if i in dropped else a for i, a in enumerate(calls.arrays)]
        given = [a for a in self.arrays if a is not None]
        roots = {id(a.root) for a in given}
        self.written = [a for a in calls.written.values() if id(a) in roots]
        keys = [step.key for step in calls.steps]
        self.batch = CallBatch(keys, (), calls.lifetimes.peaks())
        self.steps: list[TracedCall] = []
        read = {*self.outputs, *self.inputs}
        for step in reversed(calls.steps):
            done = (computed & {*step.operands, *step.results}) - read
            read |= done
            self.steps.append(step._replace(done=tuple(done)))
        self.steps.reverse()
        self.bare = self._bare()

    def _bare(self) -> list[tuple[Call, Places, Places, Places]] | None:
        """Return the calls alone, and the places of operands, results and what is done with, if
        numbers are all that passes between them: nothing waits, nothing is written in place,
        outputs have memory of their own. None otherwise."""
        found = []
        own: set[int] = set()
        for primitive, known, operands, results, _, done in self.steps:
            if known.call is None or known.later or primitive.writes:
                return None
            found.append((known.call, operands, results, done))
            if primitive.alias is None:
                own.update(results)
        return found if own.issuperset(self.outputs) else None

    def run(self, inputs: Sequence[Array], ledger: Ledger) -> list[Array]:
        """Run the calls on other inputs of the same shapes."""
        made = self._run(inputs) if self.bare is None else self._run_bare(self.bare, inputs)
        ledger.count_batch(self.batch)
        return [made[place] for place in self.outputs]

    def _run(self, inputs: Sequence[Array]) -> list[Any]:
        arrays: list[Any] = self.arrays.copy()
        for place, a in zip(self.inputs, inputs, strict=True):
            arrays[place] = a
        for primitive, known, operands, results, _, done in self.steps:
            made = perform(primitive, known, tuple([arrays[i] for i in operands]))
            for place, a in zip(results, made, strict=True):
                arrays[place] = a
            for place in done:
                arrays[place] = None
        return arrays

    def _run_bare(self, calls: Any, inputs: Sequence[Array]) -> dict[int, Array]:
        numbers: list[Any] = [a if a is None else a.value for a in self.arrays]
        for place, a in zip(self.inputs, inputs, strict=True):
            numbers[place] = a.value
        for call, operands, results, done in calls:
            made = compute(call.kernel, [numbers[i] for i in operands])
            if type(made) is tuple:
                for place, value in zip(results, made, strict=True):
                    numbers[place] = value
            else:
                numbers[results[0]] = made
            for place in done:
                numbers[place] = None
        made = {place: array(numbers[place]) for place in self.outputs}
        for a in made.values():
            a.made = True
        return made


class InferenceTrace:
    """What `trace` returns; called like the function, with tensors alone."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        self.programs: Recent[CallSignature, list[Program]] = Recent(KINDS)
        self.shared, self.many = Shared(), 0

    def __call__(self, *inputs: Tensor) -> Any:
        state = context.current()
        if state.observer is not None:
            return self.function(*inputs)  # within another trace
        check_inputs(inputs)
        arrays = [x.data for x in inputs]
        key = call_signature(state, arrays)
        for program in self.programs.find(key) or ():
            if program.guards.hold():
                made = self._run(program, arrays, state)
                break
        else:
            made, program = self._learn(arrays, key.same, state.ledger)
            older = (self.programs.find(key) or [])[1 - RECORDINGS :]
            self.programs[key] = [*older, program]
            kept = (p for _, found in self.programs.all() for p in found)
            self.many = sum(p.repeat is not None for p in kept)
        container = program.container
        return Tensor(made[0]) if container is None else container([Tensor(a) for a in made])

    def _run(
        self, program: Program, arrays: list[Array], state: context.Context
    ) -> list[Array]:
        """Run a program, the second time so that it can be repeated without Python."""
        backend = recordable(state.backend)
        if backend is not None and program.repeat is not None:
            return program.repeat.run(arrays, state.ledger)
        if backend is None or not program.repeatable or self.many >= RECORDINGS:
            return program.run(arrays, state.ledger)
        with Capture(backend, self.shared, arrays) as capture:
            made = program.run(capture.inputs, state.ledger)
            foreign = {id(a) for a in program.arrays if a is not None}
            repeat = capture.end(made, program.batch, program.written, foreign)
        if not repeat.recording.spoiled:
            program.repeat, self.many = repeat, self.many + 1
        return capture.results

    def _learn(
        self, arrays: list[Array], same: Places, ledger: Ledger
    ) -> tuple[list[Array], Program]:
        """Run the function once and return its results and the program that it makes."""
        # Under handles of their own inputs are told from what the function has from elsewhere.
        given = [Array(a.spec, a.value if a.has_numbers else None, a.root, -1) for a in arrays]
        inputs = [given[i] for i in same]
        calls = CallRecorder(inputs, ledger)
        with context.using(tape=None, observer=calls):
            result = self.function(*[Tensor(a) for a in inputs])
        tensors, container = opened(result)
        made = [t.data for t in tensors]
        program = Program(calls, made, container, Guards(calls, self.function))
        ledger.add_peaks(program.batch.peaks)
        return made, program


def trace(function: Callable[..., Any], training: bool = False) -> InferenceTrace | TrainingTrace:
    """Return a function that computes what `function`, a model say, computes without a tape, and
    counts the same, but runs its Python once for each combination of backend, phase and input
    shapes; then only the calls that it made. Inputs are tensors; the result is a tensor, or a tuple
    or list of them, without a history.

    Weights are read in each call. Calls are learned anew where tensors have other arrays, and where
    modules or variables that `function` looks at have changed; not where lists or other objects
    have in place (docs/engine.md has the whole list). Start no threads in it. RuntimeError where it
    reads numbers of tensors or draws random ones, on which calls would depend, where it records
    gradients or changes the ledger, and where it writes to or returns tensors that it makes of
    numbers. TypeError for inputs and results that are no tensors.

    With `training` the function may run `backward` to the end: gradients of parameters that lie in
    flat buffers are stored and announced as ever, unless some are there already. Nothing is refused
    then: where calls would not do the same again the function is run as it is, each time.

    On a backend whose calls can be recorded (llvm, with one thread and no limit of memory), later
    calls take no Python at all between those of NumPy. They work in memory of their own, as much as
    the largest one takes.
    """
    return TrainingTrace(function) if training else InferenceTrace(function)
