"""The gate: how many inbound connections may be open or unproved at once (core).

A place for a handshake costs a stranger nothing, so those who hold many give way:

    host at its limit     its own oldest handshake, if older than GRACE_S, else the newcomer
    range at its limit,   the oldest handshake of the host that holds most there, if that host
    or no places left     holds more than the newcomer's or the handshake is older than GRACE_S
    connections at limit  the newcomer, before and after its handshake
    too many in a second  the newcomer: a handshake costs us a millisecond of a core

An eighth of all places is kept for those who are known, so that no flood of strangers keeps
them out; a stranger's handshake gives way to one of somebody known, and never the other way
round. Strangers from one range of addresses get half of the places and of the rate, so that
one owner of many addresses does not keep out all other strangers.
"""

from __future__ import annotations

import ipaddress
import math
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from p2p.address import network_of
from p2p.host.rates import Rate

if TYPE_CHECKING:
    from p2p.config import NodeConfig

KEPT_SHARE = 8
"""One place of so many is kept for those who are known."""
RANGE_SHARE = 2
"""Strangers of one range get one of so many places for handshakes, and that part of the rate."""
GRACE_S = 1.0
"""An honest handshake takes three round trips; hosts with many peers may start many at once."""


@dataclass(frozen=True)
class _Handshake:
    """One that is under way."""

    host: str
    range: str
    known: bool
    began_at_s: float


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
        # One host may take all that is left to its range.
        self._handshakes_per_range_max = max(handshakes_per_host_max, handshakes_max // RANGE_SHARE)
        # What comes in one burst may fill all places of handshakes.
        self._rate = Rate(per_s=handshakes_per_s, burst=handshakes_max)
        self._rate_of = Rate(per_s=handshakes_per_s_and_host, burst=handshakes_per_host_max)
        self._rate_in = Rate(
            per_s=max(handshakes_per_s_and_host, handshakes_per_s / RANGE_SHARE),
            burst=self._handshakes_per_range_max,
        )
        self._next_place = 0
        self._handshakes: dict[int, _Handshake] = {}
        self._connections_of: Counter[str] = Counter()
        self._connections_in: Counter[str] = Counter()

    @property
    def handshakes(self) -> int:
        """How many are under way."""
        return len(self._handshakes)

    @property
    def connections(self) -> int:
        """How many have proved an identity."""
        return self._connections_of.total()

    def on_accepted(self, host: str, now_s: float, *, known: bool = False) -> Admission | None:
        """A new connection: whether it may begin its handshake.

        Args:
            known: somebody known was reached at this host.
        """
        new = _Handshake(host_key(host), network_of(host), known, now_s)
        if not self._has_room(host, known=known) or not self._is_within_rates(new, now_s):
            return None
        rivals = self._rivals(new)
        displaced = None if rivals is None else self._loser(new, rivals)
        if rivals is not None and displaced is None:
            return None
        if displaced is not None:
            self.on_handshake_over(displaced)
        place = self._next_place
        self._next_place += 1
        self._handshakes[place] = new
        return Admission(place, displaced)

    def _is_within_rates(self, new: _Handshake, now_s: float) -> bool:
        # The narrowest comes first: who is too fast uses up what is its own, and no more.
        if not self._rate_of.allows(new.host, now_s):
            return False
        # The known have a rate of their own, which no stranger can use up.
        if new.known:
            return self._rate.allows("known", now_s)
        return self._rate_in.allows(new.range, now_s) and self._rate.allows("strangers", now_s)

    def _rivals(self, new: _Handshake) -> dict[int, _Handshake] | None:
        """The handshakes one of which must give way, or None if there is a place for all."""
        under_way = self._handshakes.items()
        own = {place: one for place, one in under_way if one.host == new.host}
        if len(own) >= self._handshakes_per_host_max:
            return own
        strangers = {place: one for place, one in under_way if not one.known}
        if not new.known:
            near = {place: one for place, one in strangers.items() if one.range == new.range}
            if len(near) >= self._handshakes_per_range_max:
                return near
        if len(under_way) < _places(self._handshakes_max, known=new.known):
            return None
        return strangers if strangers or not new.known else self._handshakes

    def _loser(self, new: _Handshake, rivals: dict[int, _Handshake]) -> int | None:
        """Which of the rivals gives way to the newcomer, or None if none has to."""
        held = Counter(one.host for one in rivals.values())
        if not held:
            return None
        greediest = max(held, key=held.__getitem__)
        place, oldest = next(item for item in rivals.items() if item[1].host == greediest)
        is_greedier = held[greediest] > held[new.host] + 1
        is_stranger = new.known and not oldest.known and oldest.host != new.host
        if is_greedier or is_stranger or new.began_at_s - oldest.began_at_s >= GRACE_S:
            return place
        return None

    def on_handshake_over(self, place: int) -> None:
        """The handshake has succeeded, failed, or been displaced."""
        self._handshakes.pop(place, None)

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


def gate_of(config: NodeConfig) -> Gate:
    """A gate with a node's limits."""
    return Gate(
        connections_max=config.inbound_connections_max,
        connections_per_host_max=config.inbound_connections_per_host_max,
        handshakes_max=config.handshakes_max,
        handshakes_per_host_max=config.handshakes_per_host_max,
        connections_per_range_max=config.inbound_connections_per_range_max,
        handshakes_per_s=config.handshakes_per_s_max,
        handshakes_per_s_and_host=config.handshakes_per_s_and_host_max,
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
