"""What the doctor found out; diagnose() makes words of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from p2p import Interface, NetReport, Path

KeyState = Literal["good", "missing", "unreadable", "open", "no-key"]
InUse = Literal["no", "here", "elsewhere", "unknown"]
PortState = Literal["free", "ours", "taken", "forbidden", "not-here"]
EntryOutcome = Literal[
    "answered", "name", "refused", "silent", "no-route", "impostor", "kept-out", "other"
]


@dataclass(frozen=True, kw_only=True)
class KeyFacts:
    """The key file, and who else uses it."""

    path: str
    state: KeyState
    detail: str = ""
    """What was wrong with the file, in a sentence."""
    peer_id: str = ""
    in_use: InUse = "unknown"
    """here: by a program behind the same address as we; elsewhere: from another address."""
    places: tuple[str, ...] = ()
    """From where it is in use, as its neighbours see it."""


@dataclass(frozen=True, kw_only=True)
class PortFacts:
    """An address to listen on, and whether that works."""

    address: str
    state: PortState
    used_by: str = ""
    """The program that has the port, if that can be seen; ours is a manyhands."""


@dataclass(frozen=True, kw_only=True)
class EntryFacts:
    """What became of the way to one initial peer."""

    address: str
    outcome: EntryOutcome
    cause: str = ""
    path: Path = "direct"
    round_trip_s: float | None = None

    @property
    def port(self) -> int:
        """The TCP port that our first socket goes to."""
        parts = self.address.split("/")
        return int(parts[4]) if len(parts) > 4 and parts[4].isdigit() else 0


@dataclass(frozen=True, kw_only=True)
class BandwidthFacts:
    """What went through to and from one peer."""

    peer_id: str
    path: Path
    down_bytes_per_s: float | None = None
    up_bytes_per_s: float | None = None
    why_not: str = ""


@dataclass(frozen=True, kw_only=True)
class PeerFacts:
    """What one peer said of itself."""

    peer_id: str
    agent: str
    version: str
    clock_ahead_s: float | None
    """Its wall clock minus ours, the way accounted for; peers of other kinds do not tell."""


@dataclass(frozen=True, kw_only=True)
class Facts:
    """All that was found out; what could not be is empty or None."""

    key: KeyFacts
    ports: tuple[PortFacts, ...] = ()
    interfaces: tuple[Interface, ...] = ()
    """Loopback included."""
    entries: tuple[EntryFacts, ...] = ()
    """One for each initial peer that was named."""
    peers: tuple[PeerFacts, ...] = ()
    report: NetReport | None = None
    bandwidth: BandwidthFacts | None = None
    measures: bool = True
    """Whether the bandwidth was to be measured."""
    python: str = ""
    libp2p: str = ""
    manyhands: str = ""

    @property
    def has_network(self) -> bool:
        """Whether this machine is on any network but its own."""
        return any(not one.is_loopback for one in self.interfaces)

    @property
    def only_here(self) -> bool:
        """Whether all that was asked for stays on this machine."""
        spoken = (*(one.address for one in self.entries), *(one.address for one in self.ports))
        return bool(spoken) and all(
            address.startswith(("/ip4/127.", "/ip6/::1/")) for address in spoken
        )

    @property
    def entered(self) -> tuple[EntryFacts, ...]:
        """The initial peers that answered."""
        return tuple(one for one in self.entries if one.outcome == "answered")


def outcome_of(cause: str) -> EntryOutcome:
    """What kind of failure the cause of an attempt is; causes are texts of the networking layer."""
    for outcome, words in _WORDS.items():
        if any(word in cause.lower() for word in words):
            return outcome
    return "other"


_WORDS: dict[EntryOutcome, tuple[str, ...]] = {
    "impostor": ("impostor",),
    "kept-out": ("swarm key", "token", "does not want us", "access back", "denied"),
    "name": (
        "name or service not known",
        "name resolution",
        "nodename nor servname",
        "no address associated",
        "not a host name",
        "getaddrinfo",
    ),
    "refused": ("refused",),
    "no-route": ("no route", "unreachable"),
    "silent": ("no answer", "timed out"),
}
