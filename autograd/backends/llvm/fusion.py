"""Which calls wait for their reader, and the kernels that do two or three calls in one pass: a
normalisation, a sum and a ReLU, and their gradients."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ...array import NDArray, Spec
from ...deferred import Call, Joined, Opened, Sign
from .compiler.isa.targets import Target
from .compiler.jit import build
from .kernels.epilogue import NOTHING, ROWS, Epilogue, merge_moments, merge_sums, scaling
from .plans.batch_norm import moments, normalising, slope, sums
from .plans.conv import conv2d, conv2d_dx
from .plans.elementwise import together
from .registry import Waiting, find, join, joining, may_wait
from .runtime.executable import Executable, is_native, native
from .runtime.layout import address, plain
from .runtime.memory import empty
from .runtime.parallel import ByImages, Work, chained

LEAST = 1 << 16  # numbers from which on a pass over memory costs more than what is done for it
NORM = (None,) * 5  # the operands of a normalisation are read: x, w, b, mean, var
PAIR = (None,) * 2  # and those of a sum, or of the gradient of a ReLU
DOUBLE = np.dtype(np.float64)  # of sums in an epilogue
MOMENTS = "moments"  # what a normalisation computes at once
Signs = tuple[Sign | None, ...]  # of a call's arguments, None where they have numbers


@may_wait("batch_norm")
def _(target: Target, x: Spec, w: Spec, b: Spec, *, eps: float) -> Waiting | None:
    """Only the statistics are computed at once."""
    if x.size < LEAST:
        return None
    each = Spec((x.shape[1],), x.dtype)
    tail = "batch_norm_eval", (x, w, b, each, each), {"eps": eps}
    now = moments(target, x)
    return Waiting(tail, operands=(0, 1, 2, 4, 5), large=(0,), now=now, name=MOMENTS)


@may_wait("batch_norm_eval")
def _(target: Target, x: Spec, *channels: Spec, eps: float) -> Waiting | None:
    """All of it waits: of what a convolution before it reads, nothing does."""
    return Waiting(deep=2) if x.size >= LEAST else None


@may_wait("batch_norm_dx")
@may_wait("add")
@may_wait("relu")
@may_wait("relu_dx")
def _(target: Target, x: Spec, *others: Spec, eps: float = 0.0) -> Waiting | None:
    """All of it waits, but for sums that repeat an operand."""
    alike = len(others) != 1 or others == (x,)
    return Waiting() if alike and x.size >= LEAST else None


@may_wait("conv2d")
@may_wait("conv2d_dx")
def _(target: Target, x: Spec, *others: Spec, **attributes: Any) -> Waiting | None:
    """What follows may be done while the results are in registers."""
    return Waiting() if x.size >= LEAST else None


class _Way(NamedTuple):
    """A kernel of calls that wait for one another, what it opens of the operands of the last one,
    and what it makes besides its result."""

    kernel: Executable
    opened: Opened
    makes: tuple[tuple[int, ...], ...] = ()


@joining("relu")
def _(target: Target, call: Call, signs: Signs) -> Joined | None:
    """A ReLU behind a normalisation, with or without a residual between them, or behind a sum."""
    (given,) = signs
    if given is None:
        return None
    if given.call.name == "batch_norm_eval":
        kernel, opened = _normalised(target, given, Epilogue(relu=True))
        return Joined(kernel, (opened,))
    if given.call.name != "add":
        return None
    with_norm = _residual(target, given, Epilogue(residual=True, relu=True))
    if with_norm is not None:
        return Joined(with_norm.kernel, (with_norm.opened,))
    if any(given.operands):
        return None
    plan = together(target, "add_relu", given.call.specs)
    return Joined(plan, (PAIR,)) if plan else None


@joining("add")
def _(target: Target, call: Call, signs: Signs) -> Joined | None:
    """A sum of a normalisation and a residual."""
    return _residual(target, Sign(call, signs), Epilogue(residual=True))


@joining("batch_norm_eval")
def _(target: Target, call: Call, signs: Signs) -> Joined | None:
    """A normalisation with given statistics, behind a convolution."""
    if signs[0] is None or signs[0].call.name != "conv2d" or any(signs[1:]):
        return None
    return Joined(*_normalised(target, Sign(call, signs), NOTHING))


@joining("relu_dx")
def _(target: Target, call: Call, signs: Signs) -> Joined | None:
    """The gradient of a ReLU, of two gradients that meet there."""
    given, y = signs
    if given is None or given.call.name != "add" or any((*given.operands, y)):
        return None
    plan = together(target, "add_relu_dx", (*given.call.specs, call.specs[1]))
    return Joined(plan, (PAIR, None)) if plan else None


def _normalised(target: Target, sign: Sign, epilogue: Epilogue) -> tuple[ByImages, Opened]:
    """Return the kernel of a normalisation with given statistics, and what follows it, and what it
    opens: the convolution before it too, where that waits for nothing else."""
    call, (before, *_) = sign.call, sign.operands
    if before is not None and before.call.name == "conv2d" and not any(before.operands):
        eps = call.attrs["eps"]
        kernel = _scaled(target, before.call, eps, epilogue._replace(scale=True))
        return kernel, (_read(before), *(None,) * 4)
    return normalising(target, call.specs[0], call.attrs["eps"], epilogue), NORM


def _scaled(target: Target, call: Call, eps: float, epilogue: Epilogue) -> ByImages:
    """Return the kernel of a convolution, a normalisation, and what follows."""
    plan = conv2d(call.machine, *call.specs, **call.attrs, epilogue=epilogue)
    count, channels = len(call.specs), call.specs[1].shape[0]
    dtype = call.specs[0].dtype
    function = build(scaling, target, dtype.name, channels, float(eps))

    def begin(*arrays: NDArray) -> tuple[NDArray, Work]:
        given, rest = [*map(plain, arrays[count : count + 4])], arrays[count + 4 :]
        slope, level = empty((2, channels), dtype)
        function(*map(address, given), address(slope), address(level))
        return plan.begin(*arrays[:count], slope, level, *rest)

    return ByImages(plan.images, plan.macs, begin)


def _residual(target: Target, added: Sign, epilogue: Epilogue) -> Joined | None:
    """Return the kernel of a sum of which one operand is a normalisation that waits."""
    if added.call.specs[0] != added.call.specs[1]:
        return None
    for i, sign in enumerate(added.operands):
        if sign is None or sign.call.name != "batch_norm_eval":
            continue
        plan, opened = _normalised(target, sign, epilogue)
        return Joined(_turned(plan), (None, opened)) if i else Joined(plan, (opened, None))
    return None


def _turned(plan: ByImages) -> ByImages:
    """Let a kernel take its last argument first."""
    return ByImages(plan.images, plan.macs, lambda x, *others: plan.begin(*others, x))


@joining(MOMENTS)
def _(target: Target, call: Call, signs: Signs) -> Joined | None:
    """Mean and variance of the results of a convolution, which sums them up as it goes."""
    sign, *others = signs
    if sign is None or sign.call.name != "conv2d" or any(others):
        return None
    x, before, summed = call.specs[0], sign.call, Epilogue(moments=True)
    n, channels = x.shape[:2]
    plan = conv2d(before.machine, *before.specs, **before.attrs, epilogue=summed)
    way = _behind(target, sign, plan)
    if way is None:
        return None
    dtype, count = x.dtype, _many(way.opened)
    merge = build(merge_moments, target, dtype.name, channels, x.size // n // channels)

    def run(*arrays: NDArray) -> tuple[Any, ...]:
        rows, pair = empty((n, ROWS["moments"], channels), DOUBLE), np.empty((2, channels), dtype)
        made = way.kernel(*arrays[:count], rows)
        mean, var = pair
        merge(address(rows), address(mean), address(var), n)
        return (mean, var), *(made if way.makes else (made,))

    makes = (0,), *((0, *path) for path in way.makes)
    opened = way.opened, *(None,) * len(others)
    return Joined(native(run) if is_native(way.kernel) else run, opened, makes)


def _read(sign: Sign) -> Opened:
    """Open a call whose operands are all read."""
    return (None,) * len(sign.operands)


def _behind(target: Target, sign: Sign, plan: ByImages) -> _Way | None:
    """Return the kernel of a convolution and of what its first operand waits for."""
    waits, *others = sign.operands
    if any(others):
        return None
    if waits is None:
        return _Way(plan, _read(sign))
    first, opened = _by_images(target, waits)
    if first is None:
        return None
    kernel = chained(first, _many(opened), plan)
    return _Way(kernel, (opened, *(None,) * len(others)), ((0,),))


@joining("batch_norm_sums")
def _(target: Target, call: Call, signs: Signs) -> Joined | None:
    """The gradients of w and b from the gradient behind a ReLU, which a convolution may make and
    sum up as it goes."""
    if any(signs[1:]) or signs[0] is None or signs[0].call.name != "relu_dx":
        return None
    joined = _summing(target, call, signs[0])
    if joined is not None or not _behind_relu(signs):
        return joined
    kernel = sums(target, call.specs[1], call.attrs["eps"], masked=True)
    return Joined(kernel, (PAIR, None, None, None))


def _summing(target: Target, call: Call, sign: Sign) -> Joined | None:
    """Return the kernel of a convolution's gradient of x, to which another gradient may be added,
    of the ReLU's that it goes through, and of the sums."""
    given, mask = sign.operands
    if given is None or mask is not None:
        return None
    last, place = given, 0
    if given.call.name == "add":
        found = [(s, i) for i, s in enumerate(given.operands) if s is not None]
        last, place = next((f for f in found if f[0].call.name == "conv2d_dx"), (given, 0))
    if last.call.name != "conv2d_dx":
        return None
    meets = given is not last
    epilogue = Epilogue(residual=meets, mask=True, sums=True)
    back = last.call
    plan = conv2d_dx(back.machine, *back.specs, **back.attrs, epilogue=epilogue)
    way = _behind(target, last, plan)
    if way is None:
        return None
    (n, channels, *_), dtype, count = call.specs[1].shape, call.specs[1].dtype, _many(way.opened)
    merge = build(merge_sums, target, dtype.name, channels, float(call.attrs["eps"]))

    def run(*arrays: NDArray) -> tuple[Any, ...]:
        if meets and place == 1:
            arrays = (*arrays[1 : count + 1], arrays[0], *arrays[count + 1 :])
        own, (*images, mean, var) = arrays[:count], arrays[count:]
        rows, pair = empty((n, ROWS["sums"], channels), DOUBLE), np.empty((2, channels), dtype)
        made, var = way.kernel(*own, *images, mean, rows), plain(var)
        dw, db = pair
        merge(address(rows), address(var), address(dw), address(db), n)
        return (dw, db), *(made if way.makes else (made,))

    opened: Opened = way.opened
    if meets:
        opened = (None, opened) if place else (opened, None)
    path = (0, 0, place) if meets else (0, 0)
    makes = (0,), *((*path, *rest) for rest in way.makes)
    kernel = native(run) if is_native(way.kernel) else run
    return Joined(kernel, ((opened, None), None, None, None), makes)


def _behind_relu(signs: Signs) -> bool:
    """Tell whether the first argument, and no other, is a ReLU's gradient that waits."""
    first, *others = signs
    return (
        first is not None
        and first.call.name == "relu_dx"
        and not any(first.operands)
        and not any(others)
    )


@joining("batch_norm_dx")
def _(target: Target, call: Call, signs: Signs) -> Joined | None:
    """The gradient of x from the gradient behind a ReLU."""
    if not _behind_relu(signs):
        return None
    kernel = slope(target, call.specs[1], call.attrs["eps"], masked=True)
    return Joined(kernel, (PAIR, *(None,) * (len(signs) - 1)))


@joining("conv2d")
@joining("conv2d_dx")
def _(target: Target, call: Call, signs: Signs) -> Joined | None:
    """A convolution that goes on with each few images while they are in the cache."""
    if signs[0] is None:
        return None
    # Of its own: kernels have memory of their own, and two calls may run at the same time.
    then = find(call.machine, call.name, call.specs, call.attrs)
    way = _behind(target, Sign(call, signs), then) if isinstance(then, ByImages) else None
    return Joined(*way) if way else None


def _by_images(target: Target, sign: Sign) -> tuple[ByImages | None, Opened]:
    """Return the kernel of a call that waits, if it works image by image, and what it opens."""
    inner = join(target, sign.call, sign.operands) if any(sign.operands) else None
    opened: Opened = (None,) * len(sign.operands)
    first: Executable | None = None
    if inner is not None:
        first, opened = inner.kernel, inner.opened
    elif sign.call.name == "batch_norm_dx" and not any(sign.operands):
        first = slope(target, sign.call.specs[1], sign.call.attrs["eps"], masked=False)
    return (first if isinstance(first, ByImages) else None), opened


def _many(opened: Opened) -> int:
    """Return how many arrays a kernel is given for a call."""
    return sum(1 if inner is None else _many(inner) for inner in opened)
