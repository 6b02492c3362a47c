"""What we tell others of our addresses, from all who know one."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from p2p import Identity
from p2p.address import CircuitAddress, TcpAddress
from p2p.nat.own_addresses import ADDRESSES_MAX, OwnAddresses
from p2p.nat.report import Reachability

RELAY = Identity.generate(random.Random(1)).peer_id


def at(host: str, port: int = 4001) -> TcpAddress:
    return TcpAddress("ip6" if ":" in host else "ip4", host, port)


def circuit(number: int) -> CircuitAddress:
    return CircuitAddress(at(f"5.6.7.{number}").of(RELAY))


LOOPBACK, LAN, PUBLIC, OUTSIDE = at("127.0.0.1"), at("192.168.1.2"), at("5.6.7.8"), at("8.8.8.8")


def test_loopback_only_where_there_is_nothing_else() -> None:
    own = OwnAddresses()
    own.on_interfaces((LOOPBACK,))
    assert own.addresses == (LOOPBACK,)
    own.on_interfaces((LAN, LOOPBACK))
    assert own.addresses == (LAN,)


def test_what_is_announced_stands_for_all_but_circuits() -> None:
    own = OwnAddresses(announced=(OUTSIDE,))
    own.on_interfaces((PUBLIC, LAN))
    own.on_observed((at("9.9.9.9"),))
    own.on_mapped(at("9.9.9.8"))
    own.on_reserved((circuit(1),))
    assert own.addresses == (OUTSIDE, circuit(1))
    assert own.sources()[PUBLIC] == "interface"


def test_a_client_tells_its_circuits_only() -> None:
    own = OwnAddresses(client_mode=True)
    own.on_interfaces((PUBLIC,))
    own.on_observed((OUTSIDE,))
    own.on_mapped(OUTSIDE)
    assert own.addresses == ()
    own.on_reserved((circuit(1),))
    assert own.addresses == (circuit(1),)


def test_all_sources_in_order() -> None:
    own = OwnAddresses()
    own.on_interfaces((LAN,))
    own.on_observed((OUTSIDE,))
    own.on_mapped(at("8.8.8.8", 5))
    own.on_reserved(tuple(circuit(number) for number in range(1, 6)))
    assert own.addresses == (at("8.8.8.8", 5), OUTSIDE, LAN, circuit(1), circuit(2), circuit(3))
    assert own.sources()[OUTSIDE] == "observed"
    assert own.sources()[circuit(5)] == "relay"
    own.on_mapped(None)
    own.on_reserved(())
    assert own.addresses == (OUTSIDE, LAN)


def test_what_dial_back_says() -> None:
    own = OwnAddresses()
    own.on_interfaces((PUBLIC, LAN))
    own.on_observed((OUTSIDE,))
    own.on_verdict(OUTSIDE, "private")
    # Neighbours within a firewall reach what others do not.
    own.on_verdict(PUBLIC, "private")
    assert own.addresses == (PUBLIC, LAN)
    own.on_verdict(OUTSIDE, "public")
    assert own.addresses == (OUTSIDE, PUBLIC, LAN)
    # Reached though nobody had observed it: a port forwarded by hand.
    forwarded = at("8.8.8.8", 7)
    own.on_verdict(forwarded, "public")
    assert set(own.addresses) == {forwarded, OUTSIDE, PUBLIC, LAN}
    own.on_verdict(forwarded, "unknown")
    assert forwarded not in own.addresses


hosts = st.sampled_from(["127.0.0.1", "192.168.1.2", "10.0.0.1", "5.6.7.8", "2001:4860::1"])
outside = st.builds(at, st.sampled_from(["5.6.7.8", "8.8.8.8", "2001:4860::1"]), st.integers(1, 9))
verdicts: st.SearchStrategy[Reachability] = st.sampled_from(["public", "private", "unknown"])


@given(
    st.lists(st.builds(at, hosts, st.integers(1, 9)), max_size=12, unique=True).map(tuple),
    st.lists(outside, max_size=12, unique=True).map(tuple),
    st.dictionaries(outside, verdicts),
    st.booleans(),
)
def test_bounded_and_without_repeats(
    interfaces: tuple[TcpAddress, ...],
    observed: tuple[TcpAddress, ...],
    judged: dict[TcpAddress, Reachability],
    reserved: bool,
) -> None:
    own = OwnAddresses()
    own.on_interfaces(interfaces)
    own.on_observed(observed)
    own.on_reserved((circuit(1),) if reserved else ())
    for address, verdict in judged.items():
        own.on_verdict(address, verdict)
    told = own.addresses
    assert len(told) == len(set(told)) <= ADDRESSES_MAX
    assert (circuit(1) in told) == reserved
    assert set(told) <= set(own.sources())
    if any(one.host != "127.0.0.1" for one in interfaces):
        assert not any(str(one).startswith("/ip4/127.") for one in told)
