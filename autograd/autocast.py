"""Mixed precision: which primitives compute in a narrow type within `autocast`, and which do not.

As in torch, tensors keep the type that they have; a primitive in `NARROW` has its operands cast, so
that what follows, the backward pass too, is in the narrow type. Nothing else need change: weights
stay float32 and get float32 gradients, which are sums of narrow products that are never rounded."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from . import context
from .context import Cast, P, R
from .device import device
from .dtypes import FLOAT32, DType, bfloat16, is_narrow
from .narrow_copy import narrow_form
from .ops.shape import cast, converted
from .tensor import Tensor

# Products, where the work is. They are formed in float32 and rounded once.
NARROW = frozenset({
    "conv2d", "conv2d_dx", "gru_sequence", "gru_states", "linear", "lstm_cell", "lstm_sequence",
    "lstm_states", "matmul", "rnn_cell", "rnn_sequence",
})  # fmt: skip
# What rounding would spoil: losses, and functions whose results span many magnitudes.
WIDE = frozenset({
    "acos", "asin", "binary_cross_entropy", "cosh", "cross_entropy", "ctc_loss", "cumprod",
    "cumsum", "exp", "exp2", "expm1", "gaussian_nll_loss", "huber", "log", "log10", "log1p", "log2",
    "log_softmax", "logistic_loss", "logsumexp", "nll_loss", "pow", "product", "sinh", "softmax",
    "softplus", "tan",
})  # fmt: skip


CAST = FLOAT32, np.dtype(np.float16)  # what is cast to the narrow type
DEVICES = "cpu", "cuda", "hpu", "mps", "mtia", "xla", "xpu"  # that torch's scripts may name


class autocast(context.using):
    """Compute the primitives of `NARROW` in a type, and those of `WIDE` in float32, within a `with`
    block or a function: `with autocast("bfloat16"): loss = ..`. All others take operands as they
    come. Float64 stays as it is. The backward pass may be outside of the block.

    A weight (a leaf that requires a gradient, or a Parameter) is cast once within the outermost
    block, and again after a write in place; writes through memory shared with NumPy go unseen. Its
    narrow form lives as long as the weight, at most to the end of the block. Weights in flat
    buffers, which optimizers make, have a narrow copy that the update writes in the same pass, as
    long as their memory is not shared with NumPy.

    With `enabled=False` everything is computed in the type that it has. The name of the device may
    come first, as in torch: `autocast("cpu", dtype=..)`; with `cache_enabled=False`, too, a weight
    is cast once. TypeError for a type other than bfloat16, ValueError for another device,
    ImportError where ml_dtypes is not installed."""

    def __init__(
        self,
        device_type: device | npt.DTypeLike = "cpu",
        dtype: npt.DTypeLike | None = None,
        enabled: bool = True,
        cache_enabled: bool | None = None,
    ) -> None:
        if isinstance(device_type, str) and device_type.partition(":")[0] in DEVICES:
            device(device_type)
        elif not isinstance(device_type, device):
            dtype = device_type
        narrow = bfloat16() if enabled else None
        dtype = narrow if dtype is None else dtype
        if narrow is not None and np.dtype(dtype) != narrow:
            raise TypeError(f"autocast: expected bfloat16, got {np.dtype(dtype)}")
        super().__init__(autocast=narrow)

    def __call__(self, function: Callable[P, R]) -> Callable[P, R]:
        return context.in_block(partial(context.using, **self.changes), function)


def is_autocast_enabled(device_type: str = "cpu") -> bool:
    """Tell whether primitives compute in a narrow type here."""
    return device_type == "cpu" and context.current().autocast is not None


def get_autocast_dtype(device_type: str = "cpu") -> DType:
    """Return the type in which `autocast` computes, bfloat16. ValueError for another device,
    ImportError where ml_dtypes is not installed."""
    device(device_type)
    return bfloat16()


def wide(x: Any) -> Any:
    """Return an operand of a function that is made of several primitives, but one of WIDE: within
    `autocast` in float32 if it is narrow."""
    return x if context.current().autocast is None else _widened(x)


def narrow(x: Any) -> Any:
    """Return an operand of a function that is made of several primitives, but one of NARROW: within
    `autocast` in the narrow type."""
    dtype = context.current().autocast
    return x if dtype is None else _narrowed(x, dtype)


def cast_operands(name: str, operands: tuple[Any, ...], dtype: DType) -> tuple[Any, ...]:
    """Return the operands of a primitive in the types in which it computes within `autocast`."""
    if name in NARROW:
        return tuple([_narrowed(x, dtype) for x in operands])
    if name in WIDE:
        return tuple([_widened(x) for x in operands])
    return operands


def _narrowed(x: Any, dtype: DType) -> Any:
    if getattr(x, "dtype", None) not in CAST:
        return x
    is_weight = isinstance(x, Tensor) and x.is_leaf and (x.requires_grad or x.is_parameter)
    return _weight(x, dtype) if is_weight else converted(x, dtype)


def _weight(x: Tensor, dtype: DType) -> Tensor:
    """Return a weight in a narrow type. It is cast once in a block, unless it changes; but each use
    is a record of its own, so that gradients of several uses are added in the type of the
    weight."""
    state, data = context.current(), x.array
    form = narrow_form(data, dtype)
    if form is not None:
        context.reads(x)
    else:
        known = state.casts.get(data)
        if known is None or known.version != data.storage.version:
            result: Tensor = converted(x, dtype)
            state.casts[data] = Cast(data.storage.version, result.array)
            return result
        form = known.result
    if state.tape is None or not x.requires_grad:
        return Tensor(form)
    record = state.tape.append(cast, (data,), ((x, 0),), (form,), (dtype,))
    return Tensor(form, True, (record, 0))


def _widened(x: Any) -> Any:
    return converted(x, FLOAT32) if is_narrow(getattr(x, "dtype", FLOAT32)) else x
