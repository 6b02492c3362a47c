"""Who is a neighbour on which interface."""

import pytest

from p2p.discovery.interfaces import interfaces
from p2p.discovery.networks import Interface, interface_towards

WIDE = Interface("eth0", "10.0.0.1", 8)
NARROW = Interface("wlan0", "10.1.2.3", 24)
TUNNEL = Interface("tun0", "10.9.0.1", 32)
SIX = Interface("eth0", "fd00::5", 64)
ALL = (WIDE, NARROW, TUNNEL, SIX)


@pytest.mark.parametrize(
    ("host", "interface"),
    [
        ("10.1.2.9", NARROW),
        ("10.1.3.9", WIDE),
        ("10.9.0.1", TUNNEL),
        ("fd00::9", SIX),
        ("fd00:0:0:1::9", None),
        ("5.6.7.8", None),
        ("example.org", None),
        ("", None),
    ],
)
def test_the_narrowest_network_counts(host: str, interface: Interface | None) -> None:
    assert interface_towards(host, ALL) == interface


def test_a_tunnel_has_no_neighbours() -> None:
    assert not TUNNEL.has("10.9.0.2")
    assert TUNNEL.has("10.9.0.1")


def test_this_machine_has_a_loopback_interface() -> None:
    assert [one.prefix for one in interfaces() if one.host == "127.0.0.1"] == [8]
    assert all(one.is_loopback == one.host.startswith(("127.", "::1")) for one in interfaces())
