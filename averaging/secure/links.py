"""The streams of a secure aggregation: one from each member to each aggregator, both sides."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import trio

from averaging.allreduce.silence import OpenCalls, wait_silent
from averaging.secure.parts import Array, Arriving
from averaging.secure.schema import (
    CHUNK_BYTES_MAX,
    LINK,
    FromAggregator,
    FromMember,
    Hello,
    Part,
    Ping,
    SumEnd,
    SumPart,
)
from averaging.secure.session import Session
from averaging.secure.streams import Outbox, Uplink
from p2p import (
    MessageInvalid,
    P2PError,
    RpcCall,
    RpcClient,
    StreamBroken,
    open_service_nursery,
    short,
)

logger = logging.getLogger(__name__)

Up = RpcCall[FromMember, FromAggregator]
Down = RpcCall[FromAggregator, FromMember]

_OPEN_TIMEOUT_S = 5.0
# So many fit in a silence.
_PINGS = 5
# The coordinator hears one message after the other, each in milliseconds.
_HEARD_S_MAX = 1.0


# --- a member's side --------------------------------------------------------------------------


async def run_uplink(session: Session, client: RpcClient, owner: int) -> None:
    """Exchange messages and spans with an aggregator; without the coordinator all is over."""
    peer, uplink = session.peers[owner], session.uplinks[owner]
    hello = Hello(session.group.group_id)
    try:
        with uplink.scope:
            async with (
                client.open(peer, LINK, hello, timeout_s=_OPEN_TIMEOUT_S) as call,
                open_service_nursery() as nursery,
            ):
                nursery.start_soon(_send_up, session, call, uplink)
                if owner == session.coordinator_index:
                    nursery.start_soon(_watch, session, call, uplink)
                await _receive_down(session, call, owner, uplink)
                nursery.cancel_scope.cancel()
    except P2PError as exc:
        uplink.cause = str(exc)
    logger.info("aggregator_lost peer=%s cause=%s", short(peer), uplink.cause)
    if owner == session.coordinator_index:
        # What it said last is heard first.
        session.obey_lost(uplink.cause)


async def _send_up(session: Session, call: Up, uplink: Uplink) -> None:
    outbox = uplink.outbox
    try:
        while True:
            await _send_messages(call, outbox)
            if outbox.bulk:
                span = outbox.bulk.popleft()
                where = session.spans[span]
                part = session.masked[where.start : where.stop]
                await _send_elements(session, call, outbox, part, where.start, Part, span)
            else:
                await outbox.bell.wait()
    except StreamBroken as exc:
        # The receiving task may see the same, and one error is enough.
        uplink.cause = str(exc)
        uplink.scope.cancel()


async def _watch(session: Session, call: Up, uplink: Uplink) -> None:
    calls = OpenCalls()
    with calls.holding(call):
        await wait_silent(calls, call.peer_id, session.config.silence_s)
    uplink.cause = "it is silent"
    uplink.scope.cancel()


async def _receive_down(session: Session, call: Up, owner: int, uplink: Uplink) -> None:
    def buffer_for(message: FromAggregator, size_bytes: int) -> memoryview:
        if not isinstance(message, SumPart):
            raise MessageInvalid("a payload behind a message that has none")
        arriving = _sum_untrusted(session, uplink, message)
        return arriving.buffer_untrusted(message.start, size_bytes)

    while (received := await call.receive_into(buffer_for)) is not None:
        message, payload = received
        if isinstance(message, SumPart):
            session.received_bytes[call.path] += len(payload)
            _sum_untrusted(session, uplink, message).on_come(len(payload))
        elif isinstance(message, SumEnd):
            if len(uplink.ends) >= _sums_max(session):
                raise MessageInvalid("more sums than are wanted")
            uplink.ends.append(message)
            await session.look_at_sums()
        elif isinstance(message, Ping):
            continue
        elif owner == session.coordinator_index:
            session.obey_soon(message)
        else:
            raise MessageInvalid("orders of one who is not the coordinator")


def _sum_untrusted(session: Session, uplink: Uplink, message: SumPart) -> Arriving:
    """Where a masked sum of this plan and span goes."""
    key = (message.plan, message.span)
    if key not in uplink.sums:
        if message.span >= len(session.spans) or len(uplink.sums) >= _sums_max(session):
            raise MessageInvalid("a masked sum of no span, or more than are wanted")
        where = session.spans[message.span]
        place = np.empty(where.stop - where.start, session.ring.dtype)
        uplink.sums[key] = Arriving(place, where.start)
    return uplink.sums[key]


def _sums_max(session: Session) -> int:
    """Sums that may come before we know that they are wanted: of all spans, by two plans."""
    return 2 * len(session.spans)


# --- an aggregator's side ---------------------------------------------------------------------


async def serve_link(session: Session, call: RpcCall[Any, Any], sender: int) -> None:
    """Take a member's parts and messages; until the session is over and it has all from us."""
    outbox = Outbox()
    session.links[sender] = outbox
    cause = "left"
    try:
        async with open_service_nursery() as nursery:
            nursery.start_soon(_send_down, session, call, outbox, nursery.cancel_scope)
            nursery.start_soon(_end_when_done, session, outbox, nursery.cancel_scope)
            await _receive_up(session, call, sender)
            nursery.cancel_scope.cancel()
    except P2PError as exc:
        cause = str(exc)
        raise
    finally:
        del session.links[sender]
        session.link_changed.ring()
        if session.coordinator is not None and not session.done.is_set():
            await _tell_lost(session, sender, cause)


async def _tell_lost(session: Session, sender: int, cause: str) -> None:
    # The session may end meanwhile, and nobody hears it then.
    with trio.move_on_after(_HEARD_S_MAX) as scope:
        scope.shield = True
        await session.hear(sender, cause)


async def _end_when_done(session: Session, outbox: Outbox, scope: trio.CancelScope) -> None:
    await session.done.wait()
    while not outbox.empty or outbox.sending:
        await outbox.drained.wait()
    scope.cancel()


async def _send_down(session: Session, call: Down, outbox: Outbox, scope: trio.CancelScope) -> None:
    try:
        while True:
            outbox.sending = True
            await _send_messages(call, outbox)
            if outbox.bulk:
                plan, span = outbox.bulk.popleft()
                await _send_sum(session, call, outbox, plan, span)
            else:
                outbox.sending = False
                outbox.drained.ring()
                with trio.move_on_after(session.config.silence_s / _PINGS) as idle:
                    await outbox.bell.wait()
                if idle.cancelled_caught and session.coordinator is not None:
                    await call.send(Ping())
    except StreamBroken:
        # As above.
        scope.cancel()


async def _send_sum(session: Session, call: Down, outbox: Outbox, plan: int, span: int) -> None:
    total, end = session.masked_sums[plan, span]
    start = session.spans[span].start
    await _send_elements(session, call, outbox, total, start, SumPart, plan, span)
    await call.send(end)


async def _receive_up(session: Session, call: Down, sender: int) -> None:
    def arriving_untrusted(message: Part) -> Arriving:
        owners = session.member.owners
        ours = message.span < len(owners) and owners[message.span] == session.me
        return session.parts.of_untrusted(message.span, sender, ours=ours)

    def buffer_for(message: FromMember, size_bytes: int) -> memoryview:
        if not isinstance(message, Part):
            raise MessageInvalid("a payload behind a message that has none")
        return arriving_untrusted(message).buffer_untrusted(message.start, size_bytes)

    while (received := await call.receive_into(buffer_for)) is not None:
        message, payload = received
        if isinstance(message, Part):
            session.received_bytes[call.path] += len(payload)
            arriving = arriving_untrusted(message)
            arriving.on_come(len(payload))
            if arriving.whole:
                await session.on_part(sender, message.span)
        elif isinstance(message, Hello) or session.coordinator is None:
            raise MessageInvalid("a message for the coordinator, that we are not")
        else:
            await session.hear(sender, message)


# --- both -------------------------------------------------------------------------------------


async def _send_messages(call: RpcCall[Any, Any], outbox: Outbox) -> None:
    while outbox.messages:
        await call.send(outbox.messages.popleft())


async def _send_elements(
    session: Session,
    call: RpcCall[Any, Any],
    outbox: Outbox,
    values: Array,
    start: int,
    kind: Any,
    *names: int,
) -> None:
    """Send elements of the ring in runs, and between them what small messages there are."""
    step = CHUNK_BYTES_MAX // values.itemsize
    for first in range(0, len(values), step):
        run = values[first : first + step].view(np.uint8).data
        if call.path == "relayed" and not session.node.relayed_bulk.take(call.peer_id, len(run)):
            raise StreamBroken("the relay between us carries no more")
        session.sent_bytes[call.path] += len(run)
        await call.send(kind(*names, start + first), run)
        await _send_messages(call, outbox)
