"""What to record, what to sweep, and what to compute twice."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, ParamSpec, TypeVar

from . import context, random
from .added_loss import add_loss, added_losses
from .primitive import Value
from .tape import Record, Source, Sweep, Tape, reach
from .tensor import Tensor, origin, sweep

P = ParamSpec("P")
R = TypeVar("R")


class no_grad(context.using):
    """Record nothing within the block, or the decorated function: inference."""

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__(tape=None)

    def __call__(self, function: Callable[P, R]) -> Callable[P, R]:
        return context.in_block(type(self), function)


class inference_mode(no_grad):
    """`no_grad`, or with a `mode` of False no change at all."""

    __slots__ = ("mode",)

    def __init__(self, mode: bool = True) -> None:
        super().__init__()
        if not mode:
            self.changes = {}
        self.mode = mode

    def __call__(self, function: Callable[P, R]) -> Callable[P, R]:
        return context.in_block(partial(type(self), self.mode), function)


class set_grad_enabled(context.using):
    """Record, or record nothing, within the block or the decorated function.

    Unlike torch's, it does nothing outside of a `with` block and a decorator."""

    __slots__ = ("mode",)

    def __init__(self, mode: bool) -> None:
        super().__init__(tape=context.current().tape or Tape() if mode else None)
        self.mode = mode

    def __call__(self, function: Callable[P, R]) -> Callable[P, R]:
        return context.in_block(partial(type(self), self.mode), function)


class enable_grad(context.using):
    """Record within the block, or the decorated function, even inside a `no_grad`."""

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__(tape=context.current().tape or Tape())

    def __call__(self, function: Callable[P, R]) -> Callable[P, R]:
        return context.in_block(type(self), function)


def is_grad_enabled() -> bool:
    """Tell whether operations are recorded."""
    return context.current().tape is not None


def grad(
    outputs: Tensor | Sequence[Tensor],
    inputs: Tensor | Sequence[Tensor],
    grad_outputs: Tensor | Sequence[Tensor | None] | None = None,
    retain_graph: bool | None = None,
    create_graph: bool = False,
    allow_unused: bool = False,
) -> tuple[Tensor | None, ...]:
    """Return the gradients of the sum of the outputs with respect to the inputs.

    Outputs are weighted by `grad_outputs`, 1 for single numbers by default. Inputs may be leaves or
    computed tensors; `grad` of the leaves stays as it is. With `create_graph` the gradients can be
    differentiated again. RuntimeError for an input that the outputs do not depend on; None, if
    `allow_unused`."""
    ys = [outputs] if isinstance(outputs, Tensor) else list(outputs)
    xs = [inputs] if isinstance(inputs, Tensor) else list(inputs)
    seeds: list[Tensor | None]
    if grad_outputs is None or isinstance(grad_outputs, Tensor):
        seeds = [grad_outputs] * len(ys)
    else:
        seeds = list(grad_outputs)
    if len(seeds) != len(ys):
        raise ValueError(f"grad: expected {len(ys)} grad_outputs, got {len(seeds)}")
    for i, x in enumerate(xs):
        if not x.requires_grad:
            raise RuntimeError(f"grad: expected requires_grad of input {i} of {x.shape}, got False")
    keep = create_graph if retain_graph is None else retain_graph
    gradients = sweep(ys, seeds, xs, keep or create_graph, create_graph)
    unused = [i for i, g in enumerate(gradients) if g is None]
    if unused and not allow_unused:
        raise RuntimeError(
            f"grad: the outputs do not depend on input {unused[0]}; allow_unused=True returns None "
            "for it"
        )
    return tuple(gradients)


class _Recompute:
    """The operation behind `checkpoint`: it runs its function again when its gradient is asked
    for."""

    name = "checkpoint"

    def __init__(
        self, function: Callable[..., Any], args: tuple[Any, ...], moment: random.Moment, many: int
    ) -> None:
        self.function, self.args, self.moment = function, args, moment
        self.outputs = range(many)
        self.state = context.current()

    def backward(
        self, record: Record, grad_outputs: Sequence[Value | None], wanted: Sequence[bool]
    ) -> Sequence[Value | None]:
        """Run forward again, this time on a tape of its own, and sweep through that."""
        if any(isinstance(g, Tensor) for g in grad_outputs):
            raise RuntimeError(
                "checkpoint: gradients of gradients need the whole tape; call the function itself"
            )
        for i in range(len(record.saved)):
            record.take("input", i)
        tape = Tape()
        fresh = [_leaf(a) if isinstance(a, Tensor) else a for a in self.args]
        state = context.current()
        token = context.enter(
            self.state.replace(tape=tape, backend=state.backend, ledger=state.ledger)
        )
        try:
            with random.replayed(self.moment):
                _, results = _run(self.function, fresh)
        finally:
            context.leave(token)
        # Sources in the order of the record: arguments first, then what the function read besides.
        mine: list[Source] = [(a, 0) for a in fresh if isinstance(a, Tensor) and a.requires_grad]
        extra = [s for s in record.sources[len(mine) :] if s is not None]
        return self._sweep(tape, results, grad_outputs, [*mine, *extra])

    def _sweep(
        self,
        tape: Tape,
        results: tuple[Tensor, ...],
        gradients: Sequence[Value | None],
        targets: list[Source],
    ) -> list[Value | None]:
        """Sweep the records of one tape; return the gradients of the targets."""
        pairs = [(y, g) for y, g in zip(results, gradients, strict=True) if g is not None]
        roots = [(o, g) for y, g in pairs if (o := origin(y)) is not None]
        run = Sweep([o[0] for o, _ in roots if isinstance(o[0], Record)], targets, within=tape)
        for source, gradient in roots:
            run.send(source, gradient)
        swept = run.run()
        return [swept.get((id(o), i)) for o, i in targets]


def _leaf(argument: Tensor) -> Tensor:
    kind = type(argument) if argument.is_parameter else Tensor
    return kind(argument.array, argument.requires_grad)


def _tuple(result: Any) -> tuple[Tensor, ...]:
    results = result if isinstance(result, tuple) else (result,)
    if not all(isinstance(y, Tensor) for y in results):
        kinds = ", ".join(type(y).__name__ for y in results)
        raise TypeError(f"checkpoint: the function must return a tensor or a tuple, got {kinds}")
    return results


def _run(function: Callable[..., Any], args: Sequence[Any]) -> tuple[Any, tuple[Tensor, ...]]:
    """Return what a function returns, and the tensors of that with the losses that it adds."""
    with added_losses() as terms:
        result = function(*args)
    return result, (*_tuple(result), *terms)


def _handed_on(result: Any, tensors: Sequence[Tensor]) -> Any:
    """Return tensors in the form of a function's result; add those beyond, which are losses."""
    many = len(_tuple(result))
    for term in tensors[many:]:
        add_loss(term)
    return tuple(tensors[:many]) if isinstance(result, tuple) else tensors[0]


def checkpoint(function: Callable[..., Any], *args: Any, **options: Any) -> Any:
    """Return `function(*args, **options)` without saving what its gradient needs.

    The backward sweep runs the function a second time, which is the phase "recompute" in the
    ledger: memory for time (Chen et al. 2016). It must return the same results again: dropout does;
    running statistics of batch norm move twice. It may read tensors besides its arguments.
    RuntimeError for gradients of gradients through it."""
    outer = context.current().tape
    function = partial(function, **options) if options else function
    if outer is None:
        return function(*args)
    moment = random.moment()
    watched = Tape(keep=False)
    with context.using(tape=watched):
        result, results = _run(function, args)
    mine = [o for a in args if isinstance(a, Tensor) and (o := origin(a))]
    sources = [*mine, *_others(results, watched, mine)]
    if not sources:
        return _handed_on(result, results)
    operation = _Recompute(function, args, moment, len(results))
    operation.state = operation.state.replace(phase="recompute")
    record = Record(outer, operation, tuple(sources))
    if outer.keep:
        for i, a in enumerate(a for a in args if isinstance(a, Tensor)):
            record.hold("input", i, a.array)
    tensors = [
        Tensor(y.array, True, (record, i)) if y.requires_grad else Tensor(y.array)
        for i, y in enumerate(results)
    ]
    return _handed_on(result, tensors)


def _others(results: Sequence[Tensor], watched: Tape, mine: Sequence[Source]) -> list[Source]:
    """Return what the watched records read from outside besides the arguments.

    These are leaves, and computed tensors by the records that made them."""
    known = {(id(o), i) for o, i in mine}
    outside: dict[tuple[int, int], Source] = {}
    origins = [o for y in results if (o := origin(y))]
    roots = [o[0] for o in origins if isinstance(o[0], Record)]
    read = [s for record in reach(roots, within=watched) for s in record.sources if s is not None]
    for source in [*origins, *read]:
        inside = isinstance(source[0], Record) and source[0].tape is watched
        if not inside and (id(source[0]), source[1]) not in known:
            outside[id(source[0]), source[1]] = source
    return list(outside.values())
