"""The serving side of RPC: the one place that runs our code for a stranger's call."""

from __future__ import annotations

import contextlib
import logging
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, Protocol, TypeVar

import trio

from p2p.errors import MessageInvalid, P2PError, RefusedError, StreamBroken
from p2p.host.stream import Stream, StreamHandler
from p2p.metrics import RPC_REQUESTS
from p2p.peer_id import PeerId, short
from p2p.rpc import schema
from p2p.rpc.call import RpcCall
from p2p.rpc.client import protocol_id
from p2p.rpc.frames import FrameReader
from p2p.rpc.schema import AnyMethod, Method
from p2p.wire import Message, decode_untrusted, encode

logger = logging.getLogger(__name__)

Request = TypeVar("Request", bound=Message)
Response = TypeVar("Response")

# A caller that opens a stream says what it wants at once; who does not is cut off.
_OPENING_TIMEOUT_S = 15.0
_REPLY_TIMEOUT_S = 30.0


class HandlerHost(Protocol):
    """The one thing that a service needs of a node."""

    def serve(self, protocol: str, handler: StreamHandler) -> None:
        """Serve a protocol."""

    def stop_serving(self, protocol: str) -> None:
        """Serve it no more."""


class RpcService:
    """Named methods behind one protocol id, with a limit on calls at once per peer."""

    def __init__(self, name: str, major: int = 1, *, calls_per_peer_max: int = 64) -> None:
        self.protocol = protocol_id(name, major)
        self._calls_per_peer_max = calls_per_peer_max
        self._unary: dict[str, tuple[AnyMethod, Callable[[PeerId, Any], Awaitable[Any]]]] = {}
        self._streams: dict[str, tuple[AnyMethod, Callable[[Any], Awaitable[None]]]] = {}
        self._calls_of: Counter[PeerId] = Counter()

    def unary(
        self,
        method: Method[Request, Response],
        handler: Callable[[PeerId, Request], Awaitable[Response]],
    ) -> None:
        """Answer one request with one response; the handler refuses by raising RefusedError."""
        self._unary[method.name] = (method, handler)

    def stream(
        self,
        method: Method[Request, Response],
        handler: Callable[[RpcCall[Any, Any]], Awaitable[None]],
    ) -> None:
        """Serve a streaming call; its end is the handler's end."""
        self._streams[method.name] = (method, handler)

    @asynccontextmanager
    async def serving(self, node: HandlerHost) -> AsyncIterator[None]:
        """Serve calls while the block lasts; leaving cancels those under way."""
        calls: dict[trio.CancelScope, None] = {}
        ended = trio.Event()
        idle = trio.Event()

        async def handle(stream: Stream) -> None:
            if ended.is_set():
                stream.reset()
                return
            with trio.CancelScope() as scope:
                calls[scope] = None
                try:
                    await self._serve_counted(stream)
                finally:
                    del calls[scope]
                    if ended.is_set() and not calls:
                        idle.set()

        node.serve(self.protocol, handle)
        try:
            yield
        finally:
            node.stop_serving(self.protocol)
            ended.set()
            for scope in calls:
                scope.cancel()
            if calls:
                # A call must not outlive the block, whose end may close what it works with.
                with trio.CancelScope(shield=True):
                    await idle.wait()

    def _count(self, outcome: str) -> None:
        RPC_REQUESTS.labels(self.protocol, outcome).inc()

    async def _serve_counted(self, stream: Stream) -> None:
        caller = stream.peer_id
        try:
            if self._calls_of[caller] >= self._calls_per_peer_max:
                await _refuse(stream, RefusedError("busy", "too many calls at once"))
                return
            self._calls_of[caller] += 1
            try:
                await self._serve(stream)
            finally:
                self._calls_of[caller] -= 1
                if not self._calls_of[caller]:
                    del self._calls_of[caller]
        except StreamBroken:
            # The caller has gone; there is nobody to tell.
            stream.reset()
        except BaseException:
            stream.reset()
            raise

    async def _serve(self, stream: Stream) -> None:
        caller = short(stream.peer_id)
        try:
            await self._dispatch_untrusted(stream)
            self._count("answered")
        except StreamBroken:
            self._count("abandoned")
            raise
        except RefusedError as exc:
            self._count("refused")
            await _refuse(stream, exc)
        except MessageInvalid as exc:
            self._count("invalid")
            logger.debug("rpc_invalid peer=%s protocol=%s %s", caller, self.protocol, exc)
            await _refuse(stream, RefusedError("invalid", str(exc)))
        except P2PError as exc:
            self._count("failed")
            await _fail(stream, str(exc))
        except Exception as exc:
            if _is_all_broken(exc):
                self._count("abandoned")
                raise StreamBroken("the caller has gone") from exc
            # The caller is told little; the host, which guards every handler, logs it in full.
            self._count("failed")
            exc.add_note(f"while serving {self.protocol}")
            with contextlib.suppress(StreamBroken):
                await _fail(stream, "internal error")
            raise

    async def _dispatch_untrusted(self, stream: Stream) -> None:
        frames = FrameReader(stream)
        with trio.move_on_after(_OPENING_TIMEOUT_S) as opening:
            opened = await frames.next_untrusted(0, 0)
            if opened is None or opened[0] != schema.CALL:
                raise MessageInvalid("a call must begin with its header")
            header = decode_untrusted(
                opened[1], schema.CallHeader, size_bytes_max=schema.CONTROL_BYTES_MAX
            )
            found = self._unary.get(header.method) or self._streams.get(header.method)
            if found is None:
                raise RefusedError("unknown-method", header.method)
            method = found[0]
            received = await frames.next_untrusted(
                method.request_bytes_max, method.payload_bytes_max
            )
            if received is None or received[0] != schema.MESSAGE:
                raise MessageInvalid("a call must bring a message")
        if opening.cancelled_caught:
            raise MessageInvalid("the request did not come in time")
        request = decode_untrusted(
            received[1], method.request_type, size_bytes_max=method.request_bytes_max
        )
        if header.method in self._unary:
            await self._run_unary(stream, header, request)
        else:
            await self._run_stream(stream, frames, header.method, request, received[2])

    async def _run_unary(self, stream: Stream, header: schema.CallHeader, request: Any) -> None:
        method, handler = self._unary[header.method]
        response: Any = None
        # Whoever gave up on the call resets it; the work for it stops at once.
        with trio.move_on_after(header.timeout_s) as deadline:
            with stream.cancelling_when_broken() as given_up:
                response = await handler(stream.peer_id, request)
            if given_up.cancelled_caught:
                raise StreamBroken("the caller gave up")
        if deadline.cancelled_caught:
            raise RefusedError("deadline", f"{header.method} took longer than the caller allowed")
        body = encode(response)
        if len(body) > method.response_bytes_max:
            raise ValueError(f"response of {len(body)} bytes for {method.name} is over its limit")
        await _last_words(stream, schema.frame(schema.MESSAGE, body))

    async def _run_stream(
        self, stream: Stream, frames: FrameReader, name: str, request: Any, payload: bytes
    ) -> None:
        method, handler = self._streams[name]
        call: RpcCall[Any, Any] = RpcCall(
            stream,
            method.request_type,
            sent_bytes_max=method.response_bytes_max,
            received_bytes_max=method.request_bytes_max,
            payload_bytes_max=method.payload_bytes_max,
            frames=frames,
        )
        call.request = request
        call.request_payload = payload
        await handler(call)
        await _last_words(stream, b"")


def _is_all_broken(exc: Exception) -> bool:
    """Whether this is a group of nothing but tasks of a handler that lost the caller."""
    return isinstance(exc, ExceptionGroup) and exc.split(StreamBroken)[1] is None


async def _refuse(stream: Stream, exc: RefusedError) -> None:
    refusal = schema.Refusal(exc.code[:64] or "refused", schema.clipped(exc.message))
    await _last_words(stream, schema.frame(schema.REFUSED, encode(refusal)))


async def _fail(stream: Stream, message: str) -> None:
    await _last_words(
        stream, schema.frame(schema.FAILED, encode(schema.Failure(schema.clipped(message))))
    )


async def _last_words(stream: Stream, data: bytes) -> None:
    """Send what remains and close; who does not read in time, or finished already, is cut off."""
    try:
        with trio.fail_after(_REPLY_TIMEOUT_S):
            if data:
                await stream.send_all(data)
            await stream.aclose()
    except (trio.TooSlowError, trio.ClosedResourceError):
        stream.reset()
