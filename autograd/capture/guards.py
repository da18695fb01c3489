"""Guards of traced calls.

They hold while every tensor still has its array and its `requires_grad`, every module its
attributes, and the function and the objects it uses their variables. What they cannot see, changes
inside lists and other objects, is listed in docs/tracing.md."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Sequence
from types import MethodType
from typing import Any

from ..array import Array
from ..ledger import Ledger
from ..nn.module import Module
from ..tensor import Tensor
from .observer import Changes, Dispatched, Observer
from .python_state import PythonState
from .variables import NOTHING, PLAIN, variables


class DependencyRecorder(Observer):
    """Records what a traced function depends on.

    That is the tensors that it reads but neither computes nor gets as inputs, and the modules that
    it calls. `python` tells what it changes."""

    def __init__(
        self, inputs: Sequence[Array], ledger: Ledger, function: Callable[..., Any]
    ) -> None:
        super().__init__(inputs, ledger)
        self.python = PythonState(function)
        self.tensors: dict[int, Tensor] = {}
        self.modules: dict[int, Module] = {}
        self._given = weakref.WeakValueDictionary[int, Tensor]()
        self._inputs = {id(a) for a in inputs}
        self._computed: dict[int, weakref.ref[Array]] = {}

    def add(self, call: Dispatched) -> None:
        """Record the results of a call."""
        super().add(call)
        self._computed.update((id(a), weakref.ref(a)) for a in call.results)

    def computed(self, a: Array) -> bool:
        """Tell whether an array is the result of a call."""
        own = self._computed.get(id(a))
        return own is not None and own() is a

    def reads(self, tensor: Tensor) -> None:
        """Record a tensor from elsewhere."""
        if self._given.get(id(tensor)) is tensor:
            return
        if id(tensor.array) not in self._inputs and not self.computed(tensor.array):
            self.tensors[id(tensor)] = tensor

    def gives(self, tensor: Tensor) -> None:
        """Tell a tensor on the memory of a recorded one from those from elsewhere."""
        self._given[id(tensor)] = tensor

    def called(self, module: Module) -> None:
        """Record a module."""
        self.modules[id(module)] = module
        self.python.include(module)

    def alive(self) -> Iterator[Array]:
        """Yield the results that somebody still holds."""
        return (a for r in self._computed.values() if (a := r()) is not None)


class Guards:
    """What a traced function depended on: its calls are the same again while `hold` returns True.

    Modules are compared only after an attribute of some module was set."""

    def __init__(self, recorder: DependencyRecorder, function: Callable[..., Any]) -> None:
        self.tensors = [(t, t.array, t.requires_grad) for t in recorder.tensors.values()]
        self.variables = variables(function)
        values = [value for _, value in self.variables]
        roots = [*recorder.modules.values(), *(v for v in values if isinstance(v, Module))]
        self.checked_at = Changes.count
        modules = {id(m): m for root in roots for m in root.modules()}
        self.modules = [(vars(m), vars(m).copy()) for m in modules.values()]

    def hold(self) -> bool:
        """Tell whether nothing has changed."""
        for tensor, data, wants in self.tensors:
            if tensor.array is not data or tensor.requires_grad is not wants:
                return False
        for read, value in self.variables:
            current = read()
            if current is not value and not _alike(current, value):
                return False
        # Comparing all attributes of all modules is slow: it is done once after any was set.
        return self.checked_at == Changes.count or self._modules_hold()

    def _modules_hold(self) -> bool:
        count = Changes.count
        for current, recorded in self.modules:
            if len(current) != len(recorded):
                return False
            for name, value in recorded.items():
                if not _alike(current.get(name, NOTHING), value):
                    return False
        # Nothing has changed up to here, so the comparison need not be repeated.
        self.checked_at = count
        return True


def _alike(a: Any, b: Any) -> bool:
    """Tell whether two values are one, or equal and immutable.

    They are compared by their text, which distinguishes -0.0 from 0.0 but not one NaN from
    another."""
    if a is b or type(a) is not type(b):
        return a is b
    return repr(a) == repr(b) if type(a) in PLAIN else type(a) is MethodType and a == b
