"""Hole punching: who begins, when, how often, where to, and why it failed (core).

The peer that *received* the relayed connection begins: it opens the DCUtR stream.

    state     event                                          next
    none      a relayed connection came in                   TRYING  (begin)
    TRYING    a connection without relay stands              SETTLED
    TRYING    the last try has failed                        PAUSED, twice as long each time
    PAUSED    the pause is over, and the relayed one stands  TRYING  (begin)
    PAUSED    our network has changed                        TRYING  (begin)
    SETTLED   a relayed connection came in                   TRYING  (begin)
    any       the peer has gone                              none; how often it failed is kept

A peer that asks us to punch names addresses for us to dial, and could name somebody else's. So it
must be one that we came to through a relay, asks no more often than a punch needs, and gets no
more than a few packets sent, none of them into this machine or a network that we do not share.
"""

from __future__ import annotations

import ipaddress
import random
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from typing import Literal

from p2p.address import TcpAddress, scope
from p2p.dial.dcutr import punchable
from p2p.host.punch_table import Part
from p2p.peer_id import PeerId

TRIES = 3
"""Source: libp2p specification, relay/DCUtR."""
TARGETS_MAX = 8
"""Addresses of a peer that are dialed, and of ours that are offered."""
WINDOW_S = 3.0
"""How long a try goes on dialing; two repeats of a lost SYN fall into it."""
FIRST_PAUSE_S = 30.0
PAUSE_S_MAX = 3_600.0
AT_ONCE_MAX = 16
"""Peers that we punch to at once; others wait."""
ASKED_PER_MINUTE_MAX = 60
"""Requests of all peers in a minute that we heed."""
ASKED_PER_PEER_MAX = 6
"""The same of one peer: two rounds of tries."""
_MINUTE_S = 60.0
_BUSY_PAUSE_S = 1.0
_JITTER = 0.25
_REMEMBERED_MAX = 4_096

Outcome = Literal["punched", "direct", "failed"]
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class PunchState(Enum):
    """Where we are with a peer that has come through a relay."""

    TRYING = "trying"
    PAUSED = "paused"
    SETTLED = "settled"


@dataclass(frozen=True)
class PunchResult:
    """What came of punching to a peer."""

    peer_id: PeerId
    outcome: Outcome
    """direct: the peer could be dialed plainly, without punching."""
    began: bool
    """Whether we began, since the peer had come to us; else it had asked us."""
    tries: int
    seconds: float
    reason: str
    """One plain sentence: how it went, or why it failed."""


@dataclass
class _Peer:
    """What is kept of a peer while it is here."""

    state: PunchState
    resume_at_s: float = 0.0


class PunchCore:
    """Decides for all peers of one node."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._peers: dict[PeerId, _Peer] = {}
        self._failures: OrderedDict[PeerId, int] = OrderedDict()
        self._asked: OrderedDict[PeerId, list[float]] = OrderedDict()

    def state(self, peer_id: PeerId) -> PunchState | None:
        """Where we are with a peer."""
        known = self._peers.get(peer_id)
        return known.state if known else None

    @property
    def deadline_s(self) -> float | None:
        """When on_deadline() is due."""
        pauses = [one.resume_at_s for one in self._peers.values() if one.state is PunchState.PAUSED]
        return min(pauses, default=None)

    def on_relayed(self, peer_id: PeerId, now_s: float) -> bool:
        """A peer has come to us through a relay, and there is no better path: begin now?"""
        known = self._peers.get(peer_id)
        if known is not None and known.state is not PunchState.SETTLED:
            return False
        self._peers[peer_id] = peer = _Peer(PunchState.PAUSED, now_s)
        if failures := self._failures.get(peer_id):
            peer.resume_at_s = now_s + self._pause_s(failures)
            return False
        return peer_id in self.on_deadline(now_s)

    def on_deadline(self, now_s: float) -> tuple[PeerId, ...]:
        """Whom to begin with now."""
        trying = sum(one.state is PunchState.TRYING for one in self._peers.values())
        begun = []
        for peer_id, peer in self._peers.items():
            if peer.state is PunchState.PAUSED and peer.resume_at_s <= now_s:
                if trying < AT_ONCE_MAX:
                    peer.state = PunchState.TRYING
                    trying += 1
                    begun.append(peer_id)
                else:
                    peer.resume_at_s = now_s + _BUSY_PAUSE_S
        return tuple(begun)

    def on_unrelayed(self, peer_id: PeerId) -> None:
        """A connection to the peer does without a relay."""
        if peer_id in self._peers:
            self._peers[peer_id].state = PunchState.SETTLED
        self._failures.pop(peer_id, None)

    def on_failed(self, peer_id: PeerId, now_s: float) -> None:
        """All tries with the peer have failed."""
        failures = self._failures.pop(peer_id, 0) + 1
        self._failures[peer_id] = failures
        if len(self._failures) > _REMEMBERED_MAX:
            self._failures.popitem(last=False)
        peer = self._peers.get(peer_id)
        if peer is not None and peer.state is PunchState.TRYING:
            peer.state = PunchState.PAUSED
            peer.resume_at_s = now_s + self._pause_s(failures)

    def on_gone(self, peer_id: PeerId) -> None:
        """No connection to the peer is left."""
        self._peers.pop(peer_id, None)

    def on_network_changed(self, now_s: float) -> None:
        """What failed may work now."""
        self._failures.clear()
        for peer in self._peers.values():
            if peer.state is PunchState.PAUSED:
                peer.resume_at_s = now_s

    def on_asked(self, peer_id: PeerId, now_s: float) -> str | None:
        """A peer asks us to punch: why we do not, or None if we do."""
        for asked in list(self._asked.values()):
            asked[:] = [at_s for at_s in asked if at_s > now_s - _MINUTE_S]
        for silent in [one for one, asked in self._asked.items() if not asked]:
            del self._asked[silent]
        if len(self._asked.get(peer_id, ())) >= ASKED_PER_PEER_MAX:
            return f"it has asked {ASKED_PER_PEER_MAX} times within a minute"
        if sum(map(len, self._asked.values())) >= ASKED_PER_MINUTE_MAX:
            return f"others have asked {ASKED_PER_MINUTE_MAX} times within a minute"
        self._asked.setdefault(peer_id, []).append(now_s)
        return None

    def asked_lately(self, peer_id: PeerId) -> int:
        """How often a peer has asked within the last minute, the present time included."""
        return len(self._asked.get(peer_id, ()))

    def _pause_s(self, failures: int) -> float:
        pause_s = min(FIRST_PAUSE_S * 2.0 ** min(failures - 1, 20), PAUSE_S_MAX)
        return pause_s * (1 + self._rng.uniform(-_JITTER, _JITTER))


def part_of(*, began: bool, try_number: int, is_ours: bool) -> Part:
    """Our part in the handshakes: who began listens, whichever socket call connects.

    Foreign peers dial as dialers in the third try, whoever began; so parts follow the sockets.
    """
    if try_number >= TRIES and not is_ours:
        return "by-socket"
    return "listener" if began else "dialer"


def offers(observed: Iterable[TcpAddress], own: Iterable[TcpAddress]) -> tuple[TcpAddress, ...]:
    """Which of our addresses the peer shall try: those seen from outside before our own."""
    several = punchable((*observed, *own))
    useful = [one for one in several if _kind(one) != "never" and one.port]
    return tuple(sorted(useful, key=lambda one: _kind(one) == "lan"))[:TARGETS_MAX]


def targets(
    offered: Iterable[TcpAddress], own: Iterable[TcpAddress], networks: Iterable[Network]
) -> tuple[TcpAddress, ...]:
    """Which of the peer's addresses to dial.

    Args:
        offered: by the peer, who can say anything.
        own: ours, which a peer behind the same router may share but for the port.
        networks: those that this machine is in.
    """
    ours = set(punchable(own))
    hosts = {one.host for one in ours}
    near = tuple(networks)
    chosen = []
    for address in punchable(offered):
        kind = _kind(address)
        shared = any(ipaddress.ip_address(address.host) in network for network in near)
        if kind == "never" or not address.port or address in ours:
            continue
        # In another home somebody may well have the address that we have in ours.
        if kind == "public" or (shared and address.host not in hosts):
            chosen.append(address)
    return tuple(chosen[:TARGETS_MAX])


def public_ones(addresses: Iterable[TcpAddress]) -> tuple[TcpAddress, ...]:
    """Those that may be dialed plainly from anywhere."""
    return tuple(one for one in addresses if scope(one) == "public")


def _kind(address: TcpAddress) -> Literal["public", "lan", "never"]:
    ip = ipaddress.ip_address(address.host)
    if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped:
        return "never"
    if ip.is_loopback or ip.is_unspecified or ip.is_multicast or ip.is_link_local:
        return "never"
    if ip.is_global:
        return "public"
    return "never" if ip.is_reserved else "lan"


def why_failed(
    mine: tuple[TcpAddress, ...],
    theirs: tuple[TcpAddress, ...],
    tried: tuple[TcpAddress, ...],
    *,
    tries: int,
) -> str:
    """One plain sentence on why no try led to a connection.

    Args:
        mine: what we offered.
        theirs: what the peer offered.
        tried: what of that we dialed.
    """
    if not _public_ports(mine):
        return "Nobody has told us yet how we are seen from outside, so the peer cannot dial us."
    if not tried:
        kinds = "no address" if not theirs else "no address that can be dialed from here"
        return f"The peer offered {kinds}."
    for whose, one, addresses in (("Our", "the peer", mine), ("The peer's", "we", theirs)):
        if any(len(ports) > 1 for ports in _public_ports(addresses).values()):
            return (
                f"{whose} router gives each connection another port (a symmetric NAT), so {one}"
                " cannot know which to dial."
            )
    return (
        f"In {_count(tries, 'try', 'tries')} nothing came back from"
        f" {_count(len(tried), 'address', 'addresses')} of the peer: its router gives each"
        " connection another port, or a firewall on the way drops what was not asked for."
    )


def _public_ports(addresses: Iterable[TcpAddress]) -> dict[str, set[int]]:
    """The ports of each public host; a router that keeps to one mapping shows one only."""
    ports: dict[str, set[int]] = {}
    for address in addresses:
        if _kind(address) == "public":
            ports.setdefault(address.host, set()).add(address.port)
    return ports


def _count(number: int, one: str, several: str) -> str:
    return f"{number} {one if number == 1 else several}"
