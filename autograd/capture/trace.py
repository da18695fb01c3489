"""Tracing: run a function of tensors without its Python, which on small batches takes as long as
the arithmetic itself."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

from .. import context
from ..array import Array, Spec
from ..backends import Recordable
from ..dtypes import DType
from ..ledger import CallBatch, Ledger
from ..recent import KINDS, RECORDINGS, Recent
from ..tensor import Tensor
from .guards import Guards
from .observer import FROM_NUMBERS
from .peak_memory import PeakMemory
from .program import CallRecorder, Program
from .replay import Capture, CapturedStep, SharedMemory, StepRecorder, pack, recordable

Tell: TypeAlias = Callable[[str], None]  # what is told of a change of Python's state
LONG = 4 * RECORDINGS  # calls for which a recording is kept that is not used


class CallSignature(NamedTuple):
    """What decides which calls a function makes.

    `same`: which inputs are one and the same; `specs`: their shapes and types; `layouts`: whether
    the engine owns them, and their strides; where the calls run; whether they are put on a tape;
    the type of mixed precision."""

    same: tuple[int, ...]
    specs: tuple[Spec, ...]
    layouts: tuple[Any, ...]
    backend: str
    phase: str
    scope: str
    taped: bool
    autocast: DType | None


def call_signature(state: context.Context, arrays: Sequence[Array]) -> CallSignature:
    """Return what decides which calls are made."""
    ids = [id(a) for a in arrays]
    same = tuple([ids.index(i) for i in ids])
    specs = tuple([a.spec for a in arrays])
    layouts = tuple([(a.storage.owned, a.value.strides if a.has_numbers else ()) for a in arrays])
    taped = state.tape is not None
    where = state.backend, state.phase, state.scope
    return CallSignature(same, specs, layouts, *where, taped, state.autocast)


def _check_inputs(inputs: Sequence[Any]) -> None:
    """TypeError for an input that is no tensor."""
    for i, x in enumerate(inputs):
        if not isinstance(x, Tensor):
            raise TypeError(f"trace: expected a tensor as input {i}, got {type(x).__name__}")


def _unpack(result: Any) -> tuple[Sequence[Tensor], type | None]:
    """Return the tensors of a result and their container, None for a single one. TypeError for
    others."""
    container = None if isinstance(result, Tensor) else type(result)
    tensors: Sequence[Tensor] = [result] if container is None else result
    if container not in (None, tuple, list):
        raise TypeError(f"trace: expected tensors as results, got {container.__name__}")
    for i, t in enumerate(tensors):
        if not isinstance(t, Tensor):
            raise TypeError(f"trace: expected a tensor as result {i}, got {type(t).__name__}")
    return tensors, container


class InferenceTrace:
    """What `trace` returns for inference; called like the function, with tensors alone.

    The first call of a signature traces the function, the second runs its calls and captures them,
    later ones replay the capture where the backend can."""

    def __init__(
        self, function: Callable[..., Any], shared: SharedMemory, strict: bool, tell: Tell
    ) -> None:
        self.function, self.shared = function, shared
        self.strict, self.tell = strict, tell
        self.programs: Recent[CallSignature, list[Program]] = Recent(KINDS)
        # Why calls are not repeated, and what the first call changed of Python's state.
        self.refused: Recent[CallSignature, str] = Recent(KINDS)
        self.changed: Recent[CallSignature, str] = Recent(KINDS)
        self.replays = 0

    def __call__(self, *inputs: Tensor) -> Any:
        state = context.current()
        if state.observer is not None:
            return self.function(*inputs)  # within another trace
        _check_inputs(inputs)
        arrays = [x.array for x in inputs]
        key = call_signature(state, arrays)
        if self.refused.find(key) is not None:
            with context.using(tape=None):
                return pack(*_unpack(self.function(*inputs)))
        for program in self.programs.find(key) or ():
            if program.guards.hold():
                results, container = self._run(program, arrays, state), program.container
                break
        else:
            results, container = self._trace(arrays, key, state.ledger)
        return Tensor(results[0]) if container is None else container(map(Tensor, results))

    def _run(self, program: Program, arrays: list[Array], state: context.Context) -> list[Array]:
        """Run a program; the second time, capture it for replays without Python."""
        program.prepare()
        backend = recordable(state.backend)
        if backend is not None and program.replay is not None:
            return program.replay.run(arrays, state.ledger)
        if backend is None or not program.replayable or self.replays >= RECORDINGS:
            return program.run(arrays, state.ledger)
        with Capture(backend, self.shared, arrays) as capture:
            results = program.run(capture.inputs, state.ledger)
            foreign = {id(a) for a in program.arrays if a is not None}
            replay = capture.end(results, program.batch, program.written, foreign)
        if not replay.recording.spoiled:
            program.replay, self.replays = replay, self.replays + 1
        return capture.results

    def _trace(
        self, arrays: list[Array], key: CallSignature, ledger: Ledger
    ) -> tuple[list[Array], type | None]:
        """Run the function once; return its results and their container. Keep its calls, if they
        can be repeated."""
        # Under new handles, inputs are told from arrays that the function has from elsewhere.
        handles = [Array(a.spec, a.value if a.has_numbers else None, a.owner, -1) for a in arrays]
        inputs = [handles[i] for i in key.same]
        recorder = CallRecorder(inputs, ledger, self.function, self.strict)
        with context.using(tape=None, observer=recorder):
            result = self.function(*[Tensor(a) for a in inputs])
        tensors, container = _unpack(result)
        results = [t.array for t in tensors]
        if recorder.has_created(a.storage for a in results):
            recorder.refuse(f"returns a tensor that it {FROM_NUMBERS}")
        ledger.add_peaks(recorder.lifetimes.peaks())
        if recorder.refused:
            self.refused[key] = recorder.refused
        elif changed := recorder.python.changed():
            self._give_up(key, changed)
        else:
            guards = Guards(recorder, self.function)
            self._keep(key, Program(recorder, results, container, guards))
        return results, container

    def _give_up(self, key: CallSignature, changed: str) -> None:
        """Run the function as it is from now on, if this is its second call: the first may have
        prepared something."""
        if self.changed.find(key) is None:
            self.changed[key] = changed
        else:
            self.refused[key] = changed
            self.tell(changed)

    def _keep(self, key: CallSignature, program: Program) -> None:
        """Keep a program for later calls."""
        older = (self.programs.find(key) or [])[1 - RECORDINGS :]
        self.programs[key] = [*older, program]
        every = (p for _, programs in self.programs.all() for p in programs)
        self.replays = sum(p.replay is not None for p in every)


class TrainingTrace:
    """What `trace` returns for a training step.

    Of each signature, the first call runs the function, the second captures it, and later ones
    replay the capture where they can."""

    def __init__(self, function: Callable[..., Any], shared: SharedMemory, tell: Tell) -> None:
        self.function, self.shared, self.tell = function, shared, tell
        # By signature: why calls are not replayed, their recordings (none after the first call),
        # and the peaks of the first call.
        self.refused: Recent[CallSignature, str] = Recent(KINDS)
        self.captured: Recent[CallSignature, list[CapturedStep]] = Recent(KINDS)
        self.peaks: Recent[CallSignature, CallBatch] = Recent(KINDS)
        self.calls = 0

    def __call__(self, *inputs: Tensor) -> Any:
        state = context.current()
        _check_inputs(inputs)
        if state.observer is not None:
            return self.function(*inputs)  # within another trace
        backend, arrays = recordable(state.backend), [x.array for x in inputs]
        plain = all([x.array.has_numbers and not x.requires_grad for x in inputs])
        key = call_signature(state, arrays)
        if backend is None or not plain:
            return self._run(inputs, key, state)
        self.calls += 1
        steps = self.captured.find(key)
        for step in steps or ():
            if step.applies():
                step.used = self.calls
                return step.run(arrays, state.ledger)
        if steps is None:
            self.captured[key] = []
        elif (
            self.refused.find(key) is None
            and not any(step.guards.hold() for step in steps)
            and self._make_room()
        ):
            return self._capture(backend, key, inputs, state.ledger)
        return self._run(inputs, key, state)

    def _run(self, inputs: Sequence[Tensor], key: CallSignature, state: context.Context) -> Any:
        """Run the function as it is; in the first call of a signature, measure the peaks."""
        peaks = self.peaks.find(key)
        if peaks is not None:
            result = _unpack(self.function(*inputs))
        else:
            observer = PeakMemory(state.ledger)
            with context.using(observer=observer):
                result = _unpack(self.function(*inputs))
            peaks = self.peaks[key] = CallBatch((), (), observer.lifetimes.peaks())
        state.ledger.count_batch(peaks)
        return pack(*result)

    def _make_room(self) -> bool:
        """Make room for another recording, by dropping one that has not been used for LONG
        calls."""
        every = [(step.used, key, step) for key, some in self.captured.all() for step in some]
        if len(every) < RECORDINGS:
            return True
        used, key, oldest = min(every, key=lambda entry: entry[0])
        if self.calls - used > LONG:
            self.captured[key].remove(oldest)
            return True
        return False

    def _capture(
        self, backend: Recordable, key: CallSignature, inputs: Sequence[Tensor], ledger: Ledger
    ) -> Any:
        """Run the function and keep its calls, if they can be replayed."""
        with Capture(backend, self.shared, [x.array for x in inputs]) as capture:
            recorder = StepRecorder(capture.inputs, ledger, self.function, capture.recording)
            with context.using(observer=recorder):
                copies = [Tensor(a) for a in capture.inputs]
                tensors, container = _unpack(self.function(*[copies[i] for i in key.same]))
            results = [t.array for t in tensors]
            if recorder.has_created(a.storage for a in results):
                recorder.refuse(f"returns a tensor that it {FROM_NUMBERS}")
            batch = CallBatch(recorder.keys, recorder.stashes, recorder.lifetimes.peaks())
            ledger.add_peaks(batch.peaks)
            read = {id(a.storage) for a in recorder.foreign.values()}
            written = [s for s in recorder.written.values() if id(s) in read]
            foreign = {id(a) for a in results if not recorder.computed(a)}
            replay = capture.end(results, batch, written, foreign)
            recorder.check()
        if recorder.writes_inputs:
            capture.copy_back()
        del tensors, results  # or they would count as survivors
        recorder.detach_survivors()
        if recorder.refused:
            self.refused[key] = recorder.refused
            if recorder.refused == recorder.changed:
                self.tell(recorder.changed)
        else:
            step = CapturedStep(replay, Guards(recorder, self.function), recorder.leaves, container)
            step.used = self.calls
            self.captured[key].append(step)
        return pack([Tensor(a) for a in capture.results], container)


Traced: TypeAlias = InferenceTrace | TrainingTrace


def _warn(changed: str) -> None:
    warnings.warn(f"trace: the function {changed}; it is run each time", RuntimeWarning, 2)


def trace(
    function: Callable[..., Any],
    training: bool = False,
    beside: Traced | None = None,
    strict: bool = True,
    tell: Tell = _warn,
) -> Traced:
    """Return a function that computes what `function`, a model say, computes, without its Python.

    It computes without a tape and counts the same, but runs the function's Python only once for
    each combination of backend, phase and input shapes; then only the calls that it made. Inputs
    are tensors; the result is a tensor, or a tuple or list of them, without a history.

    Weights are read in each call. Calls are traced anew where tensors have other arrays, and where
    modules or variables that `function` looks at have changed; not where lists or other objects
    have changed in place (docs/tracing.md has the full list). The function must start no threads.

    A function that changes the state of Python, such as attributes of its modules or `random`, is
    run as it is each time; `tell` is called with what it changes, by default for a warning.

    With `training` the function may call `backward`: gradients of parameters that lie in flat
    buffers are stored and announced as usual, unless some are there already. Nothing is refused
    then: where calls would not do the same again, the function is run as it is, each time.

    On a backend whose calls can be recorded (llvm, with one thread and no memory limit), later
    calls take no Python at all between those of NumPy. They work in memory of their own, as much as
    the largest one takes; with `beside`, in that of another traced function, whose results a call
    then may overwrite.

    RuntimeError, if `strict` and not `training`, where the function reads numbers of tensors or
    draws random ones, on which calls would depend, where it records gradients or changes the
    ledger, and where it writes to or returns tensors that it makes of numbers; if not `strict`, it
    is run as it is. TypeError for inputs and results that are no tensors."""
    shared = beside.shared if beside else SharedMemory()
    if training:
        return TrainingTrace(function, shared, tell)
    return InferenceTrace(function, shared, strict, tell)
