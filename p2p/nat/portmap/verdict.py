"""Whether a router's outer address is of use, and what to tell a person about it (core)."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping

from p2p.nat.portmap.answers import Failed, Failure
from p2p.nat.portmap.mapping import PortMappingProtocol

NAMES: dict[PortMappingProtocol, str] = {"pcp": "PCP", "nat-pmp": "NAT-PMP", "upnp": "UPnP"}
# Source: RFC 6598.
_CARRIER = ipaddress.ip_network("100.64.0.0/10")
# The first of these that a protocol failed with says most about what to do.
_TELLING = (
    Failure.NO_ADDRESS,
    Failure.FORBIDDEN,
    Failure.TAKEN,
    Failure.REFUSED,
    Failure.INVALID,
)


def is_public(host: str) -> bool:
    """Whether it is an IPv4 address that outsiders can send to."""
    try:
        ip = ipaddress.IPv4Address(host)
    except ValueError:
        return False
    return ip.is_global and not ip.is_multicast


def useless_because(outer_host: str, observed_host: str | None) -> str | None:
    """Why a mapping on this address lets nobody in; None if nothing speaks against it.

    Args:
        outer_host: what the router says that its outer IPv4 address is.
        observed_host: where outside peers see us come from; None if not known.
    """
    if ipaddress.IPv4Address(outer_host) in _CARRIER:
        return (
            f"the router's outer address {outer_host} belongs to the provider's own network "
            "(carrier-grade NAT), which nobody outside reaches"
        )
    if not is_public(outer_host):
        return (
            f"the router's outer address {outer_host} is not public: "
            "it stands behind another router (double NAT)"
        )
    if observed_host is not None and observed_host != outer_host:
        return (
            f"outside peers see us at {observed_host}, not at the router's outer address "
            f"{outer_host}: there is another NAT in front of it (double NAT)"
        )
    return None


def useless_problem(reason: str) -> str:
    """The same with what to do about it."""
    return (
        f"The router maps the port, but {reason}; ask the provider for a public address, or map "
        "the port on the router in front too; until then peers come through a relay."
    )


def no_gateway_problem() -> str:
    """There is no router to ask."""
    return (
        "This machine has no default IPv4 gateway, so there is no router to ask for a port; "
        "connect it to a network."
    )


def needless_problem(local_host: str) -> str:
    """The machine needs none."""
    return (
        f"This machine's own address {local_host} is public, so there is no router to ask for "
        "a port; if nobody gets through, open the port in the firewall."
    )


def searching_problem(router_host: str) -> str:
    """It is too early to say."""
    return f"The router {router_host} is being asked for a port; look again in ten seconds."


def failed_problem(
    router_host: str, internal_port: int, failures: Mapping[PortMappingProtocol, Failed]
) -> str:
    """What stood in the way, by the most telling of the answers."""
    by_hand = f"or forward TCP port {internal_port} to this machine by hand"
    for failure in _TELLING:
        for protocol, failed in failures.items():
            if failed.failure is failure:
                router = f"The router {router_host}"
                return _SENTENCES[failure].format(
                    router=router, name=NAMES[protocol], said=failed.said, by_hand=by_hand
                )
    return (
        f"The router {router_host} speaks none of PCP, NAT-PMP and UPnP; switch one of them on "
        f"in its settings, {by_hand}."
    )


_SENTENCES = {
    Failure.NO_ADDRESS: (
        "{router} speaks {name} but has no outer address that it would map: it is offline, or "
        "behind another router (double NAT); make the one in front a mere modem, or map there too."
    ),
    Failure.FORBIDDEN: (
        "{router} speaks {name} but refuses ({said}); allow port mapping in its settings, "
        "{by_hand}."
    ),
    Failure.TAKEN: (
        "{router} speaks {name} but each outer port that was tried leads to somebody else; "
        "remove old mappings in its settings, {by_hand}."
    ),
    Failure.REFUSED: (
        "{router} speaks {name} but refuses ({said}); restart it, {by_hand}."
    ),
    Failure.INVALID: (
        "{router} answers {name} with messages that are none ({said}); update its software, "
        "{by_hand}."
    ),
}  # fmt: skip
