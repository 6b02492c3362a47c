"""A member's side of its stream to one aggregator: parts go up while results come down."""

from __future__ import annotations

from typing import Final

import trio

from averaging.allreduce import hearing
from averaging.allreduce.partition import Piece
from averaging.allreduce.promptness import Promptness
from averaging.allreduce.relaying import may_send, needs_new_circuit_to, obstacle_to
from averaging.allreduce.schema import (
    TRANSFER,
    Abort,
    Commit,
    Excluded,
    FromAggregator,
    FromMember,
    Hello,
    Part,
    PieceEnd,
    Ping,
    Plan,
    Result,
)
from averaging.allreduce.session import Session
from averaging.allreduce.silence import wait_silent
from averaging.allreduce.streams import Incoming, Uplink
from averaging.codecs.floating import Payload
from p2p import (
    CallTimeout,
    MessageInvalid,
    P2PError,
    PeerId,
    RemoteError,
    RpcCall,
    RpcClient,
    StreamBroken,
    open_service_nursery,
)

Call = RpcCall[FromMember, FromAggregator]

_TICK_S: Final = 0.25


async def run_uplink(session: Session, client: RpcClient, owner: int) -> None:
    """Exchange pieces with an aggregator, until the round ends or the aggregator is lost."""
    peer = session.aggregators[owner]
    uplink = session.uplinks[peer]
    hello = Hello(session.group_id)
    if needs_new_circuit_to(session, peer):
        # It would be cut in the middle of the round.
        await session.node.disconnect(peer)
    try:
        async with (
            client.open(peer, TRANSFER, hello, timeout_s=session.config.silence_s) as call,
            open_service_nursery() as nursery,
        ):
            if obstacle := obstacle_to(session, peer):
                raise StreamBroken(obstacle)
            nursery.start_soon(_send, session, call, uplink)
            nursery.start_soon(_watch, session, peer)
            with session.calls.holding(call):
                await _receive(session, call, owner, uplink)
    except CallTimeout as exc:
        session.on_aggregator_lost(peer, str(exc), silent=True)
    except RemoteError as exc:
        session.on_aggregator_lost(peer, str(exc), faulty=True)
    except P2PError as exc:
        session.on_aggregator_lost(peer, str(exc))


async def _send(session: Session, call: Call, uplink: Uplink) -> None:
    declared = False
    try:
        while True:
            message = uplink.outbox.pop()
            if message is not None:
                await call.send(message)
            elif session.votes and session.begun.is_set() and not declared:
                await call.send(session.declared())
                declared = True
            elif declared and uplink.pieces and uplink.wanted and session.weight:
                await _send_parts(session, call, uplink, uplink.pieces.popleft())
            else:
                with trio.move_on_after(session.config.ping_s) as idle:
                    await uplink.outbox.bell.wait()
                if idle.cancelled_caught:
                    await call.send(Ping())
    except StreamBroken:
        # The receiving task sees the same, and says so.
        return


async def _send_parts(session: Session, call: Call, uplink: Uplink, piece: Piece) -> None:
    for chunk in piece.chunks:
        if not uplink.wanted:
            return
        part = session.part(chunk)
        if not may_send(session, call, len(part)):
            session.on_aggregator_lost(call.peer_id, "its relay carries no more")
            uplink.wanted = False
            return
        session.sent_bytes[call.path] += len(part)
        began_s = trio.current_time()
        with session.sending.task():
            await call.send(Part(piece.number, chunk.number), part)
        session.sent.on_moved(began_s, trio.current_time(), len(part))
        while (message := uplink.outbox.pop()) is not None:
            await call.send(message)


async def _watch(session: Session, peer: PeerId) -> None:
    await wait_silent(session.calls, peer, session.config.silence_s)
    session.on_aggregator_lost(peer, "silent", silent=True)


async def keep_promptness(session: Session) -> None:
    """Give aggregators up that are alive but far behind the others."""
    await session.begun.wait()
    promptness: Promptness[PeerId] = Promptness(
        session.begun_at_s, grace_s=session.config.silence_s
    )
    while True:
        await trio.sleep(_TICK_S)
        holdings = session.ballot.holdings
        awaited = [
            owner for piece, owner in enumerate(holdings.owners) if not holdings.holds(piece)
        ]
        due = [peer for k, peer in enumerate(session.aggregators) if k in awaited]
        late = promptness.on_tick(
            trio.current_time(),
            done=[peer for peer in session.aggregators if peer not in due],
            due=[peer for peer in due if peer != session.me],
        )
        for peer in late:
            if not session.ballot.holdings.suspected(peer):
                session.on_aggregator_lost(peer, "too slow", slow=True)


async def _receive(session: Session, call: Call, owner: int, uplink: Uplink) -> None:
    def buffer_for(message: FromAggregator, size_bytes: int) -> memoryview:
        if not isinstance(message, Result):
            raise MessageInvalid("a payload behind a message that has none")
        incoming = _incoming(session, message.piece, owner)
        wire = session.down
        return session.buffer_untrusted(wire, message.piece, message.chunk, size_bytes, incoming)

    while True:
        began_s = trio.current_time()
        received = await call.receive_into(buffer_for, ahead=True)
        if received is None:
            raise StreamBroken("the aggregator closed the stream")
        message, payload = received
        match message:
            case Result():
                session.received_bytes[call.path] += len(payload)
                session.received.on_moved(began_s, trio.current_time(), len(payload))
                incoming = _incoming(session, message.piece, owner)
                if incoming is not None and not _missed(session, message, incoming):
                    await take_chunk_untrusted(session, incoming, message, payload)
            case PieceEnd():
                incoming = _incoming(session, message.piece, owner)
                if incoming is not None and not _missed(session, message, incoming):
                    _end_piece_untrusted(session, message, owner, incoming)
            case Excluded():
                uplink.wanted = False
            case Plan():
                hearing.on_plan_untrusted(session, message)
            case Commit():
                hearing.on_commit_untrusted(session, message)
            case Abort():
                # Whoever contributes, or is still to, and was not refused knows better.
                contributes = session.weight or (session.votes and not session.begun.is_set())
                if message.certain and not (contributes and uplink.wanted):
                    session.ballot.on_abort(message.reason)
                    session.act()
                else:
                    raise StreamBroken(message.reason)
            case Ping():
                pass


def _incoming(session: Session, piece: int, owner: int) -> Incoming | None:
    """Where a piece's next chunk goes; None when nothing more of it is taken from this owner."""
    if piece >= len(session.pieces):
        raise MessageInvalid("a chunk of a piece that does not exist")
    holdings = session.ballot.holdings
    if holdings.owners[piece] != owner or holdings.holds(piece):
        return None
    return session.incoming.get(piece)


def _missed(session: Session, message: Result | PieceEnd, incoming: Incoming) -> bool:
    """Whether earlier chunks came while we followed a plan by which another owned the piece.

    It is no fault of the owner, and we fetch the piece once it is whole.
    """
    next_chunk = message.chunk if isinstance(message, Result) else len(message.chunks)
    if session.ballot.plan is None or next_chunk == len(incoming.chunks):
        return False
    session.incoming[message.piece] = Incoming()
    session.ballot.on_missed(message.piece, trio.current_time())
    session.act()
    return True


def _end_piece_untrusted(session: Session, end: PieceEnd, owner: int, incoming: Incoming) -> None:
    hearing.check_piece_end_untrusted(session, end, end.piece)
    if end.owner != owner or end.chunks != tuple(incoming.digests):
        raise MessageInvalid("a piece end does not fit its chunks")
    session.hold(end, incoming.chunks)


async def take_chunk_untrusted(
    session: Session, incoming: Incoming, result: Result, payload: Payload
) -> None:
    """Keep the next chunk of a piece; raises MessageInvalid when it is not that."""
    chunks = session.pieces[result.piece].chunks
    if result.chunk != len(incoming.chunks) or result.chunk >= len(chunks):
        raise MessageInvalid("a chunk is out of order")
    chunk = chunks[result.chunk]
    digest = await session.digest_of_untrusted(chunk, payload)
    if len(incoming.chunks) != result.chunk:
        # Another version was awaited in the meantime.
        return
    incoming.chunks.append(payload)
    incoming.digests.append(digest)
