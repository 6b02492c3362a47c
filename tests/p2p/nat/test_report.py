"""NetReport says in one line how others can reach this node."""

import pytest

from p2p import NetReport, open_node


@pytest.mark.parametrize(
    ("addresses", "client_mode", "line"),
    [
        (("/ip4/8.8.8.8/tcp/1",), False, "reachable at /ip4/8.8.8.8/tcp/1; 6 connections"),
        ((), False, "reachable at no address; 6 connections"),
        ((), True, "reachable at client only; 6 connections"),
    ],
)
def test_one_line(addresses: tuple[str, ...], client_mode: bool, line: str) -> None:
    report = NetReport(
        addresses=addresses,
        client_mode=client_mode,
        connections_direct=1,
        connections_punched=2,
        connections_relayed=3,
    )
    assert str(report) == line


async def test_a_nodes_report_counts_its_connections() -> None:
    async with open_node() as alice, open_node() as bob:
        assert alice.net_report.connections_direct == 0
        await alice.connect_address(bob.addresses[0])
        report = alice.net_report
        assert (report.connections_direct, report.connections_relayed) == (1, 0)
        assert report.addresses == alice.addresses
        assert not report.client_mode
