"""An aggregator's side: members' streams come in, their parts are averaged, results go out."""

from __future__ import annotations

import logging
import time
from typing import Final

import trio
from blake3 import blake3

from averaging.allreduce import hearing, manifest
from averaging.allreduce.mean import Contribution
from averaging.allreduce.pace import Pace
from averaging.allreduce.partition import Chunk
from averaging.allreduce.reduction import LOST_REASONS, SLOW_REASONS
from averaging.allreduce.relaying import may_send
from averaging.allreduce.schema import (
    Excluded,
    FromAggregator,
    FromMember,
    Hello,
    Part,
    PieceEnd,
    Ping,
    Plan,
    Result,
    Vote,
    Weight,
)
from averaging.allreduce.session import Array, Session
from averaging.allreduce.silence import sleep_awake, wait_silent
from averaging.allreduce.streams import Link, Work
from averaging.codecs.coding import seed_of
from averaging.codecs.floating import FloatingWire, Payload
from averaging.robust.aggregate import aggregate
from averaging.robust.rule import RuleKind
from p2p import MessageInvalid, PeerId, RpcCall, StreamBroken, open_service_nursery, short

logger = logging.getLogger(__name__)

Call = RpcCall[FromAggregator, FromMember]

NOBODY: Final = "nobody contributed: all weights are zero, or everyone with a weight was refused"
_TICK_S: Final = 0.2
# How long a rule takes for its bytes, against a codec: a mean of floats is soon made.
_MEAN_EFFORT, _ROBUST_EFFORT = 1 / 3, 16.0


async def reduce_pieces(session: Session) -> None:
    """Average what is ours, chunk by chunk, as the parts come; until the block around it ends."""
    async with open_service_nursery() as nursery:
        nursery.start_soon(_contribute, session)
        nursery.start_soon(_expect_links, session)
        nursery.start_soon(_keep_pace, session)
        while True:
            work = _ready(session)
            if work is None:
                await session.work_changed.wait()
            elif not await _reduce_chunk(session, work):
                return


def _ready(session: Session) -> Work | None:
    return next((work for work in session.work if work.reduction.ready), None)


async def _reduce_chunk(session: Session, work: Work) -> bool:
    """Average the next chunk of a piece; False when nobody contributed to it."""
    chunk = work.piece.chunks[work.reduction.next_chunk]
    taken = work.reduction.take()
    session.room_changed.ring()
    effort = _MEAN_EFFORT if isinstance(session.down, FloatingWire) else 1.0
    if session.rule.kind is not RuleKind.MEAN:
        effort = _ROBUST_EFFORT
    size_bytes = int(effort * sum(one.values.nbytes for one in taken))
    started_s = time.perf_counter()
    averaged = await session.heavy(size_bytes, _average, session, work, taken, chunk)
    session.reduction_seconds += time.perf_counter() - started_s
    if averaged is None:
        out_of_reach = (*LOST_REASONS, *SLOW_REASONS)
        certain = not any(reason in out_of_reach for reason in session.senders.reasons().values())
        session.abort(_why_nobody(session), certain=certain)
        return False
    work.chunks.append(averaged[0])
    work.digests.append(averaged[1])
    session.results.append((work.piece.number, chunk.number, averaged[0]))
    if work.reduction.done and work in session.work:
        _finish(session, work)
    for link in session.links.values():
        link.outbox.bell.ring()
    return True


def _average(
    session: Session, work: Work, contributions: tuple[Contribution, ...], chunk: Chunk
) -> tuple[Payload, bytes] | None:
    place, in_place = _place_of(session, work, chunk), None
    if place is not None and isinstance(session.down, FloatingWire):
        in_place = session.down.values_in(place, chunk.start, chunk.stop)
    mean = aggregate(
        [contribution.values for contribution in contributions],
        [contribution.weight for contribution in contributions],
        session.rule,
        session.dtype,
        in_place,
    )
    if mean is None:
        return None
    if place is None or mean is not in_place:
        encoded = _encoded(session, work, mean, chunk)
    else:
        encoded = place
    return encoded, blake3(encoded).digest()


def _place_of(session: Session, work: Work, chunk: Chunk) -> memoryview | None:
    """Where in the result the mean of a chunk lies; None where it has no place there."""
    return session.place_of(chunk) if not work.plan and session.votes else None


def _encoded(session: Session, work: Work, mean: Array, chunk: Chunk) -> Payload:
    """The result of a chunk as it travels, in its place where it has one."""
    if not isinstance(session.down, FloatingWire):
        from averaging.codecs.rounds import encoded_result

        seed = seed_of(session.group_id, -1, chunk.start)
        residual = session.coding.residual
        payload, lost = encoded_result(session.down, residual, mean, chunk.start, seed)
        if lost is not None:
            work.lost.append((chunk.start, lost))
        return payload
    encoded = session.down.encode_values(mean, chunk.start)
    place = _place_of(session, work, chunk)
    if place is None:
        return encoded
    place[:] = encoded
    return place


def _finish(session: Session, work: Work) -> None:
    """Sign a piece that is whole."""
    end = PieceEnd(
        group_id=session.group_id,
        piece=work.piece.number,
        owner=session.aggregators.index(session.me),
        plan=work.plan,
        chunks=tuple(work.digests),
        included=work.reduction.included(),
        weights=tuple(session.senders.weight_of(peer) for peer in session.members),
        reasons=work.reduction.reasons(),
        signature=bytes(64),
        norms=tuple(session.senders.norm_of(peer) for peer in session.members),
    )
    end = manifest.signed_piece_end(end, session.node.identity.sign)
    session.results.append(end)
    session.hold(end, work.chunks)


def _why_nobody(session: Session) -> str:
    refused = session.senders.reasons().items()
    named = ", ".join(f"{short(peer)} {reason}" for peer, reason in refused)
    return f"{NOBODY} ({named})"[:200] if named else NOBODY


def exclude(session: Session, sender: PeerId, reason: str, *, lost: bool = False) -> None:
    """A member contributes no more to what is ours, and is told so."""
    if sender not in session.voters:
        # It never would have.
        if lost:
            session.ballot.on_sender_lost(sender)
        return
    told = session.senders.excluded(sender)
    session.senders.on_excluded(sender, reason)
    if lost:
        session.ballot.on_sender_lost(sender)
    elif not told:
        logger.info(
            "sender_excluded group=%s peer=%s reason=%s",
            session.group_id[:4].hex(),
            short(sender),
            reason,
        )
        session.tell_links((sender,), Excluded(reason[:200]))
    session.work_changed.ring()
    session.room_changed.ring()


async def _contribute(session: Session) -> None:
    """Our own parts take the same way as the others', bad values included."""
    await session.begun.wait()
    if session.votes:
        session.senders.on_weight(session.me, session.weight, session.norm)
    session.work_changed.ring()
    contributed: list[Work] = []
    while True:
        work = next((work for work in session.work if work not in contributed), None)
        if work is None:
            await session.work_changed.wait()
            continue
        contributed.append(work)
        await _contribute_to(session, work)


async def _contribute_to(session: Session, work: Work) -> None:
    for chunk in work.piece.chunks:
        while not _has_room(session, work, session.me):
            await session.room_changed.wait()
            if work not in session.work:
                return
        if not session.senders.awaited(session.me):
            return
        values = session.up.decode(session.part(chunk), chunk.start, chunk.stop)
        reason = work.reduction.on_part(session.me, chunk.number, values)
        session.work_changed.ring()
        if reason is not None:
            logger.warning("own_values_refused reason=%s", reason)


async def _expect_links(session: Session) -> None:
    await sleep_awake(session.config.silence_s)
    for peer in session.voters:
        if peer != session.me and peer not in session.links:
            exclude(session, peer, "did not come", lost=True)


async def _keep_pace(session: Session) -> None:
    """Leave out who keeps the others waiting for too long."""
    config, now_s = session.config, trio.current_time()
    left_s = max(session.deadline_s - now_s, 0.0)
    pace = Pace(
        session.planned_s(),
        grace_s=min(config.grace_s, left_s / 4),
        start_patience_s=min(config.start_patience_s, left_s / 3),
        allowed_s_max=left_s / 5,
    )
    while True:
        await trio.sleep(_TICK_S)
        senders = session.senders
        works = [work for work in session.work if not work.reduction.done]
        slow = pace.on_tick(
            trio.current_time(),
            missing=[
                peer
                for peer in session.voters
                if not senders.declared(peer) and not senders.excluded(peer)
            ],
            awaited=[p for work in works[:1] for p in work.reduction.awaited() if p != session.me],
            delivered={peer: senders.delivered(peer) for peer in session.voters},
            chunk_count=sum(len(work.piece.chunks) for work in session.work),
        )
        for peer, reason in slow.items():
            exclude(session, peer, reason)


# --- serving members --------------------------------------------------------------------------


async def serve_link(session: Session, call: Call) -> None:
    """Serve one member's stream."""
    peer = call.peer_id
    link = session.links[peer] = Link()
    try:
        with link.scope:
            async with open_service_nursery() as nursery:
                nursery.start_soon(_send, session, call, link)
                nursery.start_soon(_watch, session, peer, link)
                with session.calls.holding(call):
                    await _receive(session, call, link)
            exclude(session, peer, "left", lost=True)
    except StreamBroken:
        exclude(session, peer, "connection lost", lost=True)
        raise
    except MessageInvalid as exc:
        exclude(session, peer, f"broke the protocol: {exc}"[:200])
        raise
    finally:
        del session.links[peer]
        session.link_closed.ring()


async def _send(session: Session, call: Call, link: Link) -> None:
    """What the outbox holds, results as they come, and pings."""
    sent = 0
    for known in (session.aborted, session.ballot.plan, session.ballot.commit):
        if known is not None:
            link.outbox.put(known)
    try:
        while True:
            message: FromAggregator | None = link.outbox.pop()
            if message is None and sent < len(session.results) and call.peer_id in session.voters:
                result = session.results[sent]
                sent += 1
                if isinstance(result, PieceEnd):
                    await call.send(result)
                else:
                    if not may_send(session, call, len(result[2])):
                        exclude(session, call.peer_id, "its relay carries no more")
                        link.scope.cancel()
                        return
                    session.sent_bytes[call.path] += len(result[2])
                    began_s = trio.current_time()
                    with session.sending.task():
                        await call.send(Result(result[0], result[1]), result[2])
                    session.sent.on_moved(began_s, trio.current_time(), len(result[2]))
                continue
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


async def _watch(session: Session, peer: PeerId, link: Link) -> None:
    silence_s = session.config.silence_s
    await wait_silent(session.calls, peer, silence_s, lambda: link.listening_since_s)
    exclude(session, peer, "silent", lost=True)
    if session.done.is_set():
        # We only wait for it to take its results.
        link.scope.cancel()


async def _receive(session: Session, call: Call, link: Link) -> None:
    """Return when the member ends its stream."""

    def buffer_for(message: FromMember, size_bytes: int) -> memoryview:
        if not isinstance(message, Part):
            raise MessageInvalid("a payload behind a message that has none")
        return session.buffer_untrusted(session.up, message.piece, message.chunk, size_bytes)

    while True:
        began_s = trio.current_time()
        received = await call.receive_into(buffer_for, ahead=True)
        if received is None:
            return
        message, payload = received
        match message:
            case Weight():
                reason = hearing.on_weight_untrusted(session, call.peer_id, message)
                if reason is not None:
                    session.tell_links((call.peer_id,), Excluded(reason))
                session.work_changed.ring()
            case Part():
                session.received_bytes[call.path] += len(payload)
                session.received.on_moved(began_s, trio.current_time(), len(payload))
                await _take_part(session, call.peer_id, link, message, payload)
            case Vote():
                hearing.on_vote_untrusted(session, call.peer_id, message)
            case Plan():
                hearing.on_plan_untrusted(session, message)
            case Ping():
                pass
            case Hello():
                raise MessageInvalid("a second hello")


async def _take_part(
    session: Session, peer: PeerId, link: Link, part: Part, payload: Payload
) -> None:
    """Hand a part to the reduction when it has room; the member waits meanwhile."""
    if session.senders.excluded(peer):
        return
    work = next((work for work in session.work if work.piece.number == part.piece), None)
    if work is None:
        if part.piece < len(session.pieces):
            # By a plan that we do not follow, since we voted.
            return
        raise MessageInvalid("a part of a piece that does not exist")
    while not _has_room(session, work, peer) and not session.senders.excluded(peer):
        link.listening_since_s = None
        await session.room_changed.wait()
        link.listening_since_s = trio.current_time()
    if session.senders.excluded(peer):
        return
    if part.chunk >= len(work.piece.chunks):
        raise MessageInvalid("a part of a chunk that does not exist")
    chunk = work.piece.chunks[part.chunk]
    values = session.up.decode(payload, chunk.start, chunk.stop)
    reason = work.reduction.on_part(peer, part.chunk, values)
    if reason is not None:
        exclude(session, peer, reason)
        session.tell_links((peer,), Excluded(reason))
    session.work_changed.ring()
    session.room_changed.ring()


def _has_room(session: Session, work: Work, peer: PeerId) -> bool:
    """Whether we keep the sender's next chunk until the others' have come."""
    if not work.reduction.may_deliver(peer):
        return False
    planned = [one for one in session.work if one.plan and not one.reduction.done]
    # So the oldest goes on, and who is blocked while it waits for them is found by its pace.
    if not work.plan or (work in planned[:1] and peer in work.reduction.awaited()):
        return True
    return sum(one.reduction.waiting_bytes for one in planned) < session.config.planned_bytes_max
