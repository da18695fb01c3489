"""Pruning of parameters by masks, with torch's names: `weight` is then `weight_orig` times
`weight_mask`, a parameter and a buffer. A second pruning takes from what the first one left."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from math import inf
from typing import TypeAlias, TypeVar

import numpy as np

from ... import random
from ...array import NDArray
from ...functional.create import from_numpy
from ...tensor import Parameter, Tensor
from ..module import Module
from .computed import compute, computed_of, parameter_of, restore

__all__ = [
    "L1Unstructured",
    "RandomUnstructured",
    "custom_from_mask",
    "global_unstructured",
    "identity",
    "is_pruned",
    "l1_unstructured",
    "ln_structured",
    "random_structured",
    "random_unstructured",
    "remove",
]

M = TypeVar("M", bound=Module)
Choice: TypeAlias = Callable[[NDArray], NDArray]  # scores of values, of which the lowest go


def L1Unstructured(values: NDArray) -> NDArray:
    """Score values by their magnitude."""
    return np.abs(values)


def RandomUnstructured(values: NDArray) -> NDArray:
    """Score values at random, from the generator that `manual_seed` restarts."""
    return random.numbers_of().random(values.shape)


def l1_unstructured(module: M, name: str, amount: float) -> M:
    """Prune the elements of least magnitude: a share of those left, or a number (an int).

    Return the module. ValueError where there is no such parameter, or so many elements."""
    return _pruned("l1_unstructured", module, name, amount, L1Unstructured)


def random_unstructured(module: M, name: str, amount: float) -> M:
    """Prune elements at random; all else as in `l1_unstructured`."""
    return _pruned("random_unstructured", module, name, amount, RandomUnstructured)


def _pruned(what: str, module: M, name: str, amount: float, score: Choice) -> M:
    values, mask = _numbers(what, module, name)
    left = mask != 0
    mask[left] = _keep(what, score(values[left]), amount)
    return _mask(module, name, mask)


def ln_structured(module: M, name: str, amount: float, n: float, dim: int) -> M:
    """Prune the channels along an axis whose n-norms are least: a share of those left, or a number.

    Return the module. ValueError where there is no such parameter, or so many channels."""

    def score(channels: NDArray) -> NDArray:
        return np.asarray(np.linalg.norm(channels, n if n not in (inf, -inf) else float(n), axis=1))

    return _channels("ln_structured", module, name, amount, dim, score)


def random_structured(module: M, name: str, amount: float, dim: int) -> M:
    """Prune channels along an axis at random; all else as in `ln_structured`."""
    return _channels(
        "random_structured", module, name, amount, dim,
        lambda channels: random.numbers_of().random(len(channels)),
    )  # fmt: skip


def _channels(what: str, module: M, name: str, amount: float, dim: int, score: Choice) -> M:
    values, mask = _numbers(what, module, name)
    rows = np.moveaxis(mask, dim, 0)  # a view: writes reach the mask
    left = rows.reshape(len(rows), -1).any(1)
    channels = np.moveaxis(values * mask, dim, 0).reshape(len(rows), -1)[left]
    rows[np.flatnonzero(left)[~_keep(what, score(channels), amount)]] = 0
    return _mask(module, name, mask)


def global_unstructured(
    parameters: Iterable[tuple[Module, str]],
    pruning_method: Choice = L1Unstructured,
    *,
    amount: float,
) -> None:
    """Prune elements of several parameters, pairs of a module and a name, by one order of them all.

    ValueError where there is no such parameter, or so many elements."""
    pairs = [*parameters]
    every = [_numbers("global_unstructured", module, name) for module, name in pairs]
    scores = pruning_method(np.concatenate([values[mask != 0] for values, mask in every]))
    kept = _keep("global_unstructured", scores, amount)
    for (module, name), (_, mask) in zip(pairs, every, strict=True):
        left = mask != 0
        count = np.count_nonzero(left)
        mask[left], kept = kept[:count], kept[count:]
        _mask(module, name, mask)


def identity(module: M, name: str) -> M:
    """Give a parameter a mask of ones. Return the module."""
    return _mask(module, name, _numbers("identity", module, name)[1])


def custom_from_mask(module: M, name: str, mask: Tensor) -> M:
    """Prune where a mask is 0. Return the module. ValueError for another shape."""
    values, before = _numbers("custom_from_mask", module, name)
    if mask.shape != values.shape:
        raise ValueError(f"custom_from_mask: expected shape {values.shape}, got {mask.shape}")
    return _mask(module, name, before * (mask.numpy() != 0))


def is_pruned(module: Module) -> bool:
    """Tell whether a module, or one below it, has a pruned parameter."""
    return any(hasattr(m, f"{name}_mask") for m in module.modules() for name in computed_of(m))


def remove(module: M, name: str) -> M:
    """Let a module have the parameter again, with zeros where it was pruned. Return it.

    ValueError for what is not pruned."""
    if name not in computed_of(module) or not hasattr(module, f"{name}_mask"):
        raise ValueError(f"remove: expected a pruned {name!r}, got one that is not")
    weight = getattr(module, name).detach().clone()
    delattr(module, f"{name}_orig")
    delattr(module, f"{name}_mask")
    restore(module, name, Parameter(weight))
    return module


def _numbers(what: str, module: Module, name: str) -> tuple[NDArray, NDArray]:
    """Return a parameter's numbers and a copy of its mask."""
    if name in computed_of(module) and hasattr(module, f"{name}_mask"):
        mask = getattr(module, f"{name}_mask").numpy().copy()
        return getattr(module, f"{name}_orig").numpy(), mask
    values = parameter_of(what, module, name).numpy()
    return values, np.ones_like(values)


def _keep(what: str, scores: NDArray, amount: float) -> NDArray:
    """Return which of the scored remain. ValueError for more than there are, or no share."""
    share = isinstance(amount, float | np.floating)
    if not 0 <= amount <= (1 if share else len(scores)):
        most = "a share in [0, 1]" if share else f"0 to {len(scores)}"
        raise ValueError(f"{what}: expected an amount of {most}, got {amount}")
    count = round(amount * len(scores)) if share else int(amount)
    kept = np.ones(len(scores), bool)
    kept[np.argsort(scores, kind="stable")[:count]] = False
    return kept


def _mask(module: M, name: str, mask: NDArray) -> M:
    if name not in computed_of(module):
        p = parameter_of("prune", module, name)
        compute(module, name, lambda m: getattr(m, f"{name}_orig") * getattr(m, f"{name}_mask"))
        setattr(module, f"{name}_orig", p)
    module.register_buffer(f"{name}_mask", from_numpy(mask))
    return module
