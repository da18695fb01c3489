"""What to record, what to sweep, and what to compute twice."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ParamSpec, TypeVar

from . import context, random
from .primitive import Value
from .tape import Record, Source, Tape, reach
from .tensor import Tensor, sweep

P = ParamSpec("P")
R = TypeVar("R")


class no_grad(context.using):
    """Record nothing within the block (or the decorated function): inference."""

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__(tape=None)

    def __call__(self, function: Callable[P, R]) -> Callable[P, R]:
        return _wrapped(type(self), function)


class enable_grad(context.using):
    """Record within the block (or the decorated function), also inside a `no_grad`."""

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__(tape=context.current().tape or Tape())

    def __call__(self, function: Callable[P, R]) -> Callable[P, R]:
        return _wrapped(type(self), function)


def _wrapped(block: Callable[[], context.using], function: Callable[P, R]) -> Callable[P, R]:
    def inside(*args: P.args, **kwargs: P.kwargs) -> R:
        with block():
            return function(*args, **kwargs)

    return inside


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
    """Return the gradients of the sum of outputs (weighted by `grad_outputs`) by the inputs,
    which may be leaves or computed tensors; `grad` of the leaves stays as it is. With
    `create_graph` the gradients can be differentiated again. RuntimeError for an input that the
    outputs do not depend on, unless `allow_unused`, which gives None for it."""
    ys = [outputs] if isinstance(outputs, Tensor) else list(outputs)
    xs = [inputs] if isinstance(inputs, Tensor) else list(inputs)
    seeds: list[Tensor | None]
    if grad_outputs is None or isinstance(grad_outputs, Tensor):
        seeds = [grad_outputs] * len(ys)
    else:
        seeds = list(grad_outputs)
    for i, x in enumerate(xs):
        if not x.requires_grad:
            raise RuntimeError(f"grad: input {i} of shape {x.shape} does not require a gradient")
    keep = create_graph if retain_graph is None else retain_graph
    found = sweep(ys, seeds, xs, keep or create_graph, create_graph)
    unused = [i for i, g in enumerate(found) if g is None]
    if unused and not allow_unused:
        raise RuntimeError(f"grad: the outputs do not depend on input {unused[0]}; allow_unused?")
    return tuple(found)


class _Recompute:
    """The operation behind `checkpoint`: runs its function again when its gradient is asked for."""

    name = "checkpoint"

    def __init__(
        self, function: Callable[..., Any], args: tuple[Any, ...], extra: list[Tensor], many: int
    ) -> None:
        self.function, self.args, self.extra = function, args, extra
        self.outputs = range(many)
        self.state = context.current()
        self.calls = random.calls()

    def pull(
        self, record: Record, gradients: Sequence[Value | None], wanted: Sequence[bool]
    ) -> Sequence[Value | None]:
        """Run forward again, this time on a tape, and sweep through it."""
        if any(isinstance(g, Tensor) for g in gradients):
            raise RuntimeError("checkpoint: gradients of gradients need the whole tape")
        fresh = [
            Tensor(a.data, a.requires_grad) if isinstance(a, Tensor) else a for a in self.args
        ]
        state = self.state.replace(tape=Tape())
        token = context.enter(state)
        try:
            with random.replayed(self.calls):
                result = self.function(*fresh)
        finally:
            context.leave(token)
        results = result if isinstance(result, tuple) else (result,)
        pairs = [(y, Tensor(g)) for y, g in zip(results, gradients, strict=True) if g is not None]
        inputs = [a for a in fresh if isinstance(a, Tensor) and a.requires_grad] + self.extra
        asked = [x for x, want in zip(inputs, wanted, strict=True) if want]
        live = [(y, g) for y, g in pairs if y.requires_grad]
        found = iter(sweep([y for y, _ in live], [g for _, g in live], asked, False, False))
        pulled = [next(found) if want else None for want in wanted]
        return [None if g is None else g.data for g in pulled]


def checkpoint(function: Callable[..., Any], *args: Any) -> Any:
    """Return `function(*args)` without keeping what its gradient needs: the backward sweep runs it
    a second time (Chen et al. 2016). The ledger shows both runs. The function must give the same
    results again; dropout does."""
    outer = context.current().tape
    if outer is None:
        return function(*args)
    before = random.calls()
    with context.using(tape=Tape(keep=False)):
        result = function(*args)
    many = isinstance(result, tuple)
    results: tuple[Tensor, ...] = result if many else (result,)
    mine = [a for a in args if isinstance(a, Tensor) and a.requires_grad]
    extra = _leaves(results, mine)
    if not mine and not extra:
        return result
    with random.replayed(before):
        operation = _Recompute(function, args, extra, len(results))
    operation.state = operation.state.replace(phase="forward")
    sources: list[Source | None] = [t.source or (t, 0) for t in [*mine, *extra]]
    record = outer.mark(operation, tuple(sources))
    made = [Tensor(y.data, y.requires_grad, (record, i)) for i, y in enumerate(results)]
    return tuple(made) if many else made[0]


def _leaves(results: Sequence[Tensor], known: Sequence[Tensor]) -> list[Tensor]:
    """Return the leaves that results depend on besides the known ones, in reading order."""
    found: dict[int, Tensor] = {}
    skip = {id(t) for t in known}
    borders = {id(t.source[0]) for t in known if t.source}
    roots = [y.source[0] for y in results if y.source]
    for record in reach(roots):
        if id(record) in borders:
            continue
        for source in record.sources:
            if source and isinstance(source[0], Tensor) and id(source[0]) not in skip:
                found[id(source[0])] = source[0]
    return list(found.values())
