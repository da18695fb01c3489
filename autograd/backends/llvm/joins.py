"""Which calls wait for their reader, and the kernels that do two or three calls in one pass: a
normalisation, a sum and a ReLU, and their gradients."""

from __future__ import annotations

from ...array import Spec
from ...deferred import Call, Joined, Opened, Sign
from .elementwise import together
from .norm import moments, normalising, slope, sums
from .parts import ByImages, chained
from .passes import Epilogue
from .registry import Kernel, Waiting, find, join, joining, may_wait
from .targets import Target

LEAST = 1 << 16  # numbers from which on a pass over memory costs more than what is done for it
NORM = (None,) * 5  # the operands of a normalisation are read: x, w, b, mean, var
PAIR = (None,) * 2  # and those of a sum, or of the gradient of a ReLU
Signs = tuple[Sign | None, ...]  # of a call's arguments, None where they have numbers


@may_wait("batch_norm")
def _(target: Target, x: Spec, w: Spec, b: Spec, *, eps: float) -> Waiting | None:
    """Only the statistics are computed at once."""
    if x.size < LEAST:
        return None
    each = Spec((x.shape[1],), x.dtype)
    tail = "batch_norm_eval", (x, w, b, each, each), {"eps": eps}
    return Waiting(tail, operands=(0, 1, 2, 4, 5), large=(0,), now=moments(target, x))


@may_wait("batch_norm_eval")
@may_wait("batch_norm_dx")
@may_wait("add")
@may_wait("relu")
@may_wait("relu_dx")
def _(target: Target, x: Spec, *others: Spec, eps: float = 0.0) -> Waiting | None:
    """All of it waits, but for sums that repeat an operand."""
    alike = len(others) != 1 or others == (x,)
    return Waiting() if alike and x.size >= LEAST else None


@joining("relu")
def _(target: Target, call: Call, signs: Signs) -> Joined | None:
    """A ReLU behind a normalisation, with or without a residual between them, or behind a sum."""
    (given,) = signs
    if given is None:
        return None
    if given.call.name == "batch_norm_eval":
        before = given.call
        kernel = normalising(target, before.specs[0], before.attrs["eps"], Epilogue(relu=True))
        return Joined(kernel, (NORM,))
    if given.call.name != "add":
        return None
    with_norm = _residual(target, given, Epilogue(residual=True, relu=True))
    if with_norm is not None:
        return Joined(with_norm.kernel, (with_norm.opened,))
    plan = together(target, "add_relu", given.call.specs)
    return Joined(plan, (PAIR,)) if plan else None


@joining("add")
def _(target: Target, call: Call, signs: Signs) -> Joined | None:
    """A sum of a normalisation and a residual."""
    return _residual(target, Sign(call, signs), Epilogue(residual=True))


@joining("relu_dx")
def _(target: Target, call: Call, signs: Signs) -> Joined | None:
    """The gradient of a ReLU, of two gradients that meet there."""
    given, y = signs
    if given is None or given.call.name != "add" or any((*given.operands, y)):
        return None
    plan = together(target, "add_relu_dx", (*given.call.specs, call.specs[1]))
    return Joined(plan, (PAIR, None)) if plan else None


def _residual(target: Target, added: Sign, epilogue: Epilogue) -> Joined | None:
    """Return the kernel of a sum of which one operand is a normalisation that waits."""
    if added.call.specs[0] != added.call.specs[1]:
        return None
    for i, sign in enumerate(added.operands):
        if sign is None or sign.call.name != "batch_norm_eval":
            continue
        plan = normalising(target, sign.call.specs[0], sign.call.attrs["eps"], epilogue)
        return Joined(_turned(plan), (None, NORM)) if i else Joined(plan, (NORM, None))
    return None


def _turned(plan: ByImages) -> ByImages:
    """Let a kernel take its last argument first."""
    return ByImages(plan.images, plan.macs, lambda x, *others: plan.begin(*others, x))


@joining("batch_norm_sums")
def _(target: Target, call: Call, signs: Signs) -> Joined | None:
    """The gradients of w and b from the gradient behind a ReLU."""
    if not _behind_relu(signs):
        return None
    kernel = sums(target, call.specs[1], call.attrs["eps"], masked=True)
    return Joined(kernel, (PAIR, None, None, None))


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
    sign, *others = signs
    if sign is None or any(others):
        return None
    inner = join(target, sign.call, sign.operands) if any(sign.operands) else None
    opened: Opened = (None,) * len(sign.operands)
    first: Kernel | None = None
    if inner is not None:
        first, opened = inner.kernel, inner.opened
    elif sign.call.name == "batch_norm_dx":
        first = slope(target, sign.call.specs[1], sign.call.attrs["eps"], masked=False)
    if not isinstance(first, ByImages):
        return None
    # Of its own: kernels have memory of their own, and two calls may run at the same time.
    then = find(target, call.name, call.specs, call.attrs)
    if not isinstance(then, ByImages):
        return None
    kernel = chained(first, _many(opened), then)
    return Joined(kernel, (opened, *(None for _ in others)), makes=0)


def _many(opened: Opened) -> int:
    """Return how many arrays a kernel is given for a call."""
    return sum(1 if inner is None else _many(inner) for inner in opened)
