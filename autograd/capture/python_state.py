"""Python state that a function changes while it is recorded, which a replay would not repeat: the
generators of `random` and NumPy, attributes of modules, and variables around their methods."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import count
from types import FunctionType, ModuleType
from typing import Any

import numpy as np

from ..array import NDArray
from ..nn.module import Module
from ..tensor import Tensor
from .variables import NOTHING, PLAIN, variables_around

MOST = 1 << 14  # values compared under one name
WORD = 64  # bytes of an array that count as one of them
DEEP = 16  # levels of containers in one another
SEQUENCES = (tuple, list, set, frozenset, deque)
OPAQUE = (Module, Tensor, FunctionType, ModuleType, type)  # compared by identity
ENGINE = __name__.partition(".capture")[0]  # the package whose variables are not watched


class Snapshot:
    """Turns a value into something that stays equal as long as the value has not changed.

    That holds of plain values, arrays, generators of random numbers and what containers have of
    them, up to MOST of them. With `objects`, objects are what their attributes are; without it, and
    all others, they are only told from one another."""

    def __init__(self, objects: bool) -> None:
        self.objects = objects
        self.left = MOST

    def take(self, value: Any, depth: int = 0) -> Any:
        """Return what stands for a value."""
        self.left -= 1
        kind = type(value)
        if kind in PLAIN:  # distinguishes -0.0 from 0.0, and not one NaN from another
            return kind, repr(value) if kind in (float, complex) else value
        if isinstance(value, np.ndarray | np.generic):
            return self._array(np.asarray(value))
        if isinstance(value, count):
            return kind, repr(value)
        if depth > DEEP or self.left < 0:
            return kind
        parts = self._parts(value)
        if parts is None:
            return id(value)
        return kind, *[self.take(part, depth + 1) for part in parts]

    def _array(self, a: NDArray) -> Any:
        if a.dtype.hasobject or a.nbytes > WORD * self.left:
            return id(a)
        self.left -= a.nbytes // WORD
        return a.shape, a.dtype.str, a.tobytes()

    def _parts(self, value: Any) -> Iterator[Any] | None:
        """Return what a value consists of, None where it is a whole."""
        if isinstance(value, SEQUENCES):
            return self._some(value, len(value))
        if isinstance(value, dict):
            return self._some((x for item in value.items() for x in item), len(value))
        if isinstance(value, random.Random):
            return iter([value.getstate()])
        if isinstance(value, np.random.Generator):
            return iter([value.bit_generator.state])
        if isinstance(value, np.random.RandomState):
            return iter([value.get_state(legacy=False)])
        if self.objects and type(value).__dictoffset__ and not isinstance(value, OPAQUE):
            return iter([object.__getattribute__(value, "__dict__")])
        return None

    def _some(self, values: Iterable[Any], size: int) -> Iterator[Any]:
        yield size
        for value in values:
            if self.left < 0:
                return
            yield value


def snapshot(value: Any, objects: bool = False) -> Any:
    """Return something that stays equal as long as a value has not changed, see `Snapshot`."""
    return Snapshot(objects).take(value)


class PythonState:
    """What a recorded function could change.

    Of the function itself plain variables; of each module that is called and of those below it the
    attributes, and the variables around their methods and the functions that they hold."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._generators = _generators()
        self._modules: dict[int, tuple[Module, dict[str, Any]]] = {}
        self._variables: dict[Any, tuple[str, Callable[[], Any], Any]] = {}
        self._classes: set[type] = set()
        for key, name, read in variables_around([function], ENGINE):
            if type(value := read()) in PLAIN:
                self._variables[key] = name, read, snapshot(value)

    def include(self, module: Module) -> None:
        """Watch a module that is about to be called, and those below it."""
        if id(module) in self._modules:
            return
        for m in module.modules():
            if id(m) not in self._modules:
                self._modules[id(m)] = m, _attributes(m)
                self._include_functions(vars(m).values())
                self._include_methods(type(m))

    def _include_methods(self, kind: type) -> None:
        for base in kind.__mro__[: kind.__mro__.index(Module)]:
            if base not in self._classes:
                self._classes.add(base)
                self._include_functions(vars(base).values())

    def _include_functions(self, values: Iterable[Any]) -> None:
        """Watch the variables around those of the values that are functions."""
        for key, name, read in variables_around(values, ENGINE):
            if key not in self._variables:
                self._variables[key] = name, read, snapshot(read())

    def changed(self) -> str:
        """Return what the function has changed since it was begun, "" for nothing."""
        for (name, state), (_, now) in zip(self._generators, _generators(), strict=True):
            if state != now:
                return f"draws from {name}"
        for module, before in self._modules.values():
            after = _attributes(module)
            for name in {**before, **after}:
                if before.get(name, NOTHING) != after.get(name, NOTHING):
                    return f"changes attribute {name} of {type(module).__name__}"
        for name, read, value in self._variables.values():
            if value != snapshot(read()):
                return f"changes variable {name}"
        return ""


def _generators() -> list[tuple[str, Any]]:
    """Return the names and states of the generators that a process has one of."""
    numbers: Mapping[str, Any] = np.random.get_state(legacy=False)
    return [("Python's random", random.getstate()), ("np.random", snapshot(numbers))]


def _attributes(module: Module) -> dict[str, Any]:
    return {name: snapshot(value, objects=True) for name, value in vars(module).items()}
