"""JOINs and invitations that come while we are not looking for a group ourselves."""

from __future__ import annotations

from dataclasses import dataclass

from averaging.matchmaking import schema
from averaging.matchmaking.group import Group, Join
from averaging.matchmaking.outputs import Answer
from averaging.round_id import RoundId
from p2p import PeerId

# Twice the largest group: those of this round and early birds of the next.
_PARKED_MAX = 2 * schema.GROUP_SIZE_MAX
# A leader repeats its invitation each half second; when three are missing, it has gone.
_WANTED_S = 1.5
_WANTED_ROUNDS_MAX = 16


@dataclass(frozen=True)
class Parked:
    """A peer that waits until we look for a group too."""

    call_id: int
    join: Join


class Lobby:
    """Who waits for us, and for which rounds we are wanted."""

    def __init__(self) -> None:
        self.last_group: Group | None = None
        self._last_round: RoundId | None = None
        self._next_round: RoundId | None = None
        self._parked: dict[PeerId, Parked] = {}
        self._wanted: dict[RoundId, float] = {}

    @property
    def parked(self) -> tuple[Parked, ...]:
        """Who waits, longest first."""
        return tuple(self._parked.values())

    def on_round_begun(self, round_id: RoundId) -> None:
        """We begin to look for a group in this round."""
        if self._last_round is None or round_id.number >= self._last_round.number:
            self._last_round = round_id
        self._next_round = None

    def on_group(self, group: Group) -> None:
        """We are in a group, and do not look for one until it has ended."""
        self.last_group = group
        self._last_round = group.round

    def on_settled(self, round_id: RoundId, next_round: RoundId) -> list[Answer]:
        """This round is committed: who still wants to join it is behind."""
        self._last_round = round_id
        self._next_round = next_round
        refused = [entry for entry in self.parked if self._refusal(entry.join) is not None]
        for entry in refused:
            del self._parked[entry.join.peer_id]
        return [Answer(entry.call_id, self._other_round(next_round)) for entry in refused]

    @property
    def round(self) -> RoundId | None:
        """The round that we are in or shall look for a group in next, if known."""
        return self._next_round or self._last_round

    def on_bucket(self, bucket: str) -> list[Answer]:
        """We are in another bucket of the grid: who waits in the old one waits in vain."""
        moved = [entry for entry in self.parked if entry.join.bucket != bucket]
        for entry in moved:
            del self._parked[entry.join.peer_id]
        at = schema.round_on_wire(self.round) if self.round is not None else None
        refusal = schema.Refuse("other-bucket", "", at, bucket)
        return [Answer(entry.call_id, refusal) for entry in moved]

    def on_join(self, call_id: int, join: Join) -> list[Answer]:
        """Park a JOIN, or say why not."""
        refusal = self._refusal(join)
        if refusal is None and len(self._parked) >= _PARKED_MAX:
            refusal = schema.Refuse("not-looking", "too many wait for it already")
        if refusal is not None:
            return [Answer(call_id, refusal)]
        answers = [Answer(call_id, schema.Wait(False))]
        older = self._parked.pop(join.peer_id, None)
        if older is not None:
            again = schema.Refuse("not-looking", "you joined again since")
            answers.append(Answer(older.call_id, again))
        self._parked[join.peer_id] = Parked(call_id, join)
        return answers

    def on_join_left(self, call_id: int) -> None:
        """A parked peer went away."""
        for peer, entry in self._parked.items():
            if entry.call_id == call_id:
                del self._parked[peer]
                return

    def on_invite(self, invite: schema.Invite, now_s: float) -> schema.InviteAnswer:
        """A leader wants us in its round."""
        round_id = invite.round.round_id()
        if self._is_past(round_id):
            at = schema.round_on_wire(self.round) if self.round is not None else None
            return schema.InviteAnswer("other-round", at)
        if self._closed_for(round_id, invite.previous):
            return schema.InviteAnswer("closed")
        self._wanted[round_id] = now_s
        while len(self._wanted) > _WANTED_ROUNDS_MAX:
            del self._wanted[next(iter(self._wanted))]
        return schema.InviteAnswer("idle")

    def wanted(self, round_id: RoundId, now_s: float) -> bool:
        """Whether others gather for this round and wait for us."""
        if any(entry.join.round == round_id for entry in self.parked):
            return True
        return self._wanted.get(round_id, -_WANTED_S) > now_s - _WANTED_S

    def waits(self) -> list[Answer]:
        """What to say each half second to those who wait."""
        return [Answer(entry.call_id, schema.Wait(False)) for entry in self.parked]

    def take_parked(self) -> tuple[Parked, ...]:
        """We look for a group now: hand over who waits."""
        parked = self.parked
        self._parked.clear()
        return parked

    def _refusal(self, join: Join) -> schema.Refuse | None:
        if self._is_past(join.round):
            return self._other_round(self.round)
        if self._closed_for(join.round, join.previous):
            return schema.Refuse("closed", "its group for this round is formed already")
        return None

    def _other_round(self, at: RoundId | None) -> schema.Refuse:
        return schema.Refuse("other-round", "", schema.round_on_wire(at) if at else None)

    def _is_past(self, round_id: RoundId) -> bool:
        """Whether a round is one that we are through with, or a fork of the one we were last in."""
        if self._next_round is not None and round_id.number < self._next_round.number:
            return True
        last = self._last_round
        if last is None or round_id == last:
            return False
        return round_id.number <= last.number

    def _closed_for(self, round_id: RoundId, previous: bytes) -> bool:
        """Whether we are in a group of this round, and not one that failed for the caller too."""
        group = self.last_group
        return group is not None and group.round == round_id and previous != group.group_id
