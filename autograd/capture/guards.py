"""Guards of traced calls.

They hold while every tensor still has its array and its `requires_grad`, every module its
attributes, and the function and the objects it uses their variables. What they cannot see, changes
inside lists and other objects, is listed in docs/tracing.md."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Sequence
from dis import get_instructions
from functools import partial
from inspect import getattr_static
from types import CodeType, FunctionType, MemberDescriptorType, MethodType, ModuleType
from typing import Any, TypeAlias

from ..array import Array
from ..ledger import Ledger
from ..nn.module import Module
from ..tensor import Tensor
from .observer import Changes, Dispatched, Observer

PLAIN = (bool, int, float, complex, str, bytes)  # equal ones are as good as the same
READABLE = (FunctionType, MemberDescriptorType)  # methods, and attributes in slots
NOTHING = object()  # the value of a variable that has none
Read: TypeAlias = Callable[[], Any]


class DependencyRecorder(Observer):
    """Records what a traced function depends on.

    That is the tensors that it reads but neither computes nor gets as inputs, and the modules that
    it calls."""

    def __init__(self, inputs: Sequence[Array], ledger: Ledger) -> None:
        super().__init__(inputs, ledger)
        self.tensors: dict[int, Tensor] = {}
        self.modules: dict[int, Module] = {}
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
        if id(tensor.data) not in self._inputs and not self.computed(tensor.data):
            self.tensors[id(tensor)] = tensor

    def called(self, module: Module) -> None:
        """Record a module."""
        self.modules[id(module)] = module

    def alive(self) -> Iterator[Array]:
        """Yield the results that somebody still holds."""
        return (a for r in self._computed.values() if (a := r()) is not None)


class Guards:
    """What a traced function depended on: its calls are the same again while `hold` returns True.

    Modules are compared only after an attribute of some module was set."""

    def __init__(self, recorder: DependencyRecorder, function: Callable[..., Any]) -> None:
        self.tensors = [(t, t.data, t.requires_grad) for t in recorder.tensors.values()]
        self.variables = _variables(function)
        values = [value for _, value in self.variables]
        roots = [*recorder.modules.values(), *(v for v in values if isinstance(v, Module))]
        self.checked_at = Changes.count
        modules = {id(m): m for root in roots for m in root.modules()}
        self.modules = [(vars(m), vars(m).copy()) for m in modules.values()]

    def hold(self) -> bool:
        """Tell whether nothing has changed."""
        for tensor, data, wants in self.tensors:
            if tensor.data is not data or tensor.requires_grad is not wants:
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


def _variables(function: Any) -> list[tuple[Read, Any]]:
    """Return the variables that a function finds around it: what reads each, and its value.

    Those of the functions of its module that it calls are included, as are the objects in them and
    attributes of objects under names that the function reads and does not write (a count of its
    runs, say)."""
    variables: dict[Any, tuple[Read, Any]] = {}
    queue = [_called(function)]
    home = getattr(_plain(queue[0]), "__globals__", None)
    while queue:
        function = queue.pop()
        code = getattr(_plain(function), "__code__", None)
        names = {*_names(code)} - {*_written(code)}
        around, looked = [*_around(function)], set()
        while around:
            key, read = around.pop()
            if key not in variables:
                variables[key] = read, read()
                called = _called(variables[key][1])
                if home is not None and getattr(_plain(called), "__globals__", None) is home:
                    queue.append(called)
            value = variables[key][1]
            if id(value) not in looked:
                looked.add(id(value))
                around += _attributes(value, names)
    return [*variables.values()]


def _called(value: Any) -> Any:
    """Return the function that runs where a value is called: of an object, its method."""
    own = isinstance(getattr_static(type(value), "__call__", None), FunctionType)
    return value.__call__ if own and not isinstance(value, Module) else value


def _attributes(value: Any, names: set[str]) -> Iterator[tuple[Any, Read]]:
    """Yield a key for each attribute of an object under one of the names, and what reads it.

    Nothing is computed for it, as properties would."""
    if isinstance(value, Module | Tensor | FunctionType | ModuleType):
        return
    for name in names:
        attribute = getattr_static(value, name, NOTHING)
        computed = hasattr(type(attribute), "__get__")
        if attribute is not NOTHING and (not computed or isinstance(attribute, READABLE)):
            yield (id(value), name), partial(getattr, value, name, NOTHING)


def _plain(function: Any) -> Any:
    """Return the function behind a method or a partial call."""
    while isinstance(function, partial):
        function = function.func
    return getattr(function, "__func__", function)


def _around(function: Any) -> Iterator[tuple[Any, Read]]:
    """Yield a key for each variable of a function, and what reads it."""
    while isinstance(function, partial):
        for value in (*function.args, *function.keywords.values()):
            yield id(value), partial(_itself, value)
        function = function.func
    owner = getattr(function, "__self__", None)
    if owner is not None:
        yield id(owner), partial(_itself, owner)
    function = _plain(function)
    if not isinstance(function, FunctionType):
        return
    for cell in function.__closure__ or ():
        yield id(cell), partial(_content, cell)
    for name in _names(function.__code__):
        if name in function.__globals__:
            yield name, partial(function.__globals__.get, name, NOTHING)


def _names(code: CodeType | None) -> Iterator[str]:
    """Yield the names of variables and attributes in a function and in those within it."""
    if code is None:
        return
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)


def _written(code: CodeType | None) -> Iterator[str]:
    """Yield the names of attributes that a function sets, without those within it."""
    for step in get_instructions(code) if code is not None else ():
        if step.opname == "STORE_ATTR":
            yield step.argval


def _itself(value: Any) -> Any:
    return value


def _content(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:
        return NOTHING
