"""A pickle reader that builds only arrays, numbers, bytes, strings and containers.

It is an interpreter of its own, because Python's would hash keys of any depth and fill memos of any
length, without reacting to an interrupt meanwhile. No callable that a file names is ever imported:
the few globals that a pickled NumPy array needs stand for the functions below, which check their
arguments. Memory and time are bounded by the length of the pickle: it runs at most `MOST_STEPS`
steps, none of which copies more than the length of the pickle.
"""

from __future__ import annotations

import codecs
import math
import pickle
import struct
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..source import DataError

MOST_STEPS = 1 << 20  # CIFAR-100's larger file has 200,000
MOST_KEYS = 1000  # per dict; CIFAR's have four or five
MOST_AXES = 32
NUMBERS = {f"{kind}{size}" for kind in "iu" for size in (1, 2, 4, 8)} | {"f4", "f8", "b1"}
KEYS = (str, bytes, int, float, bool, type(None))  # hashed and compared in linear time
MULTIARRAY = ("numpy.core.multiarray", "numpy._core.multiarray")
NUMERIC = ("numpy.core.numeric", "numpy._core.numeric")


class Broken(ValueError):
    """A fault of a pickle, without the name of the file."""


class Global:
    """A function that a pickle may name."""

    def __init__(self, name: str) -> None:
        self.name = name


class PickledType:
    """An element type under construction: its state sets the byte order."""

    def __init__(self, code: object) -> None:
        name = _short(code)
        if name not in NUMBERS:
            raise Broken(f"expected an element type of {', '.join(sorted(NUMBERS))}, got {name!r}")
        self.dtype: np.dtype[Any] = np.dtype(name)

    def build(self, state: tuple[Any, ...]) -> None:
        """Set the byte order from the state (version, byte order, ...)."""
        order = _short(state[1])
        if order not in ("<", ">", "|", "="):
            raise Broken(f"expected a byte order of <, >, | or =, got {order!r}")
        if order in "<>":
            self.dtype = self.dtype.newbyteorder("<" if order == "<" else ">")


class PickledArray:
    """An array under construction: its state (version, shape, type, order, data) sets the value."""

    def __init__(self, value: NDArray[Any] | None = None) -> None:
        self.value: NDArray[Any] = np.empty(0, np.uint8) if value is None else value

    def build(self, state: tuple[Any, ...]) -> None:
        """Set `value` from the state."""
        _, shape, kind, fortran, data = state
        self.value = _from_buffer(data, kind, shape, "F" if fortran else "C")


def unpickle(data: bytes, where: str) -> dict[Any, Any]:
    """Return the dict in a pickle; strings of Python 2 are returned as bytes.

    Raises DataError, which begins with `where`, for a damaged pickle, for any other object than a
    dict, and for any global but those that a NumPy array needs.
    """
    try:
        value = _Interpreter(data).run()
    except _Refused as error:
        raise DataError(f"{where}: the pickle asks for {error}, which is refused") from error
    except (ValueError, TypeError, KeyError, IndexError, OverflowError, struct.error) as error:
        raise DataError(f"{where}: not a readable pickle: {error!s:.200}") from error
    if not isinstance(value, dict):
        raise DataError(f"{where}: expected a pickled dict, got {type(value).__name__}")
    return {
        key: item.value if isinstance(item, PickledArray) else item for key, item in value.items()
    }


class _Refused(Exception):
    """A global that is not in GLOBALS."""


class _Interpreter:
    """Runs a pickle's opcodes on a stack."""

    def __init__(self, data: bytes) -> None:
        self.data, self.offset = data, 0
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}
        # Bytes that `encode` may still produce: in a genuine pickle each is there as text.
        self.left = len(data)

    def run(self) -> Any:
        """Run to the end, and return the top of the stack."""
        for _ in range(MOST_STEPS):
            code = self.take(1)
            if code == pickle.STOP:
                return self.pop()
            action = _ACTIONS.get(code)
            if action is None:
                raise Broken(f"expected an opcode of plain data, got {code!r}")
            action(self)
        raise Broken(f"expected at most {MOST_STEPS} steps, got more")

    def take(self, size: int) -> bytes:
        """Return the next bytes."""
        if not 0 <= size <= len(self.data) - self.offset:
            rest = len(self.data) - self.offset
            raise Broken(f"expected {size} bytes at offset {self.offset}, got {rest}")
        self.offset += size
        return self.data[self.offset - size : self.offset]

    def number(self, form: str) -> Any:
        """Return the next number, in a format of `struct`."""
        return struct.unpack(form, self.take(struct.calcsize(form)))[0]

    def line(self) -> bytes:
        """Return the rest of the line."""
        end = self.data.find(b"\n", self.offset)
        return self.take(end + 1 - self.offset)[:-1]

    def push(self, value: Any) -> None:
        """Put a value on the stack."""
        self.stack.append(value)

    def pop(self) -> Any:
        """Remove and return the top of the stack, but nothing below the last mark."""
        if len(self.stack) <= (self.marks[-1] if self.marks else 0):
            raise Broken("expected a value on the stack, got none")
        return self.stack.pop()

    def pop_mark(self) -> list[Any]:
        """Remove and return everything above the last mark."""
        start = self.marks.pop()
        items = self.stack[start:]
        del self.stack[start:]
        return items

    def top(self, kind: type) -> Any:
        """Return the top of the stack, which must be a `kind`."""
        if not self.stack or not isinstance(self.stack[-1], kind):
            found = type(self.stack[-1]).__name__ if self.stack else "none"
            raise Broken(f"expected a {kind.__name__} on the stack to add to, got {found}")
        return self.stack[-1]

    def extend(self, items: list[Any]) -> None:
        """Add to the list on top."""
        self.top(list).extend(items)

    def set_items(self, items: list[Any]) -> None:
        """Add keys and values to the dict on top."""
        target = self.top(dict)
        for key, value in zip(items[::2], items[1::2], strict=True):
            if type(key) not in KEYS:
                raise Broken(
                    f"expected a string, number or None as a key, got {type(key).__name__}"
                )
            target[key] = value
            if len(target) > MOST_KEYS:
                raise Broken(f"expected at most {MOST_KEYS} keys, got more")

    def find(self, module: object, name: object) -> None:
        """Push a global, which must be one of GLOBALS."""
        if not isinstance(module, str) or not isinstance(name, str):
            raise Broken(f"expected a global's name as text, got {type(name).__name__}")
        if (module, name) not in GLOBALS:
            raise _Refused(f"{module:.100}.{name:.100}")
        self.push(Global(name))

    def reduce(self) -> None:
        """Call a global with a tuple of arguments, by the function that stands for it."""
        arguments, function = self.pop(), self.pop()
        if not isinstance(function, Global) or not isinstance(arguments, tuple):
            raise Broken(f"expected a function to call, got {type(function).__name__}")
        if function.name == "encode":
            self.push(self.encode(*arguments))
        elif function.name == "dtype":
            self.push(PickledType(arguments[0]))
        elif function.name == "scalar":
            kind, data = arguments
            self.push(_from_bytes(kind, (), data).item())
        elif function.name == "_reconstruct":
            kind, _, _ = arguments
            if not isinstance(kind, Global) or kind.name != "ndarray":
                raise Broken(
                    f"expected numpy.ndarray as the class of an array, got {type(kind).__name__}"
                )
            self.push(PickledArray())
        elif function.name == "_frombuffer":
            data, kind, shape, order = arguments
            self.push(PickledArray(_from_buffer(data, kind, shape, order)))
        else:
            raise Broken(f"expected a function to call, got the class {function.name}")

    def encode(self, text: object, encoding: object = "latin1") -> bytes:
        """Return bytes, which protocols 0 to 2 store as a call of `encode` under Python 3."""
        if not isinstance(text, str) or _short(encoding) not in ("latin1", "latin-1"):
            raise Broken(
                f"expected text encoded as latin1, got {type(text).__name__}, {encoding!r:.20}"
            )
        self.left -= len(text)
        if self.left < 0:
            raise Broken(f"expected at most {len(self.data)} encoded bytes, got more")
        return text.encode("latin1")

    def build(self) -> None:
        """Set the state of the array or element type on top."""
        state, target = self.pop(), self.stack[-1]
        if not isinstance(target, PickledType | PickledArray) or not isinstance(state, tuple):
            raise Broken(f"expected an array or element type to set, got {type(target).__name__}")
        target.build(state)

    def remember(self, index: int) -> None:
        """Store the top of the stack in the memo."""
        self.memo[index] = self.stack[-1]


# All that a file may name; each stands for a function or class of this module.
GLOBALS = {
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("_codecs", "encode"),
    *((module, name) for module in MULTIARRAY for name in ("_reconstruct", "scalar")),
    *((module, "_frombuffer") for module in NUMERIC),
}


def _from_buffer(data: object, kind: object, shape: object, order: object) -> NDArray[Any]:
    """Return an array over `data`, by rows (C) or by columns (F)."""
    if not isinstance(shape, tuple):
        raise Broken(f"expected a tuple as the shape of an array, got {type(shape).__name__}")
    if _short(order) not in ("C", "F"):
        raise Broken(f"expected C or F as the order of an array, got {order!r:.20}")
    columns = _short(order) == "F"
    value = _from_bytes(kind, shape[::-1] if columns else shape, data)
    return value.T if columns else value


def _from_bytes(kind: object, shape: tuple[Any, ...], data: object) -> NDArray[Any]:
    """Return an array over `data`, whose length must be that of the shape."""
    if not isinstance(kind, PickledType) or not isinstance(data, bytes):
        got = f"{type(kind).__name__} and {type(data).__name__}"
        raise Broken(f"expected an array with an element type and bytes, got {got}")
    if len(shape) > MOST_AXES or not all(type(n) is int and 0 <= n < 2**62 for n in shape):
        raise Broken(
            f"expected a shape of at most {MOST_AXES} sizes, each an integer of at least 0, "
            f"got {shape!r:.60}"
        )
    if len(data) != math.prod(shape) * kind.dtype.itemsize:
        size = math.prod(shape) * kind.dtype.itemsize
        raise Broken(f"expected {size} bytes for {kind.dtype} of shape {shape}, got {len(data)}")
    return np.frombuffer(data, kind.dtype).reshape(shape)


def _short(value: object) -> str:
    """Return a word of at most 8 characters, stored as text or as bytes."""
    if not isinstance(value, str | bytes) or len(value) > 8:
        raise Broken(f"expected a word of at most 8 characters, got {type(value).__name__}")
    return value.decode("latin1") if isinstance(value, bytes) else value


def _quoted(line: bytes) -> bytes:
    if len(line) < 2 or line[:1] != line[-1:] or line[:1] not in (b"'", b'"'):
        raise Broken(f"expected a string in quotes, got {line!r:.60}")
    return codecs.escape_decode(line[1:-1])[0]


def _integer(line: bytes) -> int:
    """Return a number or truth value as protocol 0 writes it."""
    return {b"00": False, b"01": True}.get(line, int(line))


_PUSH: dict[bytes, Callable[[_Interpreter], Any]] = {
    pickle.NONE: lambda m: None,
    pickle.NEWTRUE: lambda m: True,
    pickle.NEWFALSE: lambda m: False,
    pickle.INT: lambda m: _integer(m.line()),
    pickle.LONG: lambda m: int(m.line().removesuffix(b"L")),
    pickle.FLOAT: lambda m: float(m.line()),
    pickle.BININT: lambda m: m.number("<i"),
    pickle.BININT1: lambda m: m.number("<B"),
    pickle.BININT2: lambda m: m.number("<H"),
    pickle.LONG1: lambda m: int.from_bytes(m.take(m.number("<B")), "little", signed=True),
    pickle.BINFLOAT: lambda m: m.number(">d"),
    pickle.STRING: lambda m: _quoted(m.line()),
    pickle.UNICODE: lambda m: m.line().decode("raw-unicode-escape"),
    # Strings of Python 2, and bytes.
    pickle.SHORT_BINSTRING: lambda m: m.take(m.number("<B")),
    pickle.SHORT_BINBYTES: lambda m: m.take(m.number("<B")),
    pickle.BINSTRING: lambda m: m.take(m.number("<i")),
    pickle.BINBYTES: lambda m: m.take(m.number("<I")),
    pickle.BINBYTES8: lambda m: m.take(m.number("<Q")),
    pickle.BYTEARRAY8: lambda m: m.take(m.number("<Q")),
    pickle.SHORT_BINUNICODE: lambda m: m.take(m.number("<B")).decode("utf-8", "surrogatepass"),
    pickle.BINUNICODE: lambda m: m.take(m.number("<I")).decode("utf-8", "surrogatepass"),
    pickle.BINUNICODE8: lambda m: m.take(m.number("<Q")).decode("utf-8", "surrogatepass"),
    pickle.EMPTY_LIST: lambda m: [],
    pickle.EMPTY_DICT: lambda m: {},
    pickle.EMPTY_TUPLE: lambda m: (),
    pickle.LIST: lambda m: m.pop_mark(),
    pickle.TUPLE: lambda m: tuple(m.pop_mark()),
    pickle.TUPLE1: lambda m: (m.pop(),),
    pickle.TUPLE2: lambda m: (m.pop(), m.pop())[::-1],
    pickle.TUPLE3: lambda m: (m.pop(), m.pop(), m.pop())[::-1],
    pickle.GET: lambda m: m.memo[int(m.line())],
    pickle.BINGET: lambda m: m.memo[m.number("<B")],
    pickle.LONG_BINGET: lambda m: m.memo[m.number("<I")],
}


def _pushing(value: Callable[[_Interpreter], Any]) -> Callable[[_Interpreter], None]:
    return lambda m: m.push(value(m))


def _dict(m: _Interpreter) -> None:
    items = m.pop_mark()
    m.push({})
    m.set_items(items)


_ACTIONS: dict[bytes, Callable[[_Interpreter], Any]] = {
    **{code: _pushing(value) for code, value in _PUSH.items()},
    pickle.PROTO: lambda m: m.take(1),
    pickle.FRAME: lambda m: m.take(8),
    pickle.MARK: lambda m: m.marks.append(len(m.stack)),
    pickle.POP: lambda m: m.pop(),
    pickle.POP_MARK: lambda m: m.pop_mark(),
    pickle.DICT: _dict,
    pickle.APPEND: lambda m: m.extend([m.pop()]),
    pickle.APPENDS: lambda m: m.extend(m.pop_mark()),
    pickle.SETITEM: lambda m: m.set_items([m.pop(), m.pop()][::-1]),
    pickle.SETITEMS: lambda m: m.set_items(m.pop_mark()),
    pickle.PUT: lambda m: m.remember(int(m.line())),
    pickle.BINPUT: lambda m: m.remember(m.number("<B")),
    pickle.LONG_BINPUT: lambda m: m.remember(m.number("<I")),
    pickle.MEMOIZE: lambda m: m.remember(len(m.memo)),
    pickle.GLOBAL: lambda m: m.find(m.line().decode(), m.line().decode()),
    pickle.STACK_GLOBAL: lambda m: m.find(*[m.pop(), m.pop()][::-1]),
    pickle.REDUCE: lambda m: m.reduce(),
    pickle.BUILD: lambda m: m.build(),
}
