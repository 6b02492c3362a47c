"""NetReport says in one line how others can reach this node."""

from typing import Any

import pytest

from p2p import NetReport, PeerId, open_node
from p2p.nat import PortMapping, RelayReport

PUBLIC = "/ip4/8.8.8.8/tcp/1"


@pytest.mark.parametrize(
    ("facts", "line"),
    [
        ({"addresses": (PUBLIC,)}, f"not probed from outside, told to others: {PUBLIC}"),
        (
            {"addresses": (PUBLIC,), "reachability": "public", "behind": "nothing"},
            f"reachable from outside, told to others: {PUBLIC}; nothing in the way",
        ),
        ({}, "not probed from outside, told to others: no address"),
        ({"client_mode": True}, "client only"),
        (
            {
                "reachability": "private",
                "behind": "nat",
                "mapping": "endpoint-dependent",
                "relays": (RelayReport(PeerId("12D3KooWabcdefgh"), PUBLIC, 60.0, None),),
            },
            "not reachable from outside, told to others: no address; behind a NAT; "
            "endpoint-dependent mapping; relays: abcdefgh",
        ),
        (
            {
                "addresses": (PUBLIC,),
                "reachability": "private",
                "behind": "double-nat",
                "port_mapping": PortMapping("upnp", PUBLIC, 1, 60.0, "a second NAT is behind it"),
            },
            f"not reachable from outside, told to others: {PUBLIC}; behind two NATs in a row; "
            "port mapped by upnp (of no use: a second NAT is behind it)",
        ),
    ],
)
def test_one_line(facts: dict[str, Any], line: str) -> None:
    defaults: dict[str, Any] = {
        "addresses": (),
        "client_mode": False,
        "connections_direct": 1,
        "connections_punched": 2,
        "connections_relayed": 3,
    }
    assert str(NetReport(**defaults | facts)) == f"{line}; 6 connections"


async def test_a_nodes_report_counts_its_connections() -> None:
    async with open_node() as alice, open_node() as bob:
        assert alice.net_report.connections_direct == 0
        await alice.connect_address(bob.addresses[0])
        report = alice.net_report
        assert (report.connections_direct, report.connections_relayed) == (1, 0)
        assert report.addresses == alice.addresses
        assert not report.client_mode
