"""Dialing sockets: from the port we listen on, and happy eyeballs over the hosts of a name.

A router gives each source port of ours a mapping. Dials that leave from the listening port make
that mapping the listener's, so what outsiders see of them is where the listener can be punched to.
"""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import zip_longest

import trio

from p2p.address import TcpAddress
from p2p.host.listen import address_of

_HEAD_START_S = 0.25
"""Between the hosts of one name. Source: RFC 8305, section 5."""
_TAKEN = (errno.EADDRINUSE, errno.EADDRNOTAVAIL)
"""The port has a connection to that address already, or had one moments ago (TIME_WAIT)."""
_REUSE_PORT: int | None = getattr(socket, "SO_REUSEPORT", None)
_CONGESTION: int | None = getattr(socket, "TCP_CONGESTION", None)

Target = tuple[int, tuple[str, int]]
"""An address family, and what connect() takes with it."""


@dataclass(frozen=True)
class Opened:
    """A connected socket."""

    stream: trio.SocketStream
    from_listen_port: bool


class DialingSockets:
    """Opens sockets that share the ports of the listeners."""

    def __init__(self, listeners: Iterable[trio.SocketListener]) -> None:
        self._bound: list[tuple[int, str, int]] = []
        # Elsewhere a second socket on a port may take the first one's connections.
        if _REUSE_PORT is not None:
            for listener in listeners:
                # Only after bind(), so that a port in use by another program stays an error.
                listener.socket.setsockopt(socket.SOL_SOCKET, _REUSE_PORT, 1)
                host, port = listener.socket.getsockname()[:2]
                self._bound.append((listener.socket.family, host, port))

    async def open(self, address: TcpAddress, *, from_listen_port: bool = True) -> Opened:
        """Connect, from the listening port where that is wanted, can be and is of use.

        Raises:
            OSError, ValueError: no socket could be connected; for several hosts the cause is a
                group with the errors of all.
        """
        targets = await _resolve(address)
        if len(targets) == 1:
            return await self._open_one(targets[0], from_listen_port)
        return await self._race(targets, from_listen_port)

    async def open_to_punch(self, address: TcpAddress) -> trio.SocketStream:
        """Connect from the listening port only, wherever the address is; raises OSError."""
        family = socket.AF_INET6 if address.kind == "ip6" else socket.AF_INET
        target = (int(family), (address.host, address.port))
        source = self._source(target)
        if source is None:
            raise OSError("we listen on no port that reaches it")
        stream = await _connect(target, source)
        if stream.socket.getsockname() == stream.socket.getpeername():
            await trio.aclose_forcefully(stream)
            raise OSError("that is ourselves")
        _keep_from_bbr(stream.socket)
        return stream

    async def _race(self, targets: list[Target], from_listen_port: bool) -> Opened:
        """The first to answer; each has a head start before the next."""
        won: list[Opened] = []
        failures: list[OSError] = []

        async def attempt(target: Target, failed: trio.Event) -> None:
            try:
                won.append(await self._open_one(target, from_listen_port))
                nursery.cancel_scope.cancel()
            except OSError as exc:
                failures.append(exc)
                failed.set()

        try:
            async with trio.open_nursery() as nursery:
                for target in targets:
                    failed = trio.Event()
                    nursery.start_soon(attempt, target, failed)
                    with trio.move_on_after(_HEAD_START_S):
                        await failed.wait()
        except BaseException:
            for opened in won:
                opened.stream.socket.close()
            raise
        for late in won[1:]:
            late.stream.socket.close()
        if won:
            return won[0]
        text = "no host of the name answers"
        raise OSError(text) from ExceptionGroup(text, failures)

    async def _open_one(self, target: Target, from_listen_port: bool) -> Opened:
        source = self._source(target, only_if_useful=True) if from_listen_port else None
        if source is not None:
            try:
                return Opened(await _connect(target, source), from_listen_port=True)
            except OSError as exc:
                if exc.errno not in _TAKEN:
                    raise
        return Opened(await _connect(target, None), from_listen_port=False)

    def _source(self, target: Target, *, only_if_useful: bool = False) -> tuple[str, int] | None:
        """What to bind to so that the socket shares a listener's port, if one listens that way."""
        family, there = target
        here = _routed_from(target)
        if here is None:
            return None
        # No router is between us and this machine, and a port that dials itself gets through.
        if only_if_useful and (here == there[0] or ipaddress.ip_address(here).is_loopback):
            return None
        for bound_family, host, port in self._bound:
            if bound_family == family and host in ("0.0.0.0", "::", here):
                return host, port
        return None


def _keep_from_bbr(connected: trio.socket.SocketType) -> None:
    """Have a punched connection grow by losses, where the system would use BBR.

    When SYNs cross, the answer to ours may come long before a round trip has passed. BBR takes the
    shortest for the path's, and fills no more than that for ten seconds: 8 Mbit/s instead of 200
    were seen at 50 ms.
    """
    if _CONGESTION is None:
        return
    used = connected.getsockopt(socket.IPPROTO_TCP, _CONGESTION, 16)
    if not used.startswith(b"bbr"):
        return
    for wanted in (b"cubic", b"reno"):
        # Which ones a user may choose is the system's to say.
        with contextlib.suppress(OSError):
            connected.setsockopt(socket.IPPROTO_TCP, _CONGESTION, wanted)
            return


def local_address(stream: trio.abc.Stream) -> TcpAddress | None:
    """Our end of a socket; None for what is no socket, or has gone."""
    if not isinstance(stream, trio.SocketStream):
        return None
    try:
        return address_of(stream.socket.getsockname())
    except OSError:
        return None


def _routed_from(target: Target) -> str | None:
    """The address of ours that the system sends from, going there; nothing is sent."""
    family, there = target
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(there)
        except OSError:
            return None
        host: str = probe.getsockname()[0]
    return host.partition("%")[0]


async def _resolve(address: TcpAddress) -> list[Target]:
    """The hosts of a name, IPv6 and IPv4 in turn; raises OSError or ValueError."""
    family = {"dns4": socket.AF_INET, "dns6": socket.AF_INET6}.get(address.kind, socket.AF_UNSPEC)
    found = await trio.socket.getaddrinfo(
        address.host, address.port, family=family, type=socket.SOCK_STREAM
    )
    targets: list[Target] = [(int(kind), where) for kind, _, _, _, where in found]  # type: ignore[misc]
    if not targets:
        raise OSError("the name has no host")
    of_first = [one for one in targets if one[0] == targets[0][0]]
    of_other = [one for one in targets if one[0] != targets[0][0]]
    pairs = zip_longest(of_first, of_other)
    return list(dict.fromkeys(one for pair in pairs for one in pair if one is not None))


async def _connect(target: Target, source: tuple[str, int] | None) -> trio.SocketStream:
    family, there = target
    one = trio.socket.socket(family, socket.SOCK_STREAM)
    try:
        if source is not None:
            assert _REUSE_PORT is not None
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            one.setsockopt(socket.SOL_SOCKET, _REUSE_PORT, 1)
            await one.bind(source)
        await one.connect(there)
        return trio.SocketStream(one)
    except BaseException:
        one.close()
        raise
