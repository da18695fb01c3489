"""Programs: the calls of a traced function, run again without the function's Python."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

from ..array import Array, array
from ..deferred import Call, compute
from ..ledger import CallBatch, Ledger
from ..primitive import CallInfo, Primitive, perform
from .guards import DependencyRecorder, Guards
from .observer import Dispatched, Renewal
from .peak_memory import Lifetimes
from .replay import Replay

Indices: TypeAlias = tuple[int, ...]


class TracedCall(NamedTuple):
    """One call.

    It has the indices of its operands and results among the arrays of the program, its key in the
    ledger, and the indices (`done`) that no later call reads."""

    primitive: Primitive
    info: CallInfo
    operands: Indices
    results: Indices
    key: Any
    done: Indices


class KernelCall(NamedTuple):
    """One call reduced to its kernel."""

    call: Call
    operands: Indices
    results: Indices
    done: Indices


class CallRecorder(DependencyRecorder):
    """Records the calls that are dispatched; arrays are numbered in the order of their first
    use."""

    def __init__(
        self,
        inputs: Sequence[Array],
        ledger: Ledger,
        function: Callable[..., Any],
        strict: bool = True,
    ) -> None:
        super().__init__(inputs, ledger, function)
        self.strict, self.refused = strict, ""
        self.arrays: list[Array] = []
        self.calls: list[TracedCall] = []
        self._indices: dict[int, int] = {}
        self.lifetimes = Lifetimes()
        self.renewals: dict[int, Renewal] = {}
        self.input_indices = [self.index(a) for a in inputs]

    def index(self, a: Array) -> int:
        """Return the index of an array, which is appended if it is new."""
        index = self._indices.setdefault(id(a), len(self.arrays))
        if index == len(self.arrays):
            self.arrays.append(a)  # keeps it alive, so that no other array gets its id
        return index

    def add(self, call: Dispatched) -> None:
        """Record a call."""
        super().add(call)
        self.lifetimes.add(call)
        indices = tuple(map(self.index, call.args)), tuple(map(self.index, call.results))
        self.calls.append(TracedCall(call.primitive, call.info, *indices, call.key, ()))

    def reads_narrow(self, weights: Array, renew: Renewal) -> None:
        """Record what renews the copy before the calls; after they have changed the weights,
        renewing is one of them."""
        changed = self.has_written(weights)
        renew(changed)
        if not changed:
            self.renewals[id(weights)] = renew

    def refuse(self, what: str) -> None:
        """Remember the first reason why the calls would not do the same again; RuntimeError if
        `strict`."""
        if self.strict:
            super().refuse(what)
        self.refused = self.refused or what


class Program:
    """Calls to run again.

    What is neither an input nor the result of a call, such as a weight, is read anew each time."""

    def __init__(
        self, recorder: CallRecorder, outputs: Sequence[Array], container: type | None,
        guards: Guards,
    ) -> None:  # fmt: skip
        self.container, self.guards = container, guards
        self.renewals = [*recorder.renewals.values()]
        self.replay: Replay | None = None
        self.replayable = not recorder.writes_inputs
        self.inputs, self.outputs = recorder.input_indices, [recorder.index(a) for a in outputs]
        computed = {index for call in recorder.calls for index in call.results}
        dropped = computed | {*self.inputs}
        self.arrays = [None if i in dropped else a for i, a in enumerate(recorder.arrays)]
        read = {id(a.storage) for a in self.arrays if a is not None}
        self.written = [s for s in recorder.written.values() if id(s) in read]
        keys = [call.key for call in recorder.calls]
        self.batch = CallBatch(keys, (), recorder.lifetimes.peaks())
        self.calls = _with_last_uses(recorder.calls, computed, {*self.outputs, *self.inputs})
        self.kernel_calls = self._kernel_calls()

    def _kernel_calls(self) -> list[KernelCall] | None:
        """Return the kernels alone if nothing but numbers passes between them, None otherwise.

        Then nothing is deferred or written in place, and outputs have memory of their own."""
        calls = []
        owned: set[int] = set()
        for primitive, info, operands, results, _, done in self.calls:
            if info.call is None or info.deferral or primitive.writes:
                return None
            calls.append(KernelCall(info.call, operands, results, done))
            if primitive.alias is None:
                owned.update(results)
        return calls if owned.issuperset(self.outputs) else None

    def prepare(self) -> None:
        """Renew the narrow copies of weights that the calls read: do so before they run."""
        for renew in self.renewals:
            renew(False)

    def run(self, inputs: Sequence[Array], ledger: Ledger) -> list[Array]:
        """Run the calls on other inputs of the same shapes."""
        arrays = (
            self._run(inputs)
            if self.kernel_calls is None
            else self._run_kernels(self.kernel_calls, inputs)
        )
        ledger.count_batch(self.batch)
        return [arrays[index] for index in self.outputs]

    def _run(self, inputs: Sequence[Array]) -> list[Any]:
        arrays: list[Any] = self.arrays.copy()
        for index, a in zip(self.inputs, inputs, strict=True):
            arrays[index] = a
        for primitive, info, operands, results, _, done in self.calls:
            computed = perform(primitive, info, tuple([arrays[i] for i in operands]))
            for index, a in zip(results, computed, strict=True):
                arrays[index] = a
            for index in done:
                arrays[index] = None
        return arrays

    def _run_kernels(self, calls: list[KernelCall], inputs: Sequence[Array]) -> dict[int, Array]:
        values: list[Any] = [a if a is None else a.value for a in self.arrays]
        for index, a in zip(self.inputs, inputs, strict=True):
            values[index] = a.value
        for call, operands, results, done in calls:
            computed = compute(call.kernel, [values[i] for i in operands])
            if type(computed) is tuple:
                for index, value in zip(results, computed, strict=True):
                    values[index] = value
            else:
                values[results[0]] = computed
            for index in done:
                values[index] = None
        arrays = {index: array(values[index]) for index in self.outputs}
        for a in arrays.values():
            a.storage.owned = True
        return arrays


def _with_last_uses(
    calls: Sequence[TracedCall], computed: set[int], read: set[int]
) -> list[TracedCall]:
    """Return the calls with the computed arrays that each is the last to use.

    `read` are the indices that are read after all calls."""
    reversed_calls: list[TracedCall] = []
    for call in reversed(calls):
        done = (computed & {*call.operands, *call.results}) - read
        read = read | done
        reversed_calls.append(call._replace(done=tuple(done)))
    return reversed_calls[::-1]
