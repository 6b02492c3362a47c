"""Trace: what each peer of one search was asked, how long it took, and what came of it.

A search tells its observer three things, and never waits for it:

    event        of a peer
    on_asked     a query goes out
    on_answer    it named peers, and perhaps holds what is sought
    on_failure   it could not be asked, or gave no valid answer

Whoever was asked and has neither answered nor failed when the search ends was not waited for.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from p2p.dht.contact import Contact
from p2p.dht.key import distance
from p2p.errors import CallTimeout, P2PError, RefusedError, RemoteError
from p2p.peer_id import PeerId


class SearchObserver(Protocol):
    """Hears what a search does, as it does it."""

    def on_asked(self, contact: Contact, now_s: float) -> None:
        """A query goes out to this peer."""

    def on_answer(
        self, contact: Contact, named: Sequence[Contact], version: Hashable, now_s: float
    ) -> None:
        """The peer named others; the version is None when it holds nothing that is sought."""

    def on_failure(self, contact: Contact, error: P2PError, now_s: float) -> None:
        """The peer failed, and how."""


class HopOutcome(Enum):
    """What became of one query."""

    FOUND = "found"
    CLOSER = "closer peers"
    NONE_CLOSER = "none closer"
    REFUSED = "refused"
    TIMEOUT = "timeout"
    UNREACHABLE = "unreachable"
    INVALID = "invalid answer"
    NOT_AWAITED = "not waited for"


@dataclass(frozen=True, kw_only=True)
class Hop:
    """One query of a search."""

    peer_id: PeerId
    addresses: tuple[str, ...]
    named_by: PeerId | None
    """Who told us of the peer first; None when our own routing table knew it."""
    depth: int
    """How many peers the way to it leads through: 1 when our own routing table knew it."""
    distance: int
    """How far it is from what is sought, by XOR: less is nearer."""
    asked_at_s: float
    """Seconds from the beginning of the search."""
    took_s: float
    """Until its answer, its failure or the end of the search."""
    connected: bool
    """Whether a connection stood; else took_s includes making one."""
    outcome: HopOutcome
    named: int = 0
    """Peers that it named."""
    cause: str = ""
    """Why it failed."""


@dataclass(frozen=True, kw_only=True)
class Trace:
    """All that a search did."""

    target: int
    took_s: float
    hops: tuple[Hop, ...]
    """In the order in which they were asked."""
    replicas: tuple[PeerId, ...]
    """The nearest that answered, nearest first: they should hold what is sought."""

    @property
    def holders(self) -> tuple[PeerId, ...]:
        """Who holds what is sought, nearest first."""
        found = [hop for hop in self.hops if hop.outcome is HopOutcome.FOUND]
        return tuple(hop.peer_id for hop in sorted(found, key=lambda hop: hop.distance))

    @property
    def depth(self) -> int:
        """How many peers the way to the nearest that answered leads through; 0 when none did."""
        answered = [hop for hop in self.hops if hop.peer_id in self.replicas[:1]]
        return answered[0].depth if answered else 0


@dataclass(slots=True)
class _Asked:
    """A query, and what is known of it so far."""

    contact: Contact
    asked_at_s: float
    connected: bool
    ended_at_s: float | None = None
    outcome: HopOutcome = HopOutcome.NOT_AWAITED
    named: int = 0
    cause: str = ""


class Tracer:
    """Writes down one search; it sees, and changes nothing."""

    def __init__(
        self,
        target: int,
        begun_s: float,
        *,
        known: Iterable[Contact] = (),
        is_connected: Callable[[PeerId], bool] = lambda _: False,
    ) -> None:
        """Begin to write.

        Args:
            known: whom the search knows before it asks anybody.
        """
        self._target = target
        self._begun_s = begun_s
        self._known = {contact.peer_id for contact in known}
        self._is_connected = is_connected
        self._asked: dict[PeerId, _Asked] = {}
        self._named_by: dict[PeerId, PeerId] = {}

    def on_asked(self, contact: Contact, now_s: float) -> None:
        """A query goes out to this peer; only the first one counts."""
        connected = self._is_connected(contact.peer_id)
        self._asked.setdefault(contact.peer_id, _Asked(contact, now_s, connected))

    def on_answer(
        self, contact: Contact, named: Sequence[Contact], version: Hashable, now_s: float
    ) -> None:
        """The peer named others; the version is None when it holds nothing that is sought."""
        own = distance(contact.key, self._target)
        closer = any(distance(other.key, self._target) < own for other in named)
        outcome = HopOutcome.CLOSER if closer else HopOutcome.NONE_CLOSER
        self._end(contact, HopOutcome.FOUND if version is not None else outcome, now_s)
        self._asked[contact.peer_id].named = len(named)
        for other in named:
            if other.peer_id not in self._asked and other.peer_id not in self._known:
                self._named_by.setdefault(other.peer_id, contact.peer_id)

    def on_failure(self, contact: Contact, error: P2PError, now_s: float) -> None:
        """The peer failed, and how."""
        self._end(contact, _outcome_of(error), now_s)
        self._asked[contact.peer_id].cause = str(error)

    def _end(self, contact: Contact, outcome: HopOutcome, now_s: float) -> None:
        asked = self._asked[contact.peer_id]
        asked.outcome, asked.ended_at_s = outcome, now_s

    def finish(self, replicas: Sequence[Contact], now_s: float) -> Trace:
        """The search is over.

        Args:
            replicas: the nearest that answered, nearest first.
        """
        depths: dict[PeerId, int] = {}
        hops = []
        # Whoever names a peer was asked before it, so its depth is known here.
        for peer_id, asked in self._asked.items():
            named_by = self._named_by.get(peer_id)
            depths[peer_id] = 1 + (depths[named_by] if named_by is not None else 0)
            ended_at_s = now_s if asked.ended_at_s is None else asked.ended_at_s
            hops.append(
                Hop(
                    peer_id=peer_id,
                    addresses=asked.contact.addresses,
                    named_by=named_by,
                    depth=depths[peer_id],
                    distance=distance(asked.contact.key, self._target),
                    asked_at_s=asked.asked_at_s - self._begun_s,
                    took_s=ended_at_s - asked.asked_at_s,
                    connected=asked.connected,
                    outcome=asked.outcome,
                    named=asked.named,
                    cause=asked.cause,
                )
            )
        return Trace(
            target=self._target,
            took_s=now_s - self._begun_s,
            hops=tuple(hops),
            replicas=tuple(contact.peer_id for contact in replicas),
        )


def _outcome_of(error: P2PError) -> HopOutcome:
    if isinstance(error, RefusedError):
        return HopOutcome.REFUSED
    if isinstance(error, CallTimeout):
        return HopOutcome.TIMEOUT
    if isinstance(error, RemoteError):
        return HopOutcome.INVALID
    return HopOutcome.UNREACHABLE
