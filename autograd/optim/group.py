"""Groups of parameters on flat buffers: settings, slots, and runs of parameters to update."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from itertools import groupby
from math import inf
from typing import Any, NamedTuple, Self

import numpy as np

from ..array import Array, array
from ..functional.create import zeros
from ..nn.flat import FlatParameters, flatten
from ..ops.elementwise import neg
from ..ops.update import store
from .schedules import Schedule


class Run(NamedTuple):
    """Neighbouring parameters that are updated in one call, from the `first` to the `last`: `done`
    is the number of updates that they have had, where that matters; `factor` is their rate, and
    `decay` their weight decay, as a multiple of the group's."""

    first: int
    last: int
    done: int
    decay: float
    factor: float


@dataclass
class ParameterGroup:
    """Parameters that share their settings, which are the dataclass fields after `flat`.

    `lr` is a number or a schedule; with `maximize`, gradients count with the opposite sign. A
    subclass adds its settings, checks them in `check`, creates
    its slots with `slot` and updates a run of neighbouring parameters in one call of `update`."""

    flat: FlatParameters
    lr: float | Schedule
    maximize: bool = field(default=False, kw_only=True)

    def __post_init__(self) -> None:
        self.counts = [0] * len(self.flat.parameters)  # updates of each so far
        self.decays = [True] * len(self.flat.parameters)
        self.factors = [1.0] * len(self.flat.parameters)
        self.averages: dict[str, Array] = {}  # slots that the optimizer's averages have
        self.unused = zeros(dtype=self.flat.dtype).array  # for operands that are not needed
        self._narrow: Array | None = None  # within a step: the narrow copy of the weights
        self._narrowed = 0  # runs whose updates write it
        self.check()

    @classmethod
    def kind(cls) -> str:
        """Return the optimizer's name, for messages."""
        return cls.__name__.removesuffix("Group")

    def __getitem__(self, name: str) -> Any:
        """Return a setting, or "params", as of torch's groups. KeyError for others."""
        if name == "params":
            return [*self.flat.parameters]
        self._check_setting(name)
        return getattr(self, name)

    def __setitem__(self, name: str, value: object) -> None:
        """Change a setting from the next step on. KeyError for others, ValueError for one out of
        range."""
        self._check_setting(name)
        before = getattr(self, name)
        setattr(self, name, value)
        try:
            self.check()
        except ValueError:
            setattr(self, name, before)
            raise

    def _check_setting(self, name: str) -> None:
        names = [item.name for item in fields(self) if item.name != "flat"]
        if name not in names:
            raise KeyError(f"{self.kind()}: expected one of {', '.join(names)}, got {name}")

    def check(self) -> None:
        """ValueError for settings out of range."""

    def check_least(self, *names: str, most: float = inf) -> None:
        """ValueError for settings that are no numbers from 0 to `most`; a schedule may be the
        rate."""
        range_ = "of at least 0" if most == inf else f"in [0, {most:g}]"
        for name in names:
            value = getattr(self, name)
            if not (name == "lr" and callable(value)) and not (
                isinstance(value, int | float | np.number) and 0 <= value <= most
            ):
                raise ValueError(f"{self.kind()}: expected {name} {range_}, got {value!r:.60}")

    def check_pair(self, name: str, holds: Callable[[float, float], bool], words: str) -> None:
        """Make a setting a tuple of two floats. ValueError for others than two numbers that are in
        a relation, which `words` describe."""
        value = getattr(self, name)
        try:
            x, y = map(float, value)
            if not holds(x, y):
                raise ValueError
        except (TypeError, ValueError):
            what = f"{self.kind()}: expected {name} of two numbers {words}"
            raise ValueError(f"{what}, got {value!r:.60}") from None
        setattr(self, name, (x, y))

    @property
    def counts_matter(self) -> bool:
        """Whether the update of a parameter depends on how many it has had."""
        return False

    def slots(self) -> dict[str, Array]:
        """Return, by name, the flat arrays of what is kept for each element from step to step."""
        return {**self.own_slots(), **self.averages}

    def own_slots(self) -> dict[str, Array]:
        """Return the slots without those of averages."""
        return {}

    def update(self, run: Run, lr: Array) -> None:
        """Update the parameters of a run."""
        raise NotImplementedError(f"{type(self).__name__} has no update")

    def slot(self) -> Array:
        """Return a new flat array of zeros, one element for each of the parameters'."""
        return zeros(*self.flat.data.shape, dtype=self.flat.dtype).array

    def turned(self) -> Self:
        """Return a group of the same settings, without any updates yet, whose parameters lie in
        the opposite order."""
        new = replace(self, flat=flatten([*reversed(self.flat.parameters)]))
        new.decays, new.factors = self.decays[::-1], self.factors[::-1]
        new.averages = {name: new.slot() for name in self.averages}
        return new

    def rate(self, step: int) -> float:
        """Return the learning rate of a step, counted from 0."""
        return self.lr(step) if callable(self.lr) else self.lr

    def views(self, slot: Array) -> list[Array]:
        """Return each parameter's part of a slot, in its shape; (elements,) of a slice."""
        pairs = zip(self.flat.offsets, self.flat.shapes, strict=True)
        return [slot.view(offset, shape) for offset, shape in pairs]

    def step(self, rate: float) -> None:
        """Update the parameters that have a gradient, one call for each run of neighbours."""
        self.flat.zero_missing()
        self._turn()
        weights, runs = self.flat.data.storage, self._runs()
        self._narrow, self._narrowed, version = self.flat.narrow(), 0, weights.version
        for run in runs:
            self.update(run, array(rate * run.factor, self.flat.computed_in))
        # An update that knows of the copy writes the weights once. Others leave it behind.
        once = weights.version - version == self._narrowed == len(runs)
        if once and self._narrow is not None:
            self.flat.mark_narrow_current()
        self._narrow = None
        self._turn()

    def narrow(self, run: Run) -> Array:
        """Return the narrow copy of a run's weights, (size,), which the update that asks for it
        writes in the same call; () where there is none."""
        self._narrowed += 1
        narrow = self._narrow
        return self.unused if narrow is None else self.flat.part(narrow, run.first, run.last)

    def _turn(self) -> None:
        """Give gradients the opposite sign, if they are climbed."""
        if self.maximize:
            store(self.flat.grad, neg(self.flat.grad))

    def _runs(self) -> list[Run]:
        """Return runs of parameters to update."""
        # None: no update. Only neighbours that are updated alike lie in one run.
        each = zip(self.flat.parameters, self.counts, self.decays, self.factors, strict=True)
        ways = [None if p.grad is None else
                (count * self.counts_matter, decays / factor if factor else 0.0, factor)
                for p, count, decays, factor in each]  # fmt: skip
        pairs = zip(ways, self.counts, strict=True)
        self.counts = [count + (way is not None) for way, count in pairs]
        runs = []
        for way, run in groupby(range(len(ways)), ways.__getitem__):
            if way is not None:
                first, *rest = run
                runs.append(Run(first, rest[-1] if rest else first, *way))
        return runs


class SlottedGroup(ParameterGroup):
    """A group that keeps the slots that `slot_names` lists for its settings."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._slots = {name: self.slot() for name in self.slot_names()}

    def slot_names(self) -> tuple[str, ...]:
        """Return the names of the slots that the settings need."""
        raise NotImplementedError(f"{type(self).__name__} has no slot_names")

    def own_slots(self) -> dict[str, Array]:
        """Return the slots by name."""
        return self._slots

    def operands(self, run: Run, *names: str) -> list[Array]:
        """Return weights, gradients and slots of a run, each (size,), but () of a slot that the
        settings do not need."""
        flat = self.flat
        arrays = (flat.data, flat.grad, *(self._slots.get(name) for name in names))
        return [self.unused if a is None else flat.part(a, run.first, run.last) for a in arrays]
