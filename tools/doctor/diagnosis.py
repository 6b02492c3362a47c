"""From facts to words: what is well, what is not, and what to do next (core)."""

from __future__ import annotations

from dataclasses import dataclass

from p2p import NetReport
from tools.doctor import checks_here, checks_there
from tools.doctor.check import Check
from tools.doctor.facts import Facts, KeyFacts


@dataclass(frozen=True)
class Diagnosis:
    """All checks, one sentence on the whole, and the one thing to do next."""

    checks: tuple[Check, ...]
    summary: str
    next_step: str

    @property
    def can_take_part(self) -> bool:
        """Whether nothing keeps the peer out."""
        return all(check.verdict != "ill" for check in self.checks)


_CHECKS = (
    checks_here.network,
    checks_here.identity,
    checks_here.ports,
    checks_there.entry,
    checks_here.clock,
    checks_there.reachability,
    checks_there.nat,
    checks_there.port_mapping,
    checks_there.relays,
    checks_there.bandwidth,
    checks_here.versions,
)


def diagnose(facts: Facts) -> Diagnosis:
    """What the facts mean for somebody who wants to take part."""
    checks = tuple(check(facts) for check in _CHECKS)
    ill = [check for check in checks if check.verdict == "ill"]
    if ill:
        names = " and ".join(check.name for check in ill)
        return Diagnosis(
            checks,
            f"This peer cannot take part: see {names}.",
            next(check.advice for check in ill),
        )
    return Diagnosis(checks, _summary(facts), _next_step(facts, checks))


def _summary(facts: Facts) -> str:
    if not facts.entries:
        return "Nothing on this computer speaks against taking part; the way to others is untested."
    return f"This peer can take part: {_place(facts.report)}."


def _place(report: NetReport | None) -> str:
    if report is None or report.client_mode:
        return "it dials others, and nobody dials it"
    match report.reachability:
        case "public":
            return "others reach it directly"
        case "private" if report.relays and report.mapping in ("endpoint-independent", "none"):
            return "others reach it through relays and by hole punching"
        case "private" if report.relays:
            return "others reach it through relays"
        case "private":
            return "it reaches others, and they do not reach it unasked"
    return "it reaches others; whether they reach it is not known yet"


def _next_step(facts: Facts, checks: tuple[Check, ...]) -> str:
    if not facts.entries:
        return next(check.advice for check in checks if check.name == "entry")
    join = f"Join with: manyhands train digits --initial-peers {facts.entered[0].address}"
    wishes = [check for check in checks if check.verdict == "warn" and check.advice]
    # On a line of its own, so that the command can be copied.
    return f"{join}\nTo do better: {wishes[0].advice}" if wishes else join


def short_verdict(report: NetReport) -> tuple[str, str]:
    """For a node at its start: where it stands in one sentence, and what to do, if anything."""
    facts = Facts(key=KeyFacts(path="", state="good"), report=report)
    if report.client_mode:
        return "It only dials others.", ""
    if report.addresses and all(_is_loopback(address) for address in report.addresses):
        return (
            "Only this computer can reach it, since it listens on loopback.",
            "For others, listen on all addresses: --listen /ip4/0.0.0.0/tcp/31337",
        )
    reach = checks_there.reachability(facts)
    stands = checks_there.nat(facts)
    sentence = {
        "public": "Others can connect to it from outside.",
        "private": "Others cannot connect to it from outside.",
        "unknown": "Whether others can connect to it from outside is not known yet: it takes other "
        "peers to try.",
    }[report.reachability]
    if report.reachability == "private":
        return f"{sentence} {stands.evidence}", reach.advice or stands.advice
    return sentence, ""


def _is_loopback(address: str) -> bool:
    return address.startswith(("/ip4/127.", "/ip6/::1/"))
