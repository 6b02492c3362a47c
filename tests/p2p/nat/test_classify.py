"""What stands between us and the internet, by what is known of both ends."""

from __future__ import annotations

import pytest

from p2p.nat.classify import Facts, classify
from p2p.nat.report import Behind, Reachability

HOME, OFFICE, SHARED = "192.168.1.2", "5.6.7.8", "100.64.3.4"


@pytest.mark.parametrize(
    ("local", "seen", "router", "reachability", "behind"),
    [
        ((OFFICE,), OFFICE, None, "public", "nothing"),
        ((OFFICE,), None, None, "public", "nothing"),
        ((OFFICE, HOME), OFFICE, None, "private", "firewall"),
        ((OFFICE,), OFFICE, None, "unknown", "unknown"),
        ((OFFICE,), None, None, "private", "firewall"),
        ((HOME,), OFFICE, None, "private", "nat"),
        ((HOME,), OFFICE, None, "public", "nat"),
        ((HOME,), OFFICE, OFFICE, "public", "nat"),
        ((HOME,), None, OFFICE, "unknown", "nat"),
        ((HOME,), OFFICE, "192.168.0.7", "private", "double-nat"),
        ((HOME,), OFFICE, "8.8.8.8", "private", "double-nat"),
        ((HOME,), OFFICE, SHARED, "private", "carrier-grade-nat"),
        ((HOME,), None, SHARED, "unknown", "carrier-grade-nat"),
        ((SHARED,), OFFICE, None, "private", "carrier-grade-nat"),
        ((SHARED,), None, None, "unknown", "carrier-grade-nat"),
        # A VPN of that range beside an address of the internet.
        ((SHARED, OFFICE), OFFICE, None, "public", "nothing"),
        ((OFFICE,), "8.8.8.8", None, "private", "nat"),
        ((HOME,), None, None, "unknown", "unknown"),
        ((), None, None, "unknown", "unknown"),
        (("2001:4860::1",), "2001:4860::1", None, "public", "nothing"),
        (("2001:4860::1",), "2001:4860::1", None, "private", "firewall"),
        (("fd00::1",), "2001:4860::1", None, "private", "nat"),
        (("fd00::1",), None, None, "unknown", "unknown"),
    ],
)
def test_each_case(
    local: tuple[str, ...],
    seen: str | None,
    router: str | None,
    reachability: Reachability,
    behind: Behind,
) -> None:
    facts = Facts(local_hosts=local, seen_host=seen, router_host=router, reachability=reachability)
    assert classify(facts) == behind


@pytest.mark.parametrize(("seen", "behind"), [(OFFICE, "double-nat"), (None, "unknown")])
def test_a_router_without_an_address_is_behind_another(seen: str | None, behind: Behind) -> None:
    facts = Facts(
        local_hosts=(HOME,),
        seen_host=seen,
        router_host=None,
        router_has_no_host=True,
        reachability="private",
    )
    assert classify(facts) == behind
