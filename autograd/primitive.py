"""The only door to arithmetic.

A primitive is declared once, with its shape rule, its cost rule, its NumPy reference and its
derivative side by side. `dispatch` counts each call and runs it on the context's backend, so that
no arithmetic can escape the ledger."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from . import backends, context
from .array import Array, Spec
from .capture.observer import Dispatched
from .deferred import Call, DeferralPlan, compute, defer, realize_readers
from .dtypes import plain
from .ledger import Cost
from .nonzeros import NonzeroRule
from .recent import CALLS, Recent

Value: TypeAlias = Any  # an Array, or a Tensor where the call is to be recorded
Infer: TypeAlias = Callable[..., Spec | tuple[Spec, ...]]
CallKey: TypeAlias = tuple[str, tuple[Spec, ...], tuple[Any, ...]]  # backend, specs, attributes
REQUIRED = inspect.Parameter.empty


class Derivative(NamedTuple):
    """How the gradients of some arguments follow from the gradients of the outputs.

    The parameter names of the function say what it is given, and so what the tape keeps: an
    argument, an output, `d<output>` for an incoming gradient (None where none came), `specs` of all
    arguments, `needs` (a flag for each wanted argument), and attributes."""

    function: Callable[..., Any]
    wanted: tuple[int, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    gradients: tuple[int, ...]
    attributes: tuple[tuple[str, int], ...]  # names, and their places among the attributes
    specs: bool
    needs: bool


class VjpCall(NamedTuple):
    """A derivative to call.

    `positions` are the arguments that it serves, `needs` tells which of them want a gradient, and
    `wanted` are the positions of those."""

    derivative: Derivative
    positions: tuple[int, ...]
    needs: tuple[bool, ...]
    wanted: tuple[int, ...]


class CallInfo(NamedTuple):
    """A resolved call: all that follows from shapes, attributes and the backend alone."""

    outputs: tuple[Spec, ...]
    cost: Cost
    backend: str
    call: Call | None
    deferral: DeferralPlan | None


class Primitive:
    """A piece of arithmetic. Calling it on Arrays runs it; on Tensors, the call is also recorded.

    Positional parameters of the reference are arrays; keyword-only ones are attributes, which must
    be hashable. `outputs` names the results; `writes` has the positions of arguments that are
    changed in place (then there is no result); `alias` is the argument whose memory the result
    shares; `phase` is the phase that it counts under within a backward sweep; `differentiable` has
    the positions of the outputs whose gradients some derivative asks for."""

    def __init__(
        self,
        reference: Callable[..., Any],
        infer: Infer,
        cost: Callable[..., Cost],
        outputs: Sequence[str] = ("y",),
        writes: Sequence[int] = (),
        alias: int | None = None,
        phase: str | None = None,
    ) -> None:
        self.reference = reference
        self.name = reference.__name__
        self.__doc__ = reference.__doc__
        self.infer, self.cost = infer, cost
        self.outputs = () if writes else tuple(outputs)
        self.writes, self.alias, self.phase = tuple(writes), alias, phase
        parameters = inspect.signature(reference).parameters.values()
        self.variadic = any(p.kind is p.VAR_POSITIONAL for p in parameters)
        self.arguments = [p.name for p in parameters if p.kind is not p.KEYWORD_ONLY]
        self.defaults = {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}
        self.derivatives: list[Derivative] = []
        self.resolved: Recent[CallKey, CallInfo] = Recent(CALLS)
        self.differentiable: frozenset[int] = frozenset()
        self.nonzero_rule: NonzeroRule | None = None
        self._vjp_calls: Recent[tuple[tuple[bool, ...], ...], tuple[VjpCall, ...]] = Recent(CALLS)
        self._saved_positions: Recent[tuple[bool, ...], tuple[tuple[int, ...], ...]] = Recent(CALLS)

    def vjp(
        self, *wanted: str, reads: Sequence[str] | None = None
    ) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        """Register the vector-Jacobian product for the named arguments (all of them for `*xs`).

        The decorated function returns one gradient, or a tuple of as many as are named. It is
        called with what its parameters name, see `Derivative`; `reads` names them instead for a
        function that takes `**keywords`, such as one with a variable number of outputs. TypeError
        for a name that the primitive does not have."""

        def register(function: Callable[..., Any]) -> Callable[..., Any]:
            names = inspect.signature(function).parameters if reads is None else reads
            self.derivatives.append(self._derivative(function, wanted, [*names]))
            self.differentiable |= {*self.derivatives[-1].gradients}
            return function

        return register

    def nonzeros(self, rule: NonzeroRule) -> NonzeroRule:
        """Register the non-zero rule, which a primitive with MACs may declare.

        From the arguments, the results and the attributes of a call, it returns the products whose
        MACs they are."""
        self.nonzero_rule = rule
        return rule

    def _derivative(
        self, function: Callable[..., Any], wanted: tuple[str, ...], named: list[str]
    ) -> Derivative:
        """Work out what a derivative asks for from the names of its parameters."""
        gradients = [f"d{name}" for name in self.outputs]
        groups = [*self.arguments, *self.outputs, *gradients, *self.defaults]
        known = set(groups)
        if len(known) != len(groups):
            raise TypeError(f"{self.name}: ambiguous names {groups}; give its outputs other names")
        unknown = set(named) - known - {"specs", "needs", "attrs"}
        if unknown or set(wanted) - set(self.arguments):
            raise TypeError(f"{self.name}: its derivative names {sorted(unknown) or wanted}")
        return Derivative(
            function,
            tuple(self.arguments.index(name) for name in wanted),
            tuple(i for i, name in enumerate(self.arguments) if name in named),
            tuple(i for i, name in enumerate(self.outputs) if name in named),
            tuple(i for i, name in enumerate(gradients) if name in named),
            tuple((n, i) for i, n in enumerate(self.defaults) if n in named or "attrs" in named),
            "specs" in named,
            "needs" in named,
        )

    def positions(self, arguments: tuple[int, ...], count: int) -> tuple[int, ...]:
        """Return the positions, among `count` arrays, of declared arguments.

        `*xs` stands for all arrays from its position on."""
        last = len(self.arguments) - 1 if self.variadic else count
        single = [i for i in arguments if i < last]
        return (*single, *(range(last, count) if last in arguments else ()))

    def vjp_calls(self, flags: tuple[bool, ...], present: tuple[bool, ...]) -> tuple[VjpCall, ...]:
        """Return the derivatives to call for some flags, from a cache.

        `flags` tell which arrays need a gradient and `present` which outputs have one. TypeError,
        naming the arguments, where no derivative serves one of them."""
        calls = self._vjp_calls.find((flags, present))
        if calls is None:
            calls = self._vjp_calls[flags, present] = self._find_vjp_calls(flags, present)
        return calls

    def _find_vjp_calls(
        self, flags: tuple[bool, ...], present: tuple[bool, ...]
    ) -> tuple[VjpCall, ...]:
        calls, served = [], set[int]()
        for derivative in self.derivatives:
            positions = self.positions(derivative.wanted, len(flags))
            served.update(positions)
            needs = tuple(flags[i] for i in positions)
            if any(needs) and any(present[i] for i in derivative.gradients):
                wanted = tuple(i for i in positions if flags[i])
                calls.append(VjpCall(derivative, positions, needs, wanted))
        missing = [i for i, flag in enumerate(flags) if flag and i not in served]
        if missing:
            last = len(self.arguments) - 1
            names = ", ".join(self.arguments[min(i, last)] for i in missing)
            raise TypeError(f"{self.name} has no derivative with respect to {names}")
        return tuple(calls)

    def saved_positions(self, flags: tuple[bool, ...]) -> tuple[tuple[int, ...], ...]:
        """Return the positions of the inputs and outputs that the tape must save.

        They are those that derivatives name, where `flags` tell which arrays may be asked for a
        gradient."""
        positions = self._saved_positions.find(flags)
        if positions is None:
            inputs: dict[int, None] = {}
            outputs: dict[int, None] = {}
            for derivative in self.derivatives:
                if any(flags[i] for i in self.positions(derivative.wanted, len(flags))):
                    inputs |= dict.fromkeys(self.positions(derivative.inputs, len(flags)))
                    outputs |= dict.fromkeys(derivative.outputs)
            positions = self._saved_positions[flags] = (*inputs,), (*outputs,)
        return positions

    def attributes(self, attrs: dict[str, Any]) -> tuple[Any, ...]:
        """Return the values of all attributes in their declared order.

        TypeError for a missing or an unknown one."""
        if attrs.keys() == self.defaults.keys():
            return tuple([attrs[name] for name in self.defaults])
        merged = {**self.defaults, **attrs}
        if len(merged) != len(self.defaults) or REQUIRED in merged.values():
            wrong = set(attrs) - set(self.defaults)
            missing = [name for name, value in merged.items() if value is REQUIRED]
            raise TypeError(f"{self.name}: unknown attributes {wrong}, missing {missing}")
        return tuple(merged.values())

    def __call__(self, *args: Value, **attrs: Any) -> Any:
        values = self.attributes(attrs) if self.defaults or attrs else ()
        for a in args:
            if type(a) is not Array:
                return recorder(self, args, values)
        return dispatch(self, args, values)

    def resolve(self, backend: str, specs: tuple[Spec, ...], attrs: tuple[Any, ...]) -> CallInfo:
        """Work out result shapes, cost and kernel for a call that is not cached.

        NumPy's numbers among attributes become Python's. A shape error is raised here, so its
        traceback leads straight to the line that made the call."""
        if not self.variadic and len(specs) != len(self.arguments):
            raise TypeError(f"{self.name} takes {self.arguments}, got {len(specs)} arrays")
        named = dict(zip(self.defaults, plain(attrs), strict=True))
        try:
            result = self.infer(*specs, **named)
        except (TypeError, ValueError) as error:
            # A rule that several primitives share does not know for which one it speaks.
            if str(error).startswith("expected "):
                error.args = (f"{self.name}: {error}",)
            raise
        outputs = (result,) if isinstance(result, Spec) else tuple(result)
        cost = self.cost(result, *specs, **named)
        if self.alias is None:
            results = [*outputs, *[specs[i] for i in self.writes]]
            cost = cost._replace(
                bytes_read=cost.bytes_read or sum(s.nbytes for s in specs),
                bytes_written=cost.bytes_written or sum(s.nbytes for s in results),
            )
        implementation = backends.get(backend).find(self, specs, named)
        if implementation.executed is not None:
            cost = cost._replace(saved=cost.macs - implementation.executed)
        return CallInfo(
            outputs, cost, implementation.name, implementation.call, implementation.deferral
        )

    def __repr__(self) -> str:
        return f"<primitive {self.name}>"


def primitive(
    infer: Infer,
    cost: Callable[..., Cost],
    outputs: Sequence[str] = ("y",),
    writes: Sequence[int] = (),
    alias: int | None = None,
    phase: str | None = None,
) -> Callable[[Callable[..., Any]], Primitive]:
    """Make a Primitive of a NumPy reference.

    `infer(*specs, **attrs)` returns the Specs of the results and raises ValueError or TypeError for
    arguments that do not fit. `cost(results, *specs, **attrs)` returns a Cost; bytes left at zero
    are filled in, each operand and each result once, except for an alias, which moves nothing."""
    return lambda reference: Primitive(reference, infer, cost, outputs, writes, alias, phase)


def dispatch(primitive: Primitive, args: tuple[Array, ...], attrs: tuple[Any, ...]) -> Any:
    """Count a call and run it on the context's backend.

    The lookup of `primitive.resolved` is all the overhead of a call that was made before.
    MemoryError is given a note of the layer, the phase and the shapes."""
    state = context.current()
    key = (state.backend, tuple([a.spec for a in args]), attrs)
    fresh = False
    try:
        info = primitive.resolved[key]
    except KeyError:
        fresh = True
    if fresh:  # outside of the block, whose KeyError would precede an error of the shape rule
        info = primitive.resolved[key] = primitive.resolve(*key)
    # In a backward sweep, some count by what they compute, whatever derivative calls them.
    phase = state.phase
    if primitive.phase is not None and phase in ("backward_data", "backward_weights"):
        phase = primitive.phase
    try:
        results = perform(primitive, info, args, fresh)
    except MemoryError as error:
        shapes = " and ".join([str(a.shape) for a in args if a.shape])
        where = f"{state.scope}, {phase}" if state.scope else phase
        error.add_note(f"({where}: {primitive.name} of {shapes})")
        raise
    count = (state.scope, phase, primitive.name, info.backend, info.cost)
    state.ledger.count(count)
    if state.observer is not None:
        state.observer.add(Dispatched(primitive, attrs, info, args, results, count, state.ledger))
    return results[0] if len(results) == 1 else tuple(results) or None


def perform(
    primitive: Primitive, info: CallInfo, args: tuple[Array, ...], fresh: bool = False
) -> list[Array]:
    """Run a resolved call; the results of a `fresh` one are compared with its shape rule."""
    if primitive.writes:
        _write(primitive, info, args)
        return []
    plan = info.deferral
    # Only memory that nobody else can write to unseen may be read later than now.
    if plan is not None and all([args[i].storage.owned for i in plan.must_own]):
        return _defer(plan, info.outputs, args)
    # Without a kernel, on the meta backend, results stay without numbers.
    values: tuple[Any, ...] = (None,) * len(info.outputs)
    if info.call is not None:
        raw = info.call.run(args)
        values = raw if isinstance(raw, tuple) else (raw,)
        if fresh:
            _compare(primitive, info.outputs, values)
    # A view shares its owner's storage; an offset of -1 says that it is not a flat part of it.
    base = None if primitive.alias is None else args[primitive.alias].owner
    offset = 0 if base is None else -1
    results = []
    for spec, value in zip(info.outputs, values, strict=True):
        if type(value) is not np.ndarray and value is not None:
            value = np.asarray(value)  # a number
        a = Array(spec, value, base, offset)
        if base is None:
            a.storage.owned = value is not None
        results.append(a)
    return results


def _write(primitive: Primitive, info: CallInfo, args: tuple[Array, ...]) -> None:
    """Run a call that changes arguments in place: all of them, or none where one must not be
    written."""
    for i in primitive.writes:
        args[i].check_writable(primitive.name)
    # What is pending on the old numbers is computed first.
    for i in primitive.writes:
        realize_readers(args[i].storage)
    if info.call is not None:
        info.call.run(args)
    for i in primitive.writes:
        args[i].storage.version += 1


def _defer(plan: DeferralPlan, outputs: tuple[Spec, ...], args: tuple[Array, ...]) -> list[Array]:
    """Leave one result of a call pending and compute the others."""
    results = [Array(spec, None) for spec in outputs]
    for a in results:
        a.storage.owned = True
    if plan.immediate is not None:
        others = [a for i, a in enumerate(results) if i != plan.output]
        for a, value in zip(others, plan.immediate.run(args), strict=True):
            a.receive(value)
    pool = (*args, *results)
    operands = [(pool[i], i in plan.must_own) for i in plan.operands]
    defer(
        results[plan.output],
        plan.tail,
        tuple([a if checked or a.storage.owned else _copied(a) for a, checked in operands]),
        plan.max_depth,
        plan.alone,
    )
    return results


def _copied(a: Array) -> Array:
    """Return a copy of an array that somebody outside may still write to."""
    return Array(a.spec, compute(np.copy, [a.value]))


def _compare(primitive: Primitive, expected: tuple[Spec, ...], results: tuple[Any, ...]) -> None:
    """Compare the first results of a kernel with the shape rule, so that they cannot drift
    apart."""
    got = tuple(Spec(np.shape(r), np.asarray(r).dtype) for r in results)
    if got != expected:
        raise AssertionError(f"{primitive.name}: expected {expected} by its shape rule, got {got}")


def _unset(primitive: Primitive, args: tuple[Any, ...], attrs: tuple[Any, ...]) -> Any:
    raise TypeError(f"{primitive.name}: takes Arrays, got {[type(a).__name__ for a in args]}")


recorder: Callable[[Primitive, tuple[Any, ...], tuple[Any, ...]], Any] = _unset


def record_with(function: Callable[[Primitive, tuple[Any, ...], tuple[Any, ...]], Any]) -> None:
    """Register the function that handles calls on Tensors; called when the package is imported."""
    global recorder
    recorder = function
