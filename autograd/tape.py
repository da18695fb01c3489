"""The tape: records in execution order, and the reverse sweep over them.

Recording is linear and the sweep iterative, so neither depth nor length of a network is limited by
Python's stack. When the sweep passes the earliest record that reads a leaf, the leaf's gradient is
final and its hooks run: that is where the exchange of gradients between ranks starts, while the
sweep still works."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from itertools import count
from typing import Any, Protocol

from . import context
from .array import Array
from .ops.elementwise import add
from .primitive import Derivative, Primitive, Value, VjpCall


class Leaf(Protocol):
    """What the sweep asks of a tensor that starts a graph."""

    is_parameter: bool

    def deliver(self, gradient: Value) -> None:
        """Take the final gradient of one sweep."""


class Record:
    """One call on the tape.

    It has the operation, the saved arrays that its derivatives name with the versions seen, and
    `sources`: for each argument where its gradient goes, which is a Record with an output position,
    a Leaf with 0, or None.

    A record belongs to the tensors that it produced and refers to earlier records only, never to
    later tensors: a result that is dropped frees its records at once, without a reference cycle."""

    __slots__ = (
        "__weakref__", "attrs", "hooks", "operation", "parametric", "saved", "scope", "seq",
        "sources", "specs", "swept", "tape",
    )  # fmt: skip

    def __init__(
        self, tape: Tape, operation: Operation, sources: tuple[Source | None, ...]
    ) -> None:
        self.seq = next(_numbers)
        self.tape = tape
        self.operation = operation
        self.sources = sources
        self.scope = context.current().scope
        self.attrs: tuple[Any, ...] = ()
        self.specs: tuple[Any, ...] = ()
        self.saved: dict[tuple[str, int], tuple[Array, int]] = {}
        self.hooks: dict[int, list[Callable[[Value], Value | None]]] | None = None
        self.parametric = False
        self.swept = False

    def release(self) -> None:
        """Let go of everything that the sweep no longer needs."""
        self._let_go()
        self.saved, self.sources, self.swept = {}, (), True

    def _let_go(self) -> None:
        for array, _ in self.saved.values():
            array.storage.saved_by -= 1

    def __del__(self) -> None:
        # Only counts: what the record refers to must go after it, or long chains would recurse.
        self._let_go()

    def hold(self, kind: str, position: int, array: Array) -> None:
        """Save an array; file its memory as stashed where no other record holds it yet."""
        storage = array.storage
        self.saved[kind, position] = (array, storage.version)
        storage.saved_by += 1
        # Memory counts once, however many records need it; that of leaves is there anyway.
        if storage.saved_by == 1 and not storage.persistent:
            state = context.current()
            names = (state.scope, state.phase, self.operation.name, state.backend)
            state.ledger.stash(names, storage.spec.nbytes)
            if state.observer is not None:
                state.observer.stashes.append((names, storage.spec.nbytes))

    def take(self, kind: str, position: int) -> Array:
        """Return a saved input or output. RuntimeError where it has been written to since."""
        array, version = self.saved[kind, position]
        current = array.storage.version
        if current != version:
            raise RuntimeError(
                f"{self.scope or 'top level'}: {kind} {position} of {self.operation.name} was "
                f"changed in place (version {current}, recorded {version}) and its "
                "gradient needs it"
            )
        return array


_numbers = count()  # of records, in execution order whatever the tape
Source = tuple[Record | Leaf, int]
Wrap = Callable[[Array, "Source | None"], Value]


class Operation(Protocol):
    """What a record can come from: a primitive, or a stretch of a function that is computed again.

    The latter has `backward(record, grad_outputs, wanted)`, which returns the gradients of its
    sources."""

    name: str


class Tape:
    """Makes records. With `keep=False` nothing is saved, only links."""

    def __init__(self, keep: bool = True) -> None:
        self.keep = keep

    def append(
        self,
        primitive: Primitive,
        arrays: tuple[Array, ...],
        sources: tuple[Source | None, ...],
        results: Sequence[Array],
        attrs: tuple[Any, ...],
    ) -> Record:
        """Record a call of a primitive and save what its wanted derivatives name."""
        record = Record(self, primitive, sources)
        record.attrs, record.specs = attrs, tuple([a.spec for a in arrays])
        # What is computed from parameters and numbers alone, such as a penalty on weights, is work
        # on weights when it is swept.
        parametric = True
        for source, a in zip(sources, arrays, strict=True):
            if source is None:
                parametric = parametric and not a.spec.shape
                continue
            if parametric and not _parametric(source):
                parametric = False
            if not isinstance(source[0], Record):
                a.storage.persistent = True
        record.parametric = parametric
        if self.keep:
            inputs, outputs = primitive.saved_positions(tuple([s is not None for s in sources]))
            for i in inputs:
                record.hold("input", i, arrays[i])
            for i in outputs:
                record.hold("output", i, results[i])
        return record


def _parametric(source: Source) -> bool:
    """Tell whether a source is a parameter, or computed from parameters alone."""
    origin = source[0]
    return origin.parametric if isinstance(origin, Record) else origin.is_parameter


def _for_weights(function: Callable[..., None], *args: Any) -> None:
    """Call a function in the phase of the gradients of weights."""
    token = context.enter(context.current().replace(phase="backward_weights"))
    try:
        function(*args)
    finally:
        context.leave(token)


def reach(roots: Iterable[Record], within: Tape | None = None) -> list[Record]:
    """Return every record that the roots depend on, in execution order: the linear tape of one
    sweep.

    `within` confines it to one tape. RuntimeError where a part of it has been swept already."""
    reached: dict[int, Record] = {}
    stack = list(roots)
    while stack:
        record = stack.pop()
        if record.seq in reached or (within is not None and record.tape is not within):
            continue
        if record.swept:
            raise RuntimeError(
                f"{record.scope or 'top level'}: {record.operation.name} was swept already; "
                "pass retain_graph=True to the first backward"
            )
        reached[record.seq] = record
        stack += [s[0] for s in record.sources if s is not None and isinstance(s[0], Record)]
    return [reached[seq] for seq in sorted(reached)]


class Sweep:
    """One reverse pass over the records that some roots depend on.

    `targets` are the sources whose gradients are asked for (None: deliver to every leaf); `retain`
    keeps the records for another pass; with `wrap`, gradients are tensors and the pass itself is
    recorded; `within` confines it to the records of one tape."""

    def __init__(
        self,
        roots: Sequence[Record],
        targets: Collection[Source] | None = None,
        retain: bool = False,
        wrap: Wrap | None = None,
        within: Tape | None = None,
    ) -> None:
        self.records: list[Record | None] = [*reach(roots, within)]
        self.targets = None if targets is None else {(id(o), i) for o, i in targets}
        self.retain, self.wrap = retain, wrap
        self.gradients: dict[tuple[int, int], Value] = {}
        self.target_gradients: dict[tuple[int, int], Value] = {}
        self.last = self._last_readers()
        self.useful = self._useful()

    def _last_readers(self) -> dict[int, list[Leaf]]:
        """Map the earliest record that reads a leaf, which the sweep passes last, to the leaf."""
        visited: set[int] = set()
        last: dict[int, list[Leaf]] = {}
        for record in self.records:
            for source in record.sources if record else ():
                if source and not isinstance(source[0], Record) and id(source[0]) not in visited:
                    # Records come in execution order and are swept backwards: the first reader is
                    # passed last.
                    visited.add(id(source[0]))
                    last.setdefault(record.seq if record else 0, []).append(source[0])
        return last

    def _useful(self) -> set[int] | None:
        """Return the records that lead to a target, None for all."""
        if self.targets is None:
            return None
        useful: set[int] = set()
        for record in self.records:
            for source in record.sources if record else ():
                if source and self._leads(source, useful):
                    useful.add(id(record))
        return useful

    def _leads(self, source: Source, useful: set[int] | None) -> bool:
        """Tell whether a source is a target or leads to one."""
        if self.targets is None or useful is None:
            return True
        return id(source[0]) in useful or (id(source[0]), source[1]) in self.targets

    def send(self, source: Source, gradient: Value) -> None:
        """Add to the gradient of a source."""
        key = (id(source[0]), source[1])
        earlier = self.gradients.get(key)
        self.gradients[key] = gradient if earlier is None else add(earlier, gradient)

    def run(self) -> dict[tuple[int, int], Value]:
        """Sweep; return the gradients by (id of origin, position).

        They are those of the targets, and of sources beyond the tape that the sweep is confined
        to."""
        state = context.current()
        tape = (state.tape or Tape()) if self.wrap else None
        # The forward pass has chosen the types.
        state = state.replace(phase="backward_data", tape=tape, autocast=None)
        for i in range(len(self.records) - 1, -1, -1):
            record = self.records[i]
            assert record is not None
            self.records[i] = None  # or its saved arrays would live until the sweep ends
            if record.scope != state.scope:
                state = state.within(record.scope)
            token = context.enter(state)
            try:
                self._pass(record)
            finally:
                context.leave(token)
            if not self.retain and (self.useful is None or id(record) in self.useful):
                record.release()
        return {**self.gradients, **self.target_gradients}

    def _pass(self, record: Record) -> None:
        """Pass one record: collect its gradients, send them on, and deliver to leaves that are
        final now."""
        operation: Any = record.operation
        # Whatever reads an output comes later on the tape, so its gradients are complete by now.
        outputs = len(getattr(operation, "outputs", ())) or 1
        grad_outputs = [self._collect(record, k) for k in range(outputs)]
        if any([dy is not None for dy in grad_outputs]):
            flags = [s is not None for s in record.sources]
            if self.targets is not None:
                flags = [s is not None and self._leads(s, self.useful) for s in record.sources]
            if isinstance(operation, Primitive):
                # A primitive's derivatives are called one by one, a recomputed stretch as a whole.
                self._call_vjps(record, operation, grad_outputs, flags)
            else:
                gradients = operation.backward(record, grad_outputs, flags)
                self._send_all(record, range(len(flags)), tuple(gradients), flags)
        for leaf in self.last.get(record.seq, ()):
            gradient = self.gradients.pop((id(leaf), 0), None)
            if self.targets is not None:
                self.target_gradients[id(leaf), 0] = gradient
            elif gradient is not None:
                if leaf.is_parameter:
                    _for_weights(leaf.deliver, gradient)
                else:
                    leaf.deliver(gradient)

    def _collect(self, record: Record, position: int) -> Value | None:
        """Return the finished gradient of an output after its hooks."""
        key = (id(record), position)
        gradient = self.gradients.pop(key, None)
        if gradient is not None:
            for hook in (record.hooks or {}).get(position, ()):
                changed = hook(gradient)
                gradient = gradient if changed is None else changed
        if self.targets is not None and key in self.targets:
            self.target_gradients[key] = gradient
        return gradient

    def _call_vjps(
        self,
        record: Record,
        primitive: Primitive,
        grad_outputs: list[Value | None],
        flags: list[bool],
    ) -> None:
        """Call each derivative that is wanted, in the phase that its arguments decide.

        Gradients of parameters, and of what is computed from parameters alone, count as
        backward_weights."""
        try:
            present = tuple([dy is not None for dy in grad_outputs])
            calls = primitive.vjp_calls(tuple(flags), present)
        except TypeError as error:
            raise RuntimeError(f"{record.scope or 'top level'}: {error}") from None
        sources = record.sources
        for call in calls:
            bound = self._bind(record, primitive, call.derivative, grad_outputs, call.needs)
            # One argument that is no parameter makes the whole call work on data.
            for i in call.wanted:
                source = sources[i]
                if source is not None and not _parametric(source):
                    self._apply(record, call, bound)
                    break
            else:
                _for_weights(self._apply, record, call, bound)

    def _apply(self, record: Record, call: VjpCall, bound: dict[str, Any]) -> None:
        """Call a derivative and send its gradients on."""
        self._send_all(record, call.positions, call.derivative.function(**bound), call.needs)

    def _send_all(
        self, record: Record, positions: Sequence[int], vjp: Value, flags: Sequence[bool]
    ) -> None:
        """Send one gradient, or a tuple of them, to the sources of a record's arguments."""
        gradients = vjp if isinstance(vjp, tuple) else (vjp,)
        for i, gradient, flag in zip(positions, gradients, flags, strict=True):
            source = record.sources[i]
            if source is not None and flag and gradient is not None:
                self.send(source, gradient)

    def _bind(
        self,
        record: Record,
        primitive: Primitive,
        derivative: Derivative,
        grad_outputs: list[Value | None],
        needs: tuple[bool, ...],
    ) -> dict[str, Any]:
        """Return the arguments that the parameters of a derivative name."""
        bound: dict[str, Any] = {
            f"d{primitive.outputs[i]}": grad_outputs[i] for i in derivative.gradients
        }
        last = len(primitive.arguments) - 1 if primitive.variadic else -1
        for i in derivative.inputs:
            if i == last:
                many = range(last, len(record.specs))
                bound[primitive.arguments[i]] = tuple(self._input(record, k) for k in many)
            else:
                bound[primitive.arguments[i]] = self._input(record, i)
        for i in derivative.outputs:
            array = record.take("output", i)
            bound[primitive.outputs[i]] = self.wrap(array, (record, i)) if self.wrap else array
        if derivative.specs:
            bound["specs"] = record.specs
        if derivative.needs:
            bound["needs"] = needs
        for name, index in derivative.attributes:
            bound[name] = record.attrs[index]
        return bound

    def _input(self, record: Record, position: int) -> Value:
        array = record.take("input", position)
        return self.wrap(array, record.sources[position]) if self.wrap else array
