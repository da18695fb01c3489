"""Network interfaces, of this host and of namespaces."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tallygrad.launch.checks import network
from tallygrad.launch.checks.finding import ERROR, OK, WARNING, Setting
from tallygrad.launch.checks.network import Interface
from tallygrad.launch.hostfile import Host

LIST = """
import json
from tallygrad.launch.checks import network
from tallygrad.launch.checks.finding import Setting
(found,) = network.check(Setting(ranks=4, local_ranks=2))
print(json.dumps([[vars(one) for one in network.interfaces()], found.status, found.seen]))
"""


def test_interfaces_of_a_host(make_hosts: Callable[[int], Any]) -> None:
    """Address, state and speed are those that `ip` set; a link that is down is an error."""
    hosts = make_hosts(1)
    space = ["ip", "netns", "exec", f"{hosts._prefix}n1"]
    net = hosts.head.rpartition(".")[0]

    def look() -> list[Any]:
        fresh = ["unshare", "--mount", "sh", "-c", 'mount -t sysfs sys /sys; exec "$@"', "sh"]
        command = [*space, *fresh, sys.executable, "-c", LIST]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
        answer: list[Any] = json.loads(done.stdout)
        return answer

    listed, status, seen = look()
    (eth0,) = (one for one in listed if one["name"] == "eth0")
    assert eth0 == {"name": "eth0", "address": f"{net}.1/24", "up": True, "speed": 10000,
                    "virtual": False}  # fmt: skip
    assert (status, seen) == (OK, f"eth0 {net}.1/24, 10,000 Mbit/s, up")
    subprocess.run([*space, "ip", "link", "set", "eth0", "down"], check=True)
    listed, status, seen = look()
    assert not any(one["up"] for one in listed if one["name"] == "eth0")
    assert (status, seen) == (ERROR, "no interface with an address is up")


def test_a_bridge_is_virtual(make_hosts: Callable[[int], Any]) -> None:
    hosts = make_hosts(1)
    (bridge,) = (one for one in network.interfaces() if one.name == hosts._bridge)
    assert bridge.virtual and bridge.up and bridge.address == f"{hosts.head}/24"


def test_the_remedy_names_the_interface_that_leads_to_the_hosts(
    make_hosts: Callable[[int], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    hosts = make_hosts(1)
    (bridge,) = (one for one in network.interfaces() if one.name == hosts._bridge)
    monkeypatch.setattr(network, "interfaces", lambda: [ETH, bridge])
    other = Host(hosts.head.rpartition(".")[0] + ".1")
    (said,) = network.check(Setting(hosts=(other,), env={}))
    assert said.status == WARNING and said.remedy.endswith(f"UCX_NET_DEVICES={bridge.name}")


ETH = Interface("eth0", "10.0.0.1/24", True, 10_000, False)
SLOW = Interface("eth1", "10.0.1.1/24", True, 100, False)
UNKNOWN = Interface("eth2", "10.0.2.1/24", True, 0, False)
DOCKER = Interface("docker0", "172.17.0.1/16", True, 10_000, True)
DOWN = Interface("docker0", "172.17.0.1/16", False, 0, True)


@pytest.mark.parametrize(
    ("found", "status", "part"),
    [
        ([ETH, SLOW], OK, ""),
        ([UNKNOWN], OK, ""),
        ([SLOW], WARNING, "ethtool"),
        ([ETH, DOCKER], WARNING, "OMPI_MCA_btl_tcp_if_include=eth0 UCX_NET_DEVICES=eth0"),
        ([ETH, DOWN], OK, ""),
        ([DOCKER], OK, ""),  # inside a container
        ([DOWN], ERROR, "ip link set INTERFACE up"),
        ([], ERROR, "ip address"),
    ],
)
def test_what_several_hosts_need(
    found: list[Interface], status: str, part: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(network, "interfaces", lambda: found)
    monkeypatch.setattr(network, "VERBS", Path("/nowhere"))
    (said,) = network.check(Setting(ranks=4, local_ranks=2))
    assert said.status == status and part in said.remedy and bool(said.remedy) == bool(part)
    (said,) = network.check(Setting(ranks=2, local_ranks=2))  # one host needs no network
    assert said.status == OK


def test_infiniband_is_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number, state in (("1", "4: ACTIVE"), ("2", "3: ARMED")):
        port = tmp_path / "mlx5_0" / "ports" / number
        port.mkdir(parents=True)
        (port / "state").write_text(f"{state}\n")
        (port / "rate").write_text("200 Gb/sec (4X HDR)\n")
    monkeypatch.setattr(network, "VERBS", tmp_path)
    monkeypatch.setattr(network, "interfaces", lambda: [ETH])
    (said,) = network.check(Setting(ranks=4, local_ranks=2))
    assert said.seen.endswith("mlx5_0 port 1 200 Gb/sec (4X HDR)")
