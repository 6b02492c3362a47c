"""Iterative lookup: ask ever nearer peers, a few at a time, until the nearest have answered.

    a candidate is   after
    WAITING          being named by somebody
    ASKED            next_queries()
    LATE             no answer for ``hedge_s``, far longer than others take: another is asked, too
    STALLED          no answer for ``stall_s``: it, and who named it, is to blame
    ANSWERED         on_answer(), which still counts when it comes late
    FAILED           on_failure()

The *front* is the ``width`` nearest candidates that neither failed nor are late, no more than two
of one address range while there are others. The lookup is done when the whole front has answered;
or, when looking for a value, as soon as ``holders_wanted`` of the front, ourselves included, hold
the same version of it. Who is not of the front any more does not count: a former replica may well
hold what the owner has replaced since.

Who names peers that turn out dead is believed less: once three peers named by nobody else have
failed, the rest of what it named waits behind all other candidates. A liar thus costs a lookup
three timeouts, not its success.

Source: P. Maymounkov, D. Mazières, Kademlia, 2002, §2.3; J. Dean, L. A. Barroso, The Tail at
Scale, 2013 (hedged requests).
"""

from __future__ import annotations

from bisect import insort
from collections import Counter
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass, replace
from enum import Enum
from itertools import zip_longest
from operator import attrgetter
from typing import Protocol

from p2p.dht.contact import Contact, choose_diverse
from p2p.dht.key import KEY_BITS
from p2p.peer_id import PeerId

# A peer that named so many dead peers on its own is believed less.
DEAD_NAMED_MAX = 3
# Far more than a lookup in a swarm of millions takes; a bound against endless inventions.
QUERIES_MAX = 128
CANDIDATES_MAX = 256
# Of one candidate, from all who name it.
ADDRESSES_MAX = 8


class _State(Enum):
    WAITING = "waiting"
    ASKED = "asked"
    LATE = "late"
    STALLED = "stalled"
    ANSWERED = "answered"
    FAILED = "failed"


_USABLE = (_State.ANSWERED, _State.WAITING, _State.ASKED)
_UNDER_WAY = (_State.ASKED, _State.LATE, _State.STALLED)


class Search(Protocol):
    """What a lookup is to whoever drives it."""

    @property
    def target(self) -> int:
        """The key that it is about."""

    @property
    def done(self) -> bool:
        """Whether there is nothing left to learn."""

    @property
    def deadline_s(self) -> float | None:
        """When on_deadline() is due."""

    @property
    def late(self) -> list[Contact]:
        """Peers that have not answered, and may be slow only."""

    @property
    def silent(self) -> list[Contact]:
        """Peers that have stalled and never answered."""

    @property
    def queries(self) -> int:
        """How many queries were sent."""

    @property
    def hops(self) -> int:
        """How many peers in a row led to the nearest one that answered; 0 if none did."""

    def next_queries(self, now_s: float) -> list[Contact]:
        """Whom to ask now; each is thereby taken as asked."""

    def on_answer(
        self, peer_id: PeerId, named: Iterable[Contact], version: Hashable = None
    ) -> None:
        """A peer named others, and perhaps holds a version of the value (None: it does not)."""

    def on_failure(self, peer_id: PeerId) -> None:
        """A peer could not be asked, or gave no valid answer."""

    def on_deadline(self, now_s: float) -> None:
        """Peers that have been silent too long hold the others up no more."""

    def answered(self) -> list[Contact]:
        """Everyone who answered, nearest first, crowded address ranges last."""


@dataclass(slots=True, eq=False)
class _Candidate:
    contact: Contact
    distance: int
    hops: int
    """How many peers in a row had to be asked, this one included, on the shortest way to it."""
    named_by: list[PeerId]
    """Who told us of it before it answered; empty when it came from our own table."""
    whereabouts: list[tuple[str, ...]] | None = None
    """The different lists of addresses that it was named with, if there is more than one."""
    state: _State = _State.WAITING
    asked_at_s: float = 0.0
    version: Hashable = None
    """Of the value, as it answered; None if it holds none."""


_distance_of = attrgetter("distance")
_EVERYWHERE = 1 << KEY_BITS


class Lookup:
    """One search for the peers nearest to a key, or for a value they hold."""

    def __init__(
        self,
        target: int,
        seeds: Iterable[Contact],
        *,
        own_id: PeerId,
        width: int,
        parallelism: int,
        stall_s: float,
        hedge_s: float | None = None,
        holders_wanted: int = 0,
        own_version: Hashable = None,
        avoid: Callable[[PeerId], bool] = lambda _: False,
    ) -> None:
        self._target = target
        self._own_id = own_id
        self._width = width
        self._parallelism = parallelism
        self._stall_s = stall_s
        self._hedge_s = stall_s if hedge_s is None else min(hedge_s, stall_s)
        self._holders_wanted = holders_wanted
        self._avoid = avoid
        self._candidates: dict[PeerId, _Candidate] = {}
        self._by_distance: list[_Candidate] = []
        self._waited_for: dict[PeerId, _Candidate] = {}
        """Those that are asked or late."""
        self._dead_named: dict[PeerId, int] = {}
        self._own_version = own_version
        self._holders = int(own_version is not None)
        """How many, near or not, hold any version."""
        self._queries = 0
        self._front: list[_Candidate] | None = None
        self._front_reach = 0
        """No candidate farther away than this changes the front, unless another leaves it."""
        for seed in seeds:
            if seed.peer_id not in self._candidates:
                self._add(seed, [], 1)

    @property
    def target(self) -> int:
        """The key that it is about."""
        return self._target

    @property
    def done(self) -> bool:
        """Whether there is nothing left to learn."""
        if self._agreed:
            return True
        if self._queries >= QUERIES_MAX:
            return self._asked == 0
        front = self._current_front()
        if not front and self.unanswered:
            # Slow peers are better than none.
            return False
        for candidate in front:  # noqa: SIM110 - a generator takes twice as long
            if candidate.state is not _State.ANSWERED:
                return False
        return True

    @property
    def _agreed(self) -> bool:
        """Whether enough of the nearest hold one version; if they differ, all are to be heard."""
        if not self._holders_wanted or self._holders < self._holders_wanted:
            return False
        versions = [candidate.version for candidate in self._current_front()]
        held = Counter(one for one in [self._own_version, *versions] if one is not None)
        return any(count >= self._holders_wanted for count in held.values())

    @property
    def deadline_s(self) -> float | None:
        """When on_deadline() is due."""
        return min(
            (
                one.asked_at_s + (self._hedge_s if one.state is _State.ASKED else self._stall_s)
                for one in self._waited_for.values()
            ),
            default=None,
        )

    @property
    def unanswered(self) -> list[Contact]:
        """Peers that are late and never answered."""
        return self.late + self.silent

    @property
    def got_somewhere(self) -> bool:
        """Whether anybody has answered."""
        return any(c.state is _State.ANSWERED for c in self._by_distance)

    @property
    def exhausted(self) -> bool:
        """Whether nobody is left but peers that have stalled."""
        return not self._current_front() and not self.late

    @property
    def late(self) -> list[Contact]:
        """Those that may be slow only."""
        return [c.contact for c in self._by_distance if c.state is _State.LATE]

    @property
    def silent(self) -> list[Contact]:
        """Those that have stalled."""
        return [c.contact for c in self._by_distance if c.state is _State.STALLED]

    @property
    def known(self) -> list[Contact]:
        """Everyone that it has heard of, nearest first."""
        return [candidate.contact for candidate in self._by_distance]

    @property
    def queries(self) -> int:
        """How many queries were sent."""
        return self._queries

    @property
    def hops(self) -> int:
        """How many peers in a row led to the nearest one that answered; 0 if none did."""
        nearest = (c.hops for c in self._by_distance if c.state is _State.ANSWERED)
        return next(nearest, 0)

    @property
    def _asked(self) -> int:
        return sum(one.state is _State.ASKED for one in self._waited_for.values())

    def next_queries(self, now_s: float) -> list[Contact]:
        """Whom to ask now; each is thereby taken as asked."""
        room = min(self._parallelism - self._asked, QUERIES_MAX - self._queries)
        if room <= 0 or self.done:
            return []
        waiting = [c for c in self._current_front() if c.state is _State.WAITING][:room]
        for candidate in waiting:
            candidate.state = _State.ASKED
            candidate.asked_at_s = now_s
            self._waited_for[candidate.contact.peer_id] = candidate
        self._queries += len(waiting)
        return [candidate.contact for candidate in waiting]

    def on_answer(
        self, peer_id: PeerId, named: Iterable[Contact], version: Hashable = None
    ) -> None:
        """A peer named others, and perhaps holds a version of the value (None: it does not)."""
        candidate = self._candidates.get(peer_id)
        if candidate is None or candidate.state not in _UNDER_WAY:
            return
        if candidate.state is not _State.ASKED:
            self._front = None
        candidate.state = _State.ANSWERED
        self._waited_for.pop(peer_id, None)
        candidate.version = version
        self._holders += version is not None
        hops = candidate.hops + 1
        for contact in named:
            known = self._candidates.get(contact.peer_id)
            if known is None:
                self._add(contact, [peer_id], hops)
            elif known.state is not _State.ANSWERED:
                self._name_again(known, contact, peer_id, hops)

    def on_failure(self, peer_id: PeerId) -> None:
        """A peer could not be asked, or gave no valid answer."""
        candidate = self._candidates.get(peer_id)
        if candidate is None or candidate.state not in _UNDER_WAY:
            return
        if candidate.state is not _State.STALLED:
            self._blame(candidate)
        candidate.state = _State.FAILED
        self._waited_for.pop(peer_id, None)
        self._front = None

    def on_deadline(self, now_s: float) -> None:
        """Peers that have been silent too long hold the others up no more."""
        for peer_id, candidate in list(self._waited_for.items()):
            if candidate.state is _State.ASKED and candidate.asked_at_s + self._hedge_s <= now_s:
                candidate.state = _State.LATE
                self._front = None
            if candidate.state is _State.LATE and candidate.asked_at_s + self._stall_s <= now_s:
                candidate.state = _State.STALLED
                del self._waited_for[peer_id]
                self._blame(candidate)

    def drop(self, peer_id: PeerId) -> None:
        """Another lookup asks this peer: forget it, unless we have asked it ourselves."""
        candidate = self._candidates.get(peer_id)
        if candidate is not None and candidate.state is _State.WAITING:
            del self._candidates[peer_id]
            self._by_distance.remove(candidate)
            self._front = None

    def answered(self) -> list[Contact]:
        """Everyone who answered, nearest first, crowded address ranges last."""
        answered = [c.contact for c in self._by_distance if c.state is _State.ANSWERED]
        return choose_diverse(answered, len(answered))

    def _blame(self, candidate: _Candidate) -> None:
        if len(candidate.named_by) == 1:
            name = candidate.named_by[0]
            self._dead_named[name] = self._dead_named.get(name, 0) + 1
            self._front_reach = _EVERYWHERE

    def _name_again(self, known: _Candidate, contact: Contact, named_by: PeerId, hops: int) -> None:
        if known.named_by and named_by not in known.named_by:
            known.named_by.append(named_by)
        if known.state is not _State.WAITING:
            return
        if hops < known.hops:
            known.hops = hops
        if contact.addresses != known.contact.addresses:
            # One of those who name it may be wrong about where it is: all have their turn.
            lists = known.whereabouts or [known.contact.addresses]
            if contact.addresses in lists or len(lists) >= ADDRESSES_MAX:
                return
            known.whereabouts = [*lists, contact.addresses]
            turns = (one for turn in zip_longest(*known.whereabouts) for one in turn if one)
            addresses = tuple(dict.fromkeys(turns))[:ADDRESSES_MAX]
            known.contact = replace(known.contact, addresses=addresses)
            self._front = None

    def _add(self, contact: Contact, named_by: list[PeerId], hops: int) -> None:
        if contact.peer_id == self._own_id or self._avoid(contact.peer_id):
            return
        candidate = _Candidate(contact, contact.key ^ self._target, hops, named_by)
        if len(self._by_distance) >= CANDIDATES_MAX and not self._make_room(candidate):
            return
        self._candidates[contact.peer_id] = candidate
        insort(self._by_distance, candidate, key=_distance_of)
        if candidate.distance <= self._front_reach:
            self._front = None

    def _make_room(self, newcomer: _Candidate) -> bool:
        """Forget the last in line if it is behind a newcomer: the doubtful stand behind others."""
        waiting = [c for c in reversed(self._by_distance) if c.state is _State.WAITING]
        doubtful = next(filter(self._doubtful, waiting), None) if self._in_doubt else None
        last = doubtful or next(iter(waiting), None)
        rank = self._doubtful(newcomer), newcomer.distance
        if last is None or (last is doubtful, last.distance) <= rank:
            return False
        self._by_distance.remove(last)
        del self._candidates[last.contact.peer_id]
        self._front = None
        return True

    @property
    def _in_doubt(self) -> bool:
        return any(count >= DEAD_NAMED_MAX for count in self._dead_named.values())

    def _doubtful(self, candidate: _Candidate) -> bool:
        """Whether only peers that named too many dead ones vouch for an unasked candidate."""
        return (
            candidate.state is _State.WAITING
            and bool(candidate.named_by)
            and all(self._dead_named.get(n, 0) >= DEAD_NAMED_MAX for n in candidate.named_by)
        )

    def _current_front(self) -> list[_Candidate]:
        if self._front is None:
            candidates = self._by_distance
            in_doubt = self._in_doubt
            if in_doubt:
                candidates = sorted(candidates, key=self._doubtful)
            usable = (c.contact for c in candidates if c.state in _USABLE)
            chosen = choose_diverse(usable, self._width)
            self._front = [self._candidates[contact.peer_id] for contact in chosen]
            # With some left over, the front is of the nearest, and not of crowded ranges.
            complete = not in_doubt and next(usable, None) is not None
            self._front_reach = self._front[-1].distance if complete else _EVERYWHERE
        return self._front
