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
