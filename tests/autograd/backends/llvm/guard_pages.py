"""Runs every operation sample with pages that may not be touched directly behind or before all
arrays of kernels; prints the name of each sample before it begins.

Usage: guard_pages.py BACKEND behind|before float32|float64
       guard_pages.py self-test behind|before read|write|result
"""

from __future__ import annotations

import ctypes
import mmap
import sys
from collections.abc import Callable, Iterator
from functools import partial
from math import prod
from typing import Any

import numpy as np

import tallygrad.autograd as ag
from tallygrad.autograd import backends, context
from tallygrad.autograd.array import Array, Spec
from tallygrad.autograd.backends import llvm
from tallygrad.autograd.backends.llvm import fusion
from tallygrad.autograd.backends.llvm.kernels.epilogue import IMAGES, TOTALS, Epilogue
from tallygrad.autograd.backends.llvm.plans import conv_winograd
from tallygrad.autograd.backends.llvm.plans.linear import linear, matmul
from tallygrad.autograd.backends.llvm.runtime import layout, memory
from tallygrad.autograd.backends.llvm.runtime.executable import Executable
from tallygrad.autograd.dtypes import computed_in, is_floating
from tallygrad.autograd.ops.gru import gru_sequence
from tallygrad.autograd.ops.quantized import quantized_conv2d
from tallygrad.autograd.ops.recurrent_sequence import lstm_sequence
from tallygrad.autograd.testing import samples

PAGE = mmap.PAGESIZE
_libc = ctypes.CDLL(None, use_errno=True)
_behind = True


def block(size: int) -> Any:
    """Return a ctypes array of so many bytes between two pages that may not be touched: its end, or
    its beginning, is the border of one."""
    room = max(1, -(-size // PAGE)) * PAGE
    pages = mmap.mmap(-1, room + 2 * PAGE)
    start = ctypes.addressof(ctypes.c_char.from_buffer(pages))
    for guard in (start, start + PAGE + room):
        if _libc.mprotect(ctypes.c_void_p(guard), ctypes.c_size_t(PAGE), 0):
            raise OSError(ctypes.get_errno(), "mprotect")
    offset = PAGE + (room - size if _behind else 0)
    return (ctypes.c_char * size).from_buffer(pages, offset)


def guarded_zeros(shape: Any, dtype: Any = float, **_: Any) -> Any:
    """Stand in for np.zeros, from which plans have their scratch memory."""
    shape, dtype = tuple(map(int, np.atleast_1d(shape))), np.dtype(dtype)
    size = prod(shape) * dtype.itemsize
    # New mappings are zero. An empty array has no memory to guard.
    return np.ndarray(shape, dtype, block(size)) if size else np.empty(shape, dtype)


def guarded_copy(x: Any) -> Any:
    """Return a copy of an array with its axes in the same order in memory."""
    x = np.asarray(x)
    if not x.size:
        return x
    order = sorted(range(x.ndim), key=lambda axis: (-abs(x.strides[axis]), axis))
    made = guarded_zeros([x.shape[axis] for axis in order] or [1], x.dtype)
    copy = made.reshape(x.transpose(order).shape).transpose(np.argsort(order))
    copy[...] = x
    return copy


def guard() -> None:
    """Let all kernels have guarded copies of their arrays, and guarded memory."""
    plain = llvm._one_at_a_time

    def guarded(kernel: Any) -> Any:
        def run(*arrays: Any) -> Any:
            vars(conv_winograd._shared).clear()  # which larger ones before may have left too large
            copies = {id(a): guarded_copy(a) for a in arrays}
            result = kernel(*[copies[id(a)] for a in arrays])
            for a in arrays:
                if a.tobytes() != copies[id(a)].tobytes():
                    a[...] = copies[id(a)]  # written in place
            return result

        return plain(Executable(run))

    llvm._one_at_a_time = guarded
    memory.pool.take = lambda size, lasting=False: block(max(1, size))  # type: ignore[method-assign]
    np.zeros, layout.MALLOC, memory.MALLOC, fusion.LEAST = guarded_zeros, 0, 0, 0


# Images, filters, options: tiles and vectors that are not full, several blocks, all borders.
CONVOLUTIONS: dict[str, tuple[tuple[int, ...], tuple[int, ...], dict[str, Any]]] = {
    "ragged": ((3, 17, 9, 6), (5, 17, 3, 3), {"padding": 1}),
    "many channels": ((2, 50, 7, 11), (70, 50, 3, 3), {"padding": 2}),
    "many images": ((21, 16, 8, 8), (16, 16, 3, 3), {"padding": 1}),
    "small images": ((5, 20, 4, 4), (33, 20, 3, 3), {"padding": 1}),
    "one pixel": ((5, 3, 1, 1), (17, 3, 3, 3), {"padding": 1}),
    "five taps": ((3, 20, 12, 12), (50, 20, 5, 5), {}),
    "five taps, ragged": ((2, 5, 6, 7), (17, 5, 5, 5), {"padding": (1, 2)}),
    "strided": ((3, 17, 15, 13), (34, 17, 3, 3), {"padding": 1, "stride": 2}),
    "dilated groups": ((2, 18, 13, 11), (20, 9, 3, 3), {"padding": 2, "dilation": 2, "groups": 2}),
    "pointwise": ((3, 33, 5, 7), (18, 33, 1, 1), {"stride": (2, 1)}),
    "single pixels": ((3, 48, 5, 7), (18, 48, 1, 1), {}),
    "one row": ((2, 1, 1, 40), (20, 1, 1, 7), {"padding": (0, 3)}),
}


def training(x: Any, w: Any, v: Any, slope: Any, level: Any) -> Any:
    """Convolutions between normalisations, which they sum up for; gradients meet before ReLUs."""

    def normal(y: Any) -> Any:
        return ag.batch_norm(y, None, None, slope, level, training=True)

    x = ag.relu(normal(x * 1.0))
    y = ag.relu(normal(ag.conv2d(x, w, padding=1)))
    y = ag.relu(normal(ag.conv2d(y, v, padding=1)) + x)
    return ag.relu(normal(ag.conv2d(y, w, padding=1)))


def narrowing(x: Any, w: Any, v: Any, slope: Any, level: Any) -> Any:
    """Convolutions without padding and with strides, also of fewer taps, whose gradients meet, go
    through ReLUs and are summed up."""

    def normal(y: Any) -> Any:
        return ag.batch_norm(y, None, None, slope, level, training=True)

    x = ag.relu(normal(x * 1.0))
    y = ag.relu(normal(ag.conv2d(x, w)))
    y = ag.relu(normal(ag.conv2d(y, v, padding=1)))
    return 2.0 * (ag.conv2d(y, v, padding=1, stride=2) + ag.conv2d(y, w[:, :, 1:2, 1:2], stride=2))


def inference(x: Any, w: Any, v: Any, slope: Any, level: Any) -> Any:
    """Convolutions that normalise, add a residual and apply a ReLU."""

    def normal(y: Any) -> Any:
        return ag.batch_norm(y, level, slope * slope + 1.0, slope, level)

    with ag.no_grad():
        x = x * 1.0
        y = ag.relu(normal(ag.conv2d(x, w, padding=1)))
        return ag.relu(normal(ag.conv2d(y, v, padding=1)) + x)


CHANNELS = 18  # which fill no vector
# Function, size (whole tiles of Winograd's method, and others), types.
ALL = "float32", "bfloat16", "float64"
JOINED = [
    (training, (8, 8), ALL[:2]),
    (training, (7, 9), ALL),
    (narrowing, (7, 9), ALL[:2]),
    (inference, (7, 9), ALL),
]


def recurrent(x: Any, w_ih: Any, w: Any, h: Any, c: Any) -> Any:
    """An LSTM both ways, whose rows and inputs fill no tiles."""
    return [y for back in (0, 1) for y in lstm_sequence(x, w_ih, w[:, 0], h, c, w, backwards=back)]


def gated(x: Any, w_ih: Any, w: Any, h: Any) -> list[Any]:
    """A GRU both ways."""
    biases = w[:, 0], w[:, 1]
    return [
        y
        for back in (0, 1)
        for y in gru_sequence(x, w_ih, biases[0], h, w, biases[1], backwards=back)
    ]


def calls(dtype: str) -> Iterator[tuple[str, list[Any], Callable[..., Any]]]:
    """Yield name, arrays and function of all samples, and of the convolutions above."""
    for row in samples():
        yield row.name, row.draw(dtype=dtype), row.function
    for name, (*shapes, options) in CONVOLUTIONS.items():
        drawn = [np.random.default_rng(0).standard_normal(shape).astype(dtype) for shape in shapes]
        yield f"convolution, {name}", drawn, partial(ag.conv2d, **options)
    filters, each = (CHANNELS, CHANNELS, 3, 3), (CHANNELS,)
    for number, (function, size, types) in enumerate(JOINED):
        if dtype not in types:
            continue
        shapes = ((5, CHANNELS, *size), filters, filters, each, each)
        rng = np.random.default_rng(0)
        wide = computed_in(np.dtype(dtype))  # of what there is one of for each channel
        drawn = [rng.standard_normal(s).astype(wide if s == each else dtype) for s in shapes]
        yield f"joined {number}", drawn, function
    shapes = (3, 37, 5), (128, 5), (128, 32), (37, 32), (37, 32)
    drawn = [np.random.default_rng(0).standard_normal(s).astype(dtype) for s in shapes]
    yield "recurrent", drawn, recurrent
    yield "gated", [drawn[0], drawn[1][:96], drawn[2][:96], drawn[3]], gated
    for signed, channels in ((True, 3), (False, 33), (True, 70)):
        rng, kind = np.random.default_rng(0), np.int8 if signed else np.uint8
        x = rng.integers(0, 99, (21, channels, 5, 6), kind)
        w = rng.integers(-99, 99, (37, channels, 3, 3), np.int8)
        yield f"integers, {channels}", [x, w, *rng.standard_normal((2, 37), np.float32)], integers


def integers(*arrays: Any) -> Any:
    """A convolution of 8-bit integers, which has no gradient."""
    attrs = {"stride": (1, 1), "padding": ((1, 1), (0, 2)), "dilation": (1, 1), "groups": 1}
    with ag.no_grad():
        return quantized_conv2d(*arrays, **attrs)


def products(backend: str, dtype: str) -> None:
    """Let products do what follows, all at once: of many rows, and of so few that y is turned. Of
    narrow types nothing follows."""
    target, wide = backends.get(backend).target, computed_in(np.dtype(dtype))  # type: ignore[attr-defined]
    follows = wide == dtype
    epilogue = Epilogue(*[follows] * len(Epilogue._fields))
    for rows, inner, columns in ((45, 35, 19), (7, 150, 133)):
        print("product", rows, dtype, flush=True)
        whole = [np.ones(s, dtype) for s in ((rows, inner), (columns, inner), (columns,))]
        for name in epilogue.pointers:
            each = np.ones((TOTALS[name], columns)) if name in TOTALS else np.ones(columns, wide)
            whole.append(np.ones((rows, columns), dtype) if name in IMAGES else each)
        arrays = [guarded_copy(a) for a in whole]
        plan = linear(target, *[Spec(a.shape, a.dtype) for a in arrays[:3]], epilogue=epilogue)
        expected = inner + 1 + 2 * follows
        assert plan is not None and (plan(*arrays) == expected).all()
        for left in (whole[0], np.asfortranarray(whole[0])):
            x, w = guarded_copy(left), guarded_copy(whole[1].T)
            product = matmul(target, Spec(x.shape, x.dtype), Spec(w.shape, w.dtype))
            assert product is not None and (product(x, w) == inner).all()


def run(backend: str, dtype: str) -> None:
    """Run everything forward and backward in one type."""
    products(backend, dtype)
    for name, arrays, function in calls(dtype):
        print(name, dtype, flush=True)
        with context.using(backend=backend, ledger=ag.Ledger()):
            tensors = [ag.Tensor(Array(ag.tensor(a).spec, a), is_floating(a.dtype)) for a in arrays]
            result = function(*tensors)
            for y in result if isinstance(result, tuple | list) else [result]:
                if y.requires_grad:
                    y.backward(ag.tensor(np.ones(y.shape, y.dtype)), retain_graph=True)
    print("done", flush=True)


def step_outside(what: str) -> None:
    """Read or write one number outside of an array, as no kernel must."""
    print(what, flush=True)
    made = guarded_zeros(5, np.float32) if what != "result" else memory.empty((5,), np.dtype("f4"))
    at = made.ctypes.data + (made.nbytes if _behind else -4)
    if what == "write":
        ctypes.c_float.from_address(at).value = 1.0
    else:
        print(ctypes.c_float.from_address(at).value)


if __name__ == "__main__":
    _behind = sys.argv[2] == "behind"
    chosen = "llvm" if sys.argv[1] == "self-test" else sys.argv[1]
    guard()
    if sys.argv[1] == "self-test":
        step_outside(sys.argv[3])
    else:
        run(chosen, sys.argv[3])
