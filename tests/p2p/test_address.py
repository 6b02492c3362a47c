"""Multiaddresses: parsing, what is wrong with bad ones, scopes, order and networks."""

import random

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from p2p import AddressInvalid, Identity, MessageInvalid
from p2p.address import (
    Address,
    CircuitAddress,
    TcpAddress,
    first_hop,
    is_circuit,
    is_unspecified,
    network_of,
    parse_address,
    parse_address_untrusted,
    parse_tcp_address,
    scope,
    sort_addresses,
)

PEER_ID = Identity.generate(random.Random(1)).peer_id
RELAY_ID = Identity.generate(random.Random(2)).peer_id

hosts = st.one_of(
    st.tuples(st.just("ip4"), st.ip_addresses(v=4).map(str)),
    st.tuples(st.just("ip6"), st.ip_addresses(v=6).map(str)),
    st.tuples(
        st.sampled_from(["dns", "dns4", "dns6"]),
        st.from_regex(r"[a-z0-9-]{1,20}(\.[a-z0-9-]{1,20}){0,3}", fullmatch=True),
    ),
)
hops = st.builds(
    lambda host, port, peer_id: TcpAddress(host[0], host[1], port, peer_id),
    hosts,
    st.integers(0, 65535),
    st.sampled_from([None, PEER_ID]),
)
circuits = st.builds(
    lambda hop, peer_id: CircuitAddress(hop.of(RELAY_ID), peer_id),
    hops,
    st.sampled_from([None, PEER_ID]),
)
addresses = st.one_of(hops, circuits)


@given(addresses)
def test_an_address_survives_a_round_trip(address: Address) -> None:
    assert parse_address(str(address)) == address
    assert parse_address_untrusted(str(address)) == address


def test_the_parts_of_an_address() -> None:
    address = parse_tcp_address(f"/ip4/1.2.3.4/tcp/31337/p2p/{PEER_ID}")
    assert (address.kind, address.host, address.port) == ("ip4", "1.2.3.4", 31337)
    assert address.peer_id == PEER_ID
    bare = parse_address("/ip4/1.2.3.4/tcp/31337")
    assert bare.peer_id is None
    assert bare.of(PEER_ID) == address
    # The old name of the same thing.
    assert parse_address(f"/ip4/1.2.3.4/tcp/31337/ipfs/{PEER_ID}") == address
    # People paste with blanks around.
    assert parse_address(f" {address}\n") == address


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "not a TCP multiaddress"),
        ("1.2.3.4:31337", "not a TCP multiaddress"),
        ("/ip4/1.2.3.4", "not a TCP multiaddress"),
        ("/ip4/1.2.3.4/udp/31337", "not a TCP multiaddress"),
        ("/ip4/1.2.3.4/udp/31337/quic-v1", "not a TCP multiaddress"),
        ("ip4/1.2.3.4/tcp/31337", "not a TCP multiaddress"),
        ("/ip4/1.2.3.4/tcp/31337/", "not a TCP multiaddress"),
        ("/ip4/1.2.3.4/tcp/31337/p2p", "not a TCP multiaddress"),
        ("/ip4/1.2.3.4/tcp/65536", "from 0 to 65535"),
        ("/ip4/1.2.3.4/tcp/-1", "from 0 to 65535"),
        ("/ip4/1.2.3.4/tcp/", "from 0 to 65535"),
        ("/ip4/1.2.3.4/tcp/²", "from 0 to 65535"),
        ("/ip4/1.2.3.4/tcp/0x50", "from 0 to 65535"),
        ("/ip4/1.2.3/tcp/1", "1.2.3"),
        ("/ip4/1.2.3.256/tcp/1", "256"),
        ("/ip4/localhost/tcp/1", "localhost"),
        ("/ip6/1.2.3.4/tcp/1", "1.2.3.4"),
        ("/ip6/:::/tcp/1", ":::"),
        ("/ip6/fe80::1%eth0/tcp/1", "zone"),
        ("/dns4/a\nb/tcp/1", "not a host name"),
        ("/dns4//tcp/1", "not a host name"),
        ("/dns4/a b/tcp/1", "not a host name"),
        ("/dns/ä.example/tcp/1", "not a host name"),
        ("/dns/" + "a" * 254 + "/tcp/1", "longer than|not a host name"),
        ("/unix/x/tcp/1", "/unix is not one of"),
        (f"/ip4/1.2.3.4/tcp/1/http/{PEER_ID}", "expected /p2p/"),
        ("/ip4/1.2.3.4/tcp/1/p2p/nobody", "not an Ed25519 peer id"),
        ("/ip4/1.2.3.4/tcp/1/p2p/", "not an Ed25519 peer id"),
        ("/" * 1_000, "longer than"),
        ("/ip4/1.2.3.4/tcp/1/p2p-circuit", "peer id of the relay"),
        (f"/p2p/{RELAY_ID}/p2p-circuit/p2p/{PEER_ID}", "not a TCP multiaddress"),
        (f"/ip4/1.2.3.4/tcp/1/p2p/{RELAY_ID}/p2p-circuit/p2p/{RELAY_ID}", "are the same"),
        (f"/ip4/1.2.3.4/tcp/1/p2p/{RELAY_ID}/p2p-circuit/", "after /p2p-circuit"),
        (f"/ip4/1.2.3.4/tcp/1/p2p/{RELAY_ID}/p2p-circuit/p2p/nobody", "not an Ed25519 peer id"),
        (f"/ip4/1.2.3.4/tcp/1/p2p/{RELAY_ID}/p2p-circuits/p2p/{PEER_ID}", "after /p2p-circuit"),
        (
            f"/ip4/1.2.3.4/tcp/1/p2p/{RELAY_ID}/p2p-circuit/p2p/{PEER_ID}/p2p-circuit",
            "through another relay",
        ),
    ],
)
def test_bad_addresses_say_what_is_wrong(text: str, complaint: str) -> None:
    with pytest.raises(AddressInvalid, match=complaint):
        parse_address(text)
    with pytest.raises(MessageInvalid, match=complaint):
        parse_address_untrusted(text)


@given(
    st.text(max_size=100)
    | st.lists(
        st.sampled_from(
            [
                "",
                "ip4",
                "ip6",
                "dns",
                "1.2.3.4",
                "::1",
                "%",
                "tcp",
                "1",
                "p2p",
                "é",
                "p2p-circuit",
                PEER_ID,
            ]
        ),
        max_size=12,
    ).map("/".join)
)
@example("/ip6/fe80::1%eth0/tcp/1")
@example("/ip6/fe80::1%/tcp/1")
@example("/ip4/1.2.3.4/tcp/" + "9" * 200)
def test_any_text_is_an_address_or_invalid(text: str) -> None:
    try:
        address = parse_address_untrusted(text)
    except MessageInvalid:
        return
    assert parse_address(str(address)) == address
    assert scope(address) in ("public", "private", "loopback")
    assert isinstance(is_unspecified(address), bool)
    assert network_of(first_hop(address).host)


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("/ip4/127.0.0.1", "loopback"),
        ("/ip4/127.9.9.9", "loopback"),
        ("/ip6/::1", "loopback"),
        ("/ip4/10.1.2.3", "private"),
        ("/ip4/192.168.1.1", "private"),
        ("/ip4/172.16.0.1", "private"),
        ("/ip4/169.254.1.1", "private"),
        ("/ip6/fe80::1", "private"),
        ("/ip6/fd00::1", "private"),
        ("/ip4/8.8.8.8", "public"),
        ("/ip6/2a00:1450::1", "public"),
        ("/dns4/example.org", "public"),
    ],
)
def test_scopes(host: str, expected: str) -> None:
    assert scope(parse_address(f"{host}/tcp/1")) == expected


def test_public_addresses_come_first_and_only_once() -> None:
    texts = ("/ip4/127.0.0.1", "/ip4/10.0.0.2", "/ip4/8.8.8.8", "/ip4/10.0.0.1", "/ip4/10.0.0.2")
    given_order = tuple(parse_address(f"{text}/tcp/1") for text in texts)
    assert [first_hop(address).host for address in sort_addresses(given_order)] == [
        "8.8.8.8",
        "10.0.0.2",
        "10.0.0.1",
        "127.0.0.1",
    ]


def test_addresses_that_nobody_can_dial() -> None:
    assert is_unspecified(parse_address("/ip4/0.0.0.0/tcp/1"))
    assert is_unspecified(parse_address("/ip6/::/tcp/1"))
    assert not is_unspecified(parse_address("/ip4/0.0.0.1/tcp/1"))
    assert not is_unspecified(parse_address("/dns/example.org/tcp/1"))


def test_networks_that_one_owner_is_likely_to_hold() -> None:
    assert network_of("10.1.2.3") == network_of("10.1.2.250") == "10.1.2.0/24"
    assert network_of("10.1.3.3") != network_of("10.1.2.3")
    assert network_of("2001:db8:1::5") == network_of("2001:db8:1:9::1") == "2001:db8:1::/48"
    assert network_of("example.org") == "example.org"


def test_the_parts_of_a_circuit() -> None:
    circuit = parse_address(f"/ip4/8.8.8.8/tcp/1/p2p/{RELAY_ID}/p2p-circuit/p2p/{PEER_ID}")
    assert isinstance(circuit, CircuitAddress)
    assert (circuit.relay_id, circuit.peer_id) == (RELAY_ID, PEER_ID)
    assert first_hop(circuit) == circuit.relay == TcpAddress("ip4", "8.8.8.8", 1, RELAY_ID)
    assert scope(circuit) == "public"
    bare = parse_address(f"/ip4/8.8.8.8/tcp/1/p2p/{RELAY_ID}/p2p-circuit")
    assert isinstance(bare, CircuitAddress)
    assert bare.of(PEER_ID) == circuit
    assert is_circuit(str(bare))
    assert not is_circuit(str(bare.relay))
    assert is_unspecified(parse_address(f"/ip4/0.0.0.0/tcp/1/p2p/{RELAY_ID}/p2p-circuit"))
    with pytest.raises(AddressInvalid, match="leads through a relay"):
        parse_tcp_address(str(circuit))
    with pytest.raises(ValueError, match="relay itself"):
        bare.of(RELAY_ID)
    with pytest.raises(ValueError, match="relay's peer id"):
        CircuitAddress(TcpAddress("ip4", "8.8.8.8", 1))


def test_circuits_come_after_every_direct_address() -> None:
    local = TcpAddress("ip4", "127.0.0.1", 1)
    near = CircuitAddress(TcpAddress("ip4", "10.0.0.1", 1, RELAY_ID))
    far = CircuitAddress(TcpAddress("ip4", "8.8.8.8", 1, RELAY_ID))
    given_order: tuple[Address, ...] = (near, far, local)
    assert sort_addresses(given_order) == (local, far, near)
