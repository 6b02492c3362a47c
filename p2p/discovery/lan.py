"""Which peers of our network tell us where they are, and what we tell them (core).

Anybody on the network can say anything. What is believed is bounded in number and time, and only
addresses on a network of ours are taken, so that nobody here can send us elsewhere.

    heard              told
    question           our addresses on the network that it came from, once a second at most
    advert             the peer's addresses there, when they are new
    advert, life 0     nothing; the peer is forgotten
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterable
from dataclasses import dataclass

from p2p.address import TcpAddress, parse_address_untrusted
from p2p.discovery.dns_message import (
    STRING_BYTES_MAX,
    Advert,
    Heard,
    decode_dns_untrusted,
    encode_answer,
    encode_question,
    encode_service_list,
)
from p2p.discovery.networks import Interface, interface_towards
from p2p.errors import MessageInvalid
from p2p.peer_id import PeerId

LIFE_S = 120
"""How long what we say holds. Source: RFC 6762 §10."""
_META = "_services._dns-sd._udp.local"
_KEY = b"dnsaddr="
_PEERS_MAX = 256
_PEERS_PER_DATAGRAM_MAX = 8
_ADDRESSES_MAX = 8
_STRINGS_MAX = 32
_LIFE_S_MAX = 4500
_ANSWER_PAUSE_S = 1.0
_FIRST_QUESTIONS_S = (0.0, 1.0, 3.0)
_QUESTION_PAUSE_S = 60.0
_INSTANCE_BYTES = 20


def service_name(run: str | None) -> str:
    """The DNS name under which the peers of a run are found; None: any libp2p peer.

    A run's peers use a name of their own, as those of libp2p's private networks do.
    """
    if run is None:
        return "_p2p._udp.local"
    return f"_p2p-{hashlib.sha256(run.encode()).hexdigest()[:16]}._udp.local"


@dataclass(frozen=True)
class Found:
    """A peer on one of our networks, at addresses that are new."""

    peer_id: PeerId
    addresses: tuple[TcpAddress, ...]


@dataclass(frozen=True)
class Outcome:
    """What a datagram leads to."""

    found: tuple[Found, ...] = ()
    answer: bytes = b""
    """To be sent to everybody on the interface; empty for none."""
    interface: Interface | None = None


@dataclass(frozen=True)
class _Known:
    addresses: tuple[TcpAddress, ...]
    expires_at_s: float


class Lan:
    """What we hear from and tell the peers on our networks."""

    def __init__(self, peer_id: PeerId, run: str | None, rng: random.Random) -> None:
        self._peer_id = peer_id
        self._service = service_name(run)
        self._instance = f"{rng.randbytes(_INSTANCE_BYTES).hex()}.{self._service}"
        self._known: dict[PeerId, _Known] = {}
        self._answered_at_s: dict[str, float] = {}
        self._questions_due_s = [*_FIRST_QUESTIONS_S]
        self._begun_at_s: float | None = None
        self._next_question_s = 0.0

    def known(self, now_s: float) -> dict[PeerId, tuple[TcpAddress, ...]]:
        """The peers found that have been heard of lately."""
        self._known = {
            peer_id: known for peer_id, known in self._known.items() if known.expires_at_s > now_s
        }
        return {peer_id: known.addresses for peer_id, known in self._known.items()}

    def next_question(self, now_s: float) -> tuple[bytes, float]:
        """A question if it is due, else nothing, and when to ask for the next."""
        if self._begun_at_s is None:
            self._begun_at_s = now_s
        asks = False
        while self._questions_due_s and now_s >= self._begun_at_s + self._questions_due_s[0]:
            self._questions_due_s.pop(0)
            asks = True
        if self._questions_due_s:
            self._next_question_s = self._begun_at_s + self._questions_due_s[0]
        elif asks or now_s >= self._next_question_s:
            self._next_question_s = now_s + _QUESTION_PAUSE_S
            asks = True
        return (encode_question(self._service) if asks else b""), self._next_question_s

    def on_network_changed(self) -> None:
        """Other neighbours may be there now: ask as at the beginning."""
        self._questions_due_s = [*_FIRST_QUESTIONS_S]
        self._begun_at_s = None

    def advert(
        self, listening: Iterable[TcpAddress], interface: Interface, *, life_s: int = LIFE_S
    ) -> bytes:
        """What we say on one interface: where its neighbours can dial us; empty if nowhere."""
        strings: list[bytes] = []
        for address in listening:
            text = _KEY + str(address.of(self._peer_id)).encode()
            near = interface_towards(address.host, (interface,)) is not None
            if near and len(text) <= STRING_BYTES_MAX and len(strings) < _ADDRESSES_MAX:
                strings.append(text)
        if not strings:
            return b""
        return encode_answer(self._service, Advert(self._instance, tuple(strings), life_s))

    def on_datagram_untrusted(
        self,
        data: bytes,
        source_host: str,
        interfaces: tuple[Interface, ...],
        listening: tuple[TcpAddress, ...],
        now_s: float,
    ) -> Outcome:
        """A datagram came from a host; what is no DNS message, or none for us, leads to nothing."""
        interface = interface_towards(source_host, interfaces)
        if interface is None:
            # Multicast of the link comes from the link: who is elsewhere has forged something.
            return Outcome()
        try:
            heard = decode_dns_untrusted(data)
        except MessageInvalid:
            return Outcome()
        return Outcome(
            found=self._found_untrusted(heard, interfaces, interface, now_s),
            answer=self._answer(heard, interface, listening, now_s),
            interface=interface,
        )

    def _answer(
        self,
        heard: Heard,
        interface: Interface,
        listening: tuple[TcpAddress, ...],
        now_s: float,
    ) -> bytes:
        for name in heard.questions:
            if name not in (self._service, _META):
                continue
            key = f"{interface.name} {interface.host} {name}"
            if now_s - self._answered_at_s.get(key, -_ANSWER_PAUSE_S) < _ANSWER_PAUSE_S:
                continue
            answer = self.advert(listening, interface)
            if answer and name == _META:
                answer = encode_service_list(_META, self._service, LIFE_S)
            if answer:
                self._answered_at_s[key] = now_s
                return answer
        return b""

    def _found_untrusted(
        self,
        heard: Heard,
        interfaces: tuple[Interface, ...],
        came_in: Interface,
        now_s: float,
    ) -> tuple[Found, ...]:
        found = []
        for advert in heard.adverts[:_PEERS_PER_DATAGRAM_MAX]:
            if not advert.instance.endswith(f".{self._service}"):
                continue
            named = _addresses_untrusted(advert, interfaces, came_in)
            if not named or named[0].peer_id in (None, self._peer_id):
                continue
            peer_id = named[0].peer_id
            assert peer_id is not None
            known = self.known(now_s)
            if not advert.life_s:
                self._known.pop(peer_id, None)
            elif peer_id in known or len(known) < _PEERS_MAX:
                life_s = min(advert.life_s, _LIFE_S_MAX)
                self._known[peer_id] = _Known(named, now_s + life_s)
                if known.get(peer_id) != named:
                    found.append(Found(peer_id, named))
        return tuple(found)


def _addresses_untrusted(
    advert: Advert, interfaces: tuple[Interface, ...], came_in: Interface
) -> tuple[TcpAddress, ...]:
    """One peer's addresses on networks of ours; those of this machine only from itself."""
    addresses: dict[TcpAddress, None] = {}
    for text in advert.strings[:_STRINGS_MAX]:
        if not text.startswith(_KEY):
            continue
        try:
            address = parse_address_untrusted(text[len(_KEY) :].decode("utf-8", "replace"))
        except MessageInvalid:
            # Peers announce kinds of addresses that we do not know, too.
            continue
        if not isinstance(address, TcpAddress):
            continue
        near = interface_towards(address.host, interfaces)
        if near is None or address.port == 0 or address.peer_id is None:
            continue
        if near.is_loopback and not came_in.is_loopback:
            continue
        if addresses and address.peer_id != next(iter(addresses)).peer_id:
            continue
        addresses[address] = None
        if len(addresses) == _ADDRESSES_MAX:
            break
    return tuple(addresses)
