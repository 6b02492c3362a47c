"""Matcher: all rules of matchmaking for one peer and one group name, without I/O or clock.

Between searches JOINs are parked in the lobby; during one they go to the Seek. What outlives a
search (who fell silent, who is a client, past groups, arrival times) is kept here.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Collection, Iterable
from dataclasses import replace

from averaging.matchmaking import asking, buckets, inviting, schema
from averaging.matchmaking.acquaintances import Acquaintances, Candidate
from averaging.matchmaking.config import MatchmakingConfig
from averaging.matchmaking.grid import Grid, grid_round
from averaging.matchmaking.group import Group, Join, join_on_wire, sign_join
from averaging.matchmaking.lobby import Lobby
from averaging.matchmaking.outputs import Answer, AskFailure, Found, Output
from averaging.matchmaking.paths import Ways, paths_of_leader, paths_told
from averaging.matchmaking.request import SeekRequest, Surroundings
from averaging.matchmaking.seek import WAIT_INTERVAL_S, Asked, Phase, Seek
from averaging.matchmaking.window import ArrivalWindow
from averaging.round_id import RoundId
from averaging.tensors import describe_difference
from p2p import PeerId


class Matcher:
    """Turns calls, answers and time into messages and, in the end, a group or a reason."""

    def __init__(
        self,
        own: PeerId,
        group_name: str,
        spec_hash: bytes,
        *,
        element_count: int,
        config: MatchmakingConfig,
        rng: random.Random,
        sign: Callable[[bytes], bytes],
        has_records: bool = False,
        vector_bytes: int = 0,
        ways: Callable[[], Ways] = Ways,
    ) -> None:
        self.deadline_s = math.inf
        """When on_deadline is due."""
        self._own = own
        self._group_name = group_name
        self._spec_hash = spec_hash
        self._config = config
        self._rng = rng
        self._sign = sign
        self._has_records = has_records
        self._lobby = Lobby()
        self._window = ArrivalWindow(lower_s=config.join_window_s_min, upper_s=config.join_window_s)
        self._acquaintances = Acquaintances()
        self._around = Surroundings(
            own=own,
            can_lead=True,
            element_count=element_count,
            vector_bytes=vector_bytes,
            ways=ways,
            config=config,
            acquaintances=self._acquaintances,
            window=self._window,
            make_join=self._make_join,
            next_ticket=self._next_ticket,
        )
        self._seek: Seek | None = None
        self._tickets = 0
        self._wait_due_s = math.inf
        self._begun: RoundId | None = None
        self._led_since_s: float | None = None
        self._grid = Grid(config.group_size_max, rng) if config.grid else None
        self._walked: Group | None = None
        self._swarm_size: int | None = None

    @property
    def bucket(self) -> str:
        """Where in the grid we look for a group, or shall next; empty without a grid."""
        if self._seek is not None:
            return self._seek.own_join.bucket
        return self._grid.bucket if self._grid is not None else ""

    @property
    def round(self) -> RoundId | None:
        """The round that we are in or shall look for a group in next, if known."""
        return self._seek.round if self._seek is not None else self._lobby.round

    @property
    def needs_records(self) -> bool:
        """Whether the search under way wants to know the strangers' records."""
        return self._seek is not None and self._seek.request.expected is None

    # --- the caller ---------------------------------------------------------------------------

    def on_seek(self, request: SeekRequest, now_s: float) -> list[Output]:
        """The caller wants a group; one search at a time."""
        assert self._seek is None
        # A role may change with our network, from one search to the next.
        self._around = replace(self._around, can_lead=request.role != "client")
        self._acquaintances.on_lost(request.lost)
        request = self._place(request)
        if request.round != self._begun:
            self._begun = request.round
            self._acquaintances.on_round_begun()
        self._lobby.on_round_begun(request.round)
        outputs: list[Output] = [*self._lobby.on_bucket(self.bucket)]
        self._seek = Seek(self._around, request, now_s)
        parked = self._lobby.take_parked()
        self._seek.on_joins([(entry.call_id, entry.join, False) for entry in parked], now_s)
        return [*outputs, *self._after(now_s)]

    def _place(self, request: SeekRequest) -> SeekRequest:
        """In a grid: the same search in our bucket, in a round that needs no common result."""
        grid = self._grid
        if grid is None:
            return request
        if request.expected is not None:
            self._swarm_size = len({*request.expected, self._own})
        if self._swarm_size is not None and not request.previous:
            # Members of a failed group meet again where they were.
            grid.on_swarm_size(self._swarm_size, self._acquaintances.depths)
        return replace(
            request,
            round=grid_round(request.round.number, grid.bucket),
            bucket=grid.bucket,
            bucket_size=grid.bucket_size,
            expected=None if grid.bucket and self._has_records else request.expected,
        )

    def on_cancelled(self, now_s: float) -> list[Output]:
        """The caller does not want a group any more."""
        if self._seek is not None and self._seek.phase is not Phase.DONE:
            self._seek.give_up("cancelled", now_s)
        return self._after(now_s)

    def on_settled(
        self,
        round_id: RoundId,
        next_round: RoundId,
        now_s: float,
        *,
        lost: Collection[PeerId] = (),
    ) -> list[Output]:
        """The round is committed: those who come for it are behind the next one."""
        self._acquaintances.on_lost(lost)
        if self._grid is None:
            return [*self._lobby.on_settled(round_id, next_round), *self._after(now_s)]
        settled = grid_round(round_id.number, self._grid.bucket)
        group = self._lobby.last_group
        if group is not None and group.round == settled and group is not self._walked:
            index = group.peer_ids.index(self._own)
            self._grid.on_round(group.group_id, len(group.members), index)
            self._walked = group
        next_round = grid_round(next_round.number, self._grid.bucket)
        answers = self._lobby.on_settled(settled, next_round)
        return [*answers, *self._lobby.on_bucket(self.bucket), *self._after(now_s)]

    def round_wanted(self, round_id: RoundId, now_s: float) -> bool:
        """Whether others gather for this round and wait for us."""
        if self._grid is not None:
            round_id = grid_round(round_id.number, self._grid.bucket)
        return self._lobby.wanted(round_id, now_s)

    # --- others' calls ------------------------------------------------------------------------

    def on_join(
        self,
        call_id: int,
        join: Join,
        previous_voters: tuple[PeerId, ...],
        now_s: float,
        *,
        follows: bool = False,
    ) -> list[Output]:
        """A peer asks to join us; its signature was checked."""
        self._acquaintances.on_heard(join.peer_id)
        if join.previous and previous_voters:
            self._acquaintances.on_voters(join.previous, previous_voters)
        complaint = self._difference(join)
        if complaint:
            if self._seek is not None:
                self._seek.on_unfit(join.peer_id, complaint, now_s)
            return [Answer(call_id, schema.Refuse("spec-differs", complaint)), *self._after(now_s)]
        if join.bucket != self.bucket:
            refusal = schema.Refuse("other-bucket", "", self._round_on_wire(), self.bucket)
            self._elsewhere(join.peer_id, join.bucket, join.round, now_s)
            return [Answer(call_id, refusal), *self._after(now_s)]
        if self._seek is not None:
            self._seek.on_joins([(call_id, join, follows)], now_s)
            return self._after(now_s)
        self._note_late(join, now_s)
        return [*self._lobby.on_join(call_id, join), *self._after(now_s)]

    def on_join_left(self, call_id: int, now_s: float) -> list[Output]:
        """A JOIN call to us broke, or its caller gave it up."""
        self._lobby.on_join_left(call_id)
        if self._seek is not None:
            self._seek.on_join_left(call_id, now_s)
        return self._after(now_s)

    def on_invite(
        self, peer: PeerId, invite: schema.Invite, now_s: float
    ) -> tuple[schema.InviteAnswer, list[Output]]:
        """A leader invites us."""
        self._acquaintances.on_heard(peer)
        if invite.spec_hash != self._spec_hash:
            answer = schema.InviteAnswer("spec-differs", spec_hash=self._spec_hash)
            return answer, self._after(now_s)
        if invite.bucket != self.bucket:
            at = self._round_on_wire()
            answer = schema.InviteAnswer("other-bucket", at, bucket=self.bucket)
            self._elsewhere(peer, invite.bucket, invite.round.round_id(), now_s)
            return answer, self._after(now_s)
        if self._seek is None:
            answer = self._lobby.on_invite(invite, now_s)
        else:
            answer = inviting.on_invite(self._seek, peer, invite, now_s)
        return answer, self._after(now_s)

    # --- our own calls ------------------------------------------------------------------------

    def on_leader_message(
        self, ticket: int, message: schema.Wait | schema.Redirect | schema.Refuse, now_s: float
    ) -> list[Output]:
        """The peer that we asked says something."""
        seek, asked = self._seek, self._asked(ticket)
        if seek is not None and asked is not None:
            asking.on_leader_message(seek, asked, message, now_s)
        return self._after(now_s)

    def on_group(
        self, ticket: int, group: Group, last_arrival_s: float, now_s: float
    ) -> list[Output]:
        """The peer that we asked shows a group, whose form and signatures were checked."""
        seek, asked = self._seek, self._asked(ticket)
        if seek is not None and asked is not None:
            asking.on_group(seek, asked, group, last_arrival_s, now_s)
        return self._after(now_s)

    def on_group_shown(self, group: Group, now_s: float) -> list[Output]:
        """A member shows our group, which its leader did not get to us; its form was checked."""
        seek = self._seek
        if seek is not None and group.join_of(self._own) == seek.own_join:
            seek.leave_asked(now_s)
            seek.join_group(group)
        return self._after(now_s)

    def on_ask_failed(
        self, ticket: int, cause: AskFailure, reason: str, now_s: float
    ) -> list[Output]:
        """A JOIN call of ours ended without an answer."""
        seek, asked = self._seek, self._asked(ticket)
        if seek is not None and asked is not None:
            asking.on_ask_failed(seek, asked, cause, reason, now_s)
        return self._after(now_s)

    def on_invite_answer(
        self, peer: PeerId, round_id: RoundId, answer: schema.InviteAnswer, now_s: float
    ) -> list[Output]:
        """A peer that was invited to this round says what it does."""
        if self._seek is not None and self._seek.round == round_id:
            inviting.on_invite_answer(self._seek, peer, answer, now_s)
        return self._after(now_s)

    def on_unreachable(self, peer: PeerId, now_s: float) -> list[Output]:
        """An invited peer cannot be dialed, or does not answer."""
        if self._seek is not None:
            inviting.on_unreachable(self._seek, peer, now_s)
        return self._after(now_s)

    # --- the rest -----------------------------------------------------------------------------

    def on_candidates(self, candidates: Iterable[Candidate], now_s: float) -> list[Output]:
        """The strangers' records were read."""
        others = [candidate for candidate in candidates if candidate.peer_id != self._own]
        fit = [candidate for candidate in others if not candidate.difference]
        self._acquaintances.on_strangers(fit, now_s)
        if self._seek is not None:
            unfit = {entry.peer_id: entry.difference for entry in others if entry.difference}
            self._seek.on_candidates(unfit, now_s)
        return self._after(now_s)

    def on_directory(self, records: Iterable[Candidate]) -> None:
        """The records of the whole swarm were read: from the next search on its size counts."""
        others = [r for r in records if r.peer_id != self._own and not r.difference]
        self._acquaintances.on_directory(others)
        self._swarm_size = len(others) + 1

    def _elsewhere(self, peer: PeerId, bucket: str, round_id: RoundId, now_s: float) -> None:
        """A peer is in another bucket than we."""
        if self._seek is not None:
            buckets.on_other_bucket(self._seek, peer, bucket, round_id, now_s)
            self._seek.step(now_s)
        else:
            self._acquaintances.on_bucket(peer, bucket)

    def _round_on_wire(self) -> schema.RoundOnWire | None:
        return schema.round_on_wire(self.round) if self.round is not None else None

    def on_deadline(self, now_s: float) -> list[Output]:
        """Time has passed."""
        outputs: list[Output] = []
        if self._lobby.parked and now_s >= self._wait_due_s:
            self._wait_due_s = now_s + WAIT_INTERVAL_S
            outputs.extend(self._lobby.waits())
        if self._seek is not None:
            asking.look_twice(self._seek, now_s - self.deadline_s, now_s)
            self._seek.on_deadline(now_s)
        return [*outputs, *self._after(now_s)]

    def _after(self, now_s: float) -> list[Output]:
        """What every event ends with: take the search's outputs, end it, set the next deadline."""
        outputs: list[Output] = []
        seek = self._seek
        if seek is not None:
            outputs.extend(seek.outputs)
            seek.outputs.clear()
            if seek.phase is Phase.DONE:
                self._end(seek, outputs[-1])
        if not self._lobby.parked:
            self._wait_due_s = math.inf
        elif self._wait_due_s == math.inf:
            self._wait_due_s = now_s + WAIT_INTERVAL_S
        search_due_s = self._seek.deadline_s(now_s) if self._seek is not None else math.inf
        self.deadline_s = min(self._wait_due_s, search_due_s)
        return outputs

    def _end(self, seek: Seek, outcome: Output) -> None:
        self._seek = None
        if isinstance(outcome, Found):
            group = outcome.group
            self._begun = group.round
            self._acquaintances.on_group(group)
            self._lobby.on_group(group)
            self._led_since_s = seek.open_since_s if group.leader == self._own else None

    def _asked(self, ticket: int) -> Asked | None:
        """What we asked under this ticket, unless that is over."""
        asked = self._seek.asked if self._seek is not None else None
        return asked if asked is not None and asked.ticket == ticket else None

    def _note_late(self, join: Join, now_s: float) -> None:
        group = self._lobby.last_group
        if group is not None and group.round == join.round and self._led_since_s is not None:
            self._window.on_late(now_s - self._led_since_s)

    def _difference(self, join: Join) -> str | None:
        """How a JOIN's subject differs from ours, or None."""
        if join.group_name != self._group_name:
            return "the group name is another"
        if join.spec_hash != self._spec_hash:
            return describe_difference(self._spec_hash, join.spec_hash)
        if join.terms != self._config.terms:
            return f"the terms here are {self._config.terms!r}, not {join.terms[:80]!r}"
        if self._grid is not None and join.round != grid_round(join.round.number, join.bucket):
            return "it does not use the grid"
        if self._grid is None and join.bucket:
            return "it uses the grid"
        return None

    def _make_join(
        self, round_id: RoundId, request: SeekRequest, joined: tuple[PeerId, ...] | None
    ) -> Join:
        ways = self._around.ways()
        if joined is None:
            friends = self._acquaintances.friends
            paths = paths_told(ways, (*(request.expected or ()), *friends))
        else:
            paths = paths_of_leader(ways, joined, self._around.vector_bytes)
        join = Join(
            peer_id=self._own,
            group_name=self._group_name,
            round=round_id,
            spec_hash=self._spec_hash,
            terms=self._config.terms,
            role=request.role,
            weight_cap=request.weight_cap,
            up_bytes_per_s=request.up_bytes_per_s,
            down_bytes_per_s=request.down_bytes_per_s,
            nonce=self._rng.randbytes(schema.NONCE_SIZE_BYTES),
            addresses=request.addresses,
            previous=request.previous,
            abandoned=request.abandoned,
            bucket=request.bucket or "",
            paths=paths,
            reference=request.reference,
        )
        assert len(join_on_wire(join).body) <= schema.JOIN_BYTES_MAX
        return sign_join(join, self._sign)

    def _next_ticket(self) -> int:
        self._tickets += 1
        return self._tickets
