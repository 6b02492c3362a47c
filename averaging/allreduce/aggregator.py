"""An aggregator's side: members' streams come in, their parts are averaged, results go out."""

from __future__ import annotations

import logging
from typing import Any, Final

import numpy as np
import trio
from blake3 import blake3

from averaging.allreduce import manifest
from averaging.allreduce.member import wire_values
from averaging.allreduce.partition import Span
from averaging.allreduce.reduction import Contribution, weighted_mean
from averaging.allreduce.schema import (
    FromAggregator,
    FromMember,
    Hello,
    Part,
    Ping,
    Result,
    SpanEnd,
    Vote,
)
from averaging.allreduce.session import Link, Session
from averaging.allreduce.silence import wait_silent
from p2p import MessageInvalid, PeerId, RpcCall, StreamBroken, open_service_nursery, short

logger = logging.getLogger(__name__)

Call = RpcCall[FromAggregator, FromMember]

NOBODY: Final = "nobody contributed: all weights are zero, or everyone with a weight was refused"


# --- averaging our span -----------------------------------------------------------------------


async def reduce_span(session: Session, span: Span) -> None:
    """Average our span, chunk by chunk, as the parts come."""
    reduction = session.reduction
    assert reduction is not None
    async with open_service_nursery() as nursery:
        nursery.start_soon(_contribute, session, span)
        nursery.start_soon(_expect_links, session)
        digests = []
        while not reduction.done:
            while not reduction.ready:
                await session.parts_changed.wait()
            taken = reduction.take()
            session.room_changed.ring()
            size_bytes = sum(contribution.values.nbytes for contribution in taken)
            averaged = await session.heavy(size_bytes, _average, taken, session.wire_dtype)
            if averaged is None:
                session.abort(_why_nobody(session))
                return
            session.own_chunks.append(averaged[0])
            digests.append(averaged[1])
            _wake_links(session)
    end = SpanEnd(
        group_id=session.group_id,
        owner=span.owner,
        chunks=tuple(digests),
        included=reduction.included(),
        weights=reduction.weights(),
        reasons=reduction.reasons(),
        signature=bytes(64),
    )
    session.hold(manifest.signed_span_end(end, session.node.identity.sign), session.own_chunks)
    _wake_links(session)


def _average(
    contributions: tuple[Contribution, ...], dtype: np.dtype[Any]
) -> tuple[bytes, bytes] | None:
    mean = weighted_mean(contributions, dtype)
    if mean is None:
        return None
    encoded = mean.tobytes()
    return encoded, blake3(encoded).digest()


def _why_nobody(session: Session) -> str:
    assert session.reduction is not None
    refused = session.reduction.excluded().items()
    named = ", ".join(f"{short(peer)} {reason}" for peer, reason in refused)
    return f"{NOBODY} ({named})"[:200] if named else NOBODY


def _wake_links(session: Session) -> None:
    for link in session.links.values():
        link.outbox.bell.ring()


async def _contribute(session: Session, span: Span) -> None:
    """Our own parts take the same way as the others', bad values included."""
    reduction = session.reduction
    assert reduction is not None
    join = session.group.join_of(session.me)
    reduction.on_hello(session.me, session.weight, join.weight_cap if join else 0.0)
    session.parts_changed.ring()
    for chunk in span.chunks if session.weight else ():
        while not reduction.may_deliver(session.me):
            await session.room_changed.wait()
        values = wire_values(session, chunk.start, chunk.stop)
        reason = reduction.on_part(session.me, chunk.number, values)
        session.parts_changed.ring()
        if reason is not None:
            logger.warning("own_values_refused reason=%s", reason)
            return


async def _expect_links(session: Session) -> None:
    await trio.sleep(session.config.silence_s)
    for peer in session.members:
        if peer != session.me and peer not in session.links:
            session.exclude(peer, "did not come", lost=True)


# --- serving members --------------------------------------------------------------------------


async def serve_link(session: Session, call: Call, hello: Hello, weight_cap: float) -> None:
    """Serve one member's stream; its hello is already verified."""
    peer, reduction = call.peer_id, session.reduction
    assert reduction is not None
    link = session.links[peer] = Link()
    reduction.on_hello(peer, hello.weight, weight_cap)
    session.parts_changed.ring()
    try:
        with link.scope:
            async with open_service_nursery() as nursery:
                nursery.start_soon(_send, session, call, link)
                nursery.start_soon(_watch, session, call, link)
                await _receive(session, call, link)
            session.exclude(peer, "left", lost=True)
    except StreamBroken:
        session.exclude(peer, "connection lost", lost=True)
        raise
    except MessageInvalid as exc:
        session.exclude(peer, f"broke the protocol: {exc}"[:200])
        raise
    finally:
        del session.links[peer]
        session.link_closed.ring()


async def _send(session: Session, call: Call, link: Link) -> None:
    """Results as they come, the span's end, then what the outbox holds, and pings."""
    assert session.own_span is not None
    owner, sent, ended = session.own_span.owner, 0, False
    if session.aborted is not None:
        link.outbox.put(session.aborted)
    if session.ballot.commit is not None:
        link.outbox.put(session.ballot.commit)
    try:
        while True:
            message: FromAggregator | None
            if sent < len(session.own_chunks):
                chunk = session.own_chunks[sent]
                await call.send(Result(sent), chunk)
                session.sent_bytes += len(chunk)
                sent += 1
                continue
            if not ended and owner in session.held:
                message, ended = session.held[owner].end, True
            else:
                message = link.outbox.pop()
            if message is None:
                with trio.move_on_after(session.config.ping_s) as idle:
                    await link.outbox.bell.wait()
                if not idle.cancelled_caught:
                    continue
                message = Ping()
            await call.send(message)
    except StreamBroken:
        # The receiving task sees the same, and says so.
        return


async def _watch(session: Session, call: Call, link: Link) -> None:
    await wait_silent(call, session.config.silence_s, lambda: link.listening_since_s)
    session.exclude(call.peer_id, "silent", lost=True)
    if session.done.is_set():
        # We only wait for it to take its results.
        link.scope.cancel()


async def _receive(session: Session, call: Call, link: Link) -> None:
    """Return when the member ends its stream."""
    reduction = session.reduction
    assert reduction is not None
    while True:
        received = await call.receive()
        if received is None:
            return
        message, payload = received
        match message:
            case Part():
                session.received_bytes += len(payload)
                await _take_part(session, call.peer_id, link, message.chunk, payload)
            case Vote():
                session.on_vote_untrusted(call.peer_id, message)
            case Ping():
                pass
            case Hello():
                raise MessageInvalid("a second hello")


async def _take_part(
    session: Session, peer: PeerId, link: Link, chunk: int, payload: bytes
) -> None:
    """Hand a part to the reduction when it has room; the member waits meanwhile."""
    reduction = session.reduction
    assert reduction is not None
    while not reduction.may_deliver(peer) and peer not in reduction.excluded():
        link.listening_since_s = None
        await session.room_changed.wait()
        link.listening_since_s = trio.current_time()
    if len(payload) % session.wire_dtype.itemsize:
        raise MessageInvalid("a part is not a whole number of elements")
    values = np.frombuffer(payload, session.wire_dtype)
    reason = reduction.on_part(peer, chunk, values)
    if reason is not None:
        logger.info(
            "sender_excluded group=%s peer=%s reason=%s",
            session.group_id[:4].hex(),
            short(peer),
            reason,
        )
    session.parts_changed.ring()
    session.room_changed.ring()
