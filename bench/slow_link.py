"""A link with delay and loss, for kernels without netem: a thread between two interfaces."""

from __future__ import annotations

import fcntl
import random
import socket
import struct
from array import array
from collections import deque
from contextlib import suppress
from select import select
from threading import Thread
from time import monotonic

ALL = 3  # ETH_P_ALL: frames of every protocol
SIOCETHTOOL, ETHTOOL_STXCSUM = 0x8946, 0x17
LONGEST = 1 << 16  # bytes of a frame


class SlowLink(Thread):
    """Forwards the frames that arrive at each of two interfaces of this host to the other one,
    `delay` seconds later, and loses a share `loss`, drawn from `seed`; `lost` counts them. The
    peers of the interfaces must send whole frames (see `send_whole_frames`)."""

    def __init__(self, names: tuple[str, str], delay: float, loss: float, seed: int = 0) -> None:
        super().__init__(name=f"link {' - '.join(names)}", daemon=True)
        self.delay, self.loss = delay, loss
        self.lost = 0
        self._draw = random.Random(seed)
        self._wake, self._woken = socket.socketpair()
        self._ends = [_end(name) for name in names]
        self.start()

    def run(self) -> None:
        """Forward frames until the link is closed."""
        first, second = self._ends
        other = {first: second, second: first}
        under_way: deque[tuple[float, socket.socket, bytes]] = deque()
        while True:
            wait = max(under_way[0][0] - monotonic(), 0.0) if under_way else None
            for end in select([self._woken, *self._ends], [], [], wait)[0]:
                if end is self._woken:
                    return
                frame, (_, _, kind, *_) = end.recvfrom(LONGEST)
                if kind == socket.PACKET_OUTGOING:
                    continue
                if self._draw.random() < self.loss:
                    self.lost += 1
                else:
                    under_way.append((monotonic() + self.delay, other[end], frame))
            while under_way and under_way[0][0] <= monotonic():
                _, end, frame = under_way.popleft()
                with suppress(OSError):  # a cut link loses frames
                    end.send(frame)

    def close(self) -> None:
        """End the link; its interfaces can go then."""
        self._wake.close()
        self.join()
        for end in (self._woken, *self._ends):
            end.close()


def _end(name: str) -> socket.socket:
    end = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)  # of no interface, and hears nothing
    end.bind((name, ALL))
    return end


def send_whole_frames(name: str) -> None:
    """Let an interface of this host neither leave checksums to another one nor, since it cannot
    then either, the cutting of long packets."""
    request = array("I", [ETHTOOL_STXCSUM, 0])
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        asked = struct.pack("16sP", name.encode(), request.buffer_info()[0])
        fcntl.ioctl(any_socket, SIOCETHTOOL, asked)
