"""How a call on tensors is recorded: the function that primitives hand such calls to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from . import context
from .array import Array, array
from .autocast import cast_operands
from .dtypes import FLOAT32, holds, is_floating
from .methods.operators import Operand
from .primitive import Primitive, dispatch
from .tensor import Tensor, lift, source_of

if TYPE_CHECKING:
    from .capture.observer import Observer


def record(primitive: Primitive, args: tuple[Any, ...], attrs: tuple[Any, ...]) -> Any:
    """Run a primitive on tensors, and put it on the tape where a gradient may be asked for. Numbers
    and ndarrays among the arguments become arrays."""
    state = context.current()
    tape, observer = state.tape, state.observer
    if state.autocast is not None:
        args = cast_operands(primitive.name, args, state.autocast)
    arrays = _arrays(args, observer)
    sources = () if tape is None else tuple([source_of(a) for a in args])
    if tape is None or not any(sources):
        result = dispatch(primitive, arrays, attrs)
        if isinstance(result, tuple):
            return tuple([Tensor(a) for a in result])
        return None if result is None else Tensor(result)
    if observer is not None and not observer.training:
        observer.refuse("records gradients")
    if primitive.writes:
        raise RuntimeError(f"{primitive.name}: in place on tensors with gradients; use no_grad()")
    result = dispatch(primitive, arrays, attrs)
    results = result if isinstance(result, tuple) else (result,)
    entry = tape.append(primitive, arrays, sources, results, attrs)
    follows = primitive.differentiable or range(len(results))
    tensors = [
        Tensor(a, True, (entry, i)) if i in follows and is_floating(a.spec.dtype) else Tensor(a)
        for i, a in enumerate(results)
    ]
    return tuple(tensors) if isinstance(result, tuple) else tensors[0]


def _arrays(args: tuple[Any, ...], observer: Observer | None) -> tuple[Array, ...]:
    """Return the arrays of a call's arguments, and tell the observer which tensors are read."""
    arrays = []
    for a in args:
        data = a.array if isinstance(a, Tensor) else a
        if type(data) is not Array:
            data = _lifted(a, args)
        elif data is not a:
            if observer is not None:
                observer.reads(a)
            if a.is_parameter:
                data.storage.persistent = True
        arrays.append(data)
    return tuple(arrays)


def _lifted(value: Operand, args: tuple[Any, ...]) -> Array:
    """Return a number or an ndarray among a call's arguments as an array."""
    first = next((t for t in args if isinstance(t, Tensor)), None)
    lifted = lift(value, FLOAT32 if first is None else first.dtype)
    if type(value) is int and first is not None and not holds(first.dtype, value):
        # A number too large for the tensor's type must widen it, which 0-d operands do not.
        lifted = array(lifted.value.reshape((1,) * first.ndim))
    return lifted
