"""Tables that forget what was not asked for lately, and how much each kind may hold.

Programs that go on to new shapes, options or functions must not grow without end."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeVar

K = TypeVar("K")
V = TypeVar("V")

CALLS = 512  # of one primitive, by backend, shapes and attributes
WAYS = 64  # in which one call meets the calls before it, or its arrays lie
KERNELS = 512  # compiled functions that are kept though no call that is known needs them
KINDS = 64  # of calls of a traced function, by shapes and context
RECORDINGS = 8  # of a traced function


class Recent(dict[K, V]):
    """A dict that holds at most `limit` entries.

    The newer half is the dict itself: entries that were set or asked for since it was last filled;
    the older half is in `older`. Ask with `d[key]` or `find`, which cost as much as in a dict; `in`
    and iteration see the newer half only."""

    def __init__(self, limit: int) -> None:
        super().__init__()
        self.limit = limit
        self.older: dict[K, V] = {}

    def __missing__(self, key: K) -> V:
        value = self[key] = self.older.pop(key)
        return value

    def __setitem__(self, key: K, value: V) -> None:
        if len(self) >= self.limit // 2 and key not in self:
            self.older = dict(self)
            self.clear()
        self.older.pop(key, None)
        super().__setitem__(key, value)

    def find(self, key: K) -> V | None:
        """Return the value of a key, None where it is not (or no longer) there."""
        try:
            return self[key]
        except KeyError:
            return None

    def all(self) -> Iterator[tuple[K, V]]:
        """Yield every key and value, older ones too."""
        yield from [*self.older.items(), *self.items()]
