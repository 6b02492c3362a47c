"""Session: one group as one member sees it, shared by all tasks that run it or serve from it."""

from __future__ import annotations

import logging
import math
from collections import Counter, deque
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import trio
from blake3 import blake3

from averaging.allreduce import manifest
from averaging.allreduce.balance import planned_seconds
from averaging.allreduce.ballot import Ballot
from averaging.allreduce.bell import Bell
from averaging.allreduce.config import AllreduceConfig
from averaging.allreduce.outputs import Ask, End, FetchPiece, Follow, SendCommit, SendVote
from averaging.allreduce.partition import Chunk, Piece, partition
from averaging.allreduce.rates import Flow
from averaging.allreduce.reduction import Reduction, Senders
from averaging.allreduce.schema import Abort, FromAggregator, PieceEnd, Weight
from averaging.allreduce.silence import OpenCalls
from averaging.allreduce.streams import (
    Busy,
    HeldPiece,
    Incoming,
    Link,
    Uplink,
    Work,
)
from averaging.codecs.coding import Coding, Wire
from averaging.codecs.floating import FloatingWire, Payload
from averaging.heavy import run_heavy
from averaging.matchmaking.group import Group, quorum_reached
from averaging.memory import MEMORY
from averaging.robust.rule import Rule
from p2p import MessageInvalid, Node, Path, PeerId, short

logger = logging.getLogger(__name__)

Array = np.ndarray[Any, Any]
T = TypeVar("T")


class Session:
    """Everything about one group; the cores decide, the tasks around act.

    Args:
        coding: how its values travel, and what is kept of them from round to round.
        deadline_s: on trio's clock.
    """

    def __init__(
        self,
        node: Node,
        group: Group,
        coding: Coding,
        deadline_s: float,
        config: AllreduceConfig,
    ) -> None:
        self.node = node
        self.config = config
        self.group = group
        self.group_id = group.group_id
        self.me = node.peer_id
        self.members = group.peer_ids
        self.voters = group.voters
        self.aggregators = group.aggregators
        self.votes = self.me in self.voters
        self.coding = coding
        self.up, self.down, self.dtype = coding.up, coding.down, coding.up.dtype
        self.element_count = element_count = coding.up.element_count
        self.deadline_s = deadline_s
        self.rule = Rule.parse(config.rule)
        self.pieces = partition(element_count, group.span_elements, group.chunk_elements)
        self.senders = self._senders()
        self.flat: Array = np.empty(0, np.float32)
        self.weight, self.norm = 0.0, 0.0
        self._declared: Weight | None = None
        self.parts: Mapping[int, Payload] | None = None
        """Our parts by their first elements, where a codec made them; None: made as they go."""
        self.begun = trio.Event()
        """Set when our values are final."""
        ours = [piece for piece in self.pieces if self.aggregators[piece.owner] == self.me]
        self.work = [self._work(piece, 0) for piece in ours]
        self.results: list[tuple[int, int, Payload] | PieceEnd] = []
        """All that we have averaged, in the order in which every member gets it."""
        self.aborted: Abort | None = None
        fixed = isinstance(self.down, FloatingWire)
        self.incoming = {piece.number: Incoming(in_place=fixed) for piece in self.pieces}
        whole_bytes = self.down.size_limit_bytes(0, element_count)
        self.result = MEMORY.empty(whole_bytes if fixed and self.votes else 0, np.uint8)
        """The averaged vector as it travels, where sizes are fixed: shape (bytes,), uint8."""
        self.held: dict[int, HeldPiece] = {}
        self.links: dict[PeerId, Link] = {}
        self.uplinks = {
            peer: Uplink(deque(piece for piece in self.pieces if piece.owner == owner))
            for owner, peer in enumerate(self.aggregators)
            if peer != self.me
        }
        self.sent_bytes: Counter[Path] = Counter()
        self.received_bytes: Counter[Path] = Counter()
        self.begun_at_s = trio.current_time()
        self.held_all_s: float | None = None
        self.trouble_since_s: float | None = None
        self.reduction_seconds = 0.0
        self.sending = Busy()
        self.sent, self.received = Flow(), Flow()
        self.calls = OpenCalls()
        self.gone = False
        """Our step ended without the wish to try again with the same members."""
        self.done = trio.Event()
        self.work_changed, self.room_changed = Bell(), Bell()
        self.timer_changed, self.link_closed = Bell(), Bell()
        self.on_ask: Callable[[PeerId], None] = lambda peer: None
        self.on_fetch: Callable[[FetchPiece[PeerId]], None] = lambda fetch: None
        self.ballot = self._ballot()

    def _senders(self) -> Senders[PeerId]:
        senders = Senders(
            self.members,
            [join.weight_cap for join in self.group.members],
            norm_factor_max=self.config.norm_factor_max,
        )
        for peer in self.members:
            if peer not in self.voters:
                senders.on_weight(peer, 0.0, 0.0)
        return senders

    def _work(self, piece: Piece, plan: int) -> Work:
        # What a plan adds comes in another order from each: it must not block what went before.
        ahead_max = None if plan else self.config.chunks_ahead_max
        sizes = [chunk.element_count for chunk in piece.chunks]
        reduction = Reduction(
            self.members, self.senders, sizes, ahead_max=ahead_max, strict=not plan
        )
        return Work(piece, plan, reduction)

    def _ballot(self) -> Ballot[PeerId]:
        sign, group_id = self.node.identity.sign, self.group_id
        return Ballot(
            me=self.me,
            members=self.members,
            voters=self.voters,
            aggregators=self.aggregators,
            owners=[piece.owner for piece in self.pieces],
            askable=self._askable(),
            signing=manifest.Signing(
                vote=lambda pieces: manifest.signed_vote(group_id, pieces, sign),
                promise=lambda: manifest.signed_promise(
                    group_id, self.members.index(self.me), sign
                ),
                plan=lambda number, owners: manifest.signed_plan(group_id, number, owners, sign),
            ),
            quorum_reached=self.quorum_reached,
            times=self.config.times,
            tolerated_liars=self.config.tolerated_liars,
        )

    def _askable(self) -> tuple[PeerId, ...]:
        """Who can be called, perhaps through a relay: whom we may come to, or who comes to us."""
        if self.me in self.aggregators:
            return self.members
        return tuple(
            join.peer_id
            for join in self.group.members
            if join.addresses
            or join.peer_id in self.aggregators
            or self.node.is_connected(join.peer_id)
        )

    def quorum_reached(self, voters: Sequence[PeerId], votes: Collection[PeerId]) -> bool:
        """Whether so many votes commit."""
        return len(votes) >= self.config.votes_min and quorum_reached(
            voters, votes, self.config.tolerated_liars
        )

    def begin(
        self,
        flat: Array,
        weight: float,
        norm: float,
        parts: Mapping[int, Payload] | None = None,
    ) -> None:
        """Our values are final.

        Args:
            flat: shape (element_count,), in the flat dtype, kept unchanged until a success.
            norm: of what our parts say; not finite: we are refused, and send none.
            parts: see there.
        """
        self.flat, self.weight, self.norm, self.parts = flat, weight, norm, parts
        self.begun_at_s = trio.current_time()
        self.begun.set()
        for uplink in self.uplinks.values():
            uplink.wanted = uplink.wanted and (parts is None or math.isfinite(norm))
            uplink.outbox.bell.ring()
        if not self.work:
            # Who has nothing to average may have nothing to wait for, and no piece wakes it.
            self.ballot.on_deadline(trio.current_time())
            self.act()

    def declared(self) -> Weight:
        """Our weight and norm, signed: once, for all aggregators."""
        if self._declared is None:
            sign = self.node.identity.sign
            self._declared = manifest.signed_weight(self.group_id, self.weight, self.norm, sign)
        return self._declared

    def planned_s(self) -> dict[PeerId, float]:
        """How long each voter's transfers take by the plan; without end where nobody knows."""
        bytes_per_element = self.coding.size_limit_bytes / (self.element_count or 1)
        planned = planned_seconds(
            self.group.capacities, self.group.span_elements, bytes_per_element
        )
        known = [join.up_bytes_per_s and join.down_bytes_per_s for join in self.group.members]
        return {
            peer: planned_s if rates_known else math.inf
            for peer, planned_s, rates_known in zip(self.members, planned, known, strict=True)
            if peer in self.voters
        }

    # --- carrying out what the ballot decides ----------------------------------------------

    def act(self) -> None:
        """Do what the ballot wants; call it after every event."""
        for action in self.ballot.next_actions():
            match action:
                case Ask():
                    self.on_ask(action.peer)
                case FetchPiece():
                    self.on_fetch(action)
                case Follow():
                    self._follow(action)
                case SendVote():
                    if action.peer in self.uplinks:
                        self.uplinks[action.peer].outbox.put(action.vote)
                case SendCommit():
                    self.tell_links(action.peers, action.commit)
                case End():
                    self.done.set()
        self.timer_changed.ring()

    def _follow(self, follow: Follow) -> None:
        """Send parts to the new owners, average what is ours now, and pass the plan on."""
        plan = follow.plan
        logger.info("plan_followed group=%s number=%d", self.group_id[:4].hex(), plan.number)
        for uplink in self.uplinks.values():
            uplink.outbox.put(plan)
        self.tell_links(tuple(self.links), plan)
        for number in follow.changed:
            piece = self.pieces[number]
            owner = self.aggregators[plan.owners[number]]
            self.held.pop(number, None)
            self.incoming[number] = Incoming()
            self.work = [work for work in self.work if work.piece != piece]
            if owner == self.me:
                self.work.append(self._work(piece, plan.number))
            elif owner in self.uplinks:
                self.uplinks[owner].pieces.append(piece)
                self.uplinks[owner].outbox.bell.ring()
        self.work_changed.ring()
        self.room_changed.ring()

    def tell_links(self, peers: tuple[PeerId, ...], message: FromAggregator) -> None:
        """Send a small message to those of the members that have a stream to us."""
        for peer in peers:
            if peer in self.links:
                self.links[peer].outbox.put(message)

    def hold(self, end: PieceEnd, chunks: list[Payload]) -> None:
        """A piece is whole and verified."""
        digest = manifest.piece_digest(end)
        before = self.held.get(end.piece)
        if before is not None and manifest.contradict(before.end, end):
            self.on_liar(self.aggregators[end.owner])
        if self.ballot.wants(end.piece, digest):
            self.held[end.piece] = HeldPiece(end, tuple(chunks))
            if len(self.held) == len(self.pieces) and self.held_all_s is None:
                self.held_all_s = trio.current_time()
        self.ballot.on_piece(end.piece, digest, trio.current_time())
        self.act()

    def abort(self, reason: str, *, certain: bool) -> None:
        """A piece of ours cannot be averaged by us; by nobody, if that is certain."""
        self.aborted = Abort(reason, certain)
        self.tell_links(tuple(self.links), self.aborted)
        if certain:
            self.ballot.on_abort(reason)
        else:
            self.ballot.on_suspect(self.me, trio.current_time())
        self.act()

    def on_liar(self, peer: PeerId) -> None:
        """There is proof that a member signed two things which exclude each other."""
        if peer not in self.ballot.liars:
            logger.warning("member_lied group=%s peer=%s", self.group_id[:4].hex(), short(peer))
            self.ballot.on_liar(peer)

    def on_aggregator_lost(
        self,
        peer: PeerId,
        cause: str,
        *,
        silent: bool = False,
        faulty: bool = False,
        slow: bool = False,
    ) -> None:
        """An aggregator's stream broke, or it is silent or slow, or said what it may not."""
        if not self.done.is_set():
            if self.trouble_since_s is None:
                self.trouble_since_s = trio.current_time()
            logger.info(
                "aggregator_lost group=%s peer=%s cause=%s",
                self.group_id[:4].hex(),
                short(peer),
                cause,
            )
        self.ballot.on_suspect(peer, trio.current_time(), silent=silent, faulty=faulty, slow=slow)
        self.act()

    # --- where bytes go --------------------------------------------------------------------

    def part(self, chunk: Chunk) -> Payload:
        """Our values for a chunk, as they travel."""
        if self.parts is not None:
            return self.parts[chunk.start]
        assert isinstance(self.up, FloatingWire)
        return self.up.encode(self.flat, chunk.start, chunk.stop)

    def place_of(self, chunk: Chunk) -> memoryview | None:
        """The place of a chunk in the result; None where sizes are not fixed."""
        if not isinstance(self.down, FloatingWire):
            return None
        start = self.down.size_bytes(0, chunk.start)
        return self.result[start : start + self.down.size_bytes(chunk.start, chunk.stop)].data

    def buffer_untrusted(
        self, wire: Wire, piece: int, chunk: int, size_bytes: int, incoming: Incoming | None = None
    ) -> memoryview:
        """Where the payload of this chunk goes, if it is no larger than it may be.

        Args:
            wire: how it travels.

        Raises:
            MessageInvalid: no such chunk, or not of this size.
        """
        if piece >= len(self.pieces) or chunk >= len(self.pieces[piece].chunks):
            raise MessageInvalid("a chunk that does not exist")
        run = self.pieces[piece].chunks[chunk]
        if not wire.fits(size_bytes, run.start, run.stop):
            raise MessageInvalid("a chunk has a wrong size")
        if incoming is not None and incoming.in_place and chunk == incoming.begun:
            incoming.begun += 1
            place = self.place_of(run)
            assert place is not None
            return place
        return MEMORY.empty(size_bytes, np.uint8).data

    # --- the rest --------------------------------------------------------------------------

    async def heavy(self, size_bytes: int, function: Callable[..., T], *args: Any) -> T:
        """Run numeric work on so many bytes: in a thread when it pays."""
        return await run_heavy(self.node, size_bytes, function, *args)

    async def digest_of_untrusted(self, chunk: Chunk, payload: Payload) -> bytes:
        """BLAKE3 of the result of a chunk; raises MessageInvalid if it says no values."""
        self.down.check_untrusted(payload, chunk.start, chunk.stop)
        return await self.heavy(len(payload), _digest, payload)

    def drop(self) -> None:
        """Free the bytes; what was agreed stays known."""
        self.held.clear()
        self.results.clear()
        self.incoming.clear()
        self.work.clear()
        self.flat = np.empty(0, self.dtype)
        self.parts = self.parts and {}
        self.ballot.on_dropped()
        self.result = np.empty(0, np.uint8)
        for link in self.links.values():
            link.scope.cancel()


def _digest(chunk: Payload) -> bytes:
    return blake3(chunk).digest()
