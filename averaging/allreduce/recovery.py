"""Asking members how they stand, and fetching spans from those that hold them; both sides."""

from __future__ import annotations

from typing import Any

import trio

from averaging.allreduce.manifest import span_digest
from averaging.allreduce.member import take_chunk_untrusted
from averaging.allreduce.outputs import FetchSpan
from averaging.allreduce.schema import ASK, FETCH, Answer, Fetch, Question, Result, SpanEnd
from averaging.allreduce.session import Incoming, Session
from averaging.allreduce.silence import wait_silent
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
    question = Question(session.group_id, session.ballot.promise, session.gone)
    try:
        answer = await client.call(peer, ASK, question, timeout_s=session.config.ask_timeout_s)
        session.on_answer_untrusted(peer, answer)
    except RefusedError:
        session.ballot.on_stranger(peer, trio.current_time())
        session.act()
    except P2PError:
        session.ballot.on_no_answer(peer, trio.current_time())
        session.act()


def answer_untrusted(session: Session, caller: PeerId, question: Question) -> Answer:
    """Say how we stand, and learn how the caller does."""
    if caller not in session.members:
        raise RefusedError("not-found", "the caller is not in the group")
    if question.promise is not None:
        session.check_promise_untrusted(question.promise)
    session.ballot.on_asked(caller, question.promise, question.gone, trio.current_time())
    session.act()
    return session.ballot.answer(gone=session.gone)


async def fetch(session: Session, client: RpcClient, wanted: FetchSpan[PeerId]) -> None:
    """Fetch a span from a member that holds it, and tell the ballot."""
    # What its aggregator sent before it was lost need not travel again, if it fits.
    ours = session.incoming[wanted.owner]
    incoming = Incoming(ours.chunks.copy(), ours.digests.copy())
    request = Fetch(session.group_id, wanted.owner, wanted.digest, len(incoming.chunks))
    try:
        async with (
            client.open(
                wanted.peer, FETCH, request, timeout_s=session.config.ask_timeout_s
            ) as call,
            open_service_nursery() as nursery,
        ):
            nursery.start_soon(_break_when_silent, session, call)
            end = await _receive_untrusted(session, call, wanted, incoming)
    except P2PError:
        session.incoming[wanted.owner] = Incoming()
        session.ballot.on_fetch_failed(wanted.peer, wanted.owner, trio.current_time())
        session.act()
    else:
        session.hold(end, incoming.chunks)


async def _break_when_silent(session: Session, call: RpcCall[Any, Any]) -> None:
    await wait_silent(call, session.config.silence_s)
    raise StreamBroken("the holder fell silent")


async def _receive_untrusted(
    session: Session, call: RpcCall[Any, Any], wanted: FetchSpan[PeerId], incoming: Incoming
) -> SpanEnd:
    end: SpanEnd | None = None
    while end is None or len(incoming.chunks) < len(end.chunks):
        received = await call.receive()
        if received is None:
            raise StreamBroken("the holder ended early")
        message, payload = received
        if isinstance(message, SpanEnd):
            session.check_span_end_untrusted(message, wanted.owner)
            if span_digest(message) != wanted.digest:
                raise MessageInvalid("not the span that was asked for")
            end = message
        elif isinstance(message, Result):
            await take_chunk_untrusted(session, incoming, wanted.owner, message.chunk, payload)
        count = len(incoming.digests)
        if end is None or tuple(incoming.digests) != end.chunks[:count]:
            raise MessageInvalid("a chunk does not fit the span")
    return end


async def serve_fetch(session: Session, call: RpcCall[Any, Any], request: Fetch) -> None:
    """Send a span that we hold to another member."""
    held = session.held.get(request.owner)
    if call.peer_id not in session.members or held is None:
        raise RefusedError("not-found", "no such span here")
    if span_digest(held.end) != request.digest:
        raise RefusedError("not-found", "the span here is another")
    await call.send(held.end)
    for number in range(request.first_chunk, len(held.chunks)):
        await call.send(Result(number), held.chunks[number])
        session.sent_bytes += len(held.chunks[number])
