"""The gate: how many inbound connections may be open or unproved at once (core).

A place for a handshake costs a stranger nothing, so those who hold many give way:

    host at its limit     its own oldest handshake, if older than GRACE_S, else the newcomer
    all places taken      the oldest handshake of the host that holds most, if that host holds
                          more than the newcomer's or the handshake is older than GRACE_S
    connections at limit  the newcomer, before and after its handshake
    too many in a second  the newcomer: a handshake costs us a millisecond of a core

An eighth of all places is kept for those who are known, so that no flood of strangers keeps
them out.
"""

from __future__ import annotations

import ipaddress
import math
from collections import Counter
from dataclasses import dataclass

from p2p.address import network_of
from p2p.host.rates import Rate

KEPT_SHARE = 8
"""One place of so many is kept for those who are known."""
GRACE_S = 1.0
"""An honest handshake takes three round trips; hosts with many peers may start many at once."""


@dataclass(frozen=True)
class Admission:
    """A newcomer may begin its handshake."""

    place: int
    displaced: int | None = None
    """The place of a handshake that must be cut off at once."""


class Gate:
    """Counts inbound connections and handshakes, in all and by host."""

    def __init__(
        self,
        *,
        connections_max: int,
        connections_per_host_max: int,
        handshakes_max: int,
        handshakes_per_host_max: int,
        connections_per_range_max: int | None = None,
        handshakes_per_s: float = math.inf,
        handshakes_per_s_and_host: float = math.inf,
    ) -> None:
        self._connections_max = connections_max
        self._connections_per_host_max = connections_per_host_max
        self._handshakes_max = handshakes_max
        self._handshakes_per_host_max = handshakes_per_host_max
        self._connections_per_range_max = connections_per_range_max or connections_max
        # What comes in one burst may fill all places of handshakes.
        self._rate = Rate(per_s=handshakes_per_s, burst=handshakes_max)
        self._rate_of = Rate(per_s=handshakes_per_s_and_host, burst=handshakes_per_host_max)
        self._next_place = 0
        self._began_at_s: dict[str, dict[int, float]] = {}
        self._connections_of: Counter[str] = Counter()
        self._connections_in: Counter[str] = Counter()

    @property
    def handshakes(self) -> int:
        """How many are under way."""
        return sum(map(len, self._began_at_s.values()))

    @property
    def connections(self) -> int:
        """How many have proved an identity."""
        return self._connections_of.total()

    def on_accepted(self, host: str, now_s: float, *, known: bool = False) -> Admission | None:
        """A new connection: whether it may begin its handshake.

        Args:
            known: somebody known was reached at this host.
        """
        key = host_key(host)
        if not self._has_room(host, known=known) or not self._rate_of.allows(key, now_s):
            return None
        # The known have a rate of their own, which no stranger can use up.
        if not self._rate.allows("known" if known else "strangers", now_s):
            return None
        own = self._began_at_s.get(key, {})
        displaced = None
        if len(own) >= self._handshakes_per_host_max:
            oldest, began_at_s = next(iter(own.items()))
            if now_s - began_at_s < GRACE_S:
                return None
            displaced = oldest
        elif self.handshakes >= _places(self._handshakes_max, known=known):
            greediest = max(self._began_at_s, key=lambda other: len(self._began_at_s[other]))
            oldest, began_at_s = next(iter(self._began_at_s[greediest].items()))
            is_greedier = len(self._began_at_s[greediest]) > len(own) + 1
            if not is_greedier and now_s - began_at_s < GRACE_S:
                return None
            displaced = oldest
        if displaced is not None:
            self.on_handshake_over(displaced)
        place = self._next_place
        self._next_place += 1
        self._began_at_s.setdefault(key, {})[place] = now_s
        return Admission(place, displaced)

    def on_handshake_over(self, place: int) -> None:
        """The handshake has succeeded, failed, or been displaced."""
        for key, places in self._began_at_s.items():
            if places.pop(place, None) is not None:
                if not places:
                    del self._began_at_s[key]
                return

    def on_proved(self, host: str, *, known: bool = False) -> bool:
        """An inbound connection has proved its identity: whether it may stay.

        Args:
            known: the peer is known, whatever its host.
        """
        if not self._has_room(host, known=known):
            return False
        self._connections_of[host_key(host)] += 1
        self._connections_in[network_of(host)] += 1
        return True

    def on_disconnected(self, host: str) -> None:
        """An inbound connection that stayed has ended."""
        for counter, key in (
            (self._connections_of, host_key(host)),
            (self._connections_in, network_of(host)),
        ):
            counter[key] -= 1
            if not counter[key]:
                del counter[key]

    def _has_room(self, host: str, *, known: bool) -> bool:
        return (
            self.connections < _places(self._connections_max, known=known)
            and self._connections_of[host_key(host)] < self._connections_per_host_max
            and self._connections_in[network_of(host)] < self._connections_per_range_max
        )


def _places(limit: int, *, known: bool) -> int:
    """How many of all places may be taken; strangers leave some to those who are known."""
    return limit if known else limit - limit // KEPT_SHARE


def host_key(host: str) -> str:
    """What counts as one host: an IPv4 address, or the /64 that one IPv6 host has to itself."""
    ip = ipaddress.ip_address(host)
    if ip.version == 4:
        return host
    return str(ipaddress.ip_network((ip, 64), strict=False))
