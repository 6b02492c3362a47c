"""Connection: one socket, upgraded by Noise and yamux to streams with a proven peer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import trio

from p2p.errors import MessageInvalid, RefusedError, StreamBroken
from p2p.host import multistream
from p2p.host.access import (
    ACCESS_PROTOCOL,
    Access,
    Handshaken,
    prove_swarm_key_untrusted,
)
from p2p.host.budget import Share
from p2p.host.handshake import handshake
from p2p.host.noise import NoiseSession
from p2p.host.records import AES_GCM, NOISE
from p2p.host.transport import DialError
from p2p.identity import Identity
from p2p.peer_id import PeerId

YAMUX_PROTOCOL = "/yamux/1.0.0"


@dataclass(frozen=True)
class Rules:
    """What a node asks of every connection before it may carry streams."""

    wants_aes: bool = False
    """Propose and accept AES-GCM records; with peers that do not, Noise goes on."""
    refusal: Callable[[PeerId], str | None] = lambda peer_id: None
    """Why a peer that has proved its identity may not stay, or None if it may."""
    is_allowed: Callable[[PeerId], bool] = lambda peer_id: False
    """Whether a peer gets in without a token."""
    swarm_key: bytes | None = None
    access: Access | None = None


async def upgrade(
    stream: trio.abc.HalfCloseableStream,
    identity: Identity,
    expected: PeerId | None,
    *,
    rules: Rules,
    held: Share | None = None,
) -> NoiseSession:
    """Agree on Noise, prove identities, agree on records and yamux; the caller bounds the time.

    Args:
        expected: whom we dialed; None for an inbound connection. Where the peer dialed us at the
            same moment and both connected on one socket, the smaller peer id stays the dialer.
        rules: who may stay, and what is agreed on with it.
        held: the budget of the buffers, closed with the session.

    Raises:
        DialError: the other side is somebody else, or speaks something else.
    """
    dialer = expected is not None
    cause = "the connection was closed during the handshake"
    try:
        plain = PlainBytes(stream)
        await _agree(plain, (NOISE.protocol,), dialer=dialer)
        session = NoiseSession(stream, await handshake(plain, identity, expected), held=held)
        if reason := rules.refusal(session.peer_id):
            raise DialError(reason)
        # Where both of us dialed, the handshake has decided.
        dialer = session.is_dialer
        cause += ", after we had named ourselves: it has no room, or does not want us"
        sealed = _SealedBytes(session)
        if rules.swarm_key is not None:
            who = Handshaken(identity.peer_id, session.peer_id, session.handshake_hash, dialer)
            await prove_swarm_key_untrusted(sealed, rules.swarm_key, who)
        agreed = await _agree_on_muxer(sealed, session, rules, dialer=dialer)
    except MessageInvalid as exc:
        raise DialError(f"no libp2p peer of our kind there: {exc}") from exc
    except (StreamBroken, trio.BrokenResourceError, trio.ClosedResourceError) as exc:
        raise DialError(cause) from exc
    # While it took its time, a newer deny list may have named it.
    if reason := rules.refusal(session.peer_id):
        raise DialError(reason)
    if agreed == AES_GCM.protocol:
        if sealed.unread:
            raise DialError("the other side went on under Noise after it had agreed on AES")
        session.switch_to_aes()
    session.push_back(sealed.unread)
    return session


async def _agree_on_muxer(
    sealed: _SealedBytes, session: NoiseSession, rules: Rules, *, dialer: bool
) -> str:
    """Show tokens if the swarm asks for them, then agree on records and yamux."""
    # Over AES records yamux needs no agreement of its own: one round trip less.
    muxing = (AES_GCM.protocol, YAMUX_PROTOCOL) if rules.wants_aes else (YAMUX_PROTOCOL,)
    if rules.access is None:
        return await _agree(sealed, muxing, dialer=dialer)
    # Other libp2p peers know nothing of tokens; some are wanted all the same, relays for one.
    without_token = muxing if rules.is_allowed(session.peer_id) else ()
    agreed = await _agree(sealed, (ACCESS_PROTOCOL, *without_token), dialer=dialer)
    if agreed != ACCESS_PROTOCOL:
        return agreed
    session.may_stay_s = await rules.access.exchange_untrusted(
        sealed, session.peer_id, is_dialer=dialer
    )
    return await _agree(sealed, muxing, dialer=dialer)


async def _agree(
    stream: multistream.ByteStream, protocols: tuple[str, ...], *, dialer: bool
) -> str:
    try:
        if dialer:
            return await multistream.propose_untrusted(stream, protocols)
        return await multistream.accept_untrusted(stream, protocols.__contains__)
    except RefusedError as exc:
        raise DialError(f"the other side does not speak {protocols[-1]}") from exc


class PlainBytes:
    """Exact reads from a socket, no further than asked."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream

    async def send_all(self, data: bytes) -> None:
        await self._stream.send_all(data)

    async def receive_exactly(self, size_bytes: int) -> bytes:
        data = b""
        while len(data) < size_bytes:
            part = await self._stream.receive_some(size_bytes - len(data))
            if not part:
                raise StreamBroken("closed")
            data += part
        return data


class _SealedBytes:
    """Exact reads from a session; what the last record held beyond is kept in unread."""

    def __init__(self, session: NoiseSession) -> None:
        self._session = session
        self.unread = b""

    async def send_all(self, data: bytes) -> None:
        await self._session.send([data])

    async def receive_exactly(self, size_bytes: int) -> bytes:
        while len(self.unread) < size_bytes:
            # One record at a time: the next may be sealed in another way.
            plain = await self._session.receive_one()
            if not plain:
                raise StreamBroken("closed")
            self.unread += plain
        data, self.unread = self.unread[:size_bytes], self.unread[size_bytes:]
        return data
