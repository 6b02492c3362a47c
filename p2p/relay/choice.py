"""Which relays to reserve at: near ones, that have room, in different networks (core).

Each candidate is in one state:

    idle       known, perhaps with its round trip
    probing    being connected to, for its round trip
    trying     being asked for a reservation
    held       we hold a reservation there
    paused     it failed or refused: idle again after a pause that doubles, with jitter

    idle --next_probe--> probing --on_round_trip--> idle     (only while its round trip is unknown)
    idle --next_try----> trying --on_held--> held --on_lost--> paused
    probing, trying --on_failed, on_refused--> paused
    paused --on_connected--> idle                            (unless it refused)

While fewer than wanted are held, those without a known round trip are probed first. Then the best
is tried: those that the operator named, then by round trip, each refusal counting as a longer one.
Networks that hold one of ours are passed over while another has a candidate; if all that are held
share one network, one more is taken in another.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from enum import Enum

from p2p.address import TcpAddress, network_of
from p2p.peer_id import PeerId

CANDIDATES_MAX = 64
PROBES_MAX = 4
FIRST_PAUSE_S = 2.0
REFUSED_PAUSE_S = 30.0
"""A relay that is full or does not want us changes its mind less quickly than a line comes back."""
PAUSE_S_MAX = 600.0
NAMED_PAUSE_S_MAX = 30.0
"""The same for those that the operator named while none is held: nobody else may come."""
_JITTER = 0.25
_REFUSAL_S = 0.1
"""What a refusal counts as a longer round trip: a full relay is a slow one, too."""


class State(Enum):
    """What is under way with a candidate."""

    IDLE = "idle"
    PROBING = "probing"
    TRYING = "trying"
    HELD = "held"


@dataclass(frozen=True)
class Candidate:
    """A peer that may serve us as a relay."""

    peer_id: PeerId
    address: TcpAddress
    named: bool
    """Whether the operator named it."""
    state: State = State.IDLE
    round_trip_s: float | None = None
    failures: int = 0
    """In a row, refusals included."""
    refusals: int = 0
    paused_until_s: float = 0.0

    @property
    def network(self) -> str:
        """What one owner is likely to hold."""
        return network_of(self.address.host)


class RelayChoice:
    """Chooses among candidates until as many reservations are held as wanted."""

    def __init__(self, rng: random.Random, *, wanted: int) -> None:
        self._rng = rng
        self._known: dict[PeerId, Candidate] = {}
        self.wanted = wanted
        """How many reservations to hold; may be changed at any time."""

    @property
    def held(self) -> tuple[Candidate, ...]:
        """Where we hold reservations, the nearest first."""
        held = [one for one in self._known.values() if one.state is State.HELD]
        return tuple(sorted(held, key=_distance))

    @property
    def is_short(self) -> bool:
        """Whether more candidates are welcome: too few are held, or all in one network."""
        held = self.held
        networks = {one.network for one in held}
        return len(held) < self.wanted or len(networks) < min(2, self.wanted)

    def on_candidate(self, peer_id: PeerId, address: TcpAddress, *, named: bool = False) -> None:
        """A peer says that it is a relay, or somebody says so of it."""
        known = self._known.get(peer_id)
        if known is not None:
            if known.state is State.IDLE:
                self._known[peer_id] = replace(
                    known, address=known.address if known.named else address
                )
            return
        if len(self._known) >= CANDIDATES_MAX and not self._make_room(named=named):
            return
        self._known[peer_id] = Candidate(peer_id, address, named)

    def _make_room(self, *, named: bool) -> bool:
        """Forget the candidate of least use, but one that nothing is known against only for a
        named one."""
        idle = [one for one in self._known.values() if one.state is State.IDLE and not one.named]
        worst = max(idle, key=lambda one: (one.failures, _distance(one)), default=None)
        if worst is None or not (worst.failures or named):
            return False
        del self._known[worst.peer_id]
        return True

    def next_probe(self, now_s: float) -> Candidate | None:
        """A candidate to connect to and to measure now; the answer is on_round_trip()."""
        if not self.is_short or self._count(State.PROBING) >= PROBES_MAX:
            return None
        unknown = [one for one in self._due(now_s) if one.round_trip_s is None]
        if not unknown:
            return None
        # Chance spreads many peers that know the same relays over them.
        chosen = min(unknown, key=lambda one: (not one.named, self._rng.random()))
        return self._set(chosen, state=State.PROBING)

    def next_try(self, now_s: float) -> Candidate | None:
        """A candidate to ask for a reservation now; the answer is on_held() or on_refused()."""
        if self._count(State.PROBING):
            return None
        busy = [one for one in self._known.values() if one.state in (State.HELD, State.TRYING)]
        taken = {one.network for one in busy}
        due = [one for one in self._due(now_s) if one.round_trip_s is not None]
        elsewhere = [one for one in due if one.network not in taken]
        if len(busy) >= self.wanted:
            if len(taken) >= 2 or self.wanted < 2 or len(busy) > self.wanted:
                return None
            due = elsewhere
        chosen = min(elsewhere or due, key=_distance, default=None)
        return None if chosen is None else self._set(chosen, state=State.TRYING)

    def wake_at_s(self, now_s: float) -> float | None:
        """When the next candidate may be tried again that is paused now, if it is needed."""
        if not self.is_short:
            return None
        ends_s = [one.paused_until_s for one in self._known.values() if one.state is State.IDLE]
        return min((end_s for end_s in ends_s if end_s > now_s), default=None)

    def on_round_trip(self, peer_id: PeerId, round_trip_s: float) -> None:
        """A probe has been answered."""
        known = self._known.get(peer_id)
        if known is not None and known.state is State.PROBING:
            self._set(known, state=State.IDLE, round_trip_s=round_trip_s)

    def on_held(self, peer_id: PeerId) -> None:
        """It has granted us a reservation."""
        known = self._known.get(peer_id)
        if known is not None and known.state is State.TRYING:
            self._set(known, state=State.HELD, failures=0, refusals=0)

    def on_failed(self, peer_id: PeerId, now_s: float) -> None:
        """It cannot be reached, or makes no sense."""
        known = self._known.get(peer_id)
        if known is not None and known.state in (State.PROBING, State.TRYING):
            self._pause(known, FIRST_PAUSE_S, now_s)

    def on_refused(self, peer_id: PeerId, now_s: float) -> None:
        """It is full, or does not want us."""
        known = self._known.get(peer_id)
        if known is not None and known.state is State.TRYING:
            self._pause(replace(known, refusals=known.refusals + 1), REFUSED_PAUSE_S, now_s)

    def on_lost(self, peer_id: PeerId, now_s: float) -> None:
        """The reservation that we held is gone."""
        known = self._known.get(peer_id)
        if known is not None and known.state is State.HELD:
            self._pause(replace(known, round_trip_s=None), FIRST_PAUSE_S, now_s)

    def on_connected(self, peer_id: PeerId, now_s: float) -> None:
        """It is there, whatever kept it from us before; one that has refused us stays paused."""
        known = self._known.get(peer_id)
        if known is not None and known.state is State.IDLE and not known.refusals:
            self._set(known, paused_until_s=min(known.paused_until_s, now_s))

    def on_network_changed(self) -> None:
        """Our own network is another one: what failed may work, what was near may be far."""
        for known in tuple(self._known.values()):
            if known.state is State.IDLE:
                self._set(known, failures=0, refusals=0, paused_until_s=0.0, round_trip_s=None)

    def _pause(self, known: Candidate, first_s: float, now_s: float) -> None:
        held = {one.peer_id for one in self.held} - {known.peer_id}
        longest_s = NAMED_PAUSE_S_MAX if known.named and not held else PAUSE_S_MAX
        pause_s = min(first_s * 2.0 ** min(known.failures, 20), longest_s)
        # Apart, so that peers that lost the same relay at once do not come back to it at once.
        pause_s *= 1 + self._rng.uniform(-_JITTER, _JITTER)
        self._set(
            known,
            state=State.IDLE,
            failures=known.failures + 1,
            paused_until_s=now_s + pause_s,
        )

    def _due(self, now_s: float) -> list[Candidate]:
        return [
            one
            for one in self._known.values()
            if one.state is State.IDLE and one.paused_until_s <= now_s
        ]

    def _count(self, state: State) -> int:
        return sum(one.state is state for one in self._known.values())

    def _set(self, known: Candidate, **changes: object) -> Candidate:
        changed = replace(known, **changes)  # type: ignore[arg-type] # names are checked by tests
        self._known[known.peer_id] = changed
        return changed


def _distance(one: Candidate) -> tuple[bool, float, PeerId]:
    """What orders candidates: the operator's first, then the nearest."""
    round_trip_s = float("inf") if one.round_trip_s is None else one.round_trip_s
    return (not one.named, round_trip_s + one.refusals * _REFUSAL_S, one.peer_id)
