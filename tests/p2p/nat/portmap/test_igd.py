"""UPnP IGD through miniupnpc, with a gateway that has quirks, and one that lies."""

from __future__ import annotations

import socket

import pytest
import trio

from p2p.errors import RefusedError
from p2p.nat.portmap import igd
from p2p.nat.portmap.answers import LIFETIME_S, Granted
from p2p.nat.portmap.mapper import offload_abandonable
from tests.p2p.nat.portmap.igd_server import HOST, Table, open_igd

PORT, OUTER = 31_337, 40_000
GRANTED = Granted("5.6.7.10", OUTER, LIFETIME_S, None)
NEIGHBOUR = ("192.168.7.21", PORT, 3_600)


def refused(table: Table, work: object = igd.map_port) -> str:
    """The code with which the work is refused."""
    assert callable(work)
    with pytest.raises(RefusedError) as caught:
        work(table.location, HOST, PORT, OUTER)
    return caught.value.code


def test_a_mapping_is_made_found_renewed_and_taken_back() -> None:
    with open_igd(Table()) as table:
        assert igd.map_port(table.location, HOST, PORT, OUTER) == GRANTED
        assert table.entries == {OUTER: (HOST, PORT, LIFETIME_S)}
        table.entries[OUTER] = (HOST, PORT, 1_234)
        checked = igd.check_port(table.location, HOST, PORT, OUTER)
        assert checked == Granted("5.6.7.10", OUTER, 1_234, None)
        assert igd.map_port(table.location, HOST, PORT, OUTER) == GRANTED
        assert table.entries == {OUTER: (HOST, PORT, LIFETIME_S)}
        igd.release_port(table.location, HOST, PORT, OUTER)
        assert table.entries == {}


def test_a_gateway_of_endless_leases_only() -> None:
    with open_igd(Table(endless_only=True)) as table:
        assert igd.map_port(table.location, HOST, PORT, OUTER) == GRANTED
        assert table.entries == {OUTER: (HOST, PORT, 0)}
        assert igd.check_port(table.location, HOST, PORT, OUTER) == GRANTED


def test_a_port_of_somebody_else_is_left_alone() -> None:
    with open_igd(Table(entries={OUTER: NEIGHBOUR})) as table:
        assert refused(table) == "taken"
        # Many routers would have given it to us.
        assert "AddPortMapping" not in table.asked
        assert refused(table, igd.check_port) == "lost"
        igd.release_port(table.location, HOST, PORT, OUTER)
        assert table.entries == {OUTER: NEIGHBOUR}


@pytest.mark.parametrize("entry", [None, (HOST, PORT + 1, 3_600), (HOST, PORT, 5)])
def test_a_lost_mapping_is_noticed(entry: tuple[str, int, int] | None) -> None:
    with open_igd(Table(entries={OUTER: entry} if entry else {})) as table:
        assert refused(table, igd.check_port) == "lost"


@pytest.mark.parametrize(
    ("table", "code"),
    [
        (Table(forbidden=True), "forbidden"),
        (Table(outer_host=""), "no-address"),
        (Table(outer_host="0.0.0.0"), "no-address"),
        (Table(outer_host="fe80::1"), "invalid"),
        (Table(outer_host="nonsense"), "invalid"),
        (Table(control_url="http://127.0.0.2:1/control"), "invalid"),
        (Table(control_url="http://127.0.0.1.example/control"), "invalid"),
        (Table(description=b"<root>"), "invalid"),
        (Table(description=b"\xff\xfe\x00" * 100), "invalid"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_refusals_and_lies_have_their_codes(table: Table, code: str) -> None:
    with open_igd(table):
        assert refused(table) == code
        assert table.entries == {}


def test_a_huge_lease_is_not_believed() -> None:
    with open_igd(Table(entries={OUTER: (HOST, PORT, 2**31 - 1)})) as table:
        assert igd.check_port(table.location, HOST, PORT, OUTER) == GRANTED


async def test_a_gateway_that_never_finishes_holds_up_nobody() -> None:
    with socket.create_server((HOST, 0)) as listener:
        location = f"http://{HOST}:{listener.getsockname()[1]}/rootDesc.xml"
        with trio.fail_after(30):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(offload_abandonable, igd.map_port, location, HOST, PORT, OUTER)
                connection, _ = await trio.to_thread.run_sync(listener.accept)
                # It has our question, and keeps silent; miniupnpc would wait on.
                nursery.cancel_scope.cancel()
        connection.close()
