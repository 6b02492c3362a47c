"""Policy: which addresses a server dials for whom, so that it harms nobody but who asks (core).

    whose       the IP address that the requester's own direct connection comes from, nobody else's;
                so one of the other IP family is checked over a connection of that family
    where       ports from 1024 up, 443 and 80
    how many    8 addresses in a request, 8 in a minute for one IP (one /64 for IPv6), 30 in all
    never       loopback, link-local and multicast; private ones come to be dialed only for who
                asks from that very address, and so is on that network with us

The requester pays a connection and a request for each few SYN packets that go to itself: there is
nothing to amplify.
"""

from __future__ import annotations

import ipaddress
from collections import deque

from p2p.address import TcpAddress

PER_REQUEST_MAX = 8
PER_HOST_MAX = 8
IN_ALL_MAX = 30
WINDOW_S = 60.0
PORT_MIN = 1024
_WEB_PORTS = (80, 443)


class DialBackPolicy:
    """Remembers the dials of the last minute."""

    def __init__(self) -> None:
        self._dialed: deque[tuple[float, str]] = deque()

    def choose(
        self, wanted: tuple[TcpAddress, ...], observed: TcpAddress, now_s: float
    ) -> tuple[TcpAddress, ...]:
        """The addresses to dial now, which count as dialed; empty when the request is refused.

        Args:
            wanted: what the requester names, of whatever length.
            observed: where its direct connection comes from.
        """
        while self._dialed and self._dialed[0][0] <= now_s - WINDOW_S:
            self._dialed.popleft()
        key = _host_key(observed.host)
        room = min(
            PER_REQUEST_MAX,
            PER_HOST_MAX - sum(host == key for _, host in self._dialed),
            IN_ALL_MAX - len(self._dialed),
        )
        own = ipaddress.ip_address(observed.host)
        if _is_never_dialed(own):
            return ()
        fit = dict.fromkeys(
            TcpAddress(one.kind, one.host, one.port)
            for one in wanted
            if one.kind == observed.kind
            and ipaddress.ip_address(one.host) == own
            and (one.port >= PORT_MIN or one.port in _WEB_PORTS)
        )
        chosen = tuple(fit)[: max(room, 0)]
        self._dialed.extend((now_s, key) for _ in chosen)
        return chosen


def _is_never_dialed(ip: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    return ip.is_loopback or ip.is_link_local or ip.is_multicast or ip.is_unspecified


def _host_key(host: str) -> str:
    ip = ipaddress.ip_address(host)
    if ip.version == 4:
        return host
    return str(ipaddress.ip_network((ip, 64), strict=False))
