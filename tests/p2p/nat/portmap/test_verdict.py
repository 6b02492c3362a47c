"""Which outer addresses are of use, and what a person is told."""

from __future__ import annotations

import pytest

from p2p.nat.portmap import verdict
from p2p.nat.portmap.answers import Failed, Failure


@pytest.mark.parametrize(
    ("outer", "observed", "said"),
    [
        ("5.6.7.10", None, None),
        ("5.6.7.10", "5.6.7.10", None),
        ("5.6.7.10", "5.6.8.1", "double NAT"),
        ("192.168.1.2", None, "double NAT"),
        ("10.1.2.3", "5.6.7.10", "double NAT"),
        ("172.16.0.1", None, "double NAT"),
        ("169.254.0.1", None, "double NAT"),
        ("127.0.0.1", None, "double NAT"),
        ("224.0.0.251", None, "not public"),
        ("255.255.255.255", None, "not public"),
        ("100.64.0.0", None, "carrier-grade NAT"),
        ("100.127.255.255", None, "carrier-grade NAT"),
        ("100.63.255.255", None, None),
        ("100.128.0.0", None, None),
    ],
)
def test_outer_addresses(outer: str, observed: str | None, said: str | None) -> None:
    reason = verdict.useless_because(outer, observed)
    if said is None:
        assert reason is None
    else:
        assert reason is not None
        assert said in reason
        assert outer in reason


@pytest.mark.parametrize("host", ["", "::1", "2001:4860::1", "name", "192.168.1.1", "5.6.7"])
def test_only_public_ipv4_counts_as_public(host: str) -> None:
    assert not verdict.is_public(host)


SILENT = Failed(Failure.SILENT, "no answer")


@pytest.mark.parametrize(
    ("failed", "words"),
    [
        (SILENT, ("none of PCP, NAT-PMP and UPnP", "31337")),
        (Failed(Failure.NO_ADDRESS, "x"), ("NAT-PMP", "double NAT")),
        (Failed(Failure.FORBIDDEN, "it is switched off"), ("it is switched off", "31337")),
        (Failed(Failure.TAKEN), ("somebody else", "31337")),
        (Failed(Failure.REFUSED, "its table is full"), ("its table is full", "31337")),
        (Failed(Failure.INVALID, "too short"), ("too short", "31337")),
    ],
)
def test_problems_are_one_sentence_of_the_most_telling_failure(
    failed: Failed, words: tuple[str, ...]
) -> None:
    problem = verdict.failed_problem(
        "192.168.7.1", 31_337, {"pcp": SILENT, "nat-pmp": failed, "upnp": SILENT}
    )
    for word in ("192.168.7.1", *words):
        assert word in problem
    assert problem.endswith(".")
    assert problem.count(". ") == 0
