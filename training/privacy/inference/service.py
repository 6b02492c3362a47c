"""Private sessions over a node's streams: one streaming call is one session.

The protocols are generators (protocol.py) and decide everything; here their bytes travel, in parts,
into memory whose size the protocol has fixed before. Heavy steps run off the loop.
"""

from __future__ import annotations

import logging
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np
import trio
from numpy.typing import NDArray

from p2p import (
    MessageInvalid,
    Method,
    Node,
    P2PError,
    PeerId,
    RefusedError,
    RpcCall,
    RpcService,
    rpc_client,
    short,
)
from training.privacy.inference import schema
from training.privacy.inference.errors import PrivateInferenceFailed
from training.privacy.inference.exchange import Exchange
from training.privacy.inference.network import FixedNetwork
from training.privacy.inference.protocol import (
    ask_classes,
    ask_comparison,
    serve_classes,
    serve_comparison,
    traffic_bytes,
)
from training.privacy.inference.schema import Ask, Offer, Part

logger = logging.getLogger(__name__)

Result = TypeVar("Result")
Call = RpcCall[Any, Any]
# So that one client does not take all places.
_SESSIONS_PER_CLIENT_MAX = 2
_COMPARED_MIN, _COMPARED_MAX = -(2**63), 2**63 - 1


@dataclass(frozen=True, kw_only=True)
class InferenceConfig:
    """How much one session may take; both sides have such limits."""

    samples_max: int = 64
    """In one session, at the server; their memory is held at once."""
    sessions_max: int = 4
    """At once, at the server; further ones are refused as busy."""
    bytes_max: int = 256 << 20
    """What one session may move; refused before anything is allocated."""
    silence_s: float = 30.0
    """A side that sends nothing and takes nothing for so long is cut off."""

    def __post_init__(self) -> None:
        if not 1 <= self.samples_max <= schema.SAMPLES_MAX:
            raise ValueError(f"samples_max must be 1 to {schema.SAMPLES_MAX}")
        if self.sessions_max < 1 or self.bytes_max < 1 or self.silence_s <= 0:
            raise ValueError("sessions_max, bytes_max and silence_s must be positive")


@asynccontextmanager
async def open_inference_service(
    node: Node, network: FixedNetwork, config: InferenceConfig | None = None
) -> AsyncIterator[None]:
    """Classify others' samples with this network while the block lasts, seeing none of them.

    Raises:
        ValueError: the network is larger than the protocol allows.
    """
    config = config or InferenceConfig()
    shape = network.shape
    if len(shape.sizes) > schema.LAYERS_MAX + 1 or max(shape.sizes) > schema.SIZE_MAX:
        raise ValueError(
            f"at most {schema.LAYERS_MAX} layers of {schema.SIZE_MAX} can be asked privately"
        )
    if not 2 <= shape.sizes[-1] <= schema.CLASSES_MAX:
        raise ValueError(f"there must be 2 to {schema.CLASSES_MAX} classes")

    def offer_for(ask: Ask) -> Offer:
        if ask.samples > config.samples_max:
            raise RefusedError("too-many", f"at most {config.samples_max} samples at once")
        if sum(traffic_bytes(shape, ask.samples)) > config.bytes_max:
            raise RefusedError("too-many", f"a session may take {config.bytes_max} bytes")
        return schema.offer_of(os.urandom(schema.NONCE_SIZE_BYTES), shape)

    def party_for(ask: Ask, session: bytes) -> Exchange[None]:
        return serve_classes(network, ask.samples, session, os.urandom)

    server = _Server(node, config, schema.CLASSIFY, offer_for, party_for)
    service = RpcService(
        schema.INFERENCE_SERVICE, schema.MAJOR, calls_per_peer_max=_SESSIONS_PER_CLIENT_MAX
    )
    service.stream(schema.CLASSIFY, server.on_session)
    async with service.serving(node):
        yield


@asynccontextmanager
async def open_comparison_service(
    node: Node, number: int, config: InferenceConfig | None = None
) -> AsyncIterator[None]:
    """Let others learn how their number compares to this one while the block lasts, and no more.

    Each answer halves what is unknown of the number for whoever asks as often as it likes.

    Raises:
        ValueError: the number needs more than 64 bits.
    """
    _check_compared(number)

    def offer_for(ask: Ask) -> Offer:
        return Offer(os.urandom(schema.NONCE_SIZE_BYTES))

    def party_for(ask: Ask, session: bytes) -> Exchange[None]:
        return serve_comparison(number, session, os.urandom)

    server = _Server(node, config or InferenceConfig(), schema.COMPARE, offer_for, party_for)
    service = RpcService(
        schema.COMPARISON_SERVICE, schema.MAJOR, calls_per_peer_max=_SESSIONS_PER_CLIENT_MAX
    )
    service.stream(schema.COMPARE, server.on_session)
    async with service.serving(node):
        yield


async def classify_privately(
    node: Node,
    peer_id: PeerId,
    features: NDArray[np.floating],
    config: InferenceConfig | None = None,
) -> NDArray[np.int64]:
    """The class of each sample by the network of a peer, which learns nothing of them.

    Args:
        features: of shape (samples, features); the peer's network says which range they have.

    Raises:
        PrivateInferenceFailed: the peer cannot be reached, refuses, or sends what makes no sense.
        ValueError: the features do not fit the network that the peer offers.
    """
    config = config or InferenceConfig()
    ask = Ask(os.urandom(schema.NONCE_SIZE_BYTES), len(features))

    def party_for(offer: Offer, session: bytes) -> Exchange[NDArray[np.int64]]:
        shape = schema.shape_untrusted(offer, samples=len(features), bytes_max=config.bytes_max)
        return ask_classes(shape, shape.fix_features(features), session, os.urandom)

    return await _ask(
        node, peer_id, schema.INFERENCE_SERVICE, schema.CLASSIFY, ask, party_for, config
    )


async def compare_privately(
    node: Node, peer_id: PeerId, number: int, config: InferenceConfig | None = None
) -> int:
    """−1, 0 or 1, as our number is less than, equal to or more than the peer's.

    The peer learns nothing, not even which.

    Raises:
        PrivateInferenceFailed: the peer cannot be reached, refuses, or sends what makes no sense.
        ValueError: the number needs more than 64 bits.
    """
    _check_compared(number)
    ask = Ask(os.urandom(schema.NONCE_SIZE_BYTES), 1)

    def party_for(offer: Offer, session: bytes) -> Exchange[int]:
        return ask_comparison(number, session, os.urandom)

    config = config or InferenceConfig()
    return await _ask(
        node, peer_id, schema.COMPARISON_SERVICE, schema.COMPARE, ask, party_for, config
    )


def _check_compared(number: int) -> None:
    if not _COMPARED_MIN <= number <= _COMPARED_MAX:
        raise ValueError("only whole numbers of 64 bits, sign included, can be compared")


class _Server:
    """Serves sessions of one kind, some at once."""

    def __init__(
        self,
        node: Node,
        config: InferenceConfig,
        method: Method[Any, Any],
        offer_for: Callable[[Ask], Offer],
        party_for: Callable[[Ask, bytes], Exchange[None]],
    ) -> None:
        self._node = node
        self._config = config
        self._method = method
        self._offer_for = offer_for
        self._party_for = party_for
        self._sessions = 0

    async def on_session(self, call: Call) -> None:
        """One session, to its end."""
        ask = call.request
        if not isinstance(ask, Ask):
            raise MessageInvalid("a session must begin with what is asked")
        if self._sessions >= self._config.sessions_max:
            raise RefusedError("busy", f"{self._sessions} sessions are under way")
        self._sessions += 1
        try:
            # To lay out a circuit takes a while the first time, so it is done off the loop.
            offer = await self._node.offload(self._offer_for, ask)
            await call.send(offer)
            client, server = call.peer_id, self._node.peer_id
            session = schema.session_of(client, server, self._method.name, ask, offer)
            await _run(self._party_for(ask, session), call, self._node, self._config.silence_s)
        except trio.TooSlowError:
            raise RefusedError("idle", "nothing was sent or taken for too long") from None
        finally:
            self._sessions -= 1
        logger.info("private_session peer=%s kind=%s", short(client), self._method.name)


async def _ask(
    node: Node,
    peer_id: PeerId,
    service: str,
    method: Method[Any, Any],
    ask: Ask,
    party_for: Callable[[Offer, bytes], Exchange[Result]],
    config: InferenceConfig,
) -> Result:
    """The client's side of one session."""
    client = rpc_client(node, service, schema.MAJOR)
    try:
        async with client.open(peer_id, method, ask, timeout_s=config.silence_s) as call:
            with trio.fail_after(config.silence_s):
                received = await call.receive()
            if received is None or not isinstance(offer := received[0], Offer):
                raise MessageInvalid("the peer did not say what it offers")
            session = schema.session_of(node.peer_id, peer_id, method.name, ask, offer)
            party = await node.offload(party_for, offer, session)
            result = await _run(party, call, node, config.silence_s)
            await call.finish_sending()
            return result
    except trio.TooSlowError:
        cause = f"it sent or took nothing for {config.silence_s:g} s"
        raise PrivateInferenceFailed(f"{short(peer_id)}: {cause}") from None
    except P2PError as exc:
        raise PrivateInferenceFailed(f"{short(peer_id)}: {exc}") from exc


@dataclass(frozen=True)
class _Done(Generic[Result]):
    result: Result


async def _run(party: Exchange[Result], call: Call, node: Node, silence_s: float) -> Result:
    """Carry one party's bytes until it has its result."""
    link = _Link(call, silence_s)
    answer: bytes | None = None
    while True:
        step = await node.offload(_step, party, answer)
        answer = b""
        match step:
            case _Done():
                result: Result = step.result
                return result
            case int():
                answer = await link.receive(step)
            case _:
                await link.send(step)


def _step(party: Exchange[Result], answer: bytes | None) -> bytes | int | _Done[Result]:
    try:
        return next(party) if answer is None else party.send(answer)
    except StopIteration as done:
        return _Done(done.value)


class _Link:
    """Bytes as numbered parts."""

    def __init__(self, call: Call, silence_s: float) -> None:
        self._call = call
        self._silence_s = silence_s
        self._sent = 0
        self._received = 0

    async def send(self, data: bytes) -> None:
        view = memoryview(data)
        for at in range(0, len(view), schema.PART_SIZE_BYTES_MAX):
            with trio.fail_after(self._silence_s):
                await self._call.send(Part(self._sent), view[at : at + schema.PART_SIZE_BYTES_MAX])
            self._sent += 1

    async def receive(self, size_bytes: int) -> bytes:
        """Exactly so many bytes, in however many parts."""
        whole = memoryview(bytearray(size_bytes))
        filled = 0

        def buffer_for(message: object, part_size_bytes: int) -> memoryview:
            if part_size_bytes > size_bytes - filled:
                raise MessageInvalid(
                    f"a part of {part_size_bytes} bytes where {size_bytes - filled} were due"
                )
            return whole[filled : filled + part_size_bytes]

        while filled < size_bytes:
            with trio.fail_after(self._silence_s):
                received = await self._call.receive_into(buffer_for)
            if received is None:
                raise MessageInvalid("the peer ended the session before its end")
            part, data = received
            if not isinstance(part, Part) or part.number != self._received or not data:
                raise MessageInvalid("the peer sent something else than the next part")
            self._received += 1
            filled += len(data)
        return bytes(whole)
