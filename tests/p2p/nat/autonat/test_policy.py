"""Whom a server dials back, where and how often: nobody can use it against another."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2p.address import TcpAddress
from p2p.nat.autonat.policy import (
    IN_ALL_MAX,
    PER_HOST_MAX,
    PER_REQUEST_MAX,
    WINDOW_S,
    DialBackPolicy,
)


def at(host: str, port: int = 4001) -> TcpAddress:
    return TcpAddress("ip6" if ":" in host else "ip4", host, port)


REQUESTER = at("5.6.7.8", 50_000)


@pytest.mark.parametrize(
    ("wanted", "observed"),
    [
        (at("5.6.7.9"), REQUESTER),
        (at("127.0.0.1"), REQUESTER),
        (at("192.168.1.1"), REQUESTER),
        (at("2001:4860::1"), REQUESTER),
        (at("::ffff:5.6.7.8"), REQUESTER),
        (at("5.6.7.8", 22), REQUESTER),
        (at("5.6.7.8", 0), REQUESTER),
        (at("5.6.7.8", 1023), REQUESTER),
        (TcpAddress("dns4", "victim.example.org", 4001), REQUESTER),
        (at("127.0.0.1"), at("127.0.0.1", 50_000)),
        (at("::1"), at("::1", 50_000)),
        (at("169.254.1.1"), at("169.254.1.1", 50_000)),
        (at("fe80::1"), at("fe80::1", 50_000)),
    ],
)
def test_refused(wanted: TcpAddress, observed: TcpAddress) -> None:
    assert DialBackPolicy().choose((wanted,), observed, 0.0) == ()


@pytest.mark.parametrize(
    ("wanted", "observed"),
    [
        (at("5.6.7.8"), REQUESTER),
        (at("5.6.7.8", 443), REQUESTER),
        (at("5.6.7.8", 80), REQUESTER),
        (at("2001:4860::1"), at("2001:4860:0::1", 50_000)),
        # Both are on that network: it is how they talk.
        (at("192.168.1.7"), at("192.168.1.7", 50_000)),
    ],
)
def test_dialed(wanted: TcpAddress, observed: TcpAddress) -> None:
    assert DialBackPolicy().choose((wanted,), observed, 0.0) == (wanted,)


def test_a_huge_list_is_cut() -> None:
    policy = DialBackPolicy()
    many = tuple(at("5.6.7.8", 4000 + number) for number in range(1000))
    assert len(policy.choose(many, REQUESTER, 0.0)) == PER_REQUEST_MAX
    assert policy.choose(many, REQUESTER, 0.0) == ()


def test_a_flood_from_one_host_and_from_many() -> None:
    policy = DialBackPolicy()
    for _ in range(PER_HOST_MAX):
        assert policy.choose((at("5.6.7.8"),), REQUESTER, 0.0)
    assert not policy.choose((at("5.6.7.8"),), REQUESTER, WINDOW_S - 1)
    assert policy.choose((at("5.6.7.8"),), REQUESTER, WINDOW_S)
    policy = DialBackPolicy()
    granted = [
        bool(policy.choose((at(f"5.6.{number}.1"),), at(f"5.6.{number}.1"), 0.0))
        for number in range(100)
    ]
    assert sum(granted) == IN_ALL_MAX


def test_a_whole_ipv6_network_of_one_owner_is_one_host() -> None:
    policy = DialBackPolicy()
    hosts = [at(f"2001:4860::{number:x}") for number in range(1, 20)]
    assert sum(bool(policy.choose((one,), one, 0.0)) for one in hosts) == PER_HOST_MAX


hosts = st.sampled_from(["5.6.7.8", "5.6.7.9", "192.168.1.1", "127.0.0.1", "2001:4860::1"])
anywhere = st.builds(at, hosts, st.integers(0, 65_535))


@given(
    st.lists(
        st.tuples(st.lists(anywhere, max_size=20).map(tuple), anywhere, st.floats(0, 40)),
        max_size=20,
    )
)
def test_whatever_is_asked(asks: list[tuple[tuple[TcpAddress, ...], TcpAddress, float]]) -> None:
    policy, now_s = DialBackPolicy(), 0.0
    dialed: list[tuple[float, str]] = []
    for wanted, observed, seconds in asks:
        now_s += seconds
        for one in policy.choose(wanted, observed, now_s):
            assert one in wanted
            assert one.host == observed.host
            assert one.port >= 1024 or one.port in (80, 443)
            dialed.append((now_s, one.host))
        lately = [host for at_s, host in dialed if at_s > now_s - WINDOW_S]
        assert len(lately) <= IN_ALL_MAX
        assert all(lately.count(host) <= PER_HOST_MAX for host in lately)
