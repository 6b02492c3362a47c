"""The default IPv4 gateway of this machine, and our address towards it.

Linux tells it in /proc/net/route; elsewhere `netstat -rn` does, on macOS, the BSDs and Windows.
"""

from __future__ import annotations

import contextlib
import ipaddress
import subprocess
import sys
from pathlib import Path

import trio

from p2p.nat.portmap.jobs import Network

_LINUX_ROUTES = Path("/proc/net/route")
_ROUTE_UP, _ROUTE_GATEWAY = 0x1, 0x2
_NETSTAT_S_MAX = 5.0
# Nothing is sent to it: a socket that is connected to an address knows our own towards it.
_DISCARD_PORT = 9


async def find_network() -> Network | None:
    """Which network we are in; None if there is no default gateway, or no way to learn it."""
    if sys.platform == "linux":
        # A file of the kernel's, which never waits for a disk.
        router_host = parse_linux_routes(_read_linux_routes())
    else:
        router_host = parse_netstat(await _netstat())
    if router_host is None:
        return None
    with trio.socket.socket(trio.socket.AF_INET, trio.socket.SOCK_DGRAM) as sock:
        try:
            await sock.connect((router_host, _DISCARD_PORT))
        except OSError:
            # The route has gone in between.
            return None
        return Network(router_host, sock.getsockname()[0])


def _read_linux_routes() -> str:
    try:
        return _LINUX_ROUTES.read_text("ascii", "replace")
    except OSError:
        # Some containers hide /proc/net.
        return ""


def parse_linux_routes(text: str) -> str | None:
    """The gateway of the default route with the least metric, from the text of /proc/net/route."""
    found: list[tuple[int, str]] = []
    for line in text.splitlines()[1:]:
        # Interface, destination, gateway, flags, references, use, metric, mask, …
        fields = line.split()
        if len(fields) < 8 or int(fields[1], 16) or int(fields[7], 16):
            continue
        flags = int(fields[3], 16)
        if flags & _ROUTE_UP and flags & _ROUTE_GATEWAY:
            # The kernel writes the four bytes as one number of its own byte order.
            packed = int(fields[2], 16).to_bytes(4, sys.byteorder)
            found.append((int(fields[6]), str(ipaddress.IPv4Address(packed))))
    return min(found)[1] if found else None


def parse_netstat(text: str) -> str | None:
    """The gateway of the first default route in what `netstat -rn` prints, on any system."""
    for line in text.splitlines():
        destination, *rest = line.split() or [""]
        if destination not in ("default", "0.0.0.0"):
            continue
        for field in rest:
            try:
                address = ipaddress.IPv4Address(field)
            except ValueError:
                continue
            # Windows and Linux write the mask, 0.0.0.0, among the columns.
            if not address.is_unspecified:
                return str(address)
    return None


async def _netstat() -> str:
    """What `netstat -rn` prints; nothing where there is no such command, or it hangs."""
    text = ""
    with trio.move_on_after(_NETSTAT_S_MAX), contextlib.suppress(OSError):
        done = await trio.run_process(
            ["netstat", "-rn"], capture_stdout=True, stderr=subprocess.DEVNULL, check=False
        )
        text = done.stdout.decode("utf-8", "replace")
    return text
