"""Asking members how they stand, and fetching pieces from those that hold them; both sides."""

from __future__ import annotations

from typing import Any

import trio

from averaging.allreduce import hearing
from averaging.allreduce.manifest import piece_digest
from averaging.allreduce.member import take_chunk_untrusted
from averaging.allreduce.outputs import FetchPiece
from averaging.allreduce.relaying import may_send
from averaging.allreduce.schema import ASK, FETCH, Fetch, PieceEnd, Question, Result
from averaging.allreduce.session import Session
from averaging.allreduce.silence import OpenCalls, wait_silent
from averaging.allreduce.streams import Incoming
from p2p import (
    MessageInvalid,
    P2PError,
    PeerId,
    RefusedError,
    RpcCall,
    RpcClient,
    StreamBroken,
    open_service_nursery,
)


async def ask(session: Session, client: RpcClient, peer: PeerId) -> None:
    """Ask a member how it stands, and tell the ballot."""
    ballot = session.ballot
    question = Question(session.group_id, ballot.promise, session.gone, ballot.plan, ballot.vote)
    try:
        answer = await client.call(peer, ASK, question, timeout_s=session.config.ask_timeout_s)
        hearing.on_answer_untrusted(session, peer, answer)
    except RefusedError:
        ballot.on_stranger(peer, trio.current_time())
        session.act()
    except P2PError:
        ballot.on_no_answer(peer, trio.current_time())
        session.act()


async def fetch(session: Session, client: RpcClient, wanted: FetchPiece[PeerId]) -> None:
    """Fetch a piece from a member that holds it, and tell the ballot."""
    # What its aggregator sent before it was lost need not travel again, if it fits.
    incoming = Incoming()
    if wanted.piece not in session.held and wanted.piece in session.incoming:
        ours = session.incoming[wanted.piece]
        incoming = Incoming(chunks=ours.chunks.copy(), digests=ours.digests.copy())
    request = Fetch(session.group_id, wanted.piece, wanted.digest, len(incoming.chunks))
    try:
        async with client.open(
            wanted.peer, FETCH, request, timeout_s=session.config.ask_timeout_s
        ) as call:
            end = await _receive_while_heard_untrusted(session, call, wanted, incoming)
    except P2PError:
        session.incoming[wanted.piece] = Incoming()
        session.ballot.on_fetch_failed(wanted.peer, wanted.piece, trio.current_time())
        session.act()
    else:
        session.hold(end, incoming.chunks)


async def _receive_while_heard_untrusted(
    session: Session, call: RpcCall[Any, Any], wanted: FetchPiece[PeerId], incoming: Incoming
) -> PieceEnd:
    # Of this call alone: another member may hold the piece and be quicker.
    calls, end = OpenCalls(), None
    async with open_service_nursery() as nursery:
        # It cancels and does not raise: two errors at once would leave as a group.
        silence_s, scope = session.config.silence_s, nursery.cancel_scope
        nursery.start_soon(_cancel_when_silent, calls, wanted.peer, silence_s, scope)
        with calls.holding(call):
            end = await _receive_untrusted(session, call, wanted, incoming)
    if end is None:
        raise StreamBroken("the holder fell silent")
    return end


async def _cancel_when_silent(
    calls: OpenCalls, peer: PeerId, silence_s: float, scope: trio.CancelScope
) -> None:
    await wait_silent(calls, peer, silence_s)
    scope.cancel()


async def _receive_untrusted(
    session: Session, call: RpcCall[Any, Any], wanted: FetchPiece[PeerId], incoming: Incoming
) -> PieceEnd:
    def buffer_for(message: Any, size_bytes: int) -> memoryview:
        if not isinstance(message, Result) or message.piece != wanted.piece:
            raise MessageInvalid("a payload that was not asked for")
        return session.buffer_untrusted(session.down, wanted.piece, message.chunk, size_bytes)

    end: PieceEnd | None = None
    while end is None or len(incoming.chunks) < len(end.chunks):
        received = await call.receive_into(buffer_for)
        if received is None:
            raise StreamBroken("the holder ended early")
        message, payload = received
        if isinstance(message, PieceEnd):
            hearing.check_piece_end_untrusted(session, message, wanted.piece)
            if piece_digest(message) != wanted.digest:
                raise MessageInvalid("not the piece that was asked for")
            end = message
        elif isinstance(message, Result) and message.piece == wanted.piece:
            session.received_bytes[call.path] += len(payload)
            await take_chunk_untrusted(session, incoming, message, payload)
        count = len(incoming.digests)
        if end is None or tuple(incoming.digests) != end.chunks[:count]:
            raise MessageInvalid("a chunk does not fit the piece")
    return end


async def serve_fetch(session: Session, call: RpcCall[Any, Any], request: Fetch) -> None:
    """Send a piece that we hold to another member."""
    held = session.held.get(request.piece)
    if call.peer_id not in session.members or held is None:
        raise RefusedError("not-found", "no such piece here")
    if piece_digest(held.end) != request.digest:
        raise RefusedError("not-found", "the piece here is another")
    await call.send(held.end)
    for number in range(request.first_chunk, len(held.chunks)):
        if not may_send(session, call, len(held.chunks[number])):
            raise RefusedError("too-large", "the relay between us carries no more")
        session.sent_bytes[call.path] += len(held.chunks[number])
        await call.send(Result(request.piece, number), held.chunks[number])
