"""Serving one inbound stream, so that nothing that happens to it reaches another."""

from __future__ import annotations

import logging
from collections.abc import Mapping

import trio

from p2p.errors import P2PError, RefusedError, StreamBroken
from p2p.host import multistream
from p2p.host.muxed_stream import MuxedStream
from p2p.host.negotiated import NegotiatedStream
from p2p.host.stream import StreamHandler
from p2p.host.transport import ConnectionInfo
from p2p.peer_id import short

logger = logging.getLogger(__name__)

NEGOTIATION_TIMEOUT_S = 10.0


async def serve_stream(
    muxed: MuxedStream, info: ConnectionInfo, handlers: Mapping[str, StreamHandler]
) -> None:
    """Agree on a protocol and run its handler; whatever that raises resets this stream only."""
    protocol = "none"
    try:
        with trio.fail_after(NEGOTIATION_TIMEOUT_S):
            protocol = await _agree(muxed, handlers)
        if protocol:
            await handlers[protocol](NegotiatedStream(muxed, info, protocol, agreed=True))
        # A refusal is on its way too; a reset could overtake it.
        await muxed.aclose()
    except* (P2PError, trio.TooSlowError) as group:
        logger.debug(
            "stream_ended peer=%s protocol=%s %r", short(info.peer_id), protocol, group.exceptions
        )
    except* Exception as group:
        # A stranger's stream must not take the node down; the operator gets the traceback.
        logger.error(
            "stream_handler_failed peer=%s protocol=%s",
            short(info.peer_id),
            protocol,
            exc_info=group,
        )
    finally:
        muxed.reset()


async def _agree(muxed: MuxedStream, handlers: Mapping[str, StreamHandler]) -> str:
    """The protocol agreed on, or an empty text when the peer has been told that there is none."""
    try:
        protocol = await multistream.accept_untrusted(muxed, handlers.__contains__)
    except RefusedError:
        return ""
    # Agreeing may have waited for the peer, and the service may be gone by now.
    if protocol not in handlers:
        raise StreamBroken(f"{protocol} is served no more")
    return protocol
