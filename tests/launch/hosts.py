"""Several hosts on this one: network namespaces with a host name, a memory and an address each,
joined by a bridge whose byte counters tell what really crossed a wire."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType

HEAD = 254  # last number of the address of the host that the tests run on

# In place of ssh: its options are dropped, and the command runs on the "host" of that name.
AGENT = """#!/bin/bash
while [ $# -gt 0 ]; do
    case $1 in
        -o|-p|-l|-i|-F) shift 2 ;;
        -*) shift ;;
        *) break ;;
    esac
done
host=$1; shift
exec ip netns exec "{prefix}$host" unshare -u -m bash -c \\
    "hostname $host; mount -t tmpfs tmpfs /dev/shm; exec bash -c \\"\\$0\\"" "$*"
"""


def why_not() -> str:
    """Return why hosts cannot be made here, an empty string where they can."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    if not all(map(shutil.which, ("ip", "tc", "unshare"))):
        return "no ip, tc or unshare here"
    name = f"tg{os.getpid()}"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True)
    if made.returncode:
        return f"no network namespaces here: {made.stderr.strip()}"
    _run("ip", "netns", "del", name)
    bridge = subprocess.run(["ip", "link", "add", name, "type", "bridge"], capture_output=True)
    if bridge.returncode:
        return "no bridges here"
    _run("ip", "link", "del", name)
    return ""


def _run(*words: str) -> None:
    subprocess.run(words, check=True, capture_output=True, text=True)


class Hosts:
    """`count` hosts n1, n2, ... on a network of their own, with `rate` as `tc` writes it, such as
    1gbit, on each link. As a context it takes them down, with whatever still runs there."""

    def __init__(self, count: int, folder: Path, rate: str = "") -> None:
        self.names = [f"n{i}" for i in range(1, count + 1)]
        self.folder, self.rate = folder, rate
        self._id = os.getpid() % 60_000
        self._prefix = f"tg{self._id}"
        self._net = f"10.{77 + self._id // 256 % 100}.{self._id % 256}"
        self._bridge = f"{self._prefix}br"

    @property
    def head(self) -> str:
        """The address of the host that starts jobs."""
        return f"{self._net}.{HEAD}"

    @property
    def environment(self) -> Mapping[str, str]:
        """What tells both MPIs to start processes on these hosts and to use this network alone."""
        agent = str(self.folder / "agent")
        return {
            "PRTE_MCA_plm_ssh_agent": agent,
            "HYDRA_LAUNCHER": "ssh",
            "HYDRA_LAUNCHER_EXEC": agent,
            "UCX_TLS": "tcp,self",  # or UCX would go through memory that namespaces share
            "TALLYGRAD_HEAD": self.head,
        }

    def __enter__(self) -> Hosts:
        self.folder.mkdir(parents=True, exist_ok=True)
        agent = self.folder / "agent"
        agent.write_text(AGENT.format(prefix=self._prefix))
        agent.chmod(0o755)
        _run("ip", "link", "add", self._bridge, "type", "bridge")
        _run("ip", "addr", "add", f"{self.head}/24", "dev", self._bridge)
        _run("ip", "link", "set", self._bridge, "up")
        lines = [f"{self._net}.{HEAD} head"]
        lines += [f"{self._net}.{i} {name}" for i, name in enumerate(self.names, 1)]
        for i, name in enumerate(self.names, 1):
            self._add(i, name, "\n".join(["127.0.0.1 localhost", *lines]) + "\n")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for name in self.names:
            self.stop(name)
            with suppress(subprocess.CalledProcessError):
                _run("ip", "netns", "del", self._prefix + name)
            shutil.rmtree(f"/etc/netns/{self._prefix}{name}", ignore_errors=True)
        with suppress(subprocess.CalledProcessError):
            _run("ip", "link", "del", self._bridge)

    def _add(self, number: int, name: str, table: str) -> None:
        space = self._prefix + name
        etc = Path("/etc/netns", space)  # `ip netns exec` lays what is there over /etc
        etc.mkdir(parents=True, exist_ok=True)
        (etc / "hosts").write_text(table)
        inner, outer = f"{space}i", f"{space}o"
        _run("ip", "netns", "add", space)
        _run("ip", "link", "add", outer, "type", "veth", "peer", "name", inner)
        _run("ip", "link", "set", inner, "netns", space, "name", "eth0")
        _run("ip", "link", "set", outer, "master", self._bridge, "up")
        inside = ("ip", "-n", space)
        _run(*inside, "addr", "add", f"{self._net}.{number}/24", "dev", "eth0")
        _run(*inside, "link", "set", "eth0", "up")
        _run(*inside, "link", "set", "lo", "up")
        if self.rate:
            shape = ("root", "tbf", "rate", self.rate, "burst", "256kb", "latency", "50ms")
            _run("tc", "qdisc", "add", "dev", outer, *shape)
            _run("ip", "netns", "exec", space, "tc", "qdisc", "add", "dev", "eth0", *shape)

    def sent(self, name: str) -> int:
        """Return the bytes that a host has sent over its link."""
        counter = f"/sys/class/net/{self._prefix}{name}o/statistics/rx_bytes"
        return int(Path(counter).read_text())

    def cut(self, name: str) -> None:
        """Take a host's link down."""
        _run("ip", "link", "set", f"{self._prefix}{name}o", "down")

    def processes(self, name: str) -> list[int]:
        """Return the processes on a host."""
        answer = subprocess.run(
            ["ip", "netns", "pids", self._prefix + name], capture_output=True, text=True
        )
        return [int(word) for word in answer.stdout.split()]

    def stop(self, name: str) -> None:
        """Kill whatever runs on a host."""
        for process in self.processes(name):
            with suppress(OSError):
                os.kill(process, 9)
