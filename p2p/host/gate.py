"""The gate: how many inbound connections may be open or unproved at once (core).

A place for a handshake costs a stranger nothing, so those who hold many give way:

    host at its limit     its own oldest handshake, if older than GRACE_S, else the newcomer
    all places taken      the oldest handshake of the host that holds most, if that host holds
                          more than the newcomer's or the handshake is older than GRACE_S
    connections at limit  the newcomer, before and after its handshake
"""

from __future__ import annotations

import ipaddress
from collections import Counter
from dataclasses import dataclass

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
    ) -> None:
        self._connections_max = connections_max
        self._connections_per_host_max = connections_per_host_max
        self._handshakes_max = handshakes_max
        self._handshakes_per_host_max = handshakes_per_host_max
        self._next_place = 0
        self._began_at_s: dict[str, dict[int, float]] = {}
        self._connections_of: Counter[str] = Counter()

    @property
    def handshakes(self) -> int:
        """How many are under way."""
        return sum(map(len, self._began_at_s.values()))

    @property
    def connections(self) -> int:
        """How many have proved an identity."""
        return self._connections_of.total()

    def on_accepted(self, host: str, now_s: float) -> Admission | None:
        """A new connection: whether it may begin its handshake."""
        key = host_key(host)
        if not self._has_room(key):
            return None
        own = self._began_at_s.get(key, {})
        displaced = None
        if len(own) >= self._handshakes_per_host_max:
            oldest, began_at_s = next(iter(own.items()))
            if now_s - began_at_s < GRACE_S:
                return None
            displaced = oldest
        elif self.handshakes >= self._handshakes_max:
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

    def on_proved(self, host: str) -> bool:
        """An inbound connection has proved its identity: whether it may stay."""
        key = host_key(host)
        if not self._has_room(key):
            return False
        self._connections_of[key] += 1
        return True

    def on_disconnected(self, host: str) -> None:
        """An inbound connection that stayed has ended."""
        key = host_key(host)
        self._connections_of[key] -= 1
        if not self._connections_of[key]:
            del self._connections_of[key]

    def _has_room(self, key: str) -> bool:
        return (
            self.connections < self._connections_max
            and self._connections_of[key] < self._connections_per_host_max
        )


def host_key(host: str) -> str:
    """What counts as one host: an IPv4 address, or the /64 that one IPv6 host has to itself."""
    ip = ipaddress.ip_address(host)
    if ip.version == 4:
        return host
    return str(ipaddress.ip_network((ip, 64), strict=False))
