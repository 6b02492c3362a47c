"""Peers that speak Noise as they please, for handshakes that go wrong on purpose."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import trio
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from libp2p.security.noise.pb.noise_pb2 import NoiseHandshakePayload
from noise.connection import Keypair, NoiseConnection
from trio.testing import wait_all_tasks_blocked

from p2p import Identity
from p2p.host.connection import YAMUX_PROTOCOL
from p2p.host.handshake import KEY_PREFIX, SIGNED_PREFIX, SessionKeys
from p2p.host.multistream import MULTISTREAM, line, proposal
from p2p.host.noise import NoiseSession
from p2p.host.records import NOISE
from tests.p2p.host.receiving import next_plains


async def receive_exactly(stream: trio.abc.ReceiveStream, size_bytes: int) -> bytes:
    """Exactly so many bytes, or an EOFError."""
    data = b""
    while len(data) < size_bytes:
        part = await stream.receive_some(size_bytes - len(data))
        if not part:
            raise EOFError
        data += part
    return data


async def until(condition: Callable[[], bool]) -> None:
    """Let the others run until it is so; the timeout of the test bounds it."""
    while not condition():
        await wait_all_tasks_blocked(0.001)


class RawDialer:
    """Dials like a libp2p peer, step by step, with whatever proof of identity it is given."""

    def __init__(self, stream: trio.abc.HalfCloseableStream, identity: Identity) -> None:
        self.stream = stream
        self.identity = identity
        static = X25519PrivateKey.generate()
        self.static_public = static.public_key().public_bytes_raw()
        self.noise = NoiseConnection.from_name(b"Noise_XX_25519_ChaChaPoly_SHA256")
        self.noise.set_keypair_from_private_bytes(Keypair.STATIC, static.private_bytes_raw())
        self.noise.set_as_initiator()
        self.noise.start_handshake()

    def proof(
        self,
        *,
        key: bytes | None = None,
        signature: bytes | None = None,
    ) -> bytes:
        """A proof of identity, in order unless told otherwise."""
        if key is None:
            key = KEY_PREFIX + self.identity.public_key
        if signature is None:
            signature = self.identity.sign(SIGNED_PREFIX + self.static_public)
        payload = NoiseHandshakePayload(identity_key=key, identity_sig=signature)
        return bytes(payload.SerializeToString())

    async def agree_on_noise(self) -> None:
        """The first step, in clear text."""
        await self.stream.send_all(proposal(NOISE.protocol))
        answer = line(MULTISTREAM) + line(NOISE.protocol)
        assert await receive_exactly(self.stream, len(answer)) == answer

    async def send_message(self, payload: bytes = b"") -> None:
        """Our next message of the handshake."""
        message = bytes(self.noise.write_message(payload))
        await self.stream.send_all(len(message).to_bytes(2, "big") + message)

    async def read_message(self) -> bytes:
        """The payload of the other's next message."""
        size = int.from_bytes(await receive_exactly(self.stream, 2), "big")
        return bytes(self.noise.read_message(await receive_exactly(self.stream, size)))

    async def shake_hands(self, proof: bytes | None = None) -> NoiseSession:
        """The whole handshake."""
        await self.agree_on_noise()
        await self.send_message()
        await self.read_message()
        await self.send_message(self.proof() if proof is None else proof)
        return self.session()

    def session(self) -> NoiseSession:
        """What follows on the handshake."""
        protocol = self.noise.noise_protocol
        keys = SessionKeys(
            self.identity.peer_id,
            bytes(protocol.cipher_state_encrypt.k),
            bytes(protocol.cipher_state_decrypt.k),
            bytes(self.noise.get_handshake_hash()),
            is_dialer=True,
        )
        return NoiseSession(self.stream, keys)

    async def upgrade(self) -> NoiseSession:
        """The handshake, and yamux agreed on: what follows are frames."""
        session = await self.shake_hands()
        await self.agree_over(session, YAMUX_PROTOCOL)
        return session

    async def agree_over(self, session: NoiseSession, protocol: str) -> None:
        """Agree on what goes on inside the session; an AssertionError if the answer is no."""
        await session.send([proposal(protocol)])
        answer = line(MULTISTREAM) + line(protocol)
        received = b""
        while len(received) < len(answer):
            plains = await next_plains(session)
            assert plains, "hung up"
            received += b"".join(plains)
            assert answer.startswith(received[: len(answer)]), "the answer was no"
        session.push_back(received[len(answer) :])


@asynccontextmanager
async def raw_connection(
    address: str, identity: Identity | None = None
) -> AsyncIterator[RawDialer]:
    """A socket to a node's address, with a dialer that has not said anything yet."""
    _, _, host, _, port, *_ = address.split("/")
    stream = await trio.open_tcp_stream(host, int(port))
    async with stream:
        yield RawDialer(stream, identity or Identity.generate())
