"""Observed addresses: who agrees is believed, one liar is not, and all of it is bounded."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from p2p import PeerId
from p2p.address import TcpAddress
from p2p.host.stream import Path
from p2p.host.transport import ConnectionInfo
from p2p.nat.observed import LIFE_S, Observations

LOCAL = TcpAddress("ip4", "192.168.1.2", 4001)
OUTSIDE = TcpAddress("ip4", "8.8.8.8", 4001)
FORGED = TcpAddress("ip4", "9.9.9.9", 4001)


class World:
    """Observations, with peers named after their addresses."""

    def __init__(self) -> None:
        self.all = Observations()
        self.now_s = 0.0
        self.open: list[ConnectionInfo] = []

    def see(
        self,
        observer: str,
        seen: TcpAddress,
        *,
        local: TcpAddress = LOCAL,
        from_listen_port: bool = True,
        outbound: bool = True,
        path: Path = "direct",
        peer: str = "",
    ) -> bool:
        """The peer at this address says how it sees us."""
        kind = "ip6" if ":" in observer else "ip4"
        there = TcpAddress(kind, observer, 4001)
        info = ConnectionInfo(
            PeerId(peer or observer),
            str(there),
            path,
            outbound,
            self.now_s,
            "/noise",
            local=local,
            from_listen_port=from_listen_port,
        )
        self.open.append(info)
        return self.all.on_observed(info, there, seen, self.now_s)


def test_two_networks_confirm_and_one_does_not() -> None:
    world = World()
    world.see("5.6.7.1", OUTSIDE)
    assert world.all.confirmed() == ()
    assert world.all.suspected() == (OUTSIDE,)
    assert world.all.suspected_host("ip4") == "8.8.8.8"
    world.see("5.6.8.1", OUTSIDE)
    assert world.all.confirmed() == (OUTSIDE,)
    assert world.all.suspected() == ()
    assert world.all.external_host("ip4") == "8.8.8.8"


def test_two_peers_of_one_network_confirm_only_where_there_is_no_other() -> None:
    world = World()
    world.see("5.6.7.1", FORGED)
    world.see("5.6.7.2", FORGED)
    assert world.all.confirmed() == (FORGED,)
    # As soon as somebody of another network says otherwise, they are one voice of two.
    world.see("5.6.8.1", OUTSIDE)
    assert world.all.confirmed() == ()
    world.see("5.6.9.1", OUTSIDE)
    assert world.all.confirmed() == (OUTSIDE,)


def test_one_liar_cannot_forge_with_many_connections_or_identities() -> None:
    world = World()
    for number in range(40):
        world.see("5.6.7.1", FORGED, peer=f"sybil-{number}")
    assert world.all.confirmed() == ()
    assert world.all.external_host("ip4") is None
    for number in range(40):
        world.see(
            f"2a00:1:2:3::{number:x}",
            TcpAddress("ip6", "2a00:9::9", 1),
            local=TcpAddress("ip6", "fd00::1", 4001),
            peer=f"six-{number}",
        )
    assert world.all.external_host("ip6") is None


def test_what_does_not_count() -> None:
    world = World()
    assert not world.see("5.6.7.1", OUTSIDE, path="relayed")
    assert not world.see("192.168.1.9", OUTSIDE)
    assert not world.see("5.6.7.1", TcpAddress("ip4", "192.168.1.2", 4001))
    assert not world.see("5.6.7.1", TcpAddress("ip4", "100.64.0.1", 4001))
    assert not world.see("5.6.7.1", TcpAddress("ip4", "127.0.0.1", 4001))
    assert not world.see("5.6.7.1", TcpAddress("ip4", "224.0.0.1", 4001))
    assert not world.see("5.6.7.1", TcpAddress("ip4", "8.8.8.8", 0))
    assert not world.see("5.6.7.1", TcpAddress("ip6", "2001:4860::1", 4001))
    assert not world.see("5.6.7.1", TcpAddress("dns4", "example.org", 4001))
    assert world.all.count == 0


def test_ports_of_other_sockets_tell_the_host_only() -> None:
    world = World()
    for observer in ("5.6.7.1", "5.6.8.1"):
        world.see(observer, TcpAddress("ip4", "8.8.8.8", 999), from_listen_port=False)
    assert world.all.external_host("ip4") == "8.8.8.8"
    assert world.all.confirmed() == world.all.suspected() == ()
    assert world.all.mapping() == "unknown"
    # Who comes in at our listening port was told of the right one.
    for observer in ("5.6.7.2", "5.6.8.2"):
        world.see(observer, OUTSIDE, from_listen_port=False, outbound=False)
    assert world.all.confirmed() == (OUTSIDE,)


def test_mapping_kinds() -> None:
    world = World()
    assert world.all.mapping() == "unknown"
    world.see("5.6.7.1", OUTSIDE)
    assert world.all.mapping() == "unknown"
    world.see("5.6.8.1", OUTSIDE)
    assert world.all.mapping() == "endpoint-independent"

    symmetric = World()
    symmetric.see("5.6.7.1", TcpAddress("ip4", "8.8.8.8", 50_001))
    symmetric.see("5.6.8.1", TcpAddress("ip4", "8.8.8.8", 50_002))
    assert symmetric.all.mapping() == "endpoint-dependent"
    assert symmetric.all.confirmed() == ()

    plain = World()
    plain.see("5.6.7.1", OUTSIDE, local=OUTSIDE)
    plain.see("5.6.8.1", OUTSIDE, local=OUTSIDE)
    assert plain.all.mapping() == "none"

    six = World()
    here = TcpAddress("ip6", "2001:4860::1", 4001)
    six.see("2a00:1::1", here, local=here)
    assert six.all.mapping() == "none"


def test_a_new_address_takes_over_as_soon_as_two_say_so() -> None:
    world = World()
    moved = TcpAddress("ip4", "8.8.4.4", 4001)
    for observer in ("5.6.7.1", "5.6.8.1"):
        world.see(observer, OUTSIDE)
    world.now_s = 10.0
    world.see("5.6.7.1", moved)
    assert world.all.confirmed() == ()
    world.see("5.6.8.1", moved)
    assert world.all.confirmed() == (moved,)


def test_what_was_seen_outlives_its_connection_for_a_while() -> None:
    world = World()
    for observer in ("5.6.7.1", "5.6.8.1"):
        world.see(observer, OUTSIDE)
    world.all.on_time(world.open, 10 * LIFE_S)
    assert world.all.confirmed() == (OUTSIDE,)
    world.all.on_time([], 11 * LIFE_S - 1)
    assert world.all.confirmed() == (OUTSIDE,)
    world.all.on_time([], 11 * LIFE_S)
    assert world.all.count == 0


def test_another_network_forgets_what_was_seen_of_the_last() -> None:
    world = World()
    for observer in ("5.6.7.1", "5.6.8.1"):
        world.see(observer, OUTSIDE)
    world.all.on_interfaces([LOCAL.host, "10.0.0.1"])
    assert world.all.confirmed() == (OUTSIDE,)
    world.all.on_interfaces(["10.0.0.1"])
    assert world.all.count == 0


hosts = st.builds("{}.{}.{}.{}".format, *[st.integers(0, 255)] * 4)
addresses = st.builds(TcpAddress, st.just("ip4"), hosts, st.integers(0, 65_535))


@given(st.lists(st.tuples(hosts, addresses, st.booleans(), st.booleans()), max_size=200))
def test_whatever_is_said_is_bounded(
    said: list[tuple[str, TcpAddress, bool, bool]],
) -> None:
    world = World()
    for observer, seen, from_listen_port, outbound in said:
        world.see(observer, seen, from_listen_port=from_listen_port, outbound=outbound)
        world.now_s += 1
    assert world.all.count <= 128
    confirmed = set(world.all.confirmed())
    for one in confirmed:
        assert len({observer for observer, seen, *_ in said if seen == one}) >= 2
