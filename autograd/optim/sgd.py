"""Stochastic gradient descent on flat buffers: one call a group and step."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any, TypeAlias

import numpy as np

from .. import context
from ..array import Array, NDArray, array
from ..functional.create import zeros
from ..nn.errors import compare, unknown
from ..nn.flat import Flat, flatten
from ..nn.module import assign
from ..ops import update
from ..tensor import Parameter, Tensor
from .schedules import Schedule

Parameters: TypeAlias = Flat | Iterable[Parameter]
SCOPE = "optimizer"


@dataclass
class Group:
    """Parameters that share their settings, and their velocity (total size,), or () without
    momentum. `lr` is a number or a schedule."""

    flat: Flat
    lr: float | Schedule
    momentum: float
    dampening: float
    weight_decay: float
    nesterov: bool

    def __post_init__(self) -> None:
        for name in ("lr", "momentum", "weight_decay"):
            value = getattr(self, name)
            if not callable(value) and value < 0:
                raise ValueError(f"SGD: {name} must not be negative, not {value}")
        if self.nesterov and (self.momentum == 0 or self.dampening != 0):
            raise ValueError(
                "SGD: nesterov needs momentum above 0 and dampening 0, "
                f"not {self.momentum} and {self.dampening}"
            )
        size = self.flat.data.shape if self.momentum else ()
        self.velocity: Array = zeros(*size, dtype=self.flat.dtype).data

    def rate(self, step: int) -> float:
        """Return the learning rate of a step."""
        return self.lr(step) if callable(self.lr) else self.lr

    def velocities(self) -> list[Array | None]:
        """Return each parameter's part of the velocity, None without momentum."""
        pairs = zip(self.flat.parameters, self.flat.offsets, strict=True)
        return [self.velocity.view(i, p.shape) if self.momentum else None for p, i in pairs]


_SETTINGS = tuple(f.name for f in fields(Group) if f.name != "flat")


class SGD:
    """Stochastic gradient descent with momentum (Sutskever et al. 2013), in torch's form: the
    velocity starts as the first gradient, without dampening.

    `params`: Parameters, a Flat, or groups, which are mappings with "params" and settings of their
    own. Lays the parameters that require a gradient into flat buffers, those of a group in the
    given order. A parameter without a gradient counts as one with zeros: momentum and weight decay
    move it. `lr`: a number, or a schedule of the step, which is an input of the update and so may
    change. `named_parameters` names the parameters in `state_dict`; else they are numbered in the
    order of `params`. ValueError for negative settings.
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
        context.untraced("counts a step of an optimizer")
        with context.using(phase="update", scope=SCOPE, tape=None):
            for group in self.groups:
                flat = group.flat
                flat.zero_missing()
                rate = array(group.rate(self.steps), flat.dtype)
                update.sgd(
                    flat.data,
                    flat.grad,
                    group.velocity,
                    rate,
                    momentum=group.momentum,
                    dampening=group.dampening if self.steps else 0.0,
                    weight_decay=group.weight_decay,
                    nesterov=group.nesterov,
                )
        self.steps += 1

    def zero_grad(self) -> None:
        """Forget all gradients; the next backward writes instead of adding."""
        for p in self.parameters:
            p.grad = None

    def _velocities(self) -> dict[str, Array]:
        parts = [v for group in self.groups for v in group.velocities()]
        return {name: v for name, v in zip(self.names, parts, strict=True) if v is not None}

    def state_dict(self) -> dict[str, Any]:
        """Return {"step": updates so far, "velocity": {name: copy in the parameter's shape}}."""
        velocity = {name: Tensor(v).numpy().copy() for name, v in self._velocities().items()}
        return {"step": self.steps, "velocity": velocity}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` returned, by the names in it, whatever the order of the flat
        buffers is now. ValueError that lists every missing or extra name and every wrong shape;
        then nothing is loaded."""
        mine = self._velocities()
        given: dict[str, NDArray] = {k: np.asarray(v) for k, v in state["velocity"].items()}
        shapes = {name: v.shape for name, v in mine.items()}
        compare("optimizer's state", shapes, {k: v.shape for k, v in given.items()}, strict=True)
        for name, velocity in mine.items():
            assign(Tensor(velocity), array(given[name], velocity.dtype))
        self.steps = int(state["step"])


def _listed(params: Parameters | Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return groups, one where there are none."""
    if isinstance(params, Flat):
        return [{"params": params}]
    items: list[Any] = [*params]
    groups = items and all(isinstance(item, Mapping) for item in items)
    return items if groups else [{"params": items}]


def _group(given: Mapping[str, Any], defaults: Mapping[str, Any]) -> Group:
    for name in given.keys() - {"params", *_SETTINGS}:
        raise unknown("setting of a group", name, _SETTINGS)
    params = given["params"]
    if not isinstance(params, Flat):
        params = flatten([p for p in params if p.requires_grad])
    return Group(params, **{name: given.get(name, value) for name, value in defaults.items()})
