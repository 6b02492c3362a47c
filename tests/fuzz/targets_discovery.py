"""Targets of discovery: what anybody on the network may say over multicast."""

from __future__ import annotations

import random

from p2p import MessageInvalid
from p2p.address import parse_address
from p2p.discovery.dns_message import (
    STRING_BYTES_MAX,
    Advert,
    decode_dns_untrusted,
    encode_answer,
    encode_question,
)
from p2p.discovery.lan import Lan, service_name
from p2p.discovery.networks import Interface
from tests.fuzz.known import ALICE, BOB
from tests.fuzz.target import Target

SERVICE = service_name("digits")
HOME = (Interface("lo", "127.0.0.1", 8), Interface("eth0", "192.168.1.5", 24))
LISTENING = (parse_address("/ip4/192.168.1.5/tcp/7"),)
NEAR = b"dnsaddr=/ip4/192.168.1.9/tcp/7/p2p/" + BOB.peer_id.encode()
SEEDS = (
    encode_question(SERVICE),
    encode_answer(SERVICE, Advert(f"x.{SERVICE}", (NEAR, b"other=1"), 120)),
    encode_answer(SERVICE, Advert(f"x.{SERVICE}", (), 0)),
)


def run_dns(data: bytes) -> None:
    try:
        heard = decode_dns_untrusted(data)
    except MessageInvalid:
        return
    for advert in heard.adverts:
        assert all(0 < len(text) <= STRING_BYTES_MAX for text in advert.strings)


def run_lan(data: bytes) -> None:
    lan = Lan(ALICE.peer_id, "digits", random.Random(1))
    outcome = lan.on_datagram_untrusted(data, "192.168.1.9", HOME, LISTENING, 0.0)
    for found in outcome.found:
        assert found.peer_id != ALICE.peer_id
        assert found.addresses
        assert all(address.host.startswith("192.168.1.") for address in found.addresses)
    assert len(outcome.answer) < 1_000


TARGETS = (
    Target(
        name="discovery.dns",
        run=run_dns,
        seeds=SEEDS,
        covers=("p2p.discovery.dns_message.decode_dns_untrusted",),
    ),
    Target(
        name="discovery.lan",
        run=run_lan,
        seeds=SEEDS,
        covers=(
            "p2p.discovery.lan.on_datagram_untrusted",
            "p2p.discovery.lan._found_untrusted",
            "p2p.discovery.lan._addresses_untrusted",
        ),
    ),
)
