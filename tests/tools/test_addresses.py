"""Which of a peer's addresses is worth passing on."""

from tools.addresses import farthest_first, join_command


def test_addresses_that_more_can_dial_come_first() -> None:
    addresses = (
        "/ip4/127.0.0.1/tcp/1",
        "/ip4/192.168.1.5/tcp/1",
        "/dns4/example.org/tcp/1",
        "/ip4/8.8.8.8/tcp/1",
        "/ip6/fe80::1/tcp/1",
    )
    assert farthest_first(addresses) == (
        "/dns4/example.org/tcp/1",
        "/ip4/8.8.8.8/tcp/1",
        "/ip4/192.168.1.5/tcp/1",
        "/ip4/127.0.0.1/tcp/1",
        "/ip6/fe80::1/tcp/1",
    )
    assert farthest_first(()) == ()
    assert join_command("/ip4/8.8.8.8/tcp/1").endswith(" --initial-peers /ip4/8.8.8.8/tcp/1")


def test_a_detour_comes_after_direct_ways_that_reach_as_far() -> None:
    public = "/ip4/8.8.8.8/tcp/1/p2p/RELAY/p2p-circuit/p2p/PEER"
    local = "/ip4/127.0.0.1/tcp/1/p2p/RELAY/p2p-circuit/p2p/PEER"
    direct = ("/ip4/127.0.0.1/tcp/1", "/ip4/192.168.1.5/tcp/1", "/ip4/8.8.4.4/tcp/1")
    assert farthest_first((local, public, *direct)) == (
        "/ip4/8.8.4.4/tcp/1",
        public,
        "/ip4/192.168.1.5/tcp/1",
        "/ip4/127.0.0.1/tcp/1",
        local,
    )
