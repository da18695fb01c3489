"""A declarative reader of tables in TOML and JSON files.

A `Table` declares the keys of a table, the values each accepts, and the class that it builds:

    LINK = Table(Link, latency_seconds=NOT_NEGATIVE, bytes_per_second=POSITIVE, source=TEXT)
    link = LINK.read(KeyPath("net.toml", "inside"), {"latency_seconds": 1e-6, ...})

All errors have one form: `net.toml: inside.source: expected a text, got 3`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Generic, NamedTuple, NoReturn, Protocol, TypeVar

from ..errors import UserError, nearest

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
INFINITE = float("inf")
MISSING = object()  # the value of a key that is not there


class KeyPath(NamedTuple):
    """A key in a file: the file as errors name it, and the dotted path of the key."""

    file: str
    key: str = ""

    def __str__(self) -> str:
        return f"{self.file}: {self.key}" if self.key else self.file

    def at(self, key: str) -> KeyPath:
        """Return the path of a key of this table."""
        return KeyPath(self.file, f"{self.key}.{key}" if self.key else key)

    def refuse(self, expected: str, value: Any) -> NoReturn:
        """Raise the UserError for a value that is not the expected one."""
        got = "nothing" if value is MISSING else f"{value!r:.60}"
        raise UserError(f"{self}: expected {expected}, got {got}")


class Field(Protocol[T_co]):
    """The values that a key accepts."""

    def read(self, key_path: KeyPath, value: Any) -> T_co:
        """Return the value as the program uses it. UserError for any other, and for MISSING."""


class Text(NamedTuple):
    """A text, or one of `choices`."""

    choices: tuple[str, ...] = ()

    def read(self, key_path: KeyPath, value: Any) -> str:
        """Return the text."""
        if not isinstance(value, str) or (self.choices and value not in self.choices):
            key_path.refuse(
                f"one of {', '.join(self.choices)}" if self.choices else "a text", value
            )
        return value


class Number(NamedTuple):
    """A finite number from `low` to `high`, above `low` if that is `excluded`. `or_zero` also
    accepts 0, `whole` only whole numbers, which become an int."""

    low: float = 0.0
    high: float = INFINITE
    excluded: bool = False
    or_zero: bool = False
    whole: bool = False

    def read(self, key_path: KeyPath, value: Any) -> float:
        """Return the number as a float, or as an int."""
        if not self.fits(value):
            key_path.refuse(str(self), value)
        return int(value) if self.whole else float(value)

    def fits(self, value: Any) -> bool:
        """Tell whether a value is such a number."""
        if isinstance(value, bool) or not isinstance(value, int | float):
            return False
        least = value > self.low if self.excluded else value >= self.low
        within = least and value <= self.high and value < INFINITE
        return (within or (self.or_zero and value == 0)) and not (self.whole and value % 1)

    def __str__(self) -> str:
        kind = f"{'0 or ' * self.or_zero}a {'whole ' * self.whole}number"
        least = f"{'above' if self.excluded else 'from'} {self.low:g}"
        if self.high == INFINITE:
            return f"{kind} {least}" if self.excluded else f"{kind} {least} up"
        return f"{kind} {least} {'at most' if self.excluded else 'to'} {self.high:g}"


class Many(NamedTuple):
    """A list of at least one value, each accepted by `one`; errors call them `plural`."""

    one: Field[Any]
    plural: str

    def read(self, key_path: KeyPath, value: Any) -> tuple[Any, ...]:
        """Return the values."""
        if not isinstance(value, list) or not value:
            key_path.refuse(f"a list of {self.plural}", value)
        key = key_path.key
        return tuple(
            self.one.read(key_path._replace(key=f"{key}[{i}]"), one) for i, one in enumerate(value)
        )


class Optional(NamedTuple):
    """A key that may be missing; its value is then `default`."""

    field: Field[Any]
    default: Any = None

    def read(self, key_path: KeyPath, value: Any) -> Any:
        """Return the value, or the default."""
        return self.default if value is MISSING else self.field.read(key_path, value)


class Table(Generic[T]):
    """A table with the keys of `fields`, whose values become the arguments of `make`."""

    def __init__(self, make: Callable[..., T], /, **fields: Field[Any]) -> None:
        self.make, self.fields = make, fields

    def read(self, key_path: KeyPath, value: Any) -> T:
        """Return what `make` makes. UserError for a key that is missing, unknown or does not
        fit."""
        if not isinstance(value, Mapping):
            key_path.refuse(f"a table of {', '.join(self.fields)}", value)
        for key in value:
            if key not in self.fields:
                unknown = key_path.at(key).key
                raise UserError(
                    f"{key_path.file}: unknown key {unknown!r:.60}{nearest(key, self.fields)}"
                )
        values = {
            key: field.read(key_path.at(key), value.get(key, MISSING))
            for key, field in self.fields.items()
        }
        return self.make(**values)


TEXT = Text()
LARGEST = 1e30  # of a number in a file: products of larger ones overflow
NOT_NEGATIVE = Number(high=LARGEST)
POSITIVE = Number(high=LARGEST, excluded=True)
COUNT = Number(low=1, high=LARGEST, whole=True)
COUNT_OR_ZERO = COUNT._replace(low=0)
SHARE = Number(high=1)
