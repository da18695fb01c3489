"""This host's addresses, and the one by which other hosts reach it."""

from __future__ import annotations

import fcntl
import ipaddress
import os
import socket
import struct
from collections.abc import Iterable, Mapping
from contextlib import suppress

VARIABLE = "TALLYGRAD_HEAD"  # names the address where it cannot be found
PORT = 9  # any: nothing is sent
SIOCGIFADDR, SIOCGIFNETMASK = 0x8915, 0x891B  # Linux: netdevice(7)


def ipv4(interface: str) -> ipaddress.IPv4Interface | None:
    """Return the first IPv4 address of an interface, with its prefix; None if it has none."""
    request = struct.pack("256s", interface.encode()[:15])
    with suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        words = [
            socket.inet_ntoa(fcntl.ioctl(probe, number, request)[20:24])
            for number in (SIOCGIFADDR, SIOCGIFNETMASK)
        ]
        return ipaddress.IPv4Interface("/".join(words))
    return None


def own_address(hosts: Iterable[str], env: Mapping[str, str] | None = None) -> str | None:
    """Return this host's address on the way to the first of `hosts` that is another one.

    None if all are this host or cannot be resolved. `TALLYGRAD_HEAD` overrides it.
    """
    if named := (os.environ if env is None else env).get(VARIABLE):
        return named
    for host in hosts:
        with suppress(OSError, UnicodeError):
            address = _towards(host.rpartition("@")[2])
            if address:
                return address
    return None


def _towards(host: str) -> str | None:
    """Return the local end of a route to a host, None if the host is this one."""
    for family, kind, protocol, _, address in socket.getaddrinfo(
        host, PORT, type=socket.SOCK_DGRAM
    ):
        with suppress(OSError), socket.socket(family, kind, protocol) as probe:
            probe.connect(address)  # of a datagram socket: chooses the route, sends nothing
            own, other = str(probe.getsockname()[0]), str(address[0])
            if own != other and not ipaddress.ip_address(own).is_loopback:
                return own
    return None
