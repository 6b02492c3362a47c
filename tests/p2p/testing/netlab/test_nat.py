"""The rules of routers: written for each kind, and no policy that cannot be."""

from __future__ import annotations

import pytest

from p2p.testing.netlab.links import Link
from p2p.testing.netlab.nat import NAT_KINDS, NatKind, Policy, rules


@pytest.mark.parametrize("kind", NAT_KINDS)
def test_who_is_hidden_and_who_is_let_in(kind: NatKind) -> None:
    text = rules(Policy(nat=kind), open_to="192.168.1.2", forwards={})
    lines = text.splitlines()
    assert ("MASQUERADE" in text) == (kind not in ("none", "firewall"))
    assert ("--random-fully" in text) == (kind == "symmetric")
    assert ("--to-destination 192.168.1.2" in text) == (kind == "full-cone")
    assert ("MINIUPNPD" in text) == (kind == "upnp")
    assert ("-A FORWARD -i wan -o lan -j ACCEPT" in lines) == (kind == "none")
    assert ":FORWARD DROP" in lines


def test_forwarded_ports_come_before_the_open_cone() -> None:
    text = rules(Policy(nat="full-cone"), open_to="192.168.1.2", forwards={80: "192.168.1.3"})
    assert text.index("--dport 80 -j DNAT --to-destination 192.168.1.3") < text.index(
        "-p tcp -j DNAT --to-destination 192.168.1.2"
    )


def test_ports_outside_are_limited_before_all_else_is_let_out() -> None:
    text = rules(Policy(outbound_ports=(80, 443)), open_to=None, forwards={})
    allowed = text.index("-A FORWARD -i lan -o wan -j ACCEPT")
    assert text.index("! --dports 80,443 -j DROP") < allowed
    assert text.index("-i lan -o wan -p udp -j DROP") < allowed


def test_what_no_router_or_link_can_be_is_refused() -> None:
    with pytest.raises(ValueError, match="no kind of NAT"):
        Policy(nat="conical")  # type: ignore[arg-type]
    for ports in ((0,), (65_536,), tuple(range(1, 17))):
        with pytest.raises(ValueError, match="outbound ports"):
            Policy(outbound_ports=ports)
    for wrong in ({"loss": 1.0}, {"loss": -0.1}, {"delay_ms": -1}, {"jitter_ms": float("nan")}):
        with pytest.raises(ValueError, match="0"):
            Link(**wrong)
    for rate in (0, -1, float("nan")):
        with pytest.raises(ValueError, match="positive"):
            Link(up_mbit_per_s=rate)
