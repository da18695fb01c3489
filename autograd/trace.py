"""A function of tensors whose calls are learned once and then run without its Python: inference on
small batches, where deciding what to do next takes as long as doing it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from . import context
from .array import Array, Spec
from .deferred import Kernel
from .ledger import Batch, Ledger
from .primitive import Known, Primitive, perform
from .tensor import Tensor

Places: TypeAlias = tuple[int, ...]


class Step(NamedTuple):
    """One call: the places of its operands and results, what it is filed under in the ledger, and
    the places that nothing reads any more."""

    primitive: Primitive
    known: Known
    operands: Places
    results: Places
    key: Any
    done: Places


class Calls:
    """Gathers the calls that are dispatched; each array has a place, in order of its first use."""

    def __init__(self, inputs: Sequence[Array]) -> None:
        self.arrays: list[Array] = []
        self.steps: list[Step] = []
        self._places: dict[int, int] = {}
        self.inputs = [self.place(a) for a in inputs]

    def place(self, a: Array) -> int:
        """Return the place of an array."""
        place = self._places.setdefault(id(a), len(self.arrays))
        if place == len(self.arrays):
            self.arrays.append(a)  # which also keeps its id its own
        return place

    def add(
        self, primitive: Primitive, known: Known, args: Sequence[Array], made: Sequence[Array],
        key: Any,
    ) -> None:  # fmt: skip
        """Take down a call."""
        places = tuple(map(self.place, args)), tuple(map(self.place, made))
        self.steps.append(Step(primitive, known, *places, key, ()))


class Program:
    """Calls to run again. What is neither an input nor the result of a call, such as a weight, is
    read anew each time."""

    def __init__(self, calls: Calls, outputs: Sequence[Array]) -> None:
        self.inputs, self.outputs = calls.inputs, [calls.place(a) for a in outputs]
        computed = {place for step in calls.steps for place in step.results}
        dropped = computed | {*self.inputs}
        self.arrays = [None if i in dropped else a for i, a in enumerate(calls.arrays)]
        self.specs = [calls.arrays[place].spec for place in self.outputs]
        self.batch = Batch(step.key for step in calls.steps)
        self.steps: list[Step] = []
        read = {*self.outputs, *self.inputs}
        for step in reversed(calls.steps):
            done = (computed & {*step.operands, *step.results}) - read
            read |= done
            self.steps.append(step._replace(done=tuple(done)))
        self.steps.reverse()
        self.kernels = self._kernels()

    def _kernels(self) -> list[tuple[Kernel, Places, Places, Places]] | None:
        """Return the bare kernels, and the places of operands, results and what is done with, if
        numbers are all that passes between them: nothing waits, nothing is written in place,
        outputs have memory of their own. None otherwise."""
        found = []
        own: set[int] = set()
        for primitive, known, operands, results, _, done in self.steps:
            if known.call is None or known.later or primitive.writes:
                return None
            found.append((known.call.kernel, operands, results, done))
            if primitive.alias is None:
                own.update(results)
        return found if own.issuperset(self.outputs) else None

    def run(self, inputs: Sequence[Array], ledger: Ledger) -> list[Array]:
        """Run the calls on other inputs of the same shapes."""
        ledger.count_batch(self.batch)
        if self.kernels is not None:
            return self._run_kernels(self.kernels, inputs)
        arrays: list[Any] = self.arrays.copy()
        for place, a in zip(self.inputs, inputs, strict=True):
            arrays[place] = a
        for primitive, known, operands, results, _, done in self.steps:
            made = perform(primitive, known, tuple([arrays[i] for i in operands]))
            for place, a in zip(results, made, strict=True):
                arrays[place] = a
            for place in done:
                arrays[place] = None
        return [arrays[place] for place in self.outputs]

    def _run_kernels(self, kernels: Any, inputs: Sequence[Array]) -> list[Array]:
        numbers: list[Any] = [a if a is None else a.value for a in self.arrays]
        for place, a in zip(self.inputs, inputs, strict=True):
            numbers[place] = a.value
        for kernel, operands, results, done in kernels:
            made = kernel(*[numbers[i] for i in operands])
            if type(made) is tuple:
                for place, value in zip(results, made, strict=True):
                    numbers[place] = value
            else:
                numbers[results[0]] = made
            for place in done:
                numbers[place] = None
        values = [np.asarray(numbers[place]) for place in self.outputs]
        return [Array(spec, value) for spec, value in zip(self.specs, values, strict=True)]


class Traced:
    """What `trace` returns; called like the function, with tensors alone."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        self._programs: dict[Any, tuple[Program, type | None]] = {}

    def __call__(self, *inputs: Tensor) -> Any:
        state = context.current()
        if state.trace is not None:
            return self.function(*inputs)  # within another trace
        arrays = [x.data for x in inputs]
        key = _kind(state, arrays)
        found = self._programs.get(key)
        if found is None:
            result, self._programs[key] = self._learn(arrays)
            return result
        program, container = found
        made = [Tensor(a) for a in program.run(arrays, state.ledger)]
        return made[0] if container is None else container(made)

    def _learn(self, arrays: list[Array]) -> tuple[Any, tuple[Program, type | None]]:
        """Run the function once and return its result and the program that it makes."""
        calls = Calls(arrays)
        with context.using(tape=None, trace=calls):
            result = self.function(*[Tensor(a) for a in arrays])
        container = None if isinstance(result, Tensor) else type(result)
        tensors = [result] if container is None else result
        if container not in (None, tuple, list) or not all(isinstance(t, Tensor) for t in tensors):
            kind = type(result).__name__
            raise TypeError(f"trace: the function returned a {kind}, no tensor or tuple of tensors")
        return result, (Program(calls, [t.data for t in tensors]), container)


def _kind(state: context.Context, arrays: Sequence[Array]) -> tuple[Any, ...]:
    """Return what decides which calls are made: where they run, the shapes, and which inputs are
    one and the same."""
    specs: tuple[Spec, ...] = tuple([a.spec for a in arrays])
    ids = [id(a) for a in arrays]
    return state.backend, state.phase, state.scope, specs, tuple([ids.index(i) for i in ids])


def trace(function: Callable[..., Any]) -> Traced:
    """Return a function that computes what `function`, a model say, computes without a tape, and
    counts the same, but runs its Python once for each combination of backend, phase and input
    shapes; then only the calls that it made. Inputs are tensors; the result is a tensor, or a tuple
    or list of them, without a history.

    Weights are read in each call. What else `function` looks at is fixed by the first one: trace
    anew after `train()`, `eval()` or an exchange of parameters. RuntimeError where it reads numbers
    of tensors or draws random ones, on which calls would depend; TypeError for other results.
    """
    return Traced(function)
