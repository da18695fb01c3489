"""A channel beside MPI, on which ranks tell a hub where they are: rank 0, and the launcher.

MPI itself tells nothing once a rank is stopped or a link is down: every call waits. So each rank
keeps a TCP connection, which carries lines of JSON: from the rank what it does, back a sign of life
and, at the end, the verdict. A token, which came another way, tells our ranks from strangers.
"""

from __future__ import annotations

import json
import secrets
import selectors
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any, NamedTuple, TypeAlias

from .address import ipv4

LONGEST = 1 << 16  # bytes of a line
CONNECTING = 3.0  # seconds for one address
Ready: TypeAlias = Sequence[tuple[selectors.SelectorKey, int]]


class Contact(NamedTuple):
    """Where a hub listens, and the word by which it knows its ranks."""

    host: str
    addresses: list[str]
    port: int
    token: str


class Peer:
    """One end of a connection: whole lines out, whole lines in."""

    def __init__(self, connection: socket.socket) -> None:
        self.socket = connection
        self.rank = -1  # unknown until it has shown the token
        self.closed = False
        self._rest = self._unsent = b""
        connection.setblocking(False)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def send(self, message: Any) -> None:
        """Send a message as far as the other end reads; the rest goes with the next. Where much
        waits already, the message is dropped: a newer one says more."""
        if len(self._unsent) < LONGEST:
            self._unsent += json.dumps(message).encode() + b"\n"
        try:
            sent = self.socket.send(self._unsent)
        except BlockingIOError:
            return
        except OSError:
            self.closed = True
            return
        self._unsent = self._unsent[sent:]

    def receive(self) -> Iterator[Any]:
        """Yield the messages that have come; `closed` tells whether the other end has gone."""
        with suppress(BlockingIOError):
            while not self.closed:
                try:
                    data = self.socket.recv(LONGEST)
                except BlockingIOError:
                    raise
                except OSError:
                    data = b""
                self.closed = not data or len(self._rest) > LONGEST
                *lines, self._rest = (self._rest + data).split(b"\n")
                for line in lines:
                    with suppress(ValueError):
                        yield json.loads(line)

    def close(self) -> None:
        """End the connection."""
        self.closed = True
        self.socket.close()


class Hub:
    """The end that listens: it has a `Peer` for each rank that has come."""

    def __init__(self) -> None:
        self._listening = socket.create_server(("", 0), backlog=4096)
        self._listening.setblocking(False)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listening, selectors.EVENT_READ)
        self._token = secrets.token_hex(16)
        self.peers: dict[int, Peer] = {}

    @property
    def contact(self) -> Contact:
        """What ranks need to find this hub."""
        port = self._listening.getsockname()[1]
        return Contact(socket.gethostname(), local_addresses(), port, self._token)

    def messages(self, seconds: float) -> Iterator[tuple[int, Any]]:
        """Yield (rank, message) of what comes within so many seconds; (rank, None) for a rank whose
        connection has ended."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            yield from self._take(self._selector.select(left))

    def last_messages(self, seconds: float) -> Iterator[tuple[int, Any]]:
        """Yield, as `messages`, all that has come and what comes until every connection has ended:
        after so many seconds, what has come."""
        end = time.monotonic() + seconds
        while True:
            ready = self._selector.select(0)
            left = end - time.monotonic()
            if not ready and (left <= 0 or len(self._selector.get_map()) == 1):
                return
            yield from self._take(ready or self._selector.select(left))

    def _take(self, ready: Ready) -> Iterator[tuple[int, Any]]:
        """Accept the connections and yield the messages that are ready."""
        for key, _ in ready:
            if key.fileobj is self._listening:
                self._accept()
            else:
                yield from self._read(key.data)

    def tell(self, message: Any) -> None:
        """Send a message to every rank."""
        for peer in self.peers.values():
            peer.send(message)

    def close(self) -> None:
        """Stop listening and end all connections."""
        # Those too that have not shown the token, or whose number another rank has taken over.
        for key in [*self._selector.get_map().values()]:
            (key.data or self._listening).close()
        self._selector.close()

    def _accept(self) -> None:
        with suppress(OSError):
            connection, _ = self._listening.accept()
            self._selector.register(connection, selectors.EVENT_READ, Peer(connection))

    def _read(self, peer: Peer) -> Iterator[tuple[int, Any]]:
        for message in peer.receive():
            if peer.rank >= 0:
                yield peer.rank, message
            elif not self._welcome(peer, message):
                peer.closed = True
        if peer.closed:
            self._selector.unregister(peer.socket)
            peer.close()
            if self.peers.get(peer.rank) is peer:
                yield peer.rank, None

    def _welcome(self, peer: Peer, message: Any) -> bool:
        """Take a connection whose first message shows the token."""
        match message:
            case {"token": str(token), "rank": int(rank)}:
                if secrets.compare_digest(token.encode(), self._token.encode()):
                    peer.rank = rank
                    self.peers[rank] = peer
                    return True
        return False


def reach(contact: Contact, rank: int) -> Peer | None:
    """Connect to a hub; None where none of its addresses answers."""
    addresses = contact.addresses
    if contact.host == socket.gethostname():
        addresses = ["127.0.0.1", *addresses]
    for address in addresses:
        with suppress(OSError):
            peer = Peer(socket.create_connection((address, contact.port), CONNECTING))
            peer.send({"token": contact.token, "rank": rank})
            return peer
    return None


def local_addresses() -> list[str]:
    """Return this host's IPv4 addresses but those of the loopback interface."""
    found = (ipv4(name) for _, name in socket.if_nameindex())
    return [str(one.ip) for one in found if one and not one.ip.is_loopback]
