"""Several hosts on this one: network namespaces with a host name, a memory and an address each,
joined by a bridge whose byte counters tell what really crossed a wire."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from itertools import count
from pathlib import Path
from types import TracebackType

from .slow_link import SlowLink, send_whole_frames

NUMBERS = count()
ETC = Path("/etc/netns")  # a namespace's folder here is laid over /etc by `ip netns exec`
HEAD = 254  # last number of the address of this host

# In place of ssh: its options are dropped, and the command runs on the "host" of that name. As with
# ssh, what runs there outlives it, has another environment, and no file of this host.
AGENT = """#!/bin/bash
while [ $# -gt 0 ]; do
    case $1 in
        -o|-p|-l|-i|-F) shift 2 ;;
        -*) shift ;;
        *) break ;;
    esac
done
host=$1; shift
if ip link show "{prefix}${{host}}o" | grep -q "state DOWN"; then exit 255; fi
exec nsenter -t "$(cat "{folder}/$host.pid")" -m -u -n -p -- \\
    env -i HOME="$HOME" PATH="$PATH" PYTHONPATH="$PYTHONPATH" bash -c "$*" \\
    > >(exec cat) 2> >(exec cat >&2)
"""

# The first process of a host: it has a name, a memory and processes of its own, until it is killed.
FIRST = "hostname {name}; mount -t tmpfs -o size={memory} tmpfs /dev/shm; echo up; exec sleep 86400"


def why_not() -> str:
    """Return why hosts cannot be made here, an empty string where they can."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    if not all(map(shutil.which, ("ip", "tc", "unshare", "nsenter"))):
        return "no ip, tc, unshare or nsenter here"
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
    1gbit, on each link, and the `burst` that it lets pass faster after a pause, and a /dev/shm of
    `memory`. The link of a `slow` host, by its name, has a delay in seconds, and loses a share of
    frames, each way. As a context it takes them down, with whatever still runs there."""

    def __init__(
        self, count: int, folder: Path, rate: str = "", memory: str = "64m", burst: str = "256kb",
        slow: Mapping[str, tuple[float, float]] | None = None,
    ) -> None:  # fmt: skip
        self.names = [f"n{i}" for i in range(1, count + 1)]
        self.folder, self.rate, self.memory, self.burst = folder, rate, memory, burst
        self.slow = slow or {}
        self._first: dict[str, subprocess.Popen[str]] = {}
        self._slow_links: dict[str, SlowLink] = {}
        self._id = os.getpid() % 60_000
        # Names of their own: the kernel may take its time to remove those of hosts before.
        self._prefix = f"tg{self._id}{chr(ord('a') + next(NUMBERS) % 26)}"
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
        try:
            self._make()
        except BaseException:
            self._remove()
            raise
        return self

    def _make(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        agent = self.folder / "agent"
        agent.write_text(AGENT.format(folder=self.folder, prefix=self._prefix))
        agent.chmod(0o755)
        _run("ip", "link", "add", self._bridge, "type", "bridge")
        _run("ip", "addr", "add", f"{self.head}/24", "dev", self._bridge)
        _run("ip", "link", "set", self._bridge, "up")
        lines = [f"{self._net}.{HEAD} head {socket.gethostname()}"]
        lines += [f"{self._net}.{i} {name}" for i, name in enumerate(self.names, 1)]
        for i, name in enumerate(self.names, 1):
            self._add(i, name, "\n".join(["127.0.0.1 localhost", *lines]) + "\n")

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._remove()

    def _remove(self) -> None:
        for name in self.names:
            self.stop(name)
            if name in self._slow_links:
                self._slow_links.pop(name).close()
            space = self._prefix + name
            for what in ("link", f"{space}o"), ("link", f"{space}im"), ("netns", space):
                with suppress(subprocess.CalledProcessError):
                    _run("ip", what[0], "del", what[1])
            shutil.rmtree(ETC / space, ignore_errors=True)
        with suppress(subprocess.CalledProcessError):
            _run("ip", "link", "del", self._bridge)

    def _add(self, number: int, name: str, table: str) -> None:
        space = self._prefix + name
        etc = ETC / space
        etc.mkdir(parents=True, exist_ok=True)
        (etc / "hosts").write_text(table)
        inner, outer = f"{space}i", f"{space}o"
        _run("ip", "netns", "add", space)
        if name in self.slow:
            self._slow_links[name] = _slow_link(inner, outer, *self.slow[name])
        else:
            _run("ip", "link", "add", outer, "type", "veth", "peer", "name", inner)
        _run("ip", "link", "set", inner, "netns", space, "name", "eth0")
        _run("ip", "link", "set", outer, "master", self._bridge, "up")
        inside = ("ip", "-n", space)
        _run(*inside, "addr", "add", f"{self._net}.{number}/24", "dev", "eth0")
        _run(*inside, "link", "set", "eth0", "up")
        _run(*inside, "link", "set", "lo", "up")
        self.start(name)
        if self.rate:
            shape = ("root", "tbf", "rate", self.rate, "burst", self.burst, "latency", "50ms")
            _run("tc", "qdisc", "add", "dev", outer, *shape)
            _run(*self.inside(name), "tc", "qdisc", "add", "dev", "eth0", *shape)

    def start(self, name: str) -> None:
        """Start a host, as after `stop`."""
        program = FIRST.format(name=name, memory=self.memory)
        apart = ["unshare", "-u", "-m", "-p", "--fork", "--kill-child", "--mount-proc"]
        first = subprocess.Popen(
            [*self.inside(name), *apart, "bash", "-c", program],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert first.stdout and first.stdout.readline() == "up\n", f"host {name} did not start"
        children = Path(f"/proc/{first.pid}/task/{first.pid}/children").read_text()
        (self.folder / f"{name}.pid").write_text(children.strip())
        self._first[name] = first

    def sent(self, name: str) -> int:
        """Return the bytes that a host has sent over its link."""
        counter = f"/sys/class/net/{self._prefix}{name}o/statistics/rx_bytes"
        return int(Path(counter).read_text())

    def lost(self, name: str) -> int:
        """Return the frames that a slow host's link has lost."""
        return self._slow_links[name].lost

    def cut(self, name: str) -> None:
        """Take a host's link down."""
        _run("ip", "link", "set", f"{self._prefix}{name}o", "down")

    def inside(self, name: str) -> list[str]:
        """Return the words before a command that run it on a host's network."""
        return ["ip", "netns", "exec", self._prefix + name]

    def processes(self, name: str) -> list[int]:
        """Return the processes on a host."""
        answer = subprocess.run(
            ["ip", "netns", "pids", self._prefix + name], capture_output=True, text=True
        )
        return [int(word) for word in answer.stdout.split()]

    def memories(self) -> list[Path]:
        """Return the folders of shared memory of the hosts that are up."""
        firsts = [(self.folder / f"{name}.pid").read_text() for name in self._first]
        return [Path("/proc", first, "root/dev/shm") for first in firsts]

    def stop(self, name: str) -> None:
        """Kill whatever runs on a host, and the host with it: it does not answer any more."""
        for process in self.processes(name):
            with suppress(OSError):
                os.kill(process, 9)
        if name in self._first:
            self._first.pop(name).communicate()

    def join(self, name: str) -> None:
        """Take a host's link up again."""
        _run("ip", "link", "set", f"{self._prefix}{name}o", "up")


def _slow_link(inner: str, outer: str, delay: float, loss: float) -> SlowLink:
    """Make both ends of a link, and what delays and loses frames between them."""
    middle = f"{inner}m", f"{outer}m"
    for end, near in zip((inner, outer), middle, strict=True):
        _run("ip", "link", "add", end, "type", "veth", "peer", "name", near)
        send_whole_frames(end)
        _run("ip", "link", "set", near, "up")
    return SlowLink(middle, delay, loss)
