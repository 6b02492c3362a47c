"""What a peer remembers of others from round to round: addresses, roles, lapses, past groups."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from averaging.matchmaking.group import Group
from p2p import PeerId

# A leader that fell silent once may do so again; this many rounds it is not the first choice.
_RANKED_LAST_ROUNDS = 8
# Attempts of one round that may still matter, twice over.
_GROUPS_REMEMBERED = 16
# Well above any swarm without a grid; a flood of records costs a megabyte, not the machine.
_PEERS_REMEMBERED = 4096


@dataclass(frozen=True)
class Candidate:
    """A stranger's record: where it is and for how long the record is good."""

    peer_id: PeerId
    addresses: tuple[str, ...]
    """Empty for a client, which is counted but cannot be asked to lead."""
    remaining_s: float
    sequence: int = 0
    """Grows with each time that the peer renews its record."""
    round_number: int = 0
    bucket: str = ""
    difference: str = ""
    """In what its tensors differ from ours; empty for one of us."""


@dataclass(frozen=True)
class _Stranger:
    """What a record said, until when it is good."""

    record: Candidate
    until_s: float


class Acquaintances:
    """The memory that outlives one search for a group."""

    def __init__(self) -> None:
        self.last_members: tuple[PeerId, ...] = ()
        """Of our last group, ourselves included."""
        self._addresses: OrderedDict[PeerId, tuple[str, ...]] = OrderedDict()
        self._clients: dict[PeerId, None] = {}
        self._ranked_last_until: dict[PeerId, int] = {}
        self._rounds_begun = 0
        self._voters: OrderedDict[bytes, tuple[PeerId, ...]] = OrderedDict()
        self._strangers: dict[PeerId, _Stranger] = {}
        self._lost: OrderedDict[PeerId, int | None] = OrderedDict()
        self._depths: OrderedDict[PeerId, int] = OrderedDict()

    def on_round_begun(self) -> None:
        """Another round has begun; lapses are forgiven in time."""
        self._rounds_begun += 1
        self._ranked_last_until = {
            peer: until
            for peer, until in self._ranked_last_until.items()
            if until > self._rounds_begun
        }

    def on_silent(self, peer: PeerId) -> None:
        """A leader fell silent: rank it last in this round and some more."""
        self._ranked_last_until[peer] = self._rounds_begun + 1 + _RANKED_LAST_ROUNDS

    @property
    def ranked_last(self) -> tuple[PeerId, ...]:
        """Peers that fell silent lately."""
        return tuple(self._ranked_last_until)

    def on_role(self, peer: PeerId, *, client: bool) -> None:
        """A peer said whether it can be dialed."""
        if client:
            if len(self._clients) < _PEERS_REMEMBERED:
                self._clients[peer] = None
        else:
            self._clients.pop(peer, None)

    def is_client(self, peer: PeerId) -> bool:
        """Whether a peer said that it cannot be dialed."""
        return peer in self._clients

    def on_addresses(self, peer: PeerId, addresses: tuple[str, ...]) -> None:
        """Somebody said where a peer may be dialed."""
        if addresses:
            self._addresses[peer] = addresses
            self._addresses.move_to_end(peer)
            _forget_oldest(self._addresses)

    def addresses_of(self, peer: PeerId) -> tuple[str, ...]:
        """Where a peer may be dialed, as far as matchmaking was told."""
        return self._addresses.get(peer, ())

    def on_group(self, group: Group) -> None:
        """We are in a group."""
        self.last_members = group.peer_ids
        self.on_voters(group.group_id, group.voters)
        for join in group.members:
            self.on_role(join.peer_id, client=join.role == "client")
            self.on_addresses(join.peer_id, join.addresses)
            self.on_bucket(join.peer_id, join.bucket)

    def on_voters(self, group_id: bytes, voters: tuple[PeerId, ...]) -> None:
        """A group's voters, from our own memory or from a member of it."""
        if group_id not in self._voters:
            self._voters[group_id] = voters
            while len(self._voters) > _GROUPS_REMEMBERED:
                self._voters.popitem(last=False)

    def voters_of(self, group_id: bytes) -> tuple[PeerId, ...]:
        """The voters of a past group; empty when it is not known."""
        return self._voters.get(group_id, ())

    def on_strangers(self, candidates: Iterable[Candidate], now_s: float) -> None:
        """Records of peers that look for groups under our name."""
        self._strangers = {
            peer: entry for peer, entry in self._strangers.items() if entry.until_s > now_s
        }
        for candidate in candidates:
            known = candidate.peer_id in self._strangers
            if known or len(self._strangers) < _PEERS_REMEMBERED:
                entry = _Stranger(candidate, now_s + candidate.remaining_s)
                self._strangers[candidate.peer_id] = entry
                self.on_addresses(candidate.peer_id, candidate.addresses)

    def strangers(
        self, now_s: float, bucket: str | None = None, round_number: int | None = None
    ) -> tuple[PeerId, ...]:
        """Peers whose records are alive, newer than their loss, and of this bucket and round.

        Args:
            bucket: None takes all, as for the round: who moves on leaves its old record behind.
        """
        return tuple(
            peer
            for peer, entry in self._strangers.items()
            if entry.until_s > now_s
            and bucket in (None, entry.record.bucket)
            and round_number in (None, entry.record.round_number)
            and not self._is_lost(peer, entry.record.sequence)
        )

    def rounds_in(self, now_s: float, bucket: str) -> dict[PeerId, int]:
        """The rounds of those strangers whose records are alive and of this bucket."""
        return {
            peer: entry.record.round_number
            for peer, entry in self._strangers.items()
            if entry.until_s > now_s and entry.record.bucket == bucket
        }

    def on_lost(self, peers: Iterable[PeerId]) -> None:
        """These were lost: until they say something or renew their record they do not count."""
        for peer in peers:
            known = self._strangers.get(peer)
            self._lost[peer] = known.record.sequence if known is not None else None
            _forget_oldest(self._lost)

    @property
    def friends(self) -> tuple[PeerId, ...]:
        """Of our last group, less those that were lost since."""
        return tuple(peer for peer in self.last_members if peer not in self._lost)

    def on_heard(self, peer: PeerId) -> None:
        """A peer said something to us."""
        self._lost.pop(peer, None)

    def _is_lost(self, peer: PeerId, sequence: int) -> bool:
        if peer not in self._lost:
            return False
        lost_at = self._lost[peer]
        return lost_at is None or sequence <= lost_at

    # --- the grid -----------------------------------------------------------------------------

    def on_bucket(self, peer: PeerId, bucket: str) -> None:
        """A peer said in which bucket it is."""
        self._depths[peer] = len(bucket)
        _forget_oldest(self._depths)

    @property
    def depths(self) -> tuple[int, ...]:
        """How deep others think the grid is, as far as they told us."""
        return tuple(self._depths.values())

    def on_directory(self, records: Iterable[Candidate]) -> None:
        """Everybody's records were read: only what they say of the grid counts from now on."""
        self._depths = OrderedDict((record.peer_id, len(record.bucket)) for record in records)


def _forget_oldest(memory: OrderedDict[PeerId, Any]) -> None:
    while len(memory) > _PEERS_REMEMBERED:
        memory.popitem(last=False)
