"""All-reduce at one node: runs groups, and serves other members during and after them."""

from __future__ import annotations

import hashlib
import logging
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any, Final

import numpy as np
import trio

from averaging.allreduce import schema
from averaging.allreduce.aggregator import reduce_pieces, serve_link
from averaging.allreduce.balance import planned_seconds
from averaging.allreduce.bell import Bell
from averaging.allreduce.config import AllreduceConfig
from averaging.allreduce.hearing import answer_untrusted
from averaging.allreduce.member import keep_promptness, run_uplink
from averaging.allreduce.partition import CHUNK_ELEMENTS_MAX
from averaging.allreduce.recovery import ask, fetch, serve_fetch
from averaging.allreduce.result import RoundResult, refused_group, result_of
from averaging.allreduce.session import Array, Session
from averaging.allreduce.settling import conclude, final_parts
from averaging.codecs.coding import Coding
from averaging.codecs.floating import FloatingWire, Run
from averaging.matchmaking.group import Group, body_of
from averaging.naming import service_name
from averaging.report import MemberReport
from p2p import (
    MessageInvalid,
    Node,
    P2PError,
    PeerId,
    RefusedError,
    RpcCall,
    RpcService,
    open_service_nursery,
    rpc_client,
    short,
)

logger = logging.getLogger(__name__)

OnGroupShown = Callable[[bytes], Awaitable[None]]
"""Raises MessageInvalid when it is no group."""
OnSuccess = Callable[[Array], None]
Used = Callable[[Mapping[PeerId, MemberReport]], bool]
"""Whether a result with these members in it will be used."""

_SERVICE: Final = "allreduce"
# The leader's word comes a little later to some than other members' streams; who asks for it
# before that, asks for nothing.
_SHOW_AFTER_S: Final = 0.25
_SHOWS_MAX: Final = 8
# How many groups' ballots are remembered, without their bytes, to answer members that ask late: a
# tiny round takes 30 ms, and who was frozen asks until its deadline.
_SESSIONS_MAX: Final = 512
# Encoding takes so many times as long as reading.
_CODEC_EFFORT: Final = 8


class Allreduce:
    """Runs groups for one group name at one node; opened by open_allreduce()."""

    def __init__(
        self,
        node: Node,
        group_name: str,
        config: AllreduceConfig,
        nursery: trio.Nursery,
        on_group_shown: OnGroupShown | None,
    ) -> None:
        self._node = node
        self._config = config
        self._nursery = nursery
        self._client = rpc_client(node, service_name(_SERVICE, group_name), schema.MAJOR)
        self._on_group_shown = on_group_shown
        self._shows: dict[bytes, None] = {}
        self._sessions: dict[bytes, Session] = {}
        self._kept: deque[Session] = deque()
        """Those that have ended last, with their bytes."""
        self._session_opened = Bell()

    async def run(
        self,
        group: Group,
        flat: Array,
        weight: float,
        deadline_s: float,
        *,
        wire: FloatingWire | None = None,
        on_success: OnSuccess | None = None,
    ) -> RoundResult:
        """Average our vector with the group's others; never raises for what others do.

        Args:
            flat: 1-D, writable, kept unchanged unless the outcome is success; then it may hold
                anything.
            deadline_s: on trio's clock; the group's own limit holds too.
            wire: how the values travel; None as they are.
            on_success: takes the agreed vector before the result is told.
        """
        if wire is None:
            runs = [Run(0, len(flat), flat.dtype.name)] if len(flat) else []
            wire = FloatingWire(runs, flat.dtype)
        async with self.entered(group, Coding.floats(wire), deadline_s) as entered:
            return await entered.run(flat, weight, on_success=on_success)

    @asynccontextmanager
    async def entered(
        self, group: Group, coding: Coding, deadline_s: float
    ) -> AsyncIterator[Entered]:
        """Open the streams of a group before our values are final; leaving cancels our part.

        Args:
            coding: how the values travel; what it keeps from round to round changes on success.
            deadline_s: as for run().
        """
        if group.group_id in self._sessions:
            raise ValueError("a group is run once")
        deadline_s = min(deadline_s, trio.current_time() + group.deadline_s)
        if not _feasible(group, coding):
            yield Entered(None, group, deadline_s, coding)
            return
        session = self._open_session(group, coding, deadline_s)
        try:
            with self._node.watched([join.peer_id for join in group.members]):
                async with open_service_nursery() as nursery:
                    self._start(session, nursery)
                    yield Entered(session, group, deadline_s, coding)
        finally:
            self._close_session(session)

    def _open_session(self, group: Group, coding: Coding, deadline_s: float) -> Session:
        references = [join.reference for join in group.members if join.role != "aux"]

        def seconds_of(bytes_per_element: float) -> float:
            return max(planned_seconds(group.capacities, group.span_elements, bytes_per_element))

        begun = coding.begun(group.voters, references, seconds_of)
        session = Session(self._node, group, begun, deadline_s, self._config)
        self._sessions[group.group_id] = session
        self._session_opened.ring()
        for join in group.members:
            self._node.add_addresses(join.peer_id, join.addresses)
        return session

    def _start(self, session: Session, nursery: trio.Nursery) -> None:
        session.on_ask = lambda peer: nursery.start_soon(ask, session, self._client, peer)
        session.on_fetch = lambda wanted: nursery.start_soon(fetch, session, self._client, wanted)
        # Auxiliary members have nothing to send, but hear of plans and of the outcome this way.
        for owner, peer in enumerate(session.aggregators):
            if peer != session.me:
                nursery.start_soon(run_uplink, session, self._client, owner)
        if session.votes:
            nursery.start_soon(keep_promptness, session)
        if session.me in session.aggregators:
            nursery.start_soon(reduce_pieces, session)
        nursery.start_soon(_keep_time, session)

    def _close_session(self, session: Session) -> None:
        session.ballot.on_give_up("cancelled")
        session.act()
        end = session.ballot.end
        assert end is not None
        session.gone = not end.certain
        if session.gone:
            # Nothing more will come from us, and nobody should wait for it.
            for link in session.links.values():
                link.scope.cancel()
        self._nursery.start_soon(self._linger, session)
        self._kept.append(session)
        self._forget_old_sessions()

    async def _linger(self, session: Session) -> None:
        await trio.sleep(self._config.linger_s)
        # A member on a slow link may still be receiving; it has until the deadline.
        with trio.move_on_at(session.deadline_s):
            while session.links:
                await session.link_closed.wait()
        session.drop()

    def _forget_old_sessions(self) -> None:
        while len(self._kept) > self._config.results_kept_max:
            self._kept.popleft().drop()
        # Others may have begun a little later.
        over_s = trio.current_time() - self._config.linger_s
        for oldest in list(self._sessions.values()):
            late = oldest.deadline_s < over_s or len(self._sessions) > _SESSIONS_MAX
            if oldest.ballot.end is None or not late:
                return
            del self._sessions[oldest.group_id]

    # --- serving other members -------------------------------------------------------------

    async def serve_transfer(self, call: RpcCall[Any, Any]) -> None:
        """A member brings its parts to us."""
        hello = call.request
        if not isinstance(hello, schema.Hello):
            raise MessageInvalid("a stream must open with a hello")
        session = await self._session_soon(hello.group_id, call.peer_id)
        if session.me not in session.aggregators or session.gone or call.peer_id in session.links:
            raise RefusedError("not-found", "this peer does not average for the caller")
        if call.peer_id not in session.members:
            raise MessageInvalid("the caller is not in the group")
        await serve_link(session, call)

    async def _session_soon(self, group_id: bytes, caller: PeerId) -> Session:
        """The session; others may hear of a group a little before us, or we not at all."""
        await self._wait_for_session(group_id, _SHOW_AFTER_S)
        if group_id not in self._sessions:
            self._nursery.start_soon(self._ask_for_group, group_id, caller)
            await self._wait_for_session(group_id, self._config.silence_s)
        if group_id not in self._sessions:
            raise RefusedError("not-found", "this peer knows no such group")
        return self._sessions[group_id]

    async def _wait_for_session(self, group_id: bytes, patience_s: float) -> None:
        with trio.move_on_after(patience_s):
            while group_id not in self._sessions:
                await self._session_opened.wait()

    async def _ask_for_group(self, group_id: bytes, caller: PeerId) -> None:
        """Have a group that we do not know shown by one who does: its leader may be lost."""
        known = group_id in self._sessions or group_id in self._shows
        if known or self._on_group_shown is None or len(self._shows) >= _SHOWS_MAX:
            return
        self._shows[group_id] = None
        try:
            shown = await self._client.call(
                caller,
                schema.SHOW,
                schema.WhichGroup(group_id),
                timeout_s=self._config.ask_timeout_s,
            )
            if hashlib.sha256(shown.body).digest() != group_id:
                raise MessageInvalid("another group was shown than was asked for")
            await self._on_group_shown(shown.body)
        except P2PError as exc:
            logger.info("group_not_shown peer=%s cause=%s", short(caller), exc)
        finally:
            del self._shows[group_id]

    async def serve_show(self, caller: PeerId, request: schema.WhichGroup) -> schema.ShownGroup:
        """A member asks for a group that it did not hear of."""
        session = self._sessions.get(request.group_id)
        if session is None or caller not in session.members:
            raise RefusedError("not-found", "this peer knows no such group")
        return schema.ShownGroup(body_of(session.group))

    async def serve_ask(self, caller: PeerId, question: schema.Question) -> schema.Answer:
        """A member asks how we stand."""
        if question.group_id not in self._sessions:
            self._nursery.start_soon(self._ask_for_group, question.group_id, caller)
            raise RefusedError("not-found", "this peer knows no such group")
        return answer_untrusted(self._sessions[question.group_id], caller, question)

    async def serve_fetch(self, call: RpcCall[Any, Any]) -> None:
        """A member fetches a piece from us."""
        request: schema.Fetch = call.request
        if request.group_id not in self._sessions:
            raise RefusedError("not-found", "this peer knows no such group")
        await serve_fetch(self._sessions[request.group_id], call, request)

    async def say_farewell(self) -> None:
        """Let members that share our success take what we still have for them, for a moment."""
        with trio.move_on_after(self._config.farewell_s) as scope:
            scope.shield = True
            for session in self._sessions.values():
                while session.links and not session.gone:
                    await session.link_closed.wait()


class Entered:
    """Our part in one group, from its streams being open to its outcome."""

    def __init__(
        self,
        session: Session | None,
        group: Group,
        deadline_s: float,
        coding: Coding,
    ) -> None:
        self._coding = coding
        self._session = session
        self._group = group
        self._deadline_s = deadline_s

    async def run(
        self,
        flat: Array | None,
        weight: float,
        *,
        on_success: OnSuccess | None = None,
        used: Used | None = None,
    ) -> RoundResult:
        """Average; to be called once.

        Args:
            flat: 1-D, writable, kept unchanged unless the outcome is success; then it may hold
                anything. None at an auxiliary member.
            on_success: takes the agreed vector, shape (element_count,), in the flat dtype, perhaps
                in a worker thread; it must not keep it. Not called at an auxiliary member.
            used: if not, what codecs lost stays as it was; None: it is.
        """
        session = self._session
        if session is None:
            leader = short(self._group.leader)
            return refused_group(self._group, f"{leader} asks for impossible pieces")
        assert session.votes == (flat is not None)
        if flat is None:
            flat = np.empty(0, session.dtype)
        norm, parts = 0.0, None
        if weight:
            effort = 1 if isinstance(session.up, FloatingWire) else _CODEC_EFFORT
            size_bytes = effort * flat.nbytes
            norm, parts = await session.heavy(size_bytes, final_parts, session, flat, weight)
        session.begin(flat, weight, norm, parts)
        with trio.move_on_at(self._deadline_s):
            await session.done.wait()
        session.ballot.on_give_up("no agreement before the deadline")
        now_s = trio.current_time()
        result = result_of(session, now_s)
        if result.outcome == "success":
            # It cannot be cancelled once it has begun, and nothing waits after it.
            settles = used is None or used(result.members)
            work = (session, self._coding, result, on_success or _ignore, settles)
            dropped = await session.heavy(flat.nbytes, conclude, *work)
            result = replace(result, dropped_elements=dropped)
        return result


def _ignore(vector: Array) -> None:
    del vector


def _feasible(group: Group, coding: Coding) -> bool:
    spans, chunk = group.span_elements, group.chunk_elements
    return (
        len(spans) == len(group.aggregators)
        and sum(spans) == coding.up.element_count
        and 1 <= chunk <= CHUNK_ELEMENTS_MAX
        and coding.carries(chunk)
        and max(spans) // chunk < schema.CHUNKS_MAX
    )


async def _keep_time(session: Session) -> None:
    """Wake the ballot when it asked to be."""
    while True:
        deadline_s = session.ballot.deadline_s
        with trio.move_on_at(float("inf") if deadline_s is None else deadline_s) as due:
            await session.timer_changed.wait()
        if due.cancelled_caught:
            session.ballot.on_deadline(trio.current_time())
            session.act()


@asynccontextmanager
async def open_allreduce(
    node: Node,
    group_name: str,
    config: AllreduceConfig | None = None,
    *,
    on_group_shown: OnGroupShown | None = None,
) -> AsyncIterator[Allreduce]:
    """Run and serve groups under this name while the block lasts.

    Args:
        on_group_shown: takes the body of a group that others run and count us in.
    """
    config = config or AllreduceConfig()
    async with open_service_nursery() as nursery:
        allreduce = Allreduce(node, group_name, config, nursery, on_group_shown)
        service = RpcService(service_name(_SERVICE, group_name), schema.MAJOR)
        service.stream(schema.TRANSFER, allreduce.serve_transfer)
        service.unary(schema.ASK, allreduce.serve_ask)
        service.unary(schema.SHOW, allreduce.serve_show)
        service.stream(schema.FETCH, allreduce.serve_fetch)
        async with service.serving(node):
            try:
                yield allreduce
            finally:
                await allreduce.say_farewell()
