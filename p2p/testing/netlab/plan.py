"""An internet described in a table, such as a TOML file holds, and built in one go.

    [routers.home]
    nat = "port-restricted"
    up_mbit_per_s = 20
    delay_ms = 25

    [hosts.boot]

    [hosts.alice]
    behind = "home"

Reading is strict: a word that is not known is an error that names its place, never a default.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from p2p.testing.netlab.lab import Netlab, Router
from p2p.testing.netlab.links import Link
from p2p.testing.netlab.nat import NatKind, Policy


class HostPlan(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A host, and its link; the fields are those of Link."""

    behind: str | None = None
    """The router that it is behind; None for the internet itself."""
    up_mbit_per_s: float | None = None
    down_mbit_per_s: float | None = None
    delay_ms: float = 0.0
    jitter_ms: float = 0.0
    loss: float = 0.0

    def link(self) -> Link:
        """Its link; raises ValueError for one that cannot be."""
        return Link(
            up_mbit_per_s=self.up_mbit_per_s,
            down_mbit_per_s=self.down_mbit_per_s,
            delay_ms=self.delay_ms,
            jitter_ms=self.jitter_ms,
            loss=self.loss,
        )


class RouterPlan(HostPlan, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A router, and its link to the outside; the other fields are those of Netlab.add_router."""

    nat: NatKind = "port-restricted"
    addresses: str | None = None
    outbound_ports: tuple[int, ...] = ()
    blocks_udp: bool = False


class InternetPlan(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Routers and hosts by name."""

    routers: dict[str, RouterPlan] = {}
    hosts: dict[str, HostPlan] = {}


def read_plan(content: Mapping[str, Any]) -> InternetPlan:
    """Check a table and make a plan of it.

    Raises:
        ValueError: with the place of what is wrong, as in `$.routers.home.nat`.
    """
    try:
        plan = msgspec.convert(content, InternetPlan)
    except msgspec.ValidationError as exc:
        raise ValueError(str(exc)) from exc
    for name, one in [*plan.routers.items(), *plan.hosts.items()]:
        try:
            one.link()
            if isinstance(one, RouterPlan):
                Policy(nat=one.nat, outbound_ports=one.outbound_ports, blocks_udp=one.blocks_udp)
        except ValueError as exc:
            raise ValueError(f"{name}: {exc}") from exc
        way_out(plan, one)
    return plan


def way_out(plan: InternetPlan, one: HostPlan) -> tuple[str, ...]:
    """The routers between a host or router and the internet, from the nearest on.

    Raises:
        ValueError: there is no such router, or they lead in a circle.
    """
    names: list[str] = []
    while one.behind is not None:
        if one.behind not in plan.routers:
            raise ValueError(f'there is no router "{one.behind}"')
        if one.behind in names:
            raise ValueError(f'the router "{one.behind}" is behind itself')
        names.append(one.behind)
        one = plan.routers[one.behind]
    return tuple(names)


def build(lab: Netlab, plan: InternetPlan) -> None:
    """Make all that a plan describes; it is in `lab.hosts` and `lab.routers` then.

    Raises:
        ValueError: a name or addresses that cannot be.
        NetlabUnavailable: the machine lacks something that the plan needs.
    """
    # From the internet inwards, since each needs what it is behind.
    for name, one in sorted(plan.routers.items(), key=lambda item: len(way_out(plan, item[1]))):
        _place(lab, one).add_router(
            name,
            nat=one.nat,
            link=one.link(),
            addresses=one.addresses,
            outbound_ports=one.outbound_ports,
            blocks_udp=one.blocks_udp,
        )
    for name, host in plan.hosts.items():
        _place(lab, host).add_host(name, host.link())


def _place(lab: Netlab, one: HostPlan) -> Netlab | Router:
    return lab if one.behind is None else lab.routers[one.behind]
