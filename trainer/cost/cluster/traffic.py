"""What an exchange asks of links and ranks, and the seconds that this takes."""

from __future__ import annotations

from dataclasses import astuple, dataclass
from typing import NamedTuple


class Link(NamedTuple):
    """The link between two ranks: latency in seconds, bandwidth in bytes per second, and the source
    of both numbers."""

    latency: float
    bandwidth: float
    source: str = ""

    def seconds(self, size: float) -> float:
        """Return the seconds of a message of `size` bytes."""
        return self.latency + size / self.bandwidth


@dataclass(frozen=True)
class Traffic:
    """An exchange as its slowest rank sees it, one thing after the other: messages and bytes on the
    link inside its host, messages and bytes on the link that leaves it, where the bytes are those
    of all ranks that share it, and bytes that the rank itself adds or copies."""

    near_messages: float = 0.0
    near_bytes: float = 0.0
    far_messages: float = 0.0
    far_bytes: float = 0.0
    worked: float = 0.0

    def __add__(self, other: Traffic) -> Traffic:
        """Return both, one after the other."""
        pairs = zip(astuple(self), astuple(other), strict=True)
        return Traffic(*[a + b for a, b in pairs])

    def __mul__(self, times: float) -> Traffic:
        """Return the exchange so many times; a fraction is the share of an exchange that falls to a
        step if there is one every few steps."""
        return Traffic(*[times * a for a in astuple(self)])

    __rmul__ = __mul__


@dataclass(frozen=True)
class Group:
    """Ranks that exchange arrays, `per_host` of them on a host, and their links; `reduction` is the
    speed at which a rank adds, in bytes per second."""

    ranks: int
    per_host: int
    inside: Link
    between: Link
    reduction: float

    @property
    def hosts(self) -> int:
        """The number of hosts; the last one may have fewer ranks."""
        return -(-self.ranks // self.per_host)

    @property
    def local(self) -> int:
        """The number of ranks on a full host."""
        return min(self.ranks, self.per_host)

    def seconds(self, traffic: Traffic) -> float:
        """Return how long an exchange takes."""
        near = traffic.near_messages * self.inside.latency
        near += traffic.near_bytes / self.inside.bandwidth
        far = traffic.far_messages * self.between.latency
        far += traffic.far_bytes / self.between.bandwidth
        return near + far + traffic.worked / self.reduction
