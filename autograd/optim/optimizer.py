"""What all optimizers share: groups of parameters, steps and state.

A new optimizer is a ParameterGroup with its settings and its `update`, and an Optimizer that names
it; `sgd.py` is the model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from inspect import signature
from itertools import islice, product
from typing import Any, ClassVar, Self, TypeAlias, TypedDict, Unpack

import numpy as np

from .. import context
from ..array import Array, array
from ..hooks import RemovableHandle
from ..ledger import Ledger
from ..narrow_copy import SCOPE
from ..nn.errors import compare
from ..nn.flat import FlatParameters, flatten
from ..nn.module import assign
from ..ops import elementwise
from ..ops.update import store
from ..suggest import unknown
from ..tensor import Parameter, Tensor
from .averages import EMA, Lookahead
from .group import ParameterGroup
from .schedules import Schedule

Parameters: TypeAlias = FlatParameters | Iterable[Parameter]
StepHook: TypeAlias = Callable[[Any, tuple[Any, ...], dict[str, Any]], None]
LATEST = 1 << 63  # beyond any step


class Options(TypedDict, total=False):
    """What torch's optimizers take besides: `maximize` climbs instead of descending; the others
    choose among its implementations, and change nothing here."""

    maximize: bool
    foreach: bool | None
    fused: bool | None
    capturable: bool
    differentiable: bool


class Optimizer:
    """Updates parameters by their gradients.

    A subclass names its kind of group, in `group`, the slots that its state has, in `slots`, and
    settings with which it is commonly used, in `usual`. It is `elementwise` unless the update of an
    element depends on others, as through a norm: then slices of parameters cannot be updated apart.

    `params` are Parameters, pairs (name, Parameter), FlatParameters, or groups: mappings with
    "params" and settings of their own. Parameters are laid into flat buffers, those of a group in
    the given order. A frozen one stays as it is until it requires a gradient again; any other one
    without a gradient counts as having zeros. `named_parameters`, or the names of pairs, name the
    parameters in `state_dict`; else they are numbered in the order of `params`. With `maximize`,
    also a setting of a group, all gradients count with the opposite sign.

    ValueError for settings out of range, no parameters, computed tensors and a parameter that is
    listed twice; TypeError for what is no tensor, and for an unknown option."""

    group: ClassVar[type[ParameterGroup]]
    slots: tuple[str, ...] = ()
    usual: ClassVar[Mapping[str, Any]] = {}
    elementwise: ClassVar[bool] = True
    in_loop = False  # within the body of a loop that ranks run different numbers of times

    def __init__(
        self,
        params: Parameters | Iterable[Mapping[str, Any]],
        defaults: Mapping[str, Any],
        named_parameters: Iterable[tuple[str, Parameter]] | None = None,
        **options: Unpack[Options],
    ) -> None:
        self._check_options(options)
        self.defaults = {**defaults, "maximize": options.get("maximize", False)}
        self._names = {id(p): name for name, p in named_parameters or ()}
        self.groups: list[ParameterGroup] = []
        self.groups = [self._group(settings) for settings in self._listed(params)]
        self.steps = 0
        self.averages: list[EMA | Lookahead] = []
        self.post_step_hooks: list[StepHook] = []
        self.names: list[str] = []
        self._name()

    def _name(self) -> None:
        """Name the parameters that have no name yet."""
        rest = [*enumerate(self.parameters)][len(self.names) :]
        self.names += [self._names.get(id(p), str(i)) for i, p in rest]

    def _check_options(self, options: Mapping[str, Any]) -> None:
        """TypeError for an unknown option, ValueError for one that is not to be had."""
        for name in options.keys() - Options.__annotations__.keys():
            own = (p for p in signature(type(self)).parameters if p != "options")
            known = (*own, *Options.__annotations__)
            raise TypeError(str(unknown(f"option of {type(self).__name__}", name, known)))
        if options.get("differentiable"):
            raise ValueError(
                f"{type(self).__name__}: expected differentiable=False, got True: updates have no "
                "derivative"
            )

    def add_param_group(self, param_group: Mapping[str, Any]) -> None:
        """Update further parameters from now on, with settings of their own or those of the
        optimizer. Errors are those of the parameters that it begins with."""
        added = [self._group(settings) for settings in self._listed([param_group])]
        self.groups += added
        self._name()
        with context.using(ledger=Ledger()):
            for group, one in product(added, self.averages):
                group.averages[one.slot] = group.slot()
                store(group.averages[one.slot], group.flat.data)

    @property
    def parameters(self) -> list[Parameter]:
        """All parameters, group by group, in the order of the flat buffers."""
        return [p for group in self.groups for p in group.flat.parameters]

    @property
    def param_groups(self) -> list[ParameterGroup]:
        """The groups: `optimizer.param_groups[0]["lr"] = 0.01`, as in torch."""
        return self.groups

    @property
    def lr(self) -> float | Schedule:
        """The learning rate of the first group, or its schedule; setting it sets all groups'."""
        return self.groups[0].lr

    @lr.setter
    def lr(self, value: float | Schedule) -> None:
        for group in self.groups:
            group["lr"] = value

    @property
    def rates(self) -> list[float]:
        """The learning rate of each group in the next step."""
        return [group.rate(self.steps) for group in self.groups]

    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor | None:
        """Update all parameters by their gradients. A `closure` is called before, to compute them;
        its loss is returned."""
        loss = closure() if closure else None
        # A replay would neither advance the count nor ask the schedule for the next rate.
        context.not_replayable("counts a step of an optimizer")
        with context.using(phase="update", scope=SCOPE, tape=None):
            if not self.steps:  # the weights may have changed since `add`
                self._begin(self.averages)
            for group in self.groups:
                group.step(group.rate(self.steps))
                for one in self.averages:
                    one.update(group.flat, group.averages[one.slot], self.steps + 1)
                group.flat.renew_narrow()
        self.steps += 1
        self._run_hooks()
        return loss

    def register_step_post_hook(self, hook: StepHook) -> RemovableHandle:
        """Call `hook(optimizer, (), {})` after each update, as to step a scheduler or to average
        weights by hand. Return a handle that removes it."""
        self.post_step_hooks.append(hook)
        return RemovableHandle(lambda: self.post_step_hooks.remove(hook))

    def _run_hooks(self) -> None:
        in_loop, self.in_loop = self.in_loop, False  # ranks update equally often
        try:
            for hook in [*self.post_step_hooks]:
                hook(self, (), {})
        finally:
            self.in_loop = in_loop

    def add(self, average: EMA | Lookahead) -> Self:
        """Begin an average of the weights; return self. ValueError where there is one of its
        kind."""
        if average.slot in self.slots:
            kind = type(average).__name__
            raise ValueError(f"{type(self).__name__}: expected no {kind} yet, got another one")
        self.slots = (*self.slots, average.slot)
        # Slow weights first: the average is of what they leave.
        self.averages = sorted([*self.averages, average], key=lambda one: isinstance(one, EMA))
        with context.using(ledger=Ledger()):
            for group in self.groups:
                group.averages[average.slot] = ParameterGroup.slot(group)
            self._begin([average])
        return self

    def _begin(self, averages: Iterable[EMA | Lookahead]) -> None:
        with context.using(phase="update", scope=SCOPE, tape=None):
            for group, one in product(self.groups, averages):
                store(group.averages[one.slot], group.flat.data)

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Let the parameters have the average of the weights (EMA) within a `with` block, and then
        the weights again. ValueError where there is none."""
        if EMA.slot not in self.slots:
            raise ValueError(f"{type(self).__name__}: expected an EMA, got none: add(EMA(..))")
        with context.using(phase="update", scope=SCOPE, tape=None):
            weights = [elementwise.copy(group.flat.data) for group in self.groups]
            for group in self.groups:
                store(group.flat.data, group.averages[EMA.slot])
        try:
            yield
        finally:
            with context.using(phase="update", scope=SCOPE, tape=None):
                for group, before in zip(self.groups, weights, strict=True):
                    store(group.flat.data, before)

    def exempt_from_decay(self, parameters: Iterable[Parameter]) -> None:
        """Let weight decay leave some parameters out from now on, such as biases."""
        exempt = {id(p) for p in parameters}
        for group in self.groups:
            group.decays = [id(p) not in exempt for p in group.flat.parameters]

    def scale_rates(self, parameters: Iterable[Parameter], factor: float) -> None:
        """Let the learning rate of some parameters be a multiple of their group's from now on.

        Weight decay times the rate stays as it is. ValueError for a negative one."""
        if not factor >= 0:
            raise ValueError(f"{type(self).__name__}: expected factor of at least 0, got {factor}")
        chosen = {id(p) for p in parameters}
        for group in self.groups:
            pairs = zip(group.flat.parameters, group.factors, strict=True)
            group.factors = [factor if id(p) in chosen else old for p, old in pairs]

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget all gradients; the next backward writes instead of adding.

        They are None then, whatever `set_to_none` is."""
        for p in self.parameters:
            p.grad = None

    def _named_groups(self) -> Iterator[tuple[ParameterGroup, list[str]]]:
        """Yield each group with the names of its parameters."""
        names = iter(self.names)
        for group in self.groups:
            yield group, [*islice(names, len(group.flat.parameters))]

    def _slot(self, slot: str) -> dict[str, Array]:
        """Return the parts of a slot by the names of their parameters, of groups that have it."""
        parts: dict[str, Array] = {}
        for group, names in self._named_groups():
            stored = group.slots().get(slot)
            if stored is not None:
                parts.update(zip(names, group.views(stored), strict=True))
        return parts

    def state_dict(self) -> dict[str, Any]:
        """Return all that the optimizer needs to continue.

        That is {"step": updates so far}, for each slot {name: copy in the parameter's shape}, and
        "missed", if there are any: {name: number of updates in which the parameter was frozen}."""
        state: dict[str, Any] = {"step": self.steps}
        for slot in self.slots:
            state[slot] = {name: Tensor(a).numpy().copy() for name, a in self._slot(slot).items()}
        counts = [count for group in self.groups for count in group.counts]
        pairs = zip(self.names, counts, strict=True)
        missed = {name: self.steps - count for name, count in pairs if count < self.steps}
        return {**state, "missed": missed} if missed else state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from what `state_dict` returned, by the names in it, whatever the order of the
        flat buffers is now. "missed" may be missing; averages that are missing begin with the
        weights.

        ValueError for a step that counts no updates, or one that lists every missing or extra name
        and every wrong shape; then nothing is loaded."""
        kind, new = type(self).__name__, [a for a in self.averages if not state.get(a.slot)]
        needed = ["step", *(s for s in self.slots if s not in (a.slot for a in new))]
        if absent := [name for name in needed if name not in state]:
            got = ", ".join(state) or "none"
            raise ValueError(f"{kind}: expected a state with {', '.join(absent)}, got {got}")
        step = state["step"]
        if not _is_count(step, LATEST):
            raise ValueError(f"{kind}: step: expected a whole number from 0 up, got {step!r:.60}")
        missed = {
            name: np.asarray(count).tolist() for name, count in state.get("missed", {}).items()
        }
        for name, count in missed.items():
            if not _is_count(count, step + 1):
                raise ValueError(
                    f"{kind}: missed: {name}: expected a whole number from 0 to {step}, "
                    f"got {count!r:.60}"
                )
        pairs = []
        for slot in needed[1:]:
            current = self._slot(slot)
            saved = {name: np.asarray(value) for name, value in state[slot].items()}
            shapes = {name: a.shape for name, a in current.items()}
            saved_shapes = {name: value.shape for name, value in saved.items()}
            compare("optimizer's state", shapes, saved_shapes, strict=True)
            pairs += [(a, saved[name]) for name, a in current.items()]
        for a, value in pairs:
            assign(Tensor(a), array(value, a.dtype))
        self.steps = step
        self._begin(new)
        for group, names in self._named_groups():
            group.counts = [step - missed.get(name, 0) for name in names]

    def _group(self, settings: Mapping[str, Any]) -> ParameterGroup:
        """Return a group with its own settings or the default ones."""
        known = tuple(f.name for f in fields(self.group) if f.name != "flat")
        for name in settings.keys() - {"params", *known, *Options.__annotations__}:
            raise unknown("setting of a group", name, known)
        self._check_options({name: settings[name] for name in settings.keys() - {"params", *known}})
        params = settings["params"]
        flat = params if isinstance(params, FlatParameters) else flatten(params)
        return self.group(flat, **{name: settings.get(name, self.defaults[name]) for name in known})

    def _listed(self, params: Parameters | Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
        """Return groups, one where there are none, with their parameters in lists."""
        if isinstance(params, FlatParameters):
            return [{"params": part} for part in params.slices]
        kind = type(self).__name__
        items = self._items(params)
        groups = items if items and isinstance(items[0], Mapping) else [{"params": items}]
        members: list[Tensor] = [
            p for group in getattr(self, "groups", ()) for p in group["params"]
        ]
        listed: list[Mapping[str, Any]] = []
        for group in groups:
            if not isinstance(group, Mapping) or "params" not in group:
                name = type(group).__name__
                raise TypeError(f"{kind}: expected groups with 'params', got {name}")
            own = group["params"]
            if not isinstance(own, FlatParameters):
                own = _checked(kind, [own] if isinstance(own, Tensor) else self._items(own))
            members += own.parameters if isinstance(own, FlatParameters) else own
            parts = own.slices if isinstance(own, FlatParameters) else (own,)
            listed += [{**group, "params": part} for part in parts]
        if len({id(p) for p in members}) < len(members):
            raise ValueError(f"{kind}: expected each parameter once, got one twice")
        return listed

    def _items(self, params: Any) -> list[Any]:
        """Return parameters or groups in a list, and take note of the names of pairs."""
        items = _items(type(self).__name__, params)
        if not items or not all(isinstance(one, tuple) and len(one) == 2 for one in items):
            return items
        self._names.update({id(p): name for name, p in items if isinstance(name, str)})
        return [p for _, p in items]


def _is_count(value: object, most: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < most


def _items(kind: str, params: Any) -> list[Any]:
    if isinstance(params, Tensor | Mapping) or not isinstance(params, Iterable):
        name = type(params).__name__
        raise TypeError(f"{kind}: expected parameters in a list or iterator, got {name}")
    return [*params]


def _checked(kind: str, params: list[Any]) -> list[Any]:
    """Return parameters that training can change."""
    if not params:
        raise ValueError(
            f"{kind}: expected at least one parameter, got none: are layers in a list or dict of "
            "Python? Those of nn.ModuleList and nn.ModuleDict are found"
        )
    for p in params:
        if not isinstance(p, Tensor):
            raise TypeError(f"{kind}: expected parameters, got {type(p).__name__}")
        if not p.is_leaf:
            raise ValueError(f"{kind}: expected leaves, got a computed tensor of shape {p.shape}")
    return params
