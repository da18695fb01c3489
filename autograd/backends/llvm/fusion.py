"""Which calls are deferred, and the kernels that do several calls in one pass: convolution, batch
norm, residual and ReLU, and their gradients.

A rule is given a call and the signatures of its arguments, None for those that have numbers; it
returns the kernel that also does the pending calls, None if there is none.
"""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from ...array import NDArray, Spec
from ...deferred import Call, Fused, Inlined, Signature
from ...dtypes import computed_in, is_narrow
from .compiler.isa.targets import Target
from .compiler.jit import build
from .kernels.epilogue import NOTHING, TOTALS, Epilogue, merge_moments, merge_sums, scaling
from .plans.batch_norm import moments, normalising, slope, sums
from .plans.conv_tiles_weights import is_placeable
from .plans.elementwise import together
from .registry import Deferral, defers, find, find_fastest, find_tiled, fuse, fuses
from .runtime.executable import Executable, Placeable
from .runtime.layout import address, plain
from .runtime.memory import empty
from .runtime.parallel import ByImages, Work, chained, in_turn

LEAST = 1 << 16  # numbers from which a pass over memory costs more than deferring a call
NORM = (None,) * 5  # the operands of a normalisation are read: x, w, b, mean, var
PAIR = (None,) * 2  # and those of a sum, or of the gradient of a ReLU
DOUBLE = np.dtype(np.float64)  # of sums in an epilogue
MOMENTS = "moments"  # what a normalisation computes at once
Signatures = tuple[Signature | None, ...]


@defers("batch_norm")
def _(target: Target, x: Spec, w: Spec, b: Spec, *, eps: float) -> Deferral | None:
    """Compute the statistics at once and defer the normalisation."""
    if x.size < LEAST:
        return None
    each = Spec((x.shape[1],), computed_in(x.dtype))
    tail = "batch_norm_eval", (x, w, b, each, each), {"eps": eps}
    operands = (0, 1, 2, 4, 5)  # x, w, b, and of the results mean and variance
    return Deferral(tail, operands, (0,), immediate=moments(target, x), name=MOMENTS)


@defers("batch_norm_eval")
def _(target: Target, x: Spec, *channels: Spec, eps: float) -> Deferral | None:
    """Defer it, behind one pending call at most: a convolution whose operands are realized."""
    return Deferral(max_depth=2) if x.size >= LEAST else None


@defers("batch_norm_dx")
@defers("add")
@defers("relu")
@defers("relu_dx")
def _(target: Target, x: Spec, *others: Spec, eps: float = 0.0) -> Deferral | None:
    """Defer it, except for sums that broadcast an operand."""
    alike = len(others) != 1 or others == (x,)
    return Deferral() if alike and x.size >= LEAST else None


@defers("conv2d")
@defers("conv2d_dx")
def _(target: Target, x: Spec, *others: Spec, **attributes: Any) -> Deferral | None:
    """Defer it: what reads it may become its epilogue."""
    return Deferral() if x.size >= LEAST else None


@defers("conv2d_dw")
def _(target: Target, x: Spec, dy: Spec, **attrs: Any) -> Deferral | None:
    """Defer it where it may be written straight to the gradient's slot."""
    if x.shape[1] * dy.shape[1] * prod(attrs["size"]) < LEAST:
        return None
    if not is_narrow(x.dtype) or not is_placeable(target, x, dy, **attrs):
        return None
    return Deferral(must_own=(0, 1), alone=True)


@fuses("store")
def _(target: Target, call: Call, signatures: Signatures) -> Fused | None:
    """Write the gradient of a convolution's weights to its slot."""
    slot, signature = signatures
    if slot is not None or signature is None or signature.call.name != "conv2d_dw":
        return None
    dw = signature.call
    # A plan of its own: executables have scratch memory, and both may run at the same time.
    plan = find_tiled(dw.target, dw.name, dw.specs, dw.attrs)
    same = call.specs[0] == call.specs[1]
    return Fused(plan.into, (None, PAIR)) if same and isinstance(plan, Placeable) else None


@fuses("relu")
def _(target: Target, call: Call, signatures: Signatures) -> Fused | None:
    """Fuse a ReLU with a sum, or with a normalisation and perhaps a residual before it."""
    (operand,) = signatures
    if operand is None:
        return None
    if operand.call.name == "batch_norm_eval":
        kernel, inlined = _normalised(target, operand, Epilogue(relu=True))
        return Fused(kernel, (inlined,))
    if operand.call.name != "add":
        return None
    with_norm = _residual(target, operand, Epilogue(residual=True, relu=True))
    if with_norm is not None:
        return Fused(with_norm.kernel, (with_norm.inlined,))
    if any(operand.operands):
        return None
    plan = together(target, "add_relu", operand.call.specs)
    return Fused(plan, (PAIR,)) if plan else None


@fuses("add")
def _(target: Target, call: Call, signatures: Signatures) -> Fused | None:
    """Fuse the sum of a normalisation and a residual."""
    return _residual(target, Signature(call, signatures), Epilogue(residual=True))


@fuses("batch_norm_eval")
def _(target: Target, call: Call, signatures: Signatures) -> Fused | None:
    """Fuse a normalisation with known statistics into the convolution before it."""
    if signatures[0] is None or signatures[0].call.name != "conv2d" or any(signatures[1:]):
        return None
    return Fused(*_normalised(target, Signature(call, signatures), NOTHING))


@fuses("relu_dx")
def _(target: Target, call: Call, signatures: Signatures) -> Fused | None:
    """Fuse the gradient of a ReLU with the sum of two gradients that meet there."""
    operand, y = signatures
    if operand is None or operand.call.name != "add" or any((*operand.operands, y)):
        return None
    plan = together(target, "add_relu_dx", (*operand.call.specs, call.specs[1]))
    return Fused(plan, (PAIR, None)) if plan else None


def _normalised(
    target: Target, signature: Signature, epilogue: Epilogue
) -> tuple[ByImages, Inlined]:
    """Return the kernel of a normalisation with known statistics and an epilogue, and what it
    inlines: the convolution before it too, if the operands of that are realized."""
    call, (before, *_) = signature.call, signature.operands
    if before is not None and before.call.name == "conv2d" and not any(before.operands):
        eps = call.attrs["eps"]
        kernel = _scaled(target, before.call, eps, epilogue._replace(scale=True))
        return kernel, (_read(before), *(None,) * 4)
    return normalising(target, call.specs[0], call.attrs["eps"], epilogue), NORM


def _convolution(call: Call, epilogue: Epilogue) -> ByImages:
    """Return the kernel of a deferred convolution, or of its gradient of x, and an epilogue."""
    attrs = {**call.attrs, "epilogue": epilogue}
    by_tiles = find_tiled(call.target, call.name, call.specs, attrs)
    plan: Any = by_tiles or find(call.target, call.name, call.specs, attrs)
    return plan


def _scaled(target: Target, call: Call, eps: float, epilogue: Epilogue) -> ByImages:
    """Return the kernel of a convolution, a normalisation, and an epilogue."""
    plan = _convolution(call, epilogue)
    count, channels = len(call.specs), call.specs[1].shape[0]
    dtype = computed_in(call.specs[0].dtype)
    function = build(scaling, target, dtype.name, channels, float(eps))

    def begin(*arrays: NDArray) -> tuple[NDArray, Work]:
        norm, rest = [*map(plain, arrays[count : count + 4])], arrays[count + 4 :]
        slope, level = empty((2, channels), dtype)
        function(*map(address, norm), address(slope), address(level))
        return plan.begin(*arrays[:count], slope, level, *rest)

    return ByImages(plan.images, plan.macs, begin)


def _residual(target: Target, added: Signature, epilogue: Epilogue) -> Fused | None:
    """Return the kernel of a sum of which one operand is a pending normalisation."""
    if added.call.specs[0] != added.call.specs[1]:
        return None
    for i, signature in enumerate(added.operands):
        if signature is None or signature.call.name != "batch_norm_eval":
            continue
        plan, inlined = _normalised(target, signature, epilogue)
        return Fused(_turned(plan), (None, inlined)) if i else Fused(plan, (inlined, None))
    return None


def _turned(plan: ByImages) -> ByImages:
    """Let a kernel take its last argument first."""
    return ByImages(plan.images, plan.macs, lambda x, *others: plan.begin(*others, x))


@fuses(MOMENTS)
def _(target: Target, call: Call, signatures: Signatures) -> Fused | None:
    """Fuse mean and variance into the convolution before them, which sums them up as it goes."""
    signature, *others = signatures
    if signature is None or signature.call.name != "conv2d" or any(others):
        return None
    x = call.specs[0]
    plan = _convolution(signature.call, Epilogue(moments=True))
    n, channels = plan.images, x.shape[1]
    chain = _behind(target, signature, plan)
    if chain is None:
        return None
    dtype, count = computed_in(x.dtype), _num_arrays(chain.inlined)
    merge = build(merge_moments, target, dtype.name, channels, x.size // n // channels)

    def run(*arrays: NDArray) -> tuple[Any, ...]:
        rows, pair = empty((n, TOTALS["moments"], channels), DOUBLE), np.empty((2, channels), dtype)
        outputs = chain.kernel(*arrays[:count], rows)
        mean, var = pair
        merge(address(rows), address(mean), address(var), n)
        return (mean, var), *(outputs if chain.also_made else (outputs,))

    also_made = (0,), *((0, *path) for path in chain.also_made)
    inlined = chain.inlined, *(None,) * len(others)
    return Fused(Executable(run, native=_is_native(chain)), inlined, also_made)


def _may_tile(call: Call) -> bool:
    """Tell whether a convolution may be done by tiles, which do not go through images one after
    the other."""
    return call.target.convolves and is_narrow(call.specs[0].dtype)


def _read(signature: Signature) -> Inlined:
    """Return how a call is inlined whose operands are all realized."""
    return (None,) * len(signature.operands)


def _behind(target: Target, signature: Signature, plan: ByImages) -> Fused | None:
    """Return the kernel of a convolution and of the pending call behind its first operand."""
    before, *others = signature.operands
    if any(others):
        return None
    if before is None:
        return Fused(plan, _read(signature))
    first, inlined = _by_images(target, before)
    if first is None:
        return None
    join = in_turn if _may_tile(signature.call) else chained
    kernel = join(first, _num_arrays(inlined), plan)
    return Fused(kernel, (inlined, *(None,) * len(others)), ((0,),))


@fuses("batch_norm_sums")
def _(target: Target, call: Call, signatures: Signatures) -> Fused | None:
    """Fuse the gradients of w and b with the gradient of the ReLU before them, and, where dy comes
    from a convolution, with that: it sums them up as it goes."""
    if any(signatures[1:]) or signatures[0] is None or signatures[0].call.name != "relu_dx":
        return None
    fused = _summing(target, call, signatures[0])
    if fused is not None or not _behind_relu(signatures):
        return fused
    kernel = sums(target, call.specs[1], call.attrs["eps"], masked=True)
    return Fused(kernel, (PAIR, None, None, None))


def _summing(target: Target, call: Call, signature: Signature) -> Fused | None:
    """Return the kernel of a convolution's gradient of x, of the ReLU's gradient behind it, and of
    the sums; another gradient may be added in between."""
    gradient, mask = signature.operands
    if gradient is None or mask is not None:
        return None
    last, index = _last_gradient(gradient)
    if last.call.name != "conv2d_dx":
        return None
    meets = last is not gradient
    plan = _convolution(last.call, Epilogue(residual=meets, mask=True, sums=True))
    chain = _behind(target, last, plan)
    if chain is None:
        return None
    run = _masked_sums(target, call, chain, plan.images, residual_first=meets and index == 1)
    inlined: Inlined = chain.inlined
    if meets:
        inlined = (None, inlined) if index else (inlined, None)
    path = (0, 0, index) if meets else (0, 0)
    also_made = (0,), *((*path, *rest) for rest in chain.also_made)
    return Fused(run, ((inlined, None), None, None, None), also_made)


def _last_gradient(signature: Signature) -> tuple[Signature, int]:
    """Return the operand of a sum that is the gradient of a convolution, and its number; for
    anything else the signature itself and 0."""
    if signature.call.name == "add":
        for index, operand in enumerate(signature.operands):
            if operand is not None and operand.call.name == "conv2d_dx":
                return operand, index
    return signature, 0


def _masked_sums(
    target: Target, call: Call, chain: Fused, n: int, residual_first: bool
) -> Executable:
    """Return the executable of `_summing`, whose sums are in `n` parts.

    It takes the operands of the sum in their order, but the epilogue takes the residual behind the
    convolution's operands: with `residual_first` they are reordered.
    """
    x, count = call.specs[1], _num_arrays(chain.inlined)
    channels, dtype = x.shape[1], computed_in(x.dtype)
    merge = build(merge_sums, target, dtype.name, channels, float(call.attrs["eps"]))

    def run(*arrays: NDArray) -> tuple[Any, ...]:
        if residual_first:
            arrays = (*arrays[1 : count + 1], arrays[0], *arrays[count + 1 :])
        own, (*images, mean, var) = arrays[:count], arrays[count:]
        rows, pair = empty((n, TOTALS["sums"], channels), DOUBLE), np.empty((2, channels), dtype)
        outputs, var = chain.kernel(*own, *images, mean, rows), plain(var)
        dw, db = pair
        merge(address(rows), address(var), address(dw), address(db), n)
        return (dw, db), *(outputs if chain.also_made else (outputs,))

    return Executable(run, native=_is_native(chain))


def _behind_relu(signatures: Signatures) -> bool:
    """Tell whether the first argument, and no other, is a pending gradient of a ReLU."""
    first, *others = signatures
    return (
        first is not None
        and first.call.name == "relu_dx"
        and not any(first.operands)
        and not any(others)
    )


@fuses("batch_norm_dx")
def _(target: Target, call: Call, signatures: Signatures) -> Fused | None:
    """Fuse the gradient of x with the gradient of the ReLU before it."""
    if not _behind_relu(signatures):
        return None
    kernel = slope(target, call.specs[1], call.attrs["eps"], masked=True)
    return Fused(kernel, (PAIR, *(None,) * (len(signatures) - 1)))


@fuses("conv2d")
@fuses("conv2d_dx")
def _(target: Target, call: Call, signatures: Signatures) -> Fused | None:
    """Chain a convolution to the call before it: each few images go through both while cached."""
    if signatures[0] is None or _may_tile(call):
        return None
    # A plan of its own: executables have scratch memory, and both may run at the same time.
    then = find_fastest(call.target, call.name, call.specs, call.attrs)
    if not isinstance(then, ByImages):
        return None
    return _behind(target, Signature(call, signatures), then)


def _by_images(target: Target, signature: Signature) -> tuple[ByImages | None, Inlined]:
    """Return the kernel of a pending call, if it works image by image, and what it inlines."""
    inner = fuse(target, signature.call, signature.operands) if any(signature.operands) else None
    inlined = _read(signature)
    first: Any = None
    if inner is not None:
        first, inlined = inner.kernel, inner.inlined
    elif signature.call.name == "batch_norm_dx" and not any(signature.operands):
        first = slope(target, signature.call.specs[1], signature.call.attrs["eps"], masked=False)
    return (first if isinstance(first, ByImages) else None), inlined


def _is_native(fused: Fused) -> bool:
    """Tell whether compiled functions do all of a fused kernel's arithmetic."""
    return isinstance(fused.kernel, Executable) and fused.kernel.native


def _num_arrays(inlined: Inlined) -> int:
    """Return how many arrays a kernel is given for a call that it inlines."""
    return sum(1 if inner is None else _num_arrays(inner) for inner in inlined)
