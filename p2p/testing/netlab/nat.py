"""What routers do to connections: the kinds of NAT, as rules for iptables-restore.

| kind            | mapping                  | lets in                                          |
| --------------- | ------------------------ | ------------------------------------------------ |
| none            | none                     | everything                                       |
| firewall        | none                     | answers                                          |
| full-cone       | endpoint-independent     | everything, to the first that is attached        |
| port-restricted | endpoint-independent     | answers, by address and port; most home routers  |
| symmetric       | another port each time   | answers                                          |
| carrier-grade   | endpoint-independent     | answers; what is behind has addresses 100.64/10  |
| upnp            | endpoint-independent     | answers, and what UPnP, NAT-PMP or PCP asked for |

Nobody behind a router reaches another one there by the outside address (no hairpin), and a packet
in the middle of a connection that the router does not know, or knows no more, is dropped.
Everything is in the legacy tables, since Debian's miniupnpd knows no others.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Literal, get_args

NatKind = Literal[
    "none", "firewall", "full-cone", "port-restricted", "symmetric", "carrier-grade", "upnp"
]
NAT_KINDS: tuple[NatKind, ...] = get_args(NatKind)

WAN, LAN = "wan", "lan"
"""The devices of a router: towards the internet, and the bridge of those behind it."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Policy:
    """How a router treats connections."""

    nat: NatKind = "port-restricted"
    """What it makes of addresses and ports."""
    outbound_ports: tuple[int, ...] = ()
    """The only ports outside to which TCP gets through, and no UDP then; empty for all."""
    blocks_udp: bool = False
    """Whether UDP does not get out."""

    def __post_init__(self) -> None:
        if self.nat not in NAT_KINDS:
            raise ValueError(f"{self.nat!r} is no kind of NAT; there are {', '.join(NAT_KINDS)}")
        if len(self.outbound_ports) > 15 or not all(0 < p < 65536 for p in self.outbound_ports):
            raise ValueError("outbound ports are at most 15 numbers of 1 to 65535")

    @property
    def has_public_inside(self) -> bool:
        """Whether those behind the router have public addresses of their own."""
        return self.nat in ("none", "firewall")


def rules(policy: Policy, *, open_to: str | None, forwards: Mapping[int, str]) -> str:
    """All rules of a router, as iptables-restore reads them.

    Args:
        open_to: who gets what comes in uncalled behind a full cone; an address inside.
        forwards: static port mappings: who gets what comes in at a port.
    """
    return "\n".join([*_nat_table(policy, open_to, forwards), *_filter_table(policy), ""])


def _nat_table(policy: Policy, open_to: str | None, forwards: Mapping[int, str]) -> list[str]:
    lines = ["*nat", ":PREROUTING ACCEPT", ":POSTROUTING ACCEPT"]
    if policy.nat == "upnp":
        lines += [
            ":MINIUPNPD -",
            ":MINIUPNPD-POSTROUTING -",
            f"-A PREROUTING -i {WAN} -j MINIUPNPD",
            f"-A POSTROUTING -o {WAN} -j MINIUPNPD-POSTROUTING",
        ]
    for protocol in ("tcp", "udp"):
        new = f"-A PREROUTING -i {WAN} -p {protocol}"
        lines += [
            f"{new} --dport {port} -j DNAT --to-destination {address}"
            for port, address in sorted(forwards.items())
        ]
        if policy.nat == "full-cone" and open_to is not None:
            lines.append(f"{new} -j DNAT --to-destination {open_to}")
    if not policy.has_public_inside:
        # Without more, a source port is kept where it is free.
        ports = " --random-fully" if policy.nat == "symmetric" else ""
        lines.append(f"-A POSTROUTING -o {WAN} -j MASQUERADE{ports}")
    return [*lines, "COMMIT"]


def _filter_table(policy: Policy) -> list[str]:
    out = f"-A FORWARD -i {LAN} -o {WAN}"
    lines = ["*filter", ":INPUT ACCEPT", ":FORWARD DROP"]
    if policy.nat == "upnp":
        lines.append(":MINIUPNPD -")
    lines += [
        f"-A INPUT -i {WAN} -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT",
        f"-A INPUT -i {WAN} -j DROP",
        "-A FORWARD -m conntrack --ctstate INVALID -j DROP",
        "-A FORWARD -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT",
        f"-A FORWARD -i {WAN} -o {LAN} -m conntrack --ctstate DNAT -j ACCEPT",
    ]
    if policy.nat == "upnp":
        lines.append(f"-A FORWARD -i {WAN} ! -o {WAN} -j MINIUPNPD")
    if policy.blocks_udp or policy.outbound_ports:
        lines.append(f"{out} -p udp -j DROP")
    if policy.outbound_ports:
        ports = ",".join(map(str, policy.outbound_ports))
        lines.append(f"{out} -p tcp -m multiport ! --dports {ports} -j DROP")
    lines.append(f"{out} -j ACCEPT")
    if policy.nat == "none":
        lines.append(f"-A FORWARD -i {WAN} -o {LAN} -j ACCEPT")
    return [*lines, "COMMIT"]
