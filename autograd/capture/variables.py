"""Variables that a function finds around it: globals, closures, attributes of objects."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dis import get_instructions
from functools import partial
from inspect import getattr_static
from types import CodeType, FunctionType, MemberDescriptorType, ModuleType
from typing import Any, TypeAlias

from ..nn.module import Module
from ..tensor import Tensor

PLAIN = (bool, int, float, complex, str, bytes)  # equal ones are as good as the same
READABLE = (FunctionType, MemberDescriptorType)  # methods, and attributes in slots
NOTHING = object()  # the value of a variable that has none
Read: TypeAlias = Callable[[], Any]


def variables(function: Any) -> list[tuple[Read, Any]]:
    """Return the variables that a function finds around it: what reads each, and its value.

    Those of the functions of its module that it calls are included, as are the objects in them and
    attributes of objects under names that the function reads and does not write (a count of its
    runs, say)."""
    found: dict[Any, tuple[Read, Any]] = {}
    queue = [_called(function)]
    home = getattr(plain(queue[0]), "__globals__", None)
    while queue:
        function = queue.pop()
        code = getattr(plain(function), "__code__", None)
        names = {*names_in(code)} - {*_written(code)}
        around, looked = [*_around(function)], set()
        while around:
            key, read = around.pop()
            if key not in found:
                found[key] = read, read()
                called = _called(found[key][1])
                if home is not None and getattr(plain(called), "__globals__", None) is home:
                    queue.append(called)
            value = found[key][1]
            if id(value) not in looked:
                looked.add(id(value))
                around += _attributes(value, names)
    return [*found.values()]


def variables_around(functions: Iterable[Any], skipped: str) -> Iterator[tuple[Any, str, Read]]:
    """Yield a key, the name and what reads it for each variable of functions, and of functions that
    these find in their own files and closures; not the globals of packages that begin with
    `skipped`."""
    queue, seen = [*functions], set[CodeType]()
    while queue:
        function = plain(queue.pop())
        if not isinstance(function, FunctionType) or function.__code__ in seen:
            continue
        code, home = function.__code__, function.__globals__
        seen.add(code)
        for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=True):
            queue.append(content(cell))
            yield id(cell), name, partial(content, cell)
        if str(home.get("__name__")).startswith(skipped):
            continue
        for name in names_in(code):
            if name in home:
                if getattr(home[name], "__globals__", None) is home:
                    queue.append(home[name])
                yield (id(home), name), name, partial(home.get, name, NOTHING)


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


def plain(function: Any) -> Any:
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
    function = plain(function)
    if not isinstance(function, FunctionType):
        return
    for cell in function.__closure__ or ():
        yield id(cell), partial(content, cell)
    for name in names_in(function.__code__):
        if name in function.__globals__:
            yield name, partial(function.__globals__.get, name, NOTHING)


def names_in(code: CodeType | None) -> Iterator[str]:
    """Yield the names of variables and attributes in a function and in those within it."""
    if code is None:
        return
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from names_in(constant)


def _written(code: CodeType | None) -> Iterator[str]:
    """Yield the names of attributes that a function sets, without those within it."""
    for step in get_instructions(code) if code is not None else ():
        if step.opname == "STORE_ATTR":
            yield step.argval


def _itself(value: Any) -> Any:
    return value


def content(cell: Any) -> Any:
    """Return what a variable of a closure holds, NOTHING where it is unbound."""
    try:
        return cell.cell_contents
    except ValueError:
        return NOTHING
