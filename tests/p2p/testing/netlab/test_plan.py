"""Plans of an internet: read strictly, and in which order routers stand in the way."""

from __future__ import annotations

import pytest

from p2p.testing.netlab import Link, read_plan, way_out

HOME = {"nat": "upnp", "behind": "isp", "down_mbit_per_s": 100, "loss": 0.01}


def test_a_plan_has_links_and_ways_out() -> None:
    plan = read_plan(
        {
            "routers": {"home": HOME, "isp": {"nat": "carrier-grade", "outbound_ports": [443]}},
            "hosts": {"boot": {}, "alice": {"behind": "home", "delay_ms": 1, "jitter_ms": 0.5}},
        }
    )
    assert way_out(plan, plan.hosts["alice"]) == ("home", "isp")
    assert way_out(plan, plan.hosts["boot"]) == ()
    assert plan.hosts["alice"].link() == Link(delay_ms=1, jitter_ms=0.5)
    assert plan.routers["home"].link() == Link(down_mbit_per_s=100, loss=0.01)
    assert plan.routers["isp"].outbound_ports == (443,)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ({"hosts": {"alice": {"behnid": "home"}}}, "unknown field `behnid`"),
        ({"hosts": {"alice": {"nat": "none"}}}, "unknown field `nat`"),
        ({"hosts": {"alice": {"behind": "home"}}}, 'no router "home"'),
        ({"hosts": []}, "Expected `object`"),
        ({"routers": {"home": HOME}}, 'no router "isp"'),
        ({"routers": {"a": {"behind": "b"}, "b": {"behind": "a"}}}, "behind itself"),
        ({"routers": {"a": {"loss": 1}}}, "a: a loss"),
        ({"routers": {"a": {"outbound_ports": [0]}}}, "a: outbound ports"),
    ],
)
def test_a_wrong_plan_is_refused(content: dict[str, object], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        read_plan(content)
