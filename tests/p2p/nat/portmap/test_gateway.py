"""Where the default gateway is, in the words of each system."""

from __future__ import annotations

import sys

import pytest

from p2p.nat.portmap.gateway import find_network, parse_linux_routes, parse_netstat

LINUX_HEAD = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n"


def linux_route(gateway: str, metric: int = 0, flags: int = 3, mask: int = 0) -> str:
    packed = bytes(int(part) for part in gateway.split("."))
    number = int.from_bytes(packed, sys.byteorder)
    return f"eth0\t00000000\t{number:08X}\t{flags:04X}\t0\t0\t{metric}\t{mask:08X}\t0\t0\t0\n"


def test_linux_takes_the_route_of_the_least_metric() -> None:
    text = LINUX_HEAD + linux_route("10.0.0.1", 600) + linux_route("192.168.7.1", 100)
    assert parse_linux_routes(text) == "192.168.7.1"


@pytest.mark.parametrize(
    "text",
    [
        "",
        LINUX_HEAD,
        LINUX_HEAD + "eth0\t0007A8C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n",
        # Down; without a gateway, as tunnels are; half of everything.
        LINUX_HEAD + linux_route("10.0.0.1", flags=2),
        LINUX_HEAD + linux_route("0.0.0.0", flags=1),
        LINUX_HEAD + linux_route("10.0.0.1", mask=0x80),
    ],
)
def test_linux_without_a_default_gateway(text: str) -> None:
    assert parse_linux_routes(text) is None


MACOS = """Routing tables

Internet:
Destination        Gateway            Flags               Netif Expire
default            link#18            UCSIg             bridge0      !
default            192.168.7.1        UGScg                 en0
127                127.0.0.1          UCS                   lo0
"""
WINDOWS = """
IPv4 Route Table
===========================================================================
Active Routes:
Network Destination        Netmask          Gateway       Interface  Metric
          0.0.0.0          0.0.0.0      192.168.7.1     192.168.7.20     25
        127.0.0.0        255.0.0.0         On-link         127.0.0.1    331
"""
LINUX_NETSTAT = """Kernel IP routing table
Destination     Gateway         Genmask         Flags   MSS Window  irtt Iface
0.0.0.0         192.168.7.1     0.0.0.0         UG        0 0          0 eth0
192.168.7.0     0.0.0.0         255.255.255.0   U         0 0          0 eth0
"""


@pytest.mark.parametrize("text", [MACOS, WINDOWS, LINUX_NETSTAT])
def test_netstat_of_every_system_is_read(text: str) -> None:
    assert parse_netstat(text) == "192.168.7.1"


@pytest.mark.parametrize("text", ["", "\n\n", "default fe80::1%en0 UGcIg en0", "10.0.0.1 10.0.0.2"])
def test_netstat_without_a_default_gateway(text: str) -> None:
    assert parse_netstat(text) is None


async def test_this_machine_gives_an_answer() -> None:
    network = await find_network()
    if network is not None:
        assert network.router_host != network.local_host
