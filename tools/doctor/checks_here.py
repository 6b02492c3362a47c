"""What can be said of this computer itself: network, identity, clock, ports, versions (core)."""

from __future__ import annotations

from collections import Counter
from statistics import median

from tools.doctor.check import Check
from tools.doctor.facts import Facts, PortFacts

CLOCK_AHEAD_S_MAX = 60.0
"""Signed records and tokens are judged by the swarm's time with minutes of grace."""


def network(facts: Facts) -> Check:
    """Which networks this computer is on."""
    outward = [f"{one.host} on {one.name}" for one in facts.interfaces if not one.is_loopback]
    if not outward and facts.only_here:
        return Check("network", "warn", "There is no network but this computer's own.")
    if not outward:
        return Check(
            "network",
            "ill",
            "This computer is on no network: no interface but loopback has an address.",
            "Plug in the cable or join a Wi-Fi, and run the doctor again. Training on this "
            "computer alone works without: manyhands demo",
        )
    return Check("network", "well", f"This computer has the address {', '.join(outward)}.")


def identity(facts: Facts) -> Check:
    """Whether the key file can be used, and is used by nobody else."""
    key = facts.key
    name = "identity"
    match key.state:
        case "missing":
            return Check(name, "well", f"There is no key file {key.path} yet; it is made at start.")
        case "open":
            return Check(
                name,
                "ill",
                f"Other users of this computer can read the key file {key.path}.",
                f"Run: chmod 600 {key.path}",
            )
        case "unreadable" | "no-key":
            return Check(
                name,
                "ill",
                f"The key file cannot be used: {key.detail.rstrip('.')}.",
                "Give --identity the right file; or move this one away, and a new identity is "
                "made at the next start.",
            )
    who = f"The key file {key.path} is readable for you alone; the peer id is {key.peer_id}."
    places = ", ".join(key.places)
    match key.in_use:
        case "elsewhere":
            return Check(
                name,
                "ill",
                f"Another computer uses this identity at this moment: {key.peer_id}, seen at "
                f"{places}.",
                "Two peers with one identity take each other's messages. Stop the other one, or "
                "give this one a key file of its own: --identity other.key. If the other one is "
                "not yours, somebody has a copy of your key: move the file away.",
            )
        case "here":
            return Check(
                name,
                "warn",
                f"A peer with this identity runs already, behind the same address: {places}.",
                "If that is your own manyhands, all is well: leave it running. A second one "
                "beside it needs a key file of its own: --identity other.key",
            )
        case "no":
            return Check(name, "well", f"{who} Nobody else uses it.")
    return Check(name, "well", f"{who} Whether another computer uses it could not be asked.")


def clock(facts: Facts) -> Check:
    """How far this computer's clock is from those of its peers."""
    name = "clock"
    clocks = [peer.clock_ahead_s for peer in facts.peers if peer.clock_ahead_s is not None]
    if not clocks:
        return Check(name, "unknown", "No peer was there to compare the clock with.")
    # What the peers are ahead is what we are behind.
    ahead_s = median(clocks)
    count = len(clocks)
    whom = "one peer's clock" if count == 1 else f"the median clock of {count} peers"
    if abs(ahead_s) <= CLOCK_AHEAD_S_MAX:
        return Check(name, "well", f"The clock is within {max(1.0, abs(ahead_s)):.0f} s of {whom}.")
    side = "behind" if ahead_s > 0 else "ahead of"
    return Check(
        name,
        "warn",
        f"The clock is {_duration(abs(ahead_s))} {side} {whom}.",
        "Let the system set its time from the network (Linux: timedatectl set-ntp true). With a "
        "wrong clock others refuse what this peer signs, and tokens seem expired.",
    )


def _duration(seconds: float) -> str:
    for unit, size in (("days", 86_400), ("hours", 3_600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def ports(facts: Facts) -> Check:
    """Whether the addresses to listen on are free."""
    name = "listen ports"
    if not facts.ports:
        return Check(name, "well", "The peer listens nowhere: it only dials others.")
    troubled = [port for port in facts.ports if port.state not in ("free", "ours")]
    if troubled:
        sentences = [_port_trouble(port) for port in troubled]
        return Check(
            name,
            "ill",
            " ".join(evidence for evidence, _ in sentences),
            " ".join(dict.fromkeys(advice for _, advice in sentences)),
        )
    running = [port for port in facts.ports if port.state == "ours"]
    if running:
        where = ", ".join(f"{port.address} (by {port.used_by})" for port in running)
        return Check(
            name,
            "warn",
            f"A manyhands listens there already: {where}. What follows was measured on another "
            "port.",
            "Leave it running, or stop it and run the doctor again to have its own port checked.",
        )
    return Check(name, "well", f"Free: {', '.join(port.address for port in facts.ports)}.")


def _port_trouble(port: PortFacts) -> tuple[str, str]:
    match port.state:
        case "taken":
            who = f"by {port.used_by}" if port.used_by else "by a program of another user"
            return (
                f"{port.address} is in use {who}.",
                "Stop that program, or choose another port, as in --listen /ip4/0.0.0.0/tcp/4001",
            )
        case "forbidden":
            return (
                f"{port.address} needs rights that this user lacks.",
                "Choose a port from 1024 up, as in --listen /ip4/0.0.0.0/tcp/31337",
            )
    return (
        f"{port.address} is no address of this computer.",
        "Listen on all its addresses with --listen /ip4/0.0.0.0/tcp/31337",
    )


def versions(facts: Facts) -> Check:
    """What runs here, and what the others run."""
    name = "versions"
    ours = f"Here: manyhands {facts.manyhands}, libp2p {facts.libp2p}, Python {facts.python}."
    if not facts.peers:
        return Check(name, "well", ours)
    counted = Counter(f"{peer.agent} {peer.version}".strip() for peer in facts.peers)
    others = ", ".join(f"{count} × {what}" for what, count in sorted(counted.items()))
    same = all(
        peer.agent != "manyhands" or _minor(peer.version) == _minor(facts.manyhands)
        for peer in facts.peers
    )
    if same:
        return Check(name, "well", f"{ours} Peers: {others}.")
    return Check(
        name,
        "warn",
        f"{ours} Peers run another version: {others}.",
        "Update, so that all run the same: peers of different versions may not understand each "
        "other.",
    )


def _minor(version: str) -> tuple[str, ...]:
    """The part of a version that tells whether two understand each other."""
    return tuple(version.split(".")[:2])
