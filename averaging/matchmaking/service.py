"""Matchmaking: drives the matcher over trio; `find_group` is what the rest of the layer uses."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import Any, Final

import trio

from averaging.errors import MatchmakingFailed
from averaging.matchmaking import schema
from averaging.matchmaking.acquaintances import Candidate
from averaging.matchmaking.acquainting import get_acquainted, strangers_to, ways_of
from averaging.matchmaking.config import MatchmakingConfig
from averaging.matchmaking.group import Group, parse_join_untrusted
from averaging.matchmaking.inbound import Inbound
from averaging.matchmaking.matcher import Matcher
from averaging.matchmaking.outgoing import Outgoing
from averaging.matchmaking.outputs import (
    Answer,
    Ask,
    Found,
    GaveUp,
    Output,
    SendInvite,
    Withdraw,
)
from averaging.matchmaking.request import SeekRequest, checked_role, rate_on_wire
from averaging.matchmaking.strangers import Place, Records
from averaging.naming import service_name
from averaging.round_id import RoundId
from p2p import (
    Dht,
    MessageInvalid,
    Node,
    PeerId,
    RpcCall,
    RpcService,
    open_service_nursery,
    parse_peer_id_untrusted,
    rpc_client,
)

logger = logging.getLogger(__name__)

_DIALS_AT_ONCE: Final = 8
# One JOIN and one INVITE at a time, twice over for a peer that restarts its search.
_CALLS_PER_PEER_MAX: Final = 4


class _Search:
    """One call of find_group, waiting for its outcome."""

    def __init__(self) -> None:
        self.outcome: Found | GaveUp | None = None
        self.over = trio.Event()


class Matchmaking:
    """Finds groups for one group name at one node; opened by open_matchmaking()."""

    def __init__(
        self,
        node: Node,
        group_name: str,
        spec_hash: bytes,
        config: MatchmakingConfig,
        *,
        dht: Dht | None,
        element_count: int,
        vector_bytes: int,
        nursery: trio.Nursery,
    ) -> None:
        self._node = node
        self._group_name = group_name
        self._spec_hash = spec_hash
        self._config = config
        self._nursery = nursery
        self._acquainting = trio.CapacityLimiter(_DIALS_AT_ONCE)
        self._core = Matcher(
            node.peer_id,
            group_name,
            spec_hash,
            element_count=element_count,
            vector_bytes=vector_bytes,
            ways=partial(ways_of, node),
            config=config,
            rng=node.rng,
            sign=node.identity.sign,
            has_records=dht is not None,
        )
        client = rpc_client(node, service_name(schema.SERVICE, group_name), schema.MAJOR)
        self._outgoing = Outgoing(
            node, client, self._core, self._apply, nursery, element_count, vector_bytes
        )
        self._inbound: dict[int, Inbound] = {}
        self._call_count = 0
        self._search: _Search | None = None
        self._timer_changed = trio.Event()
        self._records: Records | None = None
        if dht is not None:
            self._records = Records(node, dht, group_name, spec_hash, lambda: self.place)

    async def find_group(
        self,
        round: RoundId,
        *,
        role: schema.Role | None = None,
        weight_cap: float,
        up_bytes_per_s: float | None = None,
        down_bytes_per_s: float | None = None,
        expected: Collection[PeerId] | None,
        lost: Collection[PeerId] = (),
        previous: bytes = b"",
        previous_failed_at_s: float | None = None,
        abandoned: bool = False,
        attempt: int = 0,
        deadline_s: float,
        group_size_min: int | None = None,
        follow: bool = False,
        reference: bytes = b"",
    ) -> Group:
        """Find the group for one attempt of a round; one search at a time.

        Args:
            role: "aux" averages for the others and contributes nothing; None is what we can be.
            weight_cap: the largest weight that we shall declare.
            up_bytes_per_s, down_bytes_per_s: how fast we can send and receive, if we know.
            expected: who should come, with or without ourselves; the group closes at once when
                all of them but the lost are there. None: strangers, found through the DHT.
            lost: who was lost lately: not waited for, and not asked to lead.
            previous: id of our failed group of this round, if any.
            previous_failed_at_s: when it failed, on trio's clock.
            abandoned: whether we promised never to vote in that group.
            attempt: how many groups of this round we were in before.
            deadline_s: longest duration of the search, and of what the group does after it.
            group_size_min: in place of the config's, for this search.
            follow: whether to adopt a later round that others are in.
            reference: digest of the result that our values are told by their difference from.

        In a grid, it is the group of our bucket.

        Raises:
            MatchmakingFailed: with the reason, and what each peer said.
            ValueError: the node cannot have that role, or a number is out of range.
        """
        if self._search is not None:
            raise ValueError("a search for a group is under way already")
        request = SeekRequest(
            round=round,
            follow=follow,
            role=checked_role(role, weight_cap, can_be_dialed=self._can_be_dialed),
            weight_cap=weight_cap,
            up_bytes_per_s=rate_on_wire(up_bytes_per_s),
            down_bytes_per_s=rate_on_wire(down_bytes_per_s),
            expected=None if expected is None else tuple(sorted(set(expected))),
            lost=tuple(sorted(set(lost))),
            previous=previous,
            previous_failed_at_s=previous_failed_at_s,
            abandoned=abandoned,
            attempt=attempt,
            group_size_min=group_size_min or self._config.group_size_min,
            deadline_s=trio.current_time() + deadline_s,
            addresses=self._node.addresses[: schema.ADDRESSES_MAX],
            reference=reference,
        )
        group = await self._seek(request)
        self._on_found(group)
        return group

    def _on_found(self, group: Group) -> None:
        """Log it, and see that later rounds have better paths; nobody waits for that."""
        logger.info(
            "group_found group=%s id=%s round=%s members=%d attempt=%d",
            self._group_name,
            group.group_id[:4].hex(),
            group.round,
            len(group.members),
            group.attempt,
        )
        for peer, addresses in strangers_to(self._node, group):
            self._nursery.start_soon(get_acquainted, self._node, peer, addresses, self._acquainting)

    @property
    def _can_be_dialed(self) -> bool:
        """By whomever, perhaps only by neighbours or through relays."""
        return bool(self._node.addresses) and not self._node.client_mode

    async def _seek(self, request: SeekRequest) -> Group:
        search = _Search()
        self._search = search
        try:
            await self._count_swarm(request)
            self._apply(self._core.on_seek(request, trio.current_time()))
            async with open_service_nursery() as nursery:
                if self._core.needs_records:
                    self._look_for_strangers(nursery)
                await search.over.wait()
        finally:
            self._search = None
            self._apply(self._core.on_cancelled(trio.current_time()))
        outcome = search.outcome
        assert outcome is not None
        if isinstance(outcome, GaveUp):
            behind = outcome.behind and self._for_caller(outcome.behind, request)
            raise MatchmakingFailed(outcome.reason, behind=behind, refusals=outcome.refusals)
        group = outcome.group
        return replace(group, round=self._for_caller(group.round, request))

    def _for_caller(self, round_id: RoundId, request: SeekRequest) -> RoundId:
        """A round in the caller's terms: the parents of a grid's rounds name no results."""
        if not self._config.grid:
            return round_id
        return RoundId(round_id.number, request.round.parent)

    async def _count_swarm(self, request: SeekRequest) -> None:
        """In a grid of strangers: learn how large the swarm is, unless we did lately."""
        if self._records is not None and self._config.grid and request.expected is None:
            # The search needs most of the time.
            timeout_s = (request.deadline_s - trio.current_time()) / 4
            records = await self._records.count(timeout_s)
            if records is not None:
                self._core.on_directory(records)

    def round_wanted(self, round: RoundId) -> bool:
        """Whether others gather for this round already and wait for us."""
        return self._core.round_wanted(round, trio.current_time())

    def settle(self, round: RoundId, next_round: RoundId, *, lost: Collection[PeerId] = ()) -> None:
        """Say that a round is committed: who still comes for it is told of the next one.

        Args:
            lost: who was lost in it: among strangers they are not waited for until they say
                something or renew their record.
        """
        now_s = trio.current_time()
        self._apply(self._core.on_settled(round, next_round, now_s, lost=lost))

    @property
    def place(self) -> Place:
        """What our record in the DHT says: our newest round, and where in the grid."""
        return Place(self._core.round or RoundId(0), self._core.bucket)

    async def on_group_shown_untrusted(self, body: bytes) -> None:
        """A member shows us a group that its leader may have failed to send us.

        Raises:
            MessageInvalid: it is no group.
        """
        group = await self._outgoing.read_group_untrusted(body)
        self._apply(self._core.on_group_shown(group, trio.current_time()))

    # --- carrying out what the core decides ---------------------------------------------------

    def _apply(self, outputs: list[Output]) -> None:
        for output in outputs:
            match output:
                case Ask():
                    self._outgoing.ask(output)
                case Withdraw():
                    self._outgoing.withdraw(output.ticket)
                case Answer():
                    if output.call_id in self._inbound:
                        self._inbound[output.call_id].put(output.message)
                case SendInvite():
                    self._outgoing.invite(output)
                case Found() | GaveUp():
                    if self._search is not None:
                        self._search.outcome = output
                        self._search.over.set()
        self._timer_changed.set()
        if self._records is not None:
            self._records.on_place()

    async def keep_time(self) -> None:
        """Wake the core when it asked to be."""
        while True:
            self._timer_changed = trio.Event()
            with trio.move_on_at(self._core.deadline_s) as due:
                await self._timer_changed.wait()
            if due.cancelled_caught:
                self._apply(self._core.on_deadline(trio.current_time()))

    def _look_for_strangers(self, nursery: trio.Nursery) -> None:
        bucket = self._core.bucket

        def on_candidates(records: list[Candidate] | None) -> None:
            if records is not None and self._config.grid and not bucket:
                self._core.on_directory(records)
            # Clients count, but come by themselves.
            candidates = [record for record in records or [] if record.addresses]
            self._apply(self._core.on_candidates(candidates, trio.current_time()))

        if self._records is None:
            on_candidates(None)
        else:
            nursery.start_soon(self._records.poll, bucket, on_candidates)

    def keep_published(self, nursery: trio.Nursery) -> None:
        """Keep our record in the DHT. A client, that nobody can ask, only counts in a grid."""
        if self._records is not None and (self._config.grid or not self._node.client_mode):
            nursery.start_soon(self._records.keep_published)
            if self._config.grid:
                nursery.start_soon(self._records.keep_published_in_bucket)

    # --- others' calls ------------------------------------------------------------------------

    async def serve_join(self, call: RpcCall[Any, Any]) -> None:
        """A peer wants to join us; it hears from us until we have a last word for it."""
        request: schema.JoinRequest = call.request
        join = parse_join_untrusted(request.join)
        if join.peer_id != call.peer_id:
            raise MessageInvalid("a JOIN of somebody else")
        voters = tuple(parse_peer_id_untrusted(voter) for voter in request.previous_voters)
        self._call_count += 1
        call_id = self._call_count
        inbound = Inbound()
        self._inbound[call_id] = inbound
        try:
            now_s = trio.current_time()
            self._apply(self._core.on_join(call_id, join, voters, now_s, follows=request.follows))
            await inbound.converse(call)
        finally:
            del self._inbound[call_id]
            self._apply(self._core.on_join_left(call_id, trio.current_time()))

    async def serve_invite(self, caller: PeerId, invite: schema.Invite) -> schema.InviteAnswer:
        """A leader invites us."""
        self._node.add_addresses(caller, invite.addresses)
        answer, outputs = self._core.on_invite(caller, invite, trio.current_time())
        self._apply(outputs)
        return answer


@asynccontextmanager
async def open_matchmaking(
    node: Node,
    group_name: str,
    spec_hash: bytes,
    config: MatchmakingConfig | None = None,
    dht: Dht | None = None,
    *,
    element_count: int = 0,
    vector_bytes: int = 0,
) -> AsyncIterator[Matchmaking]:
    """Serve and find groups under this name while the block lasts.

    Args:
        spec_hash: names the tensors; peers with another one are refused.
        dht: where strangers find each other; without it only `expected` peers and former
            members are found.
        element_count: length of the flat vector, from which a leader sets the chunk length.
        vector_bytes: what it takes as it travels, where relays would have to carry it.
    """
    if len(group_name.encode()) > schema.GROUP_NAME_TEXT_MAX or not group_name:
        raise ValueError(f"a group name has 1 to {schema.GROUP_NAME_TEXT_MAX} bytes")
    if len(spec_hash) != schema.HASH_SIZE_BYTES:
        raise ValueError(f"a spec hash has {schema.HASH_SIZE_BYTES} bytes")
    async with open_service_nursery() as nursery:
        matchmaking = Matchmaking(
            node,
            group_name,
            spec_hash,
            config or MatchmakingConfig(),
            dht=dht,
            element_count=element_count,
            vector_bytes=vector_bytes,
            nursery=nursery,
        )
        service = RpcService(
            service_name(schema.SERVICE, group_name),
            schema.MAJOR,
            calls_per_peer_max=_CALLS_PER_PEER_MAX,
        )
        service.stream(schema.JOIN, matchmaking.serve_join)
        service.unary(schema.INVITE, matchmaking.serve_invite)
        async with service.serving(node):
            nursery.start_soon(matchmaking.keep_time)
            matchmaking.keep_published(nursery)
            yield matchmaking
