"""Asking a peer to dial us back at one address."""

from __future__ import annotations

import logging

import trio

from p2p.address import TcpAddress
from p2p.errors import P2PError
from p2p.host.transport import Transport
from p2p.nat.autonat.schema import (
    AUTONAT_PROTOCOL,
    DialRequest,
    Status,
    decode_response_untrusted,
    encode_request,
    read_message_untrusted,
)
from p2p.nat.verdicts import Answer, Question
from p2p.peer_id import PeerId, short
from p2p.protobuf import framed

logger = logging.getLogger(__name__)

ASK_TIMEOUT_S = 20.0
"""Foreign servers give a dial up to 15 s."""


async def ask_dial_back(transport: Transport, own_id: PeerId, question: Question) -> Answer:
    """Put a question to its server, that we are connected to."""
    server, address = question.server.peer_id, question.address
    request = DialRequest(own_id, (TcpAddress(address.kind, address.host, address.port),))
    try:
        with trio.fail_after(ASK_TIMEOUT_S):
            stream = await transport.open_stream(server, AUTONAT_PROTOCOL)
            try:
                await stream.send_all(framed(encode_request(request)))
                response = decode_response_untrusted(await read_message_untrusted(stream))
                await stream.aclose()
            finally:
                stream.reset()
    except (P2PError, trio.TooSlowError) as exc:
        logger.debug("dial_back_unanswered server=%s %r", short(server), exc)
        return Answer.SILENT
    if response.status == Status.OK:
        return Answer.REACHED
    return Answer.FAILED if response.status == Status.DIAL_ERROR else Answer.REFUSED
