"""What ranks say of themselves, and which of them keeps the others waiting."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Final

PATIENCE: Final = 10  # times the limit that a rank may work while others wait for it
SLOWEST: Final = 1e6  # bytes per second of a network that is not called broken
PATIENT: Final = ("checkpoint", "loading data")  # which may wait for a disk, with a still thread


@dataclass(frozen=True)
class Status:
    """What a rank says of itself: stream, number, text and bytes of the collective that it waits in
    (`waits`; 0: it works), with seconds since it came there.
    `still`: seconds for which its main thread has not moved and it has not computed."""

    rank: int
    host: str
    pid: int
    step: int
    activity: str
    stream: str = ""
    waits: int = 0
    name: str = ""
    nbytes: int = 0
    call: str = ""
    waited: float = 0.0
    still: float = 0.0

    @property
    def title(self) -> str:
        """The rank, its host and its process."""
        return f"rank {self.rank} on {self.host} (process {self.pid})"

    def waits_for(self, other: Status) -> bool:
        """Tell whether this rank waits in the same collective, or in a later one."""
        return self.waits >= max(1, other.waits) and self.stream == other.stream

    @property
    def doing(self) -> str:
        """What it does: a collective, or its activity."""
        return f"in {self.call}" if self.waits else f"{self.activity}, step {self.step}"


@dataclass(frozen=True)
class Seen:
    """A rank as rank 0 sees it: its last status, how long ago that came, and whether its connection
    has ended."""

    status: Status
    silent: float = 0.0
    gone: bool = False


def judge(seen: Mapping[int, Seen], limit: float, unknown: Collection[int] = ()) -> str:
    """Return which rank keeps the others waiting for longer than `limit` seconds allow and how, in
    one line; an empty line as long as all is well. Nothing was ever heard of the `unknown` ranks,
    as where they could not connect: they may work."""
    for rank in seen.values():
        if rank.gone:
            return f"{rank.status.title} ended unexpectedly, {rank.status.doing}"
    waiting = [s.status for s in seen.values() if s.status.waits]
    if mismatch := _mismatch(waiting):
        return mismatch
    stuck = [s for s in waiting if s.waited >= limit + s.nbytes / SLOWEST]
    if not stuck:
        return ""
    # Numbers tell which collective comes first only within a stream.
    longest = max(stuck, key=lambda s: s.waited)
    at = min((s for s in stuck if s.stream == longest.stream), key=lambda s: s.waits)
    wait = f"{_others([s for s in stuck if s.waits_for(at)])} for {at.waited:.0f} s in {at.call}"
    # One that has begun an exchange may have gone on computing, without driving it.
    # One in a collective of another stream may itself wait for one that is in none.
    late = sorted(
        (s for s in seen.values() if not s.status.waits_for(at)), key=lambda s: s.status.waits > 0
    )
    for who in (*late, *seen.values()):
        if who.silent >= limit:
            said = f"has given no sign of life for {who.silent:.0f} s"
            return f"{who.status.title} {said}; {wait}"
    if not late and unknown:
        said = f"rank {min(unknown)} cannot be reached; {wait}"
        return said if at.waited >= PATIENCE * limit else ""
    if not late:
        return f"all ranks have come, but the collective does not end: {wait}"
    for status in (s.status for s in late):
        if status.waited >= limit:
            return f"{status.title} does not come, {status.doing}; {wait}"
        if status.still >= limit and status.activity not in PATIENT:
            said = f"has stood still for {status.still:.0f} s"
            return f"{status.title} {said}, {status.doing}; {wait}"
        if at.waited >= PATIENCE * limit:
            return f"{status.title} has not come, {status.doing}; {wait}"
    return ""


def _mismatch(waiting: list[Status]) -> str:
    """Say where ranks wait for one another in different collectives."""
    first: dict[tuple[str, int], Status] = {}
    for status in waiting:
        other = first.setdefault((status.stream, status.waits), status)
        if other.name != status.name:
            pair = f"{other.title} is {other.doing}, {status.title} {status.doing}"
            return f"ranks differ in their collectives: {pair}"
    return ""


def _others(stuck: list[Status]) -> str:
    first = f"rank {stuck[0].rank}"
    if len(stuck) == 1:
        return f"{first} waits for it"
    return f"{first} and {len(stuck) - 1} more wait for it"
