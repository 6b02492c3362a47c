"""Listening: opening sockets with clear errors, and where the machine can be dialed."""

from __future__ import annotations

import errno
import ipaddress

import ifaddr
import trio

from p2p.address import TcpAddress, is_unspecified, parse_tcp_address, sort_addresses
from p2p.errors import ListenError


async def open_listeners(addresses: tuple[str, ...]) -> list[trio.SocketListener]:
    """Listen on every address, or on none.

    Raises:
        ListenError: one of them cannot be listened on.
    """
    listeners: list[trio.SocketListener] = []
    try:
        for text in addresses:
            address = parse_tcp_address(text)
            try:
                listeners += await trio.open_tcp_listeners(address.port, host=address.host)
            except (OSError, ValueError) as exc:
                raise ListenError(_cause(text, exc)) from exc
    except BaseException:
        for listener in listeners:
            await trio.aclose_forcefully(listener)
        raise
    return listeners


def _cause(address: str, exc: OSError | ValueError) -> str:
    number = exc.errno if isinstance(exc, OSError) else None
    if number == errno.EADDRINUSE:
        return f"{address} is in use by another program; stop it, or choose another port"
    if number == errno.EACCES:
        return f"{address} needs rights that we lack; choose a port from 1024 up"
    if number == errno.EADDRNOTAVAIL:
        return f"{address} is not an address of this machine; choose one of its own, or 0.0.0.0"
    reason = exc.strerror if isinstance(exc, OSError) else None
    return f"cannot listen on {address}: {reason or exc}"


def listening_addresses(listeners: list[trio.SocketListener]) -> tuple[TcpAddress, ...]:
    """Where the listeners can be dialed: all interfaces' addresses stand in for 0.0.0.0."""
    found: list[TcpAddress] = []
    for listener in listeners:
        bound = address_of(listener.socket.getsockname())
        if is_unspecified(bound):
            version = 6 if bound.kind == "ip6" else 4
            found += [
                TcpAddress(bound.kind, host, bound.port) for host in _interface_hosts(version)
            ]
        else:
            found.append(bound)
    return sort_addresses(tuple(found))


def _interface_hosts(version: int) -> list[str]:
    hosts: list[str] = []
    for adapter in ifaddr.get_adapters():
        for ip in adapter.ips:
            host = ip.ip if isinstance(ip.ip, str) else ip.ip[0]
            # Link-local addresses need a zone that means nothing to others.
            if (4 if ip.is_IPv4 else 6) == version and not host.startswith("fe80"):
                hosts.append(host)
    return hosts


def interface_networks() -> tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...]:
    """The networks that this machine's interfaces are in, but those of single hosts."""
    networks: list[ipaddress.IPv4Network | ipaddress.IPv6Network] = []
    for adapter in ifaddr.get_adapters():
        for ip in adapter.ips:
            host = ip.ip if isinstance(ip.ip, str) else ip.ip[0]
            network = ipaddress.ip_network((host, ip.network_prefix), strict=False)
            if network.num_addresses > 1 and not network.is_loopback:
                networks.append(network)
    return tuple(networks)


def interface_hosts() -> tuple[str, ...]:
    """The addresses of this machine's interfaces, in order."""
    return tuple(sorted({*_interface_hosts(4), *_interface_hosts(6)}))


def remote_address(stream: trio.SocketStream) -> TcpAddress | None:
    """The other end, or None if it has gone again."""
    try:
        return address_of(stream.socket.getpeername())
    except OSError:
        return None


def address_of(name: tuple[str, int]) -> TcpAddress:
    """The address in what the socket calls return."""
    host, port = name[0], name[1]
    if host.startswith("::ffff:"):
        host = host.removeprefix("::ffff:")
    return TcpAddress("ip6" if ":" in host else "ip4", host.partition("%")[0], port)


def dial_cause(exc: OSError | ValueError) -> str:
    """One short reason why a TCP connection failed."""
    inner = exc.__cause__
    if isinstance(inner, BaseExceptionGroup) and isinstance(inner.exceptions[0], OSError):
        exc = inner.exceptions[0]
    elif isinstance(inner, OSError):
        exc = inner
    if not isinstance(exc, OSError):
        return "not a host name"
    known = {
        errno.ECONNREFUSED: "connection refused (nothing listens there)",
        errno.ETIMEDOUT: "no answer (a firewall, or nobody there)",
        errno.EHOSTUNREACH: "no route to the host",
        errno.ENETUNREACH: "no route to the network",
    }
    return known.get(exc.errno or 0, exc.strerror or str(exc))
