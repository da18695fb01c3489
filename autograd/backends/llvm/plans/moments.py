"""Steps of optimizers that keep moments of the gradient."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from ....array import NDArray, Spec
from ..compiler.isa.targets import Target
from ..compiler.jit import build
from ..kernels.moments import stepped
from ..registry import implements
from ..runtime.executable import Executable
from ..runtime.layout import Layouts, address
from .update import alike, in_place


@implements("adam")
def adam(
    target: Target, w: Spec, g: Spec, mean: Spec, square: Spec, largest: Spec, lr: Spec,
    bias1: Spec, bias2: Spec, *, betas: tuple[float, float], eps: float, weight_decay: float,
    decoupled: bool, amsgrad: bool,
) -> Executable | None:  # fmt: skip
    """Plan a step of Adam or AdamW."""
    beta1, beta2 = betas
    decays = weight_decay != 0
    flags = decays and not decoupled, decays and decoupled, amsgrad

    def settings(lr: float, bias1: float, bias2: float) -> Sequence[float]:
        decay = 1 - lr * weight_decay if decoupled else weight_decay
        return 1 - beta1, beta2, 1 - beta2, bias2**-0.5, eps, lr / bias1, decay

    return _step(
        target, "adam", [w, g, mean, square, largest if amsgrad else None], flags, settings
    )


@implements("rmsprop")
def rmsprop(
    target: Target, w: Spec, g: Spec, square: Spec, mean: Spec, velocity: Spec, lr: Spec, *,
    alpha: float, eps: float, weight_decay: float, momentum: float, centered: bool,
) -> Executable | None:  # fmt: skip
    """Plan a step of RMSprop."""
    flags = weight_decay != 0, centered, momentum != 0

    def settings(lr: float) -> Sequence[float]:
        return alpha, 1 - alpha, eps, lr, momentum, weight_decay

    arrays = [w, g, square, mean if centered else None, velocity if momentum else None]
    return _step(target, "rmsprop", arrays, flags, settings)


@implements("adagrad")
def adagrad(
    target: Target, w: Spec, g: Spec, total: Spec, lr: Spec, *, eps: float, weight_decay: float
) -> Executable | None:
    """Plan a step of Adagrad."""

    def settings(lr: float) -> Sequence[float]:
        return eps, lr, weight_decay

    return _step(target, "adagrad", [w, g, total], (weight_decay != 0,), settings)


def _step(
    target: Target, name: str, arrays: Sequence[Spec | None], flags: tuple[bool, ...],
    settings: Callable[..., Sequence[float]],
) -> Executable | None:  # fmt: skip
    """Plan a step by a formula on weights, gradient and slots, None for one that is not in use;
    `settings` follow from the numbers, which come after these."""
    specs = {i: spec for i, spec in enumerate(arrays) if spec is not None}
    if not alike(*specs.values()):
        return None
    (_, spec), _, *slots = specs.items()
    layouts = Layouts(spec)
    function = build(stepped, target, spec.dtype.name, name, len(slots), flags)

    def run(*given: NDArray) -> None:
        # Not native: a recording would keep the numbers.
        numbers = np.array(settings(*map(float, given[len(arrays) :])), spec.dtype)

        def go(*arrays: NDArray) -> None:
            w, *changed, g = map(address, arrays)
            function(w, g, *changed, address(numbers), layouts.size)

        in_place(layouts, go, (given[0], *(given[i] for i, _ in slots)), (given[1],))

    return Executable(run)
