"""Secure sums at one node: runs groups, and serves their other members."""

from __future__ import annotations

import logging
import secrets
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import trio

from averaging.allreduce.bell import Bell
from averaging.errors import UpdateSpent
from averaging.heavy import run_heavy
from averaging.matchmaking.group import Group
from averaging.naming import service_name
from averaging.report import MemberReport, Outcome
from averaging.secure import schema
from averaging.secure.config import SecureConfig
from averaging.secure.links import run_uplink, serve_link
from averaging.secure.parts import Array
from averaging.secure.session import Session
from averaging.secure.spent import SpentUpdates, digest_of
from averaging.secure.stages import Phase, Stage
from averaging.secure.streams import spans_of
from p2p import (
    MessageInvalid,
    Node,
    Path,
    PeerId,
    RefusedError,
    RpcCall,
    RpcService,
    open_service_nursery,
    rpc_client,
)

logger = logging.getLogger(__name__)

# Others may hear of a group a little before us.
_GROUP_PATIENCE_S: Final = 2.5
# Groups last seconds; none of them comes again after so many others.
_BEGUN_MAX: Final = 1024


@dataclass(frozen=True, kw_only=True)
class SecureResult:
    """What came of one group."""

    outcome: Outcome
    reason: str
    """Empty on success."""
    mean: Array
    """The weighted mean of those in it: shape (elements,), in the vector's dtype; else empty."""
    weight_sum: float
    """Of those in it; single weights stay as hidden as single vectors."""
    members: Mapping[PeerId, MemberReport]
    """Who is in it. The weights of others are not known here, and stand as NaN; of those who
    brought no vector as 0."""
    digest: bytes
    """Names the result: equal digests, equal bits. Empty without success."""
    spent: bool
    """Whether the vector may be in a sum that somebody knows: it must not be offered again."""
    promised: bool
    """Whether we promised never to sign in this group. If as many of its members as the threshold
    did, the vector may be offered to a group whose JOINs show that."""
    clipped: int
    """How many of our own values were beyond value_max."""
    left_out: bool = False
    """Whether the others go on without us."""
    lost: tuple[PeerId, ...] = ()
    """Who is not to be waited for in the next attempt."""
    plans: int = 0
    """How often spans of lost aggregators were given to others."""
    sent_bytes: Mapping[Path, int] = field(default_factory=dict)
    received_bytes: Mapping[Path, int] = field(default_factory=dict)
    seconds: float = 0.0


class SecureSum:
    """Runs secure sums for one group name at one node; opened by open_secure_sum()."""

    def __init__(self, node: Node, group_name: str, config: SecureConfig) -> None:
        self._node = node
        self._config = config
        self._client = rpc_client(node, service_name(schema.SERVICE, group_name), schema.MAJOR)
        self._sessions: dict[bytes, Session] = {}
        self._begun: dict[bytes, None] = {}
        self._session_opened = Bell()
        self._spent = SpentUpdates()

    async def run(
        self, group: Group, vector: Array, weight: float, deadline_s: float
    ) -> SecureResult:
        """Learn the weighted mean of the group's vectors, and nothing else of them.

        Args:
            group: of three members or more, all of whom contribute; its spans cover one element
                more than the vector has, for the weight.
            vector: 1-D, float, finite; kept unchanged.
            weight: ours in the mean, from 0 to weight_max.
            deadline_s: on trio's clock; the group's own limit holds, too.

        Raises:
            UpdateSpent: this very vector was offered before.
            ValueError: the group, the vector or the weight does not fit.
        """
        _check(group, vector)
        self.check_weight(weight)
        if group.group_id in self._begun:
            raise ValueError("a group is run once")
        self._begun[group.group_id] = None
        if len(self._begun) > _BEGUN_MAX:
            del self._begun[next(iter(self._begun))]
        digest = await self.digest_untold(vector, weight, group)
        began_s = trio.current_time()
        ring = self._config.ring(len(group.members))
        masked = np.empty(len(vector) + 1, ring.dtype)
        clipped = await run_heavy(
            self._node, 2 * masked.nbytes, ring.encode, vector, weight, masked
        )
        session = Session(
            self._node,
            group,
            ring,
            masked,
            vector.dtype,
            self._config,
            secrets.token_bytes,
        )
        for join in group.members:
            self._node.add_addresses(join.peer_id, join.addresses)
        self._sessions[group.group_id] = session
        self._session_opened.ring()
        try:
            with (
                self._node.watched(group.peer_ids),
                trio.move_on_at(min(deadline_s, began_s + group.deadline_s)),
            ):
                await self._run(session)
        finally:
            promised = session.member.abandon()
            if session.member.spent and weight:
                self._spent.add(digest, group, promised=promised)
            self._close(session)
        seconds = trio.current_time() - began_s
        return _result_of(session, weight, clipped, seconds, promised=promised)

    def check_weight(self, weight: float) -> None:
        """Raise ValueError unless the weight is in range."""
        self._config.ring(1).weight_of(weight)

    async def digest_untold(
        self, vector: Array, weight: float, group: Group | None = None
    ) -> bytes:
        """The digest of a vector that may be offered.

        Args:
            group: to whom; None for anybody.

        Raises:
            UpdateSpent: this very vector was offered before, and nothing shows that too few signed
                for its sum. A vector of weight 0 offers nothing.
            ValueError: it has values that are not finite.
        """
        digest, finite = await run_heavy(self._node, 2 * vector.nbytes, _looked_at, vector)
        if not finite:
            raise ValueError("the vector has values that are not finite; nothing was sent")
        told = digest in self._spent
        if group is not None:
            told = not self._spent.freed_by(digest, group)
        if weight and told:
            raise UpdateSpent(
                "this vector was offered in an earlier secure sum: the difference of two sums "
                "would tell it; drop it, or put new noise on it"
            )
        return digest

    async def _run(self, session: Session) -> None:
        async with open_service_nursery() as nursery:
            session.start_task = nursery.start_soon
            if session.coordinator is not None:
                nursery.start_soon(session.lead)
                nursery.start_soon(session.keep_time)
            for owner in session.uplinks:
                nursery.start_soon(run_uplink, session, self._client, owner)
            nursery.start_soon(session.obey)
            await session.done.wait()
            nursery.cancel_scope.cancel()

    def _close(self, session: Session) -> None:
        """Our part is over; streams to us end as soon as all is sent that waits for them."""
        session.end("no sum before the deadline, or the step was cancelled")
        leader = session.coordinator
        if leader is not None and leader.phase not in (Phase.DONE, Phase.FAILED):
            assert session.ended is not None
            for link in session.links.values():
                link.put(schema.Failed(f"the coordinator gave up: {session.ended.reason}"[:300]))
        if not session.links:
            self._forget(session)

    def _forget(self, session: Session) -> None:
        self._sessions.pop(session.group.group_id, None)
        session.parts.drop()

    async def serve_link(self, call: RpcCall[Any, Any]) -> None:
        """A member of a group brings its parts, and what it has to say to the coordinator."""
        hello = call.request
        if not isinstance(hello, schema.Hello):
            raise MessageInvalid("a stream must open with a hello")
        session = await self._session_soon(hello.group_id)
        if call.peer_id not in session.peers or session.me not in session.aggregators:
            raise RefusedError("not-found", "this peer adds up nothing for the caller")
        sender = session.peers.index(call.peer_id)
        if sender in session.links or sender == session.me:
            raise RefusedError("busy", "one stream for each member")
        try:
            await serve_link(session, call, sender)
        finally:
            if session.done.is_set() and not session.links:
                self._forget(session)

    async def _session_soon(self, group_id: bytes) -> Session:
        with trio.move_on_after(_GROUP_PATIENCE_S):
            while group_id not in self._sessions:
                await self._session_opened.wait()
        session = self._sessions.get(group_id)
        if session is None or session.done.is_set():
            raise RefusedError("not-found", "this peer runs no such group")
        return session

    async def say_farewell(self) -> None:
        """Let others take what is still on its way to them, for a moment."""
        with trio.move_on_after(self._config.farewell_s) as scope:
            scope.shield = True
            for session in list(self._sessions.values()):
                while session.links and session.done.is_set():
                    await session.link_changed.wait()


def _looked_at(vector: Array) -> tuple[bytes, bool]:
    return digest_of(vector), bool(np.isfinite(vector).all())


def _check(group: Group, vector: Array) -> None:
    if not 3 <= len(group.members) <= schema.MEMBERS_MAX:
        raise ValueError(
            f"a secure sum needs 3 to {schema.MEMBERS_MAX} members, not {len(group.members)}: "
            "of the sum of two, each knows the other's vector"
        )
    if any(join.role == "aux" for join in group.members) or group.over_relay:
        raise ValueError("a secure sum takes no auxiliary members, and no group over a relay")
    if vector.ndim != 1 or not np.issubdtype(vector.dtype, np.floating):
        raise ValueError("a secure sum takes a flat vector of floats")
    spans, _ = spans_of(group)
    if not spans or spans[-1].stop != len(vector) + 1:
        raise ValueError("the group's spans do not cover the vector and its weight")


def _result_of(
    session: Session, weight: float, clipped: int, seconds: float, *, promised: bool
) -> SecureResult:
    ended, member = session.ended, session.member
    assert ended is not None
    succeeded = not ended.reason
    outcome: Outcome = "success" if succeeded else "failed"
    if member.stage in (Stage.SIGNED, Stage.REVEALED):
        # Others may have got what it takes.
        outcome = "undecided"
    survivors = (member.survivors or ()) if succeeded else ()
    why_not = dict(session.coordinator.lost) if session.coordinator is not None else {}
    members = {
        peer: MemberReport(
            fraction=float(number in survivors),
            weight=_known_weight(session, number, weight),
            reason="" if number in survivors else why_not.get(number, "not in the sum"),
        )
        for number, peer in enumerate(session.peers)
    }
    lost = [peer for number, peer in enumerate(session.peers) if number not in survivors]
    result = SecureResult(
        outcome=outcome,
        reason=ended.reason,
        mean=session.mean if succeeded else session.mean[:0],
        weight_sum=session.weight_sum if succeeded else 0.0,
        members=members,
        digest=member.digest if succeeded else b"",
        spent=member.spent and weight > 0,
        promised=promised,
        clipped=clipped,
        left_out=session.me in ended.blamed,
        lost=tuple(lost) if succeeded else session.blame(ended),
        plans=member.plan,
        sent_bytes=dict(session.sent_bytes),
        received_bytes=dict(session.received_bytes),
        seconds=seconds,
    )
    logger.info(
        "secure_sum_ended group=%s outcome=%s survivors=%d of %d reason=%s",
        session.group.group_id[:4].hex(),
        outcome,
        len(survivors),
        len(session.peers),
        ended.reason or "none",
    )
    return result


def _known_weight(session: Session, number: int, own: float) -> float:
    if number == session.me:
        return own
    return float("nan") if number in session.contributors.places else 0.0


@asynccontextmanager
async def open_secure_sum(
    node: Node, group_name: str, config: SecureConfig
) -> AsyncIterator[SecureSum]:
    """Run and serve secure sums under this name while the block lasts."""
    secure = SecureSum(node, group_name, config)
    service = RpcService(service_name(schema.SERVICE, group_name), schema.MAJOR)
    service.stream(schema.LINK, secure.serve_link)
    async with service.serving(node):
        try:
            yield secure
        finally:
            await secure.say_farewell()
