"""Asking a relay for a circuit to a peer that has reserved there."""

from __future__ import annotations

from p2p.errors import MessageInvalid, RefusedError, StreamBroken
from p2p.host.stream import Stream
from p2p.host.transport import DialError, Transport
from p2p.peer_id import PeerId
from p2p.protobuf import framed
from p2p.relay.schema import (
    HOP_PROTOCOL,
    CircuitLimit,
    Hop,
    HopType,
    Status,
    decode_hop_untrusted,
    encode_hop,
    read_message_untrusted,
)

_CAUSES = {
    Status.RESERVATION_REFUSED: "the relay takes no reservations",
    Status.RESOURCE_LIMIT_EXCEEDED: "the relay has no room for another circuit",
    Status.PERMISSION_DENIED: "the relay does not let us through",
    Status.CONNECTION_FAILED: "the relay does not get through to it",
    Status.NO_RESERVATION: "the relay has no reservation for it",
    Status.MALFORMED_MESSAGE: "the relay does not understand us",
    Status.UNEXPECTED_MESSAGE: "the relay does not understand us",
}


async def open_circuit(
    transport: Transport, relay: PeerId, target: PeerId
) -> tuple[Stream, CircuitLimit]:
    """A byte stream to the target through a relay that we are connected to, and its limits.

    Raises:
        DialError: there is no circuit to be had; the text is the cause.
    """
    try:
        stream = await transport.open_stream(relay, HOP_PROTOCOL)
    except StreamBroken as exc:
        raise DialError("the connection to the relay was lost") from exc
    try:
        if stream.path == "relayed":
            raise DialError("the relay is itself only reached through a relay")
        await stream.send_all(framed(encode_hop(Hop(type=HopType.CONNECT, peer_id=target))))
        answer = decode_hop_untrusted(await read_message_untrusted(stream))
        if answer.type != HopType.STATUS or answer.status is None:
            raise MessageInvalid("no answer to our request")
        if answer.status != Status.OK:
            raise DialError(_cause(answer.status))
    except BaseException as exc:
        stream.reset()
        if isinstance(exc, RefusedError):
            raise DialError("it serves as no relay") from exc
        if isinstance(exc, StreamBroken):
            raise DialError("the relay gave up on us") from exc
        if isinstance(exc, MessageInvalid):
            raise DialError(f"the relay makes no sense: {exc}") from exc
        raise
    return stream, answer.limit or CircuitLimit()


def _cause(status: int) -> str:
    try:
        return _CAUSES[Status(status)]
    except (ValueError, KeyError):
        return f"the relay refuses with status {status}"
