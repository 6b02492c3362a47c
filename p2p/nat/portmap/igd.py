"""UPnP IGD through miniupnpc: blocking calls, for a thread; each is on its own.

Source: UPnP Forum, "WANIPConnection:1" and ":2", 2001 and 2010.
"""

from __future__ import annotations

import ipaddress
from typing import Any

import miniupnpc

from p2p.errors import RefusedError
from p2p.nat.portmap.answers import (
    LIFETIME_S,
    LIFETIME_S_MIN,
    Failure,
    Granted,
    bounded_lifetime_s,
)
from p2p.nat.portmap.ssdp import leads_to

_TCP = "TCP"
_DESCRIPTION = "manyhands"
# Miniupnpc's words for the errors 725, 718 and 606 of the standard; what it fails to read is
# "Miniupnpc … error". All are its own words, never the router's.
_ENDLESS_ONLY = "OnlyPermanentLeasesSupported"
_FAILURES = {
    "ConflictInMappingEntry": Failure.TAKEN,
    "Action not authorized": Failure.FORBIDDEN,
    "Miniupnpc HTTP error": Failure.INVALID,
    "Miniupnpc Invalid response": Failure.INVALID,
    "No UPnP device discovered": Failure.INVALID,
}


def map_port(location: str, router_host: str, internal_port: int, external_port: int) -> Granted:
    """Map the outer port to us, or renew the mapping; a port of somebody else's is left alone.

    Args:
        location: the URL of the gateway's description, which lies on the router.

    Raises:
        RefusedError: with the code of a Failure.
    """
    gateway = _open(location, router_host)
    host = _outer_host(gateway)
    entry = _entry(gateway, external_port)
    if entry is not None and not _is_ours(gateway, entry, internal_port):
        raise RefusedError(Failure.TAKEN.value, "the port leads to another machine")
    for lifetime_s in (LIFETIME_S, 0):
        try:
            gateway.addportmapping(
                external_port, _TCP, gateway.lanaddr, internal_port, _DESCRIPTION, "", lifetime_s
            )
        except Exception as exc:
            said = str(exc)
            if said == _ENDLESS_ONLY and lifetime_s:
                continue
            raise _refusal(said) from exc
        break
    # An endless lease counts like one that is renewed.
    return Granted(host, external_port, LIFETIME_S, None)


def check_port(location: str, router_host: str, internal_port: int, external_port: int) -> Granted:
    """Look the mapping up in the router's table; raises like map_port()."""
    gateway = _open(location, router_host)
    entry = _entry(gateway, external_port)
    if entry is None or not _is_ours(gateway, entry, internal_port) or not entry[3]:
        raise RefusedError(Failure.LOST.value, "the router has no such mapping")
    left_s = int(entry[4])
    if 0 < left_s < LIFETIME_S_MIN:
        raise RefusedError(Failure.LOST.value, "the mapping is about to expire")
    lifetime_s = bounded_lifetime_s(left_s) if left_s > 0 else LIFETIME_S
    return Granted(_outer_host(gateway), external_port, lifetime_s, None)


def release_port(location: str, router_host: str, internal_port: int, external_port: int) -> None:
    """Take the mapping back, if it is ours; raises like map_port()."""
    gateway = _open(location, router_host)
    entry = _entry(gateway, external_port)
    if entry is not None and _is_ours(gateway, entry, internal_port):
        _call(gateway.deleteportmapping, external_port, _TCP)


def _open(location: str, router_host: str) -> Any:
    """A gateway whose commands go to the router, wherever its description would send them."""
    gateway = miniupnpc.UPnP()
    control_url = _call(gateway.selectigd, location)
    if not leads_to(str(control_url), router_host):
        raise RefusedError(
            Failure.INVALID.value, "its description sends commands to another machine"
        )
    return gateway


def _outer_host(gateway: Any) -> str:
    try:
        host = ipaddress.IPv4Address(_call(gateway.externalipaddress) or "0.0.0.0")
    except ValueError as exc:
        raise RefusedError(Failure.INVALID.value, "its outer address is none") from exc
    except RefusedError as exc:
        # Routers without an outer address refuse to tell it, in various ways.
        is_answer = exc.code == Failure.REFUSED.value
        raise RefusedError(
            Failure.NO_ADDRESS.value if is_answer else exc.code, exc.message
        ) from exc
    if host.is_unspecified:
        raise RefusedError(Failure.NO_ADDRESS.value, "it has no outer address")
    return str(host)


def _entry(gateway: Any, external_port: int) -> Any:
    """Internal host and port, description, whether enabled, and lease in seconds; or None."""
    return _call(gateway.getspecificportmapping, external_port, _TCP)


def _is_ours(gateway: Any, entry: Any, internal_port: int) -> bool:
    return bool(entry[0] == gateway.lanaddr and entry[1] == internal_port)


def _call(function: Any, *arguments: Any) -> Any:
    """Miniupnpc raises bare Exceptions, and others for bytes that are no text."""
    try:
        return function(*arguments)
    except Exception as exc:
        said = "its answer is no text" if isinstance(exc, UnicodeError) else str(exc)
        raise _refusal(said) from exc


def _refusal(said: str) -> RefusedError:
    return RefusedError(_FAILURES.get(said, Failure.REFUSED).value, said)
