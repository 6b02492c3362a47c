"""Serving dial-back: a peer asks, we dial it from a fresh port, and say how that went."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

import trio

from p2p.address import TcpAddress, parse_tcp_address
from p2p.complaints import Complaints
from p2p.errors import MessageInvalid
from p2p.host.stream import Stream
from p2p.host.transport import DialError, Transport
from p2p.nat.autonat.policy import DialBackPolicy
from p2p.nat.autonat.schema import (
    AUTONAT_PROTOCOL,
    SERVER_TIMEOUT_S,
    DialResponse,
    Status,
    decode_request_untrusted,
    encode_response,
    read_message_untrusted,
)
from p2p.peer_id import PeerId
from p2p.protobuf import framed

logger = logging.getLogger(__name__)

DIAL_TIMEOUT_S = 5.0
"""All addresses of a request are dialed at once; a lost SYN is sent again after 1 and 3 s."""

Probe = Callable[[PeerId, TcpAddress], Awaitable[None]]
"""Connects from a fresh port to see whether this peer answers there; raises DialError."""


@contextmanager
def serving_dial_back(transport: Transport, probe: Probe) -> Iterator[None]:
    """Dial back whoever asks, within the policy, while the block lasts."""
    server = _Server(probe)
    transport.set_handler(AUTONAT_PROTOCOL, server.serve)
    try:
        yield
    finally:
        transport.set_handler(AUTONAT_PROTOCOL, None)


class _Server:
    """One policy, and who is being dialed."""

    def __init__(self, probe: Probe) -> None:
        self._probe = probe
        self._policy = DialBackPolicy()
        self._busy_with: set[PeerId] = set()
        self._complaints = Complaints(logger, "dial_back_refused")

    async def serve(self, stream: Stream) -> None:
        """Answer one request."""
        with trio.fail_after(SERVER_TIMEOUT_S):
            response = await self._response(stream)
            await stream.send_all(framed(encode_response(response)))

    async def _response(self, stream: Stream) -> DialResponse:
        try:
            request = decode_request_untrusted(await read_message_untrusted(stream))
        except MessageInvalid as exc:
            self._complaints.add(stream.peer_id, str(exc))
            return DialResponse(Status.BAD_REQUEST)
        if request.peer_id != stream.peer_id:
            self._complaints.add(stream.peer_id, "asks for another peer")
            return DialResponse(Status.BAD_REQUEST)
        if stream.path == "relayed" or stream.peer_id in self._busy_with:
            return DialResponse(Status.DIAL_REFUSED)
        observed = parse_tcp_address(stream.address)
        chosen = self._policy.choose(request.addresses, observed, trio.current_time())
        if not chosen:
            self._complaints.add(stream.peer_id, "asks for addresses not its own, or too often")
            return DialResponse(Status.DIAL_REFUSED)
        self._busy_with.add(stream.peer_id)
        try:
            reached = await self._dial(stream.peer_id, chosen)
        finally:
            self._busy_with.remove(stream.peer_id)
        # Refused, silent, somebody else: which of them is nobody's business.
        return DialResponse(Status.DIAL_ERROR if reached is None else Status.OK, reached)

    async def _dial(self, peer_id: PeerId, addresses: tuple[TcpAddress, ...]) -> TcpAddress | None:
        """The address that the peer answered at first, or None."""
        reached: list[TcpAddress] = []

        async def attempt(address: TcpAddress) -> None:
            try:
                await self._probe(peer_id, address)
            except DialError as exc:
                logger.debug("dial_back_failed address=%s %s", address, exc)
                return
            reached.append(address)
            nursery.cancel_scope.cancel()

        with trio.move_on_after(DIAL_TIMEOUT_S):
            async with trio.open_nursery() as nursery:
                for address in addresses:
                    nursery.start_soon(attempt, address)
        return reached[0] if reached else None
