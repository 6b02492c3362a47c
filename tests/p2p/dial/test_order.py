"""When each address is dialed: neighbours first, foreign private ones last and briefly."""

import math

import pytest

from p2p.address import parse_address
from p2p.dial.order import FOREIGN_DELAY_S, FOREIGN_TIMEOUT_S, LAN_HEAD_START_S, Start, start_of
from p2p.discovery.networks import Interface

HOME = (
    Interface("lo", "127.0.0.1", 8),
    Interface("eth0", "192.168.1.5", 24),
    Interface("eth0", "fd00::5", 64),
    Interface("tun0", "10.8.0.2", 32),
)
NEAR = "/ip4/192.168.1.9/tcp/1"
PUBLIC = "/ip4/5.6.7.8/tcp/1"
FOREIGN = "/ip4/10.0.0.9/tcp/1"
LATE = Start(FOREIGN_DELAY_S, FOREIGN_TIMEOUT_S)


@pytest.mark.parametrize(
    ("address", "others", "start"),
    [
        (NEAR, [PUBLIC, FOREIGN], Start()),
        ("/ip6/fd00::9/tcp/1", [PUBLIC], Start()),
        ("/ip4/127.0.0.1/tcp/1", [NEAR, PUBLIC], Start()),
        (PUBLIC, [], Start()),
        (PUBLIC, [FOREIGN], Start()),
        (PUBLIC, [NEAR], Start(LAN_HEAD_START_S)),
        ("/dns4/example.org/tcp/1", [NEAR], Start(LAN_HEAD_START_S)),
        (FOREIGN, [PUBLIC], LATE),
        (FOREIGN, [NEAR], LATE),
        (FOREIGN, [], Start(0.0, FOREIGN_TIMEOUT_S)),
        # The other end of a tunnel is no neighbour on a network; who is routed is tried.
        ("/ip4/10.8.0.1/tcp/1", [PUBLIC], LATE),
        ("/ip6/fd00:1::9/tcp/1", [PUBLIC], LATE),
        ("/ip4/100.64.0.9/tcp/1", [PUBLIC], LATE),
    ],
)
def test_starts(address: str, others: list[str], start: Start) -> None:
    addresses = tuple(map(parse_address, (address, *others)))
    assert start_of(addresses[0], addresses, HOME) == start


def test_without_interfaces_all_begin_at_once() -> None:
    addresses = tuple(map(parse_address, (FOREIGN, PUBLIC)))
    assert [start_of(one, addresses, ()) for one in addresses] == [Start(), Start()]
    assert Start().timeout_s_max == math.inf
