"""The calling side of RPC."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Protocol, TypeVar

import trio

from p2p.errors import CallTimeout, MessageInvalid, StreamBroken
from p2p.host.stream import Stream
from p2p.peer_id import PeerId, short
from p2p.rpc import schema
from p2p.rpc.call import RpcCall, raise_control_untrusted
from p2p.rpc.frames import FrameReader
from p2p.rpc.schema import Method
from p2p.wire import Message, decode_untrusted, encode

Request = TypeVar("Request", bound=Message)
Response = TypeVar("Response")


class StreamOpener(Protocol):
    """The one thing that a client needs of a node."""

    async def open_stream(self, peer_id: PeerId, protocol: str) -> Stream:
        """A stream to the peer, connecting when needed."""


def protocol_id(name: str, major: int) -> str:
    """The protocol id of a service: /manyhands/<name>/<major>."""
    return f"/manyhands/{name}/{major}"


def rpc_client(node: StreamOpener, name: str, major: int = 1) -> RpcClient:
    """A client of the service of this name at any peer."""
    return RpcClient(node, protocol_id(name, major))


class RpcClient:
    """Calls one service at any peer; holds no connection or state of its own."""

    def __init__(self, node: StreamOpener, protocol: str) -> None:
        self._node = node
        self._protocol = protocol

    async def call(
        self,
        peer_id: PeerId,
        method: Method[Request, Response],
        request: Request,
        *,
        timeout_s: float,
    ) -> Response:
        """Ask and wait for the one answer.

        Raises:
            UnreachableError, RefusedError, RemoteError, StreamBroken: see each.
            CallTimeout: no answer within timeout_s, connecting included.
        """
        # A caller whose own deadline has passed may ask for less than no time.
        with trio.move_on_after(max(timeout_s, 0.0)):
            return await self._call(peer_id, method, request, timeout_s)
        raise CallTimeout(f"{short(peer_id)} did not answer {method.name} in {timeout_s:g} s")

    async def _call(
        self,
        peer_id: PeerId,
        method: Method[Request, Response],
        request: Request,
        timeout_s: float,
    ) -> Response:
        stream = await self._node.open_stream(peer_id, self._protocol)
        try:
            opening = _opening(method, request, timeout_s)
            # Who refuses need not read all of the request; its answer tells why.
            with suppress(StreamBroken):
                await stream.send_all(opening)
                await stream.send_eof()
            received = await FrameReader(stream).next_untrusted(method.response_bytes_max, 0)
            if received is None:
                raise MessageInvalid(f"{short(peer_id)} ended {method.name} without an answer")
            kind, body, _ = received
            if kind != schema.MESSAGE:
                raise_control_untrusted(kind, body)
            response = decode_untrusted(
                body, method.response_type, size_bytes_max=method.response_bytes_max
            )
        except BaseException:
            stream.reset()
            raise
        await stream.aclose()
        return response

    @asynccontextmanager
    async def open(
        self,
        peer_id: PeerId,
        method: Method[Request, Response],
        request: Request,
        *,
        timeout_s: float,
    ) -> AsyncIterator[RpcCall[Request, Response]]:
        """Open a streaming call with its first message; an error inside the block resets it.

        Args:
            timeout_s: for connecting and sending the first message; what comes after is the
                caller's to bound.

        Raises:
            UnreachableError, StreamBroken: see each.
            CallTimeout: not open within timeout_s.
        """
        stream: Stream | None = None
        try:
            with trio.move_on_after(max(timeout_s, 0.0)) as scope:
                stream = await self._node.open_stream(peer_id, self._protocol)
                await stream.send_all(_opening(method, request, schema.TIMEOUT_S_MAX))
            if scope.cancelled_caught or stream is None:
                raise CallTimeout(f"{short(peer_id)} could not be called in {timeout_s:g} s")
            yield RpcCall(
                stream,
                method.response_type,
                sent_bytes_max=method.request_bytes_max,
                received_bytes_max=method.response_bytes_max,
                payload_bytes_max=method.payload_bytes_max,
            )
        except BaseException:
            if stream is not None:
                stream.reset()
            raise
        await stream.aclose()


def _opening(method: Method[Request, Response], request: Request, timeout_s: float) -> bytes:
    header = schema.CallHeader(method.name, min(timeout_s, schema.TIMEOUT_S_MAX))
    body = encode(request)
    if len(body) > method.request_bytes_max:
        raise ValueError(f"request of {len(body)} bytes for {method.name} is over its limit")
    return schema.frame(schema.CALL, encode(header)) + schema.frame(schema.MESSAGE, body)
