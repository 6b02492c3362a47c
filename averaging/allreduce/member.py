"""A member's side of its stream to one aggregator: parts go up while results come down."""

from __future__ import annotations

import numpy as np
import trio

from averaging.allreduce import manifest
from averaging.allreduce.schema import (
    TRANSFER,
    Abort,
    Commit,
    FromAggregator,
    FromMember,
    Part,
    Ping,
    Result,
    SpanEnd,
)
from averaging.allreduce.session import Array, Incoming, Outbox, Session
from averaging.allreduce.silence import wait_silent
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


async def run_uplink(session: Session, client: RpcClient, owner: int) -> None:
    """Exchange one span with its aggregator, until the round ends or the aggregator is lost."""
    peer = session.aggregators[owner]
    outbox = session.uplinks[peer] = Outbox()
    hello = manifest.signed_hello(session.group_id, session.weight, session.node.identity.sign)
    try:
        async with (
            client.open(peer, TRANSFER, hello, timeout_s=session.config.silence_s) as call,
            open_service_nursery() as nursery,
        ):
            nursery.start_soon(_send, session, call, owner, outbox)
            nursery.start_soon(_watch, session, call, peer)
            await _receive(session, call, owner)
    except CallTimeout as exc:
        session.on_aggregator_lost(peer, str(exc), silent=True)
    except RemoteError as exc:
        session.on_aggregator_lost(peer, str(exc), faulty=True)
    except P2PError as exc:
        session.on_aggregator_lost(peer, str(exc))


async def _send(session: Session, call: Call, owner: int, outbox: Outbox) -> None:
    try:
        if session.weight:
            for chunk in session.spans[owner].chunks:
                part = wire_values(session, chunk.start, chunk.stop)
                await call.send(Part(chunk.number), part.view(np.uint8).data)
                session.sent_bytes += part.nbytes
        while True:
            message = outbox.pop()
            if message is None:
                with trio.move_on_after(session.config.ping_s) as idle:
                    await outbox.bell.wait()
                if not idle.cancelled_caught:
                    continue
                message = Ping()
            await call.send(message)
    except StreamBroken:
        # The receiving task sees the same, and says so.
        return


def wire_values(session: Session, start: int, stop: int) -> Array:
    """Our values as they travel; what the wire's dtype cannot hold becomes infinite."""
    with np.errstate(over="ignore"):
        return session.flat[start:stop].astype(session.wire_dtype, copy=False)


async def _watch(session: Session, call: Call, peer: PeerId) -> None:
    await wait_silent(call, session.config.silence_s)
    session.on_aggregator_lost(peer, "silent", silent=True)


async def _receive(session: Session, call: Call, owner: int) -> None:
    incoming = session.incoming[owner]
    while True:
        received = await call.receive()
        if received is None:
            raise StreamBroken("the aggregator closed the stream")
        message, payload = received
        match message:
            case Result():
                await take_chunk_untrusted(session, incoming, owner, message.chunk, payload)
            case SpanEnd():
                session.check_span_end_untrusted(message, owner)
                if message.chunks != tuple(incoming.digests):
                    raise MessageInvalid("a span end does not fit its chunks")
                session.hold(message, incoming.chunks)
            case Commit():
                session.on_commit_untrusted(message)
            case Abort():
                session.ballot.on_abort(message.reason)
                session.act()
            case Ping():
                pass


async def take_chunk_untrusted(
    session: Session, incoming: Incoming, owner: int, number: int, payload: bytes
) -> None:
    """Keep the next chunk of a span; raises MessageInvalid when it is not the next."""
    chunks = session.spans[owner].chunks
    if number != len(incoming.chunks) or number >= len(chunks):
        raise MessageInvalid("a chunk is out of order")
    if len(payload) != chunks[number].element_count * session.wire_dtype.itemsize:
        raise MessageInvalid("a chunk has a wrong size")
    session.received_bytes += len(payload)
    digest = await session.digest_of(payload)
    incoming.chunks.append(payload)
    incoming.digests.append(digest)
