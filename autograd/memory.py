"""How much memory results take, and the limit that a user set.

Pools of memory keep these accounts; what NumPy allocates itself is in none."""

from __future__ import annotations

from typing import NamedTuple


class OutOfMemory(MemoryError):
    """A limit that the user set is reached: results need `needed` bytes where `limit` are
    allowed."""

    def __init__(self, needed: int, limit: int) -> None:
        super().__init__(
            f"{needed / 1e6:.4g} MB of results needed, the limit is {limit / 1e6:.4g} MB"
        )
        self.needed, self.limit = needed, limit


class MemoryInUse(NamedTuple):
    """Bytes of results: alive (`used`), reserved from the system, those to be reused included
    (`held`), and the most that were alive at once (`peak`)."""

    used: int
    held: int
    peak: int


class Account:
    """What one pool has given out; `limit` is the most it may hold, 0 for no limit."""

    def __init__(self) -> None:
        self.used = self.held = self.peak = 0
        self.limit = 0


_accounts: list[Account] = []
_limit = 0


def register(account: Account) -> None:
    """Add a pool's account to those that `memory_in_use` adds up, under the limit of all."""
    _accounts.append(account)
    account.limit = _limit


def memory_in_use() -> MemoryInUse:
    """Return the bytes of results in the pools of this process."""
    used, held, peak = (sum(getattr(a, n) for a in _accounts) for n in MemoryInUse._fields)
    return MemoryInUse(used, held, peak)


def memory_limit() -> int:
    """Return the limit that was set, 0 for none."""
    return _limit


def set_memory_limit(size: int) -> None:
    """Let each pool hold `size` bytes at most, 0 for no limit; beyond it OutOfMemory is raised.

    ValueError for less than 0."""
    global _limit
    if size < 0:
        raise ValueError(f"set_memory_limit: expected at least 0 bytes, got {size}")
    _limit = size
    for account in _accounts:
        account.limit = size
