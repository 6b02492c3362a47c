"""Observed addresses: what peers say that we look like from outside, believed with care (core).

Anybody can say anything, so what counts is who agrees: an address is confirmed when at least two
observers say it, of two different networks as soon as observers of two networks say anything. One
liar, or one owner of a network among others, cannot forge. Only addresses of the internet
count, said by observers on it: a neighbour sees the address that we have on the local network.

Which port is seen tells of our listening only if the connection uses our listen port: it came in
there, or it was dialed from there. Connections dialed from the listen port show how a NAT maps:

    seen as they are, by all who count                 none
    two observers agree on another port or host        endpoint-independent
    two observers or more, each sees another port      endpoint-dependent

An observation is good while its connection is open, and a while longer.

Source: RFC 4787, section 4.1 (mapping behaviour); libp2p specification, identify (observedAddr).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from typing import Literal, TypeVar

from p2p.address import TcpAddress, network_of
from p2p.host.transport import ConnectionInfo
from p2p.nat.report import Mapping

LIFE_S = 300.0
"""How long an observation outlives its connection."""
_OBSERVATIONS_MAX = 128
_PER_OBSERVER_MAX = 4
_OBSERVERS_MIN = 2

Value = TypeVar("Value", bound=Hashable)


def is_global(address: TcpAddress) -> bool:
    """Whether the address is one of the internet, and no name."""
    if address.kind not in ("ip4", "ip6"):
        return False
    ip = ipaddress.ip_address(address.host)
    return ip.is_global and not ip.is_multicast


@dataclass
class _Observation:
    """What one connection's other end saw."""

    info: ConnectionInfo
    local: TcpAddress
    seen: TcpAddress
    observer_host: str
    good_until_s: float

    @property
    def uses_listen_port(self) -> bool:
        """Whether the seen port leads to where we listen, if any does."""
        return self.info.from_listen_port or not self.info.outbound

    @property
    def shows_mapping(self) -> bool:
        """Whether the port was chosen by a NAT for what left our listen port."""
        return self.info.outbound and self.info.from_listen_port


class Observations:
    """What peers say that we look like, bounded, and what follows from it."""

    def __init__(self) -> None:
        self._held: dict[ConnectionInfo, _Observation] = {}

    def on_observed(
        self, info: ConnectionInfo, observer: TcpAddress, seen: TcpAddress, now_s: float
    ) -> bool:
        """The other end of a connection says how it sees ours.

        Args:
            observer: where the connection's other end is, as our socket sees it.
            seen: what it says; only the host and the port count.

        Returns:
            Whether it counts for anything.
        """
        local = info.local
        if info.path == "relayed" or local is None or local.kind != seen.kind:
            return False
        if not (is_global(seen) and is_global(observer)) or seen.port == 0:
            return False
        bare = TcpAddress(seen.kind, seen.host, seen.port)
        of_observer = [one for one in self._held if one.peer_id == info.peer_id and one != info]
        for oldest in of_observer[: len(of_observer) - _PER_OBSERVER_MAX + 1]:
            del self._held[oldest]
        if len(self._held) >= _OBSERVATIONS_MAX and info not in self._held:
            del self._held[next(iter(self._held))]
        self._held[info] = _Observation(info, local, bare, observer.host, now_s + LIFE_S)
        return True

    def on_time(self, open_connections: Iterable[ConnectionInfo], now_s: float) -> None:
        """Forget what was seen on connections that have long been gone."""
        for info in open_connections:
            if info in self._held:
                self._held[info].good_until_s = now_s + LIFE_S
        self._held = {i: one for i, one in self._held.items() if one.good_until_s > now_s}

    def on_interfaces(self, hosts: Iterable[str]) -> None:
        """Only these addresses are ours still: what was seen of another is of another network."""
        still = set(hosts)
        self._held = {i: one for i, one in self._held.items() if one.local.host in still}

    @property
    def count(self) -> int:
        """How many observations are held."""
        return len(self._held)

    def confirmed(self) -> tuple[TcpAddress, ...]:
        """Addresses that lead to where we listen, as several agree; the most seen first."""
        return tuple(
            address for kind in ("ip4", "ip6") for address in _agreed(self._listen_votes(kind))
        )

    def suspected(self) -> tuple[TcpAddress, ...]:
        """The same, though too few say so; the most seen first."""
        confirmed = self.confirmed()
        votes = [vote for kind in ("ip4", "ip6") for vote in self._listen_votes(kind)]
        return tuple(one for one in _by_support(votes) if one not in confirmed)

    def observers_of_host(self, host: str) -> frozenset[str]:
        """The networks whose observers saw us at this host."""
        return frozenset(
            network_of(one.observer_host) for one in self._held.values() if one.seen.host == host
        )

    def external_host(self, kind: str) -> str | None:
        """Our host as seen from the internet, as several agree, or None; kind is ip4 or ip6."""
        agreed = _agreed(self._host_votes(kind))
        return agreed[0] if agreed else None

    def suspected_host(self, kind: str) -> str | None:
        """The same, though perhaps only one says so."""
        return self.external_host(kind) or next(iter(_by_support(self._host_votes(kind))), None)

    def mapping(self) -> Mapping:
        """How the NAT before us chooses ports; of IPv4 where anything is known of it."""
        four = self._mapping("ip4")
        return self._mapping("ip6") if four == "unknown" else four

    def _mapping(self, kind: str) -> Mapping:
        ours = self._latest(kind)
        host = self.suspected_host(kind)
        if host is not None and any(one.local.host == host for one in ours):
            return "none"
        shown = self._latest(kind, "mapping")
        votes = [((one.local, one.seen), one.observer_host) for one in shown]
        if _agreed(votes):
            return "endpoint-independent"
        # Of one local end: after a change of interface two of them may be held.
        for local in {one.local: None for one in shown}:
            seen = {one.observer_host: one.seen for one in shown if one.local == local}
            if len(seen) >= _OBSERVERS_MIN and len(set(seen.values())) == len(seen):
                return "endpoint-dependent"
        return "unknown"

    def _listen_votes(self, kind: str) -> list[tuple[TcpAddress, str]]:
        return [(one.seen, one.observer_host) for one in self._latest(kind, "listen")]

    def _host_votes(self, kind: str) -> list[tuple[str, str]]:
        return [(one.seen.host, one.observer_host) for one in self._latest(kind)]

    def _latest(
        self, kind: str, about: Literal["host", "listen", "mapping"] = "host"
    ) -> list[_Observation]:
        """The last that each observer's host said in one family: our address may have changed."""
        latest: dict[str, _Observation] = {}
        for one in self._held.values():
            fits = {
                "host": True,
                "listen": one.uses_listen_port,
                "mapping": one.shows_mapping,
            }[about]
            if fits and one.seen.kind == kind:
                latest[_observer_key(one.observer_host)] = one
        return list(latest.values())


def _agreed(votes: list[tuple[Value, str]]) -> list[Value]:
    """The values that enough observers stand for, the most supported first.

    Args:
        votes: values, each with the host of who says so.
    """
    networks_min = min(_OBSERVERS_MIN, len({network_of(host) for _, host in votes}))
    return [
        value
        for value, hosts in _by_support(votes).items()
        if len(hosts) >= _OBSERVERS_MIN and len({network_of(h) for h in hosts}) >= networks_min
    ]


def _by_support(votes: list[tuple[Value, str]]) -> dict[Value, set[str]]:
    """Who stands for each value; the one with the most observers' networks and hosts first."""
    support: dict[Value, set[str]] = {}
    for value, host in votes:
        support.setdefault(value, set()).add(_observer_key(host))
    return dict(
        sorted(
            support.items(),
            key=lambda item: (len({network_of(host) for host in item[1]}), len(item[1])),
            reverse=True,
        )
    )


def _observer_key(host: str) -> str:
    """One owner's host: all of a /64 for IPv6, whose addresses cost nothing."""
    ip = ipaddress.ip_address(host)
    if ip.version == 4:
        return host
    return str(ipaddress.ip_network((ip, 64), strict=False).network_address)
