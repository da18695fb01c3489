"""Stochastic gradient descent on flat buffers: one call a group and step."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from itertools import groupby, islice
from typing import Any, TypeAlias

import numpy as np

from .. import context
from ..array import Array, NDArray, array
from ..functional.create import zeros
from ..nn.errors import compare, unknown
from ..nn.flat import FlatParameters, flatten
from ..nn.module import assign
from ..ops import update
from ..tensor import Parameter, Tensor
from .schedules import Schedule

Parameters: TypeAlias = FlatParameters | Iterable[Parameter]
SCOPE = "optimizer"
LATEST = 1 << 63  # beyond any step


@dataclass
class ParameterGroup:
    """Parameters that share their settings, and their velocity (total size,), or () without
    momentum. `lr` is a number or a schedule."""

    flat: FlatParameters
    lr: float | Schedule
    momentum: float
    dampening: float
    weight_decay: float
    nesterov: bool

    def __post_init__(self) -> None:
        for name in ("lr", "momentum", "weight_decay"):
            value = getattr(self, name)
            if not callable(value) and value < 0:
                raise ValueError(f"SGD: expected {name} of at least 0, got {value}")
        if self.nesterov and (self.momentum == 0 or self.dampening != 0):
            raise ValueError(
                "SGD: expected momentum above 0 and dampening 0 with nesterov, "
                f"got {self.momentum} and {self.dampening}"
            )
        size = self.flat.data.shape if self.momentum else ()
        self.velocity: Array = zeros(*size, dtype=self.flat.dtype).data
        self.moved = [False] * len(self.flat.parameters)  # in any step so far

    def rate(self, step: int) -> float:
        """Return the learning rate of a step."""
        return self.lr(step) if callable(self.lr) else self.lr

    def velocities(self) -> list[Array | None]:
        """Return each parameter's part of the velocity, None without momentum."""
        pairs = zip(self.flat.parameters, self.flat.offsets, strict=True)
        return [self.velocity.view(i, p.shape) if self.momentum else None for p, i in pairs]

    def step(self, rate: float) -> None:
        """Update the parameters that have a gradient: one call for each run of neighbours."""
        flat = self.flat
        flat.zero_missing()
        lr = array(rate, flat.dtype)
        for begun, first, last in self._runs():
            update.sgd(
                flat.part(flat.data, first, last),
                flat.part(flat.grad, first, last),
                flat.part(self.velocity, first, last) if self.momentum else self.velocity,
                lr,
                momentum=self.momentum,
                dampening=self.dampening if begun else 0.0,
                weight_decay=self.weight_decay,
                nesterov=self.nesterov,
            )

    def _runs(self) -> list[tuple[bool, int, int]]:
        """Return runs of parameters to move: whether they moved before, the first and the last."""
        ways = [None if p.grad is None else begun or not self.dampening
                for p, begun in zip(self.flat.parameters, self.moved, strict=True)]  # fmt: skip
        self.moved = [begun or way is not None for way, begun in zip(ways, self.moved, strict=True)]
        runs = []
        for way, run in groupby(range(len(ways)), ways.__getitem__):
            if way is not None:
                first, *rest = run
                runs.append((way, first, rest[-1] if rest else first))
        return runs


_SETTINGS = tuple(f.name for f in fields(ParameterGroup) if f.name != "flat")


class SGD:
    """Stochastic gradient descent with momentum (Sutskever et al. 2013), in torch's form: the
    velocity starts as the first gradient, without dampening.

    `params`: Parameters, FlatParameters, or groups, which are mappings with "params" and settings
    of their own. Lays the parameters into flat buffers, those of a group in the given order. A
    frozen one stays as it is until it requires a gradient again. Any other without a gradient
    counts as one with zeros: momentum and weight decay move it. `lr`: a number, or a schedule of
    the step, which is an input of the update and so may change. `named_parameters` names the
    parameters in `state_dict`; else they are numbered in the order of `params`. ValueError for
    negative settings, no parameters, computed tensors and one that is listed twice; TypeError for
    what is no tensor.
    """

    def __init__(
        self,
        params: Parameters | Iterable[Mapping[str, Any]],
        lr: float | Schedule = 1e-3,
        momentum: float = 0.0,
        dampening: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
        named_parameters: Iterable[tuple[str, Parameter]] | None = None,
    ) -> None:
        values = (lr, momentum, dampening, weight_decay, nesterov)
        defaults = dict(zip(_SETTINGS, values, strict=True))
        self.groups = [_group(given, defaults) for given in _listed(params)]
        self.steps = 0
        members = [p for group in self.groups for p in group.flat.parameters]
        names = {id(p): name for name, p in named_parameters or ()}
        self.names = [names.get(id(p), str(i)) for i, p in enumerate(members)]

    @property
    def parameters(self) -> list[Parameter]:
        """All parameters, group by group, in the order of the flat buffers."""
        return [p for group in self.groups for p in group.flat.parameters]

    @property
    def rates(self) -> list[float]:
        """The learning rate of each group in the step to come."""
        return [group.rate(self.steps) for group in self.groups]

    def step(self) -> None:
        """Update all parameters by their gradients."""
        context.not_replayable("counts a step of an optimizer")
        with context.using(phase="update", scope=SCOPE, tape=None):
            for group in self.groups:
                group.step(group.rate(self.steps))
        self.steps += 1

    def zero_grad(self) -> None:
        """Forget all gradients; the next backward writes instead of adding."""
        for p in self.parameters:
            p.grad = None

    def _velocities(self) -> dict[str, Array]:
        parts = [v for group in self.groups for v in group.velocities()]
        return {name: v for name, v in zip(self.names, parts, strict=True) if v is not None}

    def state_dict(self) -> dict[str, Any]:
        """Return {"step": updates so far, "velocity": {name: copy in the parameter's shape}}, and
        under "unmoved" the names of those, if any, that were frozen in all of the updates."""
        velocity = {name: Tensor(v).numpy().copy() for name, v in self._velocities().items()}
        moved = [m for group in self.groups for m in group.moved]
        unmoved = [name for name, m in zip(self.names, moved, strict=True) if self.steps and not m]
        state: dict[str, Any] = {"step": self.steps, "velocity": velocity}
        return {**state, "unmoved": unmoved} if unmoved else state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` returned, by the names in it, whatever the order of the flat
        buffers is now. ValueError that lists every missing or extra name and every wrong shape;
        then nothing is loaded."""
        step = state["step"]
        if not isinstance(step, int) or isinstance(step, bool) or not 0 <= step < LATEST:
            raise ValueError(f"SGD: step: expected a whole number from 0 up, got {step!r:.60}")
        mine = self._velocities()
        given: dict[str, NDArray] = {k: np.asarray(v) for k, v in state["velocity"].items()}
        shapes = {name: v.shape for name, v in mine.items()}
        compare("optimizer's state", shapes, {k: v.shape for k, v in given.items()}, strict=True)
        for name, velocity in mine.items():
            assign(Tensor(velocity), array(given[name], velocity.dtype))
        self.steps = step
        unmoved, names = {*state.get("unmoved", ())}, iter(self.names)
        for group in self.groups:
            count = len(group.moved)
            group.moved = [self.steps > 0 and n not in unmoved for n in islice(names, count)]


def _listed(params: Parameters | Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return groups, one where there are none, with their parameters in lists."""
    if isinstance(params, FlatParameters):
        return [{"params": params}]
    items = _items(params)
    groups = items if items and isinstance(items[0], Mapping) else [{"params": items}]
    members: list[Tensor] = []
    found: list[Mapping[str, Any]] = []
    for group in groups:
        if not isinstance(group, Mapping) or "params" not in group:
            raise TypeError(f"SGD: expected groups with 'params', got {type(group).__name__}")
        own = group["params"]
        if not isinstance(own, FlatParameters):
            own = _checked([own] if isinstance(own, Tensor) else _items(own))
        members += own.parameters if isinstance(own, FlatParameters) else own
        found.append({**group, "params": own})
    if len({id(p) for p in members}) < len(members):
        raise ValueError("SGD: expected each parameter once, got one twice")
    return found


def _items(params: Any) -> list[Any]:
    if isinstance(params, Tensor | Mapping) or not isinstance(params, Iterable):
        kind = type(params).__name__
        raise TypeError(f"SGD: expected parameters in a list or iterator, got {kind}")
    return [*params]


def _checked(params: list[Any]) -> list[Any]:
    """Return parameters that training can change."""
    if not params:
        raise ValueError("SGD: expected at least one parameter, got none")
    for p in params:
        if not isinstance(p, Tensor):
            raise TypeError(f"SGD: expected parameters, got {type(p).__name__}")
        if not p.is_leaf:
            raise ValueError(f"SGD: expected leaves, got a computed tensor of shape {p.shape}")
    return params


def _group(given: Mapping[str, Any], defaults: Mapping[str, Any]) -> ParameterGroup:
    for name in given.keys() - {"params", *_SETTINGS}:
        raise unknown("setting of a group", name, _SETTINGS)
    params = given["params"]
    flat = params if isinstance(params, FlatParameters) else flatten(params)
    settings = {name: given.get(name, value) for name, value in defaults.items()}
    return ParameterGroup(flat, **settings)
