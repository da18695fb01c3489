"""Network interfaces of this host."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ..address import ipv4, own_address
from .finding import ERROR, OK, WARNING, Finding, Setting

DEVICES = Path("/sys/class/net")
VERBS = Path("/sys/class/infiniband")
SLOW = 1000  # Mbit/s
# Networks of containers and virtual machines, whose addresses mean other machines elsewhere.
VIRTUAL = ("docker", "virbr", "br-", "cni", "flannel", "cali", "lxc", "podman")


@dataclass(frozen=True)
class Interface:
    """A network interface with its first address; `speed` in Mbit/s, 0 where unknown."""

    name: str
    address: str
    up: bool
    speed: int
    virtual: bool

    def __str__(self) -> str:
        speed = f"{self.speed:,} Mbit/s" if self.speed else "speed unknown"
        return f"{self.name} {self.address or 'without address'}, {speed}, " \
               f"{'up' if self.up else 'down'}"  # fmt: skip


def interfaces(devices: Path = DEVICES) -> list[Interface]:
    """Return the interfaces that lead to other machines: not the loopback."""
    found = []
    for _, name in socket.if_nameindex():
        if name != "lo":
            device = devices / name
            up = _read(device / "operstate") in ("up", "unknown")
            speed = _read(device / "speed")
            virtual = name.startswith(VIRTUAL) or (device / "bridge").exists()
            number = int(speed) if speed.isdecimal() else 0
            found.append(Interface(name, str(ipv4(name) or _ipv6(name)), up, number, virtual))
    return found


def check(setting: Setting) -> Iterator[Finding]:
    """List the interfaces in use, and warn where MPI may choose a wrong or a slow one."""
    used = [one for one in interfaces() if one.up and one.address]
    real = [one for one in used if not one.virtual]
    seen = "; ".join([*map(str, used), *_verbs()]) or "no interface with an address is up"
    yield _judge(setting, used, real, seen)


def _judge(setting: Setting, used: list[Interface], real: list[Interface], seen: str) -> Finding:
    if not setting.several_hosts:
        return Finding("network", OK, seen)
    if not used:
        return Finding("network", ERROR, seen, "ip link set INTERFACE up; ip address")
    shared = _shared(setting, used)
    if real and len(real) < len(used):
        name = shared or max(real, key=lambda one: one.speed).name
        remedy = f"export OMPI_MCA_btl_tcp_if_include={name} UCX_NET_DEVICES={name}"
        said = f"{seen}: MPI may try the network of containers, which hangs"
        return Finding("network", WARNING, said, remedy)
    fastest = max(one.speed for one in used)
    if 0 < fastest < SLOW:
        remedy = "use a faster interface, check its cable and switch (ethtool), or train with " \
                 "fewer hosts: see `tallygrad plan --network`"  # fmt: skip
        return Finding("network", WARNING, f"{seen}: slow for gradients", remedy)
    return Finding("network", OK, seen)


def _shared(setting: Setting, used: list[Interface]) -> str:
    """Return the interface that leads to the other hosts, "" if that is unknown."""
    address = own_address((host.name for host in setting.hosts), setting.env)
    return next((one.name for one in used if one.address.partition("/")[0] == address), "")


def _verbs() -> list[str]:
    """Describe the active ports of InfiniBand and its relatives."""
    found = []
    for port in sorted(VERBS.glob("*/ports/*")):
        if "ACTIVE" in _read(port / "state"):
            found.append(f"{port.parent.parent.name} port {port.name} {_read(port / 'rate')}")
    return found


def _ipv6(name: str) -> str:
    """Return the first address beyond the link, "" if there is none."""
    for line in _read(Path("/proc/net/if_inet6")).splitlines():
        digits, _, prefix, _, _, device = line.split()
        address = ipaddress.IPv6Address(int(digits, 16))
        if device == name and not address.is_link_local:
            return f"{address}/{int(prefix, 16)}"
    return ""


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""
