"""What can be said of the way to others, and of theirs to us (core)."""

from __future__ import annotations

from ipaddress import ip_address
from itertools import chain

from p2p import AddressReport, NetReport
from tools.doctor.check import Check, Verdict
from tools.doctor.facts import EntryFacts, Facts

RELAYS_WANTED = 2
RATE_BYTES_PER_S_LOW = 250_000.0
"""2 Mbit/s: a model of 10 million parameters in 16 bits takes more than a minute to send."""
_WEB_PORTS = (80, 443)
_NEEDLESS = "It is not needed."


def entry(facts: Facts) -> Check:
    """Whether a peer of the swarm answers, and if none does, why."""
    name = "entry"
    if not facts.entries:
        return Check(
            name,
            "unknown",
            "No initial peer was named, so nobody outside could be asked.",
            "Run the doctor again with --initial-peers and the address of a peer of the swarm; "
            "`manyhands node` prints its own.",
        )
    answered, failed = facts.entered, [one for one in facts.entries if one not in facts.entered]
    if not answered:
        evidence, advice = _no_entry(facts)
        return Check(name, "ill", evidence, advice)
    if _is_web_only(answered, failed):
        return Check(
            name,
            "warn",
            f"Only initial peers on the ports of the web answer ({_list(answered)}); the way to "
            f"the others is closed ({_list(failed)}).",
            "This network lets out little but the web, as offices and hotels do. Use peers and "
            "relays that listen on port 443, or another network, such as a phone's.",
        )
    if failed:
        return Check(
            name,
            "well",
            f"{len(answered)} of {len(facts.entries)} initial peers answer; no answer from "
            f"{_list(failed)}: {failed[0].cause}.",
        )
    nearest_s = min((one.round_trip_s for one in answered if one.round_trip_s), default=None)
    near = f", the nearest in {nearest_s * 1000:.0f} ms" if nearest_s is not None else ""
    return Check(name, "well", f"{_count(len(answered), 'initial peer')} answered{near}.")


def _is_web_only(answered: tuple[EntryFacts, ...], failed: list[EntryFacts]) -> bool:
    return (
        bool(failed)
        and all(one.port in _WEB_PORTS for one in answered)
        and all(one.port not in _WEB_PORTS for one in failed)
        and all(one.outcome in ("silent", "refused", "no-route") for one in failed)
    )


def _no_entry(facts: Facts) -> tuple[str, str]:
    """Why nobody answers, and what to do; the kind that most entries share is explained."""
    if not facts.has_network and not facts.only_here:
        return (
            "No initial peer can be reached without a network.",
            "Connect this computer to a network first.",
        )
    kinds = [one.outcome for one in facts.entries]
    # What the owner of the address must mend comes before what may be our own network.
    kind = next(one for one in _ORDER if one in kinds)
    which = [one for one in facts.entries if one.outcome == kind]
    evidence, advice = _NO_ENTRY[kind]
    tried = "; ".join(f"{one.address}: {one.cause}" for one in facts.entries)
    return f"{evidence.format(which=_list(which))} Tried {tried}.", advice


_ORDER = ("kept-out", "impostor", "refused", "silent", "no-route", "name", "other")
_NO_ENTRY = {
    "kept-out": (
        "The swarm is private: {which} answers, and lets nobody in without its key or token.",
        "Ask the swarm's operator for the key or a token, and name them in a file with --private "
        "(docs/protocols/access.md).",
    ),
    "impostor": (
        "Another peer than the address names answers at {which}.",
        "The node there has a new identity, or the address was mistyped: ask its owner for the "
        "line that `manyhands node` prints now.",
    ),
    "refused": (
        "The computer at {which} is there, and nothing listens at that port.",
        "Ask its owner whether the node runs, and for the port that it prints.",
    ),
    "silent": (
        "Nothing comes back from {which}.",
        "Either that computer is off, or a firewall stands between. Try another network, such as "
        "a phone's: if it works there, yours forbids that port; then ask for a peer that listens "
        "on port 443.",
    ),
    "no-route": (
        "There is no way from here to {which}.",
        "Check that this computer has access to the internet, and that the address is no private "
        "one of another network.",
    ),
    "name": (
        "The name in {which} leads to no address.",
        "Check how it is spelt. If no web page opens either, the name server of this network is "
        "at fault; an address with numbers (/ip4/…) works without it.",
    ),
    "other": (
        "No connection came about with {which}.",
        "Run the doctor again with --verbose, and show its owner what it says.",
    ),
}


def reachability(facts: Facts) -> Check:
    """Whether others can connect to us, and at which address."""
    name = "reachability"
    report = facts.report
    if report is None:
        return Check(name, "unknown", "Without another peer nobody can try to reach this one.")
    if report.client_mode:
        return Check(
            name,
            "warn",
            "The peer only dials others, as it was told (--client-mode).",
            "It can train; leave the option out to let others connect to it.",
        )
    by_address = " ".join(_address(one) for one in report.details if _is_for_outsiders(one))
    if report.reachability == "public":
        return Check(
            name, "well", f"Others can connect to this peer from outside. {by_address}".strip()
        )
    if report.reachability == "unknown":
        return Check(
            name,
            "unknown",
            f"Too few peers have tried to connect to this one to tell. {by_address}".strip(),
            "Name more peers with --initial-peers, or look again when the swarm has grown.",
        )
    return _private(facts, report, by_address)


def _private(facts: Facts, report: NetReport, by_address: str) -> Check:
    name, lead = "reachability", "Others cannot connect to this peer straight away."
    punches = report.mapping in ("endpoint-independent", "none")
    if report.relays:
        how = (
            "They come through a relay first, and most then directly, by hole punching."
            if punches
            else "They come through a relay; direct paths come about only with peers that can be "
            "reached from outside."
        )
        verdict: Verdict = "well" if punches else "warn"
        return Check(name, verdict, f"{lead} {how} {by_address}".strip(), _open_up(facts, report))
    return Check(
        name,
        "warn",
        f"{lead} It holds no place at a relay either, so it can only dial others. "
        f"{by_address}".strip(),
        _open_up(facts, report),
    )


def _open_up(facts: Facts, report: NetReport) -> str:
    """How to become reachable, given what is in between."""
    port = _port(facts, report)
    match report.behind:
        case "carrier-grade-nat":
            return (
                "Ask your provider for a public IPv4 address or for IPv6, or use a VPN that "
                "forwards a port; nothing on your own router helps. Relays serve until then."
            )
        case "double-nat":
            return (
                "Set the inner of the two routers to bridge or access-point mode, or forward "
                f"{port} on both. If the outer one is the provider's, only the provider can help, "
                "with a public address, or a VPN that forwards a port."
            )
        case "firewall":
            return f"Let {port} in through the firewall."
    forward = (
        "On the router's page (often http://192.168.1.1 or http://192.168.0.1) turn on UPnP, or "
        f"forward {port} to this computer."
    )
    seen = _seen_host(report)
    if report.behind == "nat" and report.port_mapping is None and seen:
        return (
            f"{forward} If that page shows another internet address than {seen}, a second NAT, "
            "mostly the provider's, stands before it, and that does not help: ask the provider for "
            "a public address."
        )
    return forward


def _port(facts: Facts, report: NetReport) -> str:
    """What others have to get through to, as people say it."""
    told = (
        (one.address for one in facts.ports),
        (one.address for one in report.details if one.source == "interface"),
    )
    for address in chain(*told):
        parts = address.split("/")
        if len(parts) > 4 and parts[4] not in ("", "0"):
            return f"TCP port {parts[4]}"
    return "the peer's TCP port"


def _seen_host(report: NetReport) -> str | None:
    """The internet address that others see us at, if it is none of this computer's."""
    seen = (one.address.split("/")[2] for one in report.details if one.source == "observed")
    return next(seen, None)


def _is_for_outsiders(report: AddressReport) -> bool:
    """Whether it may lead somebody outside to us directly: no relay's, and none of a home's."""
    kind, host = report.address.split("/")[1:3]
    if report.source == "relay":
        return False
    return kind not in ("ip4", "ip6") or ip_address(host).is_global


def _address(report: AddressReport) -> str:
    where = report.address.partition("/p2p/")[0]
    words = {"public": "reachable", "private": "not reachable", "unknown": "not known"}
    return f"{where}: {words[report.reachability]} ({report.evidence.rstrip('.')})."


def nat(facts: Facts) -> Check:
    """What stands between this computer and the internet."""
    name = "NAT"
    report = facts.report
    if report is None:
        return Check(name, "unknown", "Without another peer that cannot be seen.")
    match report.behind:
        case "nothing":
            return Check(name, "well", "Nothing stands between this computer and the internet.")
        case "firewall":
            return Check(
                name,
                "warn",
                "The address is a public one, and a firewall keeps connections from outside away.",
                _open_up(facts, report),
            )
        case "double-nat":
            return Check(name, "warn", f"Behind two routers in a row. {_kind(report)}",
                         _open_up(facts, report))  # fmt: skip
        case "carrier-grade-nat":
            return Check(
                name,
                "warn",
                "Your provider shares one public address among many customers (carrier-grade "
                f"NAT). {_kind(report)}",
                _open_up(facts, report),
            )
        case "nat":
            symmetric = report.mapping == "endpoint-dependent"
            return Check(
                name,
                "warn" if symmetric else "well",
                f"Behind a router with NAT. {_kind(report)}",
                f"{_open_up(facts, report)} Another router or a phone's network may do better."
                if symmetric and report.reachability != "public"
                else "",
            )
    return Check(name, "unknown", "Too few peers have seen our address to tell.")


def _kind(report: NetReport) -> str:
    match report.mapping:
        case "endpoint-independent":
            return "It keeps one outside port for all peers: hole punching works."
        case "endpoint-dependent":
            return (
                "It takes another outside port for each peer (symmetric): hole punching fails with "
                "all but openly reachable peers."
            )
    return "How it chooses outside ports is not known."


def port_mapping(facts: Facts) -> Check:
    """Whether the router has opened a port for us."""
    name = "port mapping"
    report = facts.report
    if report is None:
        return Check(name, "unknown", "It could not be tried.")
    mapped = report.port_mapping
    if mapped is not None and mapped.useless_because is None:
        return Check(
            name,
            "well",
            f"The router passes {mapped.external} on to us ({mapped.protocol.upper()}), for "
            f"{mapped.expires_in_s / 60:.0f} more minutes and renewed before.",
        )
    if mapped is not None:
        return Check(
            name,
            "warn",
            f"The router opened {mapped.external} ({mapped.protocol.upper()}), to no avail: "
            f"{mapped.useless_because}.",
            _open_up(facts, report),
        )
    if report.reachability == "public" or report.behind in ("nothing", "firewall"):
        return Check(name, "well", _NEEDLESS)
    if report.behind == "unknown":
        return Check(name, "unknown", "No router answered UPnP, NAT-PMP or PCP.")
    # Its second half is advice, which depends on what else is known.
    problem = (report.port_mapping_problem or "").partition(";")[0].rstrip(".")
    return Check(
        name,
        "warn",
        f"{problem}." if problem else "There is no router of your own to ask.",
        _open_up(facts, report),
    )


def relays(facts: Facts) -> Check:
    """Whether others can come to us through relays."""
    name = "relays"
    report = facts.report
    if report is None:
        return Check(name, "unknown", "Without another peer no relay can be found.")
    held = [
        f"…{relay.peer_id[-8:]}"
        + (f" ({relay.round_trip_s * 1000:.0f} ms)" if relay.round_trip_s is not None else "")
        for relay in report.relays
    ]
    if len(held) >= RELAYS_WANTED:
        return Check(name, "well", f"Reachable through {len(held)} relays: {', '.join(held)}.")
    if held:
        return Check(
            name,
            "well" if report.reachability == "public" else "warn",
            f"Reachable through one relay: {held[0]}.",
            ""
            if report.reachability == "public"
            else "A second relay would be a spare: somebody "
            "with a public address can start one with: manyhands node --relay",
        )
    if report.reachability == "public" or report.client_mode:
        return Check(name, "well", _NEEDLESS)
    if report.reachability == "unknown":
        return Check(name, "unknown", "None is used; whether one is needed is not known yet.")
    return Check(
        name,
        "warn",
        "No relay was found, or none had room.",
        "Ask somebody of the swarm with a public address to start one: manyhands node --relay",
    )


def bandwidth(facts: Facts) -> Check:
    """How fast bytes come and go."""
    name = "bandwidth"
    measured = facts.bandwidth
    if measured is None and not facts.measures:
        return Check(name, "unknown", "Not measured, as you asked (--no-bandwidth).")
    if measured is None:
        return Check(name, "unknown", "No peer was there to measure with.")
    rates = [
        f"{rate * 8 / 1e6:.1f} Mbit/s {way}"
        for rate, way in ((measured.down_bytes_per_s, "down"), (measured.up_bytes_per_s, "up"))
        if rate is not None
    ]
    if not rates:
        return Check(
            name,
            "unknown",
            f"It could not be measured with {measured.peer_id[-8:]}: {measured.why_not}.",
        )
    said = f"{' and '.join(rates)}, {measured.path} to {measured.peer_id[-8:]}."
    if measured.path == "relayed":
        return Check(name, "unknown", f"{said} A relay was between: it says little of the line.")
    known = [r for r in (measured.down_bytes_per_s, measured.up_bytes_per_s) if r is not None]
    if min(known) < RATE_BYTES_PER_S_LOW:
        return Check(
            name,
            "warn",
            said,
            "That is slow for training: the others get a smaller share of work from this peer. A "
            "cable instead of Wi-Fi, or ending other uploads, may help.",
        )
    return Check(name, "well", said)


def _list(entries: tuple[EntryFacts, ...] | list[EntryFacts]) -> str:
    return ", ".join(one.address.partition("/p2p/")[0] for one in entries)


def _count(number: int, what: str) -> str:
    return f"The {what}" if number == 1 else f"All {number} {what}s"
