"""What is believed of what the network says: only addresses of ours, bounded, for a time."""

import random

import pytest

from p2p import Identity
from p2p.address import TcpAddress, parse_address
from p2p.discovery.dns_message import (
    Advert,
    decode_dns_untrusted,
    encode_answer,
    encode_question,
)
from p2p.discovery.lan import LIFE_S, Found, Lan, Outcome, service_name
from p2p.discovery.networks import Interface

ALICE, BOB, CAROL = (Identity.generate(random.Random(seed)).peer_id for seed in (1, 2, 3))
LOOPBACK = Interface("lo", "127.0.0.1", 8)
ETHERNET = Interface("eth0", "192.168.1.5", 24)
WIRELESS = Interface("wlan0", "10.0.0.5", 24)
ALL = (LOOPBACK, ETHERNET, WIRELESS)
SERVICE = service_name("digits")
NEAR = "192.168.1.9"
LISTENING = tuple(
    map(parse_address, ("/ip4/192.168.1.5/tcp/7", "/ip4/10.0.0.5/tcp/7", "/ip4/127.0.0.1/tcp/7"))
)


def lan() -> Lan:
    return Lan(ALICE, "digits", random.Random(1))


def hear(one: Lan, data: bytes, source: str = NEAR, now_s: float = 0.0) -> Outcome:
    return one.on_datagram_untrusted(data, source, ALL, LISTENING, now_s)


def said(*addresses: str, life_s: int = LIFE_S, service: str = SERVICE) -> bytes:
    strings = tuple(b"dnsaddr=" + text.encode() for text in addresses)
    return encode_answer(service, Advert(f"x.{service}", strings, life_s))


def of_bob(host: str = NEAR, port: int = 7) -> str:
    return f"/ip4/{host}/tcp/{port}/p2p/{BOB}"


def test_runs_have_names_of_their_own() -> None:
    assert service_name(None) == "_p2p._udp.local"
    assert service_name("digits") != service_name("words")
    assert all(len(label) < 64 for label in service_name("x" * 1_000).split("."))


def test_a_peer_is_found_once_and_kept_for_its_life() -> None:
    one = lan()
    found = Found(BOB, (parse_address(of_bob()),))
    assert hear(one, said(of_bob())).found == (found,)
    assert hear(one, said(of_bob())).found == ()
    assert one.known(LIFE_S - 1) == {BOB: found.addresses}
    assert one.known(LIFE_S + 1) == {}
    # When it has moved, it is news.
    assert hear(one, said(of_bob(port=8))).found[0].addresses == (parse_address(of_bob(port=8)),)
    assert hear(one, said(of_bob(port=8), life_s=0)).found == ()
    assert one.known(1.0) == {}


@pytest.mark.parametrize(
    ("addresses", "kept"),
    [
        ((of_bob(), of_bob("10.0.0.9")), (of_bob(), of_bob("10.0.0.9"))),
        ((of_bob("5.6.7.8"), of_bob("10.0.1.9")), ()),
        ((of_bob("5.6.7.8"), of_bob()), (of_bob(),)),
        # This machine's own ports are named by this machine only.
        ((of_bob("127.0.0.1"),), ()),
        ((of_bob(port=0),), ()),
        ((f"/ip4/{NEAR}/tcp/7",), ()),
        (("nonsense", "/ip4/999.1.1.1/tcp/1", of_bob()), (of_bob(),)),
        ((f"/ip4/{NEAR}/tcp/7/p2p/{ALICE}",), ()),
        # One instance is one peer.
        ((of_bob(), f"/ip4/{NEAR}/tcp/7/p2p/{CAROL}"), (of_bob(),)),
        ((f"/dns4/evil.example/tcp/7/p2p/{BOB}",), ()),
    ],
)
def test_only_addresses_on_our_networks_are_taken(
    addresses: tuple[str, ...], kept: tuple[str, ...]
) -> None:
    found = hear(lan(), said(*addresses)).found
    assert [str(address) for one in found for address in one.addresses] == list(kept)


def test_this_machine_speaks_for_itself() -> None:
    (found,) = hear(lan(), said(of_bob("127.0.0.1")), source="127.0.0.1").found
    assert found.peer_id == BOB


def test_who_is_elsewhere_or_of_another_run_is_not_heard() -> None:
    assert hear(lan(), said(of_bob()), source="5.6.7.8") == Outcome()
    assert hear(lan(), said(of_bob(), service=service_name("words"))).found == ()
    assert hear(lan(), said(of_bob(), service=service_name(None))).found == ()
    assert hear(lan(), encode_question(service_name("words"))).answer == b""
    assert hear(lan(), b"noise") == Outcome()


def test_memory_is_bounded() -> None:
    one, rng = lan(), random.Random(9)
    for _ in range(300):
        peer_id = Identity.generate(rng).peer_id
        hear(one, said(f"/ip4/{NEAR}/tcp/7/p2p/{peer_id}"))
    assert len(one.known(0.0)) == 256
    many = tuple(of_bob(port=port) for port in range(1, 30))
    (found,) = hear(lan(), said(*many)).found
    assert len(found.addresses) == 8


def test_the_life_that_a_stranger_names_is_bounded() -> None:
    one = lan()
    hear(one, said(of_bob(), life_s=2**31))
    assert one.known(4_501.0) == {}


def told(data: bytes) -> list[str]:
    """The addresses in an answer."""
    return [
        text.decode().removeprefix("dnsaddr=")
        for advert in decode_dns_untrusted(data).adverts
        for text in advert.strings
    ]


def test_a_question_is_answered_with_what_the_asker_can_dial() -> None:
    one = lan()
    outcome = hear(one, encode_question(SERVICE))
    assert outcome.interface == ETHERNET
    assert told(outcome.answer) == [f"/ip4/192.168.1.5/tcp/7/p2p/{ALICE}"]
    other = hear(one, encode_question(SERVICE), source="10.0.0.9")
    assert told(other.answer) == [f"/ip4/10.0.0.5/tcp/7/p2p/{ALICE}"]
    # A flood of questions makes no flood of answers.
    assert hear(one, encode_question(SERVICE), now_s=0.5).answer == b""
    assert hear(one, encode_question(SERVICE), now_s=1.5).answer != b""


def test_who_asks_for_all_services_hears_of_ours() -> None:
    answer = hear(lan(), encode_question("_services._dns-sd._udp.local")).answer
    assert SERVICE.split(".")[0].encode() in answer


def test_a_client_answers_nothing() -> None:
    question = encode_question(SERVICE)
    outcome = lan().on_datagram_untrusted(question, NEAR, ALL, (), 0.0)
    assert outcome.answer == b""
    assert lan().advert((), ETHERNET) == b""


def test_adverts_are_bounded_and_taken_back() -> None:
    many = [TcpAddress("ip4", "192.168.1.5", port) for port in range(1, 20)]
    assert len(told(lan().advert(many, ETHERNET))) == 8
    (gone,) = decode_dns_untrusted(lan().advert(LISTENING, ETHERNET, life_s=0)).adverts
    assert gone.life_s == 0


def test_questions_come_soon_at_first_then_once_a_minute() -> None:
    one, asked, now_s = lan(), [], 100.0
    for _ in range(6):
        question, next_s = one.next_question(now_s)
        assert next_s > now_s
        if question:
            asked.append(now_s)
        now_s = next_s
    assert asked == [100.0, 101.0, 103.0, 163.0, 223.0, 283.0]
    one.on_network_changed()
    assert one.next_question(now_s)[0]
    assert one.next_question(now_s + 0.5) == (b"", now_s + 1.0)
