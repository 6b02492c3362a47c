"""Who punches to whom, when, where to, and the reasons that are given: the core alone."""

from __future__ import annotations

import ipaddress
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2p import Identity
from p2p.address import TcpAddress, parse_tcp_address
from p2p.dial.punch import (
    ASKED_PER_MINUTE_MAX,
    ASKED_PER_PEER_MAX,
    AT_ONCE_MAX,
    FIRST_PAUSE_S,
    PAUSE_S_MAX,
    TARGETS_MAX,
    PunchCore,
    PunchState,
    offers,
    part_of,
    targets,
    why_failed,
)

PEERS = [Identity.generate(random.Random(seed)).peer_id for seed in range(80)]
BOB = PEERS[0]


def at(*texts: str) -> tuple[TcpAddress, ...]:
    """Addresses from host:port."""
    found = []
    for text in texts:
        host, _, port = text.rpartition(":")
        found.append(TcpAddress("ip6" if ":" in host else "ip4", host, int(port)))
    return tuple(found)


def core() -> PunchCore:
    return PunchCore(random.Random(1))


def test_who_comes_through_a_relay_is_punched_to_once() -> None:
    one = core()
    assert one.on_relayed(BOB, 0.0)
    assert not one.on_relayed(BOB, 0.1)
    assert one.state(BOB) is PunchState.TRYING
    one.on_unrelayed(BOB)
    assert one.state(BOB) is PunchState.SETTLED
    assert one.deadline_s is None
    # When the direct one is lost and it comes through the relay again, there is no pause.
    assert one.on_relayed(BOB, 100.0)


def test_each_failure_doubles_the_pause_and_success_forgives_all() -> None:
    one, now_s, pauses = core(), 0.0, []
    assert one.on_relayed(BOB, now_s)
    for _ in range(10):
        one.on_failed(BOB, now_s)
        deadline_s = one.deadline_s
        assert deadline_s is not None
        assert one.on_deadline(deadline_s - 0.1) == ()
        assert one.on_deadline(deadline_s) == (BOB,)
        pauses.append(deadline_s - now_s)
        now_s = deadline_s
    for index, pause_s in enumerate(pauses):
        assert pause_s == pytest.approx(min(FIRST_PAUSE_S * 2**index, PAUSE_S_MAX), rel=0.26)
    one.on_failed(BOB, now_s)
    # To leave and come back is no way around it.
    one.on_gone(BOB)
    assert one.state(BOB) is None
    assert not one.on_relayed(BOB, now_s)
    assert one.deadline_s is not None
    one.on_unrelayed(BOB)
    one.on_gone(BOB)
    assert one.on_relayed(BOB, now_s)


def test_another_network_is_another_chance() -> None:
    one = core()
    one.on_relayed(BOB, 0.0)
    one.on_failed(BOB, 1.0)
    one.on_network_changed(2.0)
    assert one.on_deadline(2.0) == (BOB,)


def test_so_many_at_once_and_no_more() -> None:
    one = core()
    begun = [peer for peer in PEERS[: AT_ONCE_MAX + 4] if one.on_relayed(peer, 0.0)]
    assert begun == PEERS[:AT_ONCE_MAX]
    one.on_unrelayed(PEERS[0])
    deadline_s = one.deadline_s
    assert deadline_s is not None
    assert one.on_deadline(deadline_s) == (PEERS[AT_ONCE_MAX],)


def test_late_news_of_peers_that_are_gone_harms_nothing() -> None:
    one = core()
    one.on_relayed(BOB, 0.0)
    one.on_gone(BOB)
    one.on_failed(BOB, 1.0)
    one.on_unrelayed(PEERS[1])
    one.on_gone(PEERS[1])
    assert one.deadline_s is None
    assert one.state(BOB) is None


def test_nobody_asks_without_end() -> None:
    one = core()
    for number in range(1, ASKED_PER_PEER_MAX + 1):
        assert one.on_asked(BOB, float(number)) is None
        assert one.asked_lately(BOB) == number
    refusal = one.on_asked(BOB, 10.0)
    assert refusal is not None
    assert "within a minute" in refusal
    assert one.on_asked(BOB, 61.5) is None
    for peer in PEERS[1:]:
        one.on_asked(peer, 61.5)
    refusal = one.on_asked(Identity.generate().peer_id, 61.5)
    assert refusal is not None
    assert refusal.startswith("others have asked")
    assert len(PEERS) > ASKED_PER_MINUTE_MAX
    assert one.on_asked(BOB, 200.0) is None


def test_who_began_listens_but_on_the_third_try_of_foreign_peers() -> None:
    for number in (1, 2, 3):
        assert part_of(began=True, try_number=number, is_ours=True) == "listener"
        assert part_of(began=False, try_number=number, is_ours=True) == "dialer"
    for began in (True, False):
        assert part_of(began=began, try_number=3, is_ours=False) == "by-socket"
        assert part_of(began=began, try_number=2, is_ours=False) != "by-socket"


LAN = (ipaddress.IPv4Network("192.168.1.0/24"), ipaddress.IPv6Network("fd00:1::/64"))
MINE = at("5.6.7.2:4001", "192.168.1.2:4001")


@pytest.mark.parametrize(
    "text",
    [
        "127.0.0.1:80", "[::1]:80", "0.0.0.0:80", "169.254.1.1:80", "224.0.0.1:80",
        "255.255.255.255:80", "240.0.0.1:80", "10.0.0.1:80", "192.168.2.1:80", "100.64.0.1:80",
        "192.168.1.2:80", "5.6.7.2:4001", "8.8.8.8:0", "fe80::1:80", "ff02::1:80",
        "::ffff:127.0.0.1:80", "fd00:2::1:80",
    ],
)  # fmt: skip
def test_where_nobody_makes_us_dial(text: str) -> None:
    host, _, port = text.rpartition(":")
    assert targets(at(f"{host.strip('[]')}:{port}"), MINE, LAN) == ()


def test_where_we_dial() -> None:
    good = at("5.6.7.3:4001", "5.6.7.2:4002", "192.168.1.3:4001", "2a00::1:4001", "fd00:1::5:1")
    assert targets(good, MINE, LAN) == good
    assert targets((*good, *good, *at("127.0.0.1:1")), MINE, LAN) == good
    name = TcpAddress("dns4", "example.org", 4001)
    assert targets((name,), MINE, LAN) == ()


@given(st.lists(st.tuples(st.ip_addresses(), st.integers(0, 65_535)), max_size=40))
def test_never_more_than_so_many_and_never_inwards(several: list[tuple[object, int]]) -> None:
    offered = at(*(f"{host}:{port}" for host, port in several))
    chosen = targets(offered, MINE, LAN)
    assert len(chosen) <= TARGETS_MAX
    for address in chosen:
        ip = ipaddress.ip_address(address.host)
        assert ip.is_global or any(ip in network for network in LAN)
        assert not ip.is_loopback
        assert not ip.is_multicast


def test_what_we_offer() -> None:
    observed = at("5.6.7.2:4001")
    own = at("192.168.1.2:4001", "127.0.0.1:4001", "2a00::5:4001")
    named = parse_tcp_address("/dns4/example.org/tcp/4001")
    assert offers(observed, (*own, named, *observed)) == at(
        "5.6.7.2:4001", "2a00::5:4001", "192.168.1.2:4001"
    )
    many = at(*(f"5.6.7.2:{port}" for port in range(1, 50)))
    assert offers(many, own) == many[:TARGETS_MAX]


@pytest.mark.parametrize(
    ("mine", "theirs", "tried", "reason"),
    [
        (at("192.168.1.2:1"), MINE, MINE, "Nobody has told us yet"),
        (MINE, (), (), "The peer offered no address."),
        (MINE, at("127.0.0.1:1"), (), "The peer offered no address that can be dialed from here."),
        (at("5.6.7.2:1", "5.6.7.2:2"), MINE, MINE, "Our router gives each"),
        (MINE, at("5.6.7.3:1", "5.6.7.3:2"), at("5.6.7.3:1"), "The peer's router gives each"),
        (MINE, at("5.6.7.3:1"), at("5.6.7.3:1"), "In 3 tries nothing came back from 1 address of"),
    ],
)
def test_reasons_are_one_plain_sentence(
    mine: tuple[TcpAddress, ...],
    theirs: tuple[TcpAddress, ...],
    tried: tuple[TcpAddress, ...],
    reason: str,
) -> None:
    text = why_failed(mine, theirs, tried, tries=3)
    assert text.startswith(reason)
    assert text.endswith(".")
    assert ". " not in text
