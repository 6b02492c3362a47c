"""A go-libp2p peer: the daemon p2pd, driven over its control socket.

Source: libp2p/go-libp2p-daemon, specs/CONTROL.md. Messages are protobufs behind a varint length.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import base58
import trio
from multiaddr import Multiaddr

from p2p import PeerId, open_service_nursery
from tests.interop.processes import DEVNULL, P2PD, open_process

IDENTIFY, CONNECT, STREAM_OPEN, STREAM_HANDLER, LIST_PEERS = 0, 1, 2, 3, 5
_UNIX = 400
"""The number of /unix among the protocols of multiaddresses."""
Handler = Callable[[trio.SocketStream], Awaitable[None]]


def varint(number: int) -> bytes:
    """The protobuf encoding of a number."""
    out = bytearray()
    while number >= 0x80:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*out, number])


def field(number: int, value: int | str | bytes) -> bytes:
    """One field of a protobuf."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    data = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(data)) + data


def fields(message: bytes) -> dict[int, list[int | bytes]]:
    """The fields of a protobuf by number, each with its values in order."""
    found: dict[int, list[int | bytes]] = {}
    position = 0

    def number() -> int:
        nonlocal position
        value = shift = 0
        while True:
            byte = message[position]
            position += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
            shift += 7

    while position < len(message):
        tag = number()
        if tag & 7 == 0:
            found.setdefault(tag >> 3, []).append(number())
        else:
            assert tag & 7 == 2, "the daemon sends no other kinds of fields"
            size = number()
            found.setdefault(tag >> 3, []).append(message[position : position + size])
            position += size
    return found


async def read_message(stream: trio.SocketStream) -> dict[int, list[int | bytes]]:
    """The next message, without a byte of what follows."""
    size = shift = 0
    while True:
        byte = (await read_exactly(stream, 1))[0]
        size |= (byte & 0x7F) << shift
        if byte < 0x80:
            return fields(await read_exactly(stream, size))
        shift += 7


async def read_exactly(stream: trio.SocketStream, size_bytes: int) -> bytes:
    """Exactly so many bytes, or an EOFError."""
    data = bytearray()
    while len(data) < size_bytes:
        part = await stream.receive_some(size_bytes - len(data))
        if not part:
            raise EOFError
        data += part
    return bytes(data)


class GoError(Exception):
    """The daemon could not do what it was told; the text is its error."""


class GoPeer:
    """Each request has a connection of its own; streams continue on that of their request."""

    def __init__(self, folder: Path, nursery: trio.Nursery) -> None:
        self._folder = folder
        self._nursery = nursery
        self.peer_id = PeerId("")
        self.addresses: tuple[str, ...] = ()

    async def request(
        self, kind: int, body: bytes = b""
    ) -> tuple[dict[int, list[int | bytes]], trio.SocketStream]:
        """The daemon's answer, and the connection that it came on; raises GoError."""
        stream = await open_unix(self._folder / "control")
        message = field(1, kind) + body
        await stream.send_all(varint(len(message)) + message)
        answer = await read_message(stream)
        if answer[1] != [0]:
            await stream.aclose()
            raise GoError(repr(answer.get(2)))
        return answer, stream

    async def ask(self, kind: int, body: bytes = b"") -> dict[int, list[int | bytes]]:
        """The same where no stream follows."""
        answer, stream = await self.request(kind, body)
        await stream.aclose()
        return answer

    async def learn(self) -> None:
        """Ask who it is and where it listens; sets peer_id and addresses."""
        (answer,) = (await self.ask(IDENTIFY))[4]
        assert isinstance(answer, bytes)
        told = fields(answer)
        self.peer_id = PeerId(base58.b58encode(told[1][0]).decode())
        self.addresses = tuple(f"{Multiaddr(raw)}/p2p/{self.peer_id}" for raw in told.get(2, []))

    async def connect(self, address: str) -> None:
        """Dial an address, /p2p-circuit ones included."""
        where, _, peer_id = address.rpartition("/p2p/")
        body = field(1, base58.b58decode(peer_id)) + field(2, Multiaddr(where).to_bytes())
        await self.ask(CONNECT, field(2, body))

    async def peers(self) -> set[PeerId]:
        """Whom it is connected to."""
        listed = (await self.ask(LIST_PEERS)).get(6, [])
        ids = [fields(peer)[1][0] for peer in listed if isinstance(peer, bytes)]
        return {PeerId(base58.b58encode(one).decode()) for one in ids}

    @asynccontextmanager
    async def stream(self, peer_id: PeerId, protocol: str) -> AsyncIterator[trio.SocketStream]:
        """A stream to a peer; closed, whatever happens."""
        body = field(1, base58.b58decode(peer_id)) + field(2, protocol)
        _, stream = await self.request(STREAM_OPEN, field(3, body))
        try:
            yield stream
        finally:
            await trio.aclose_forcefully(stream)

    async def serve(self, protocol: str, handler: Handler) -> None:
        """Serve a protocol with a function of ours, to which the daemon hands its streams."""
        path = self._folder / f"handler-{protocol.replace('/', '-')}"
        listener = trio.socket.socket(trio.socket.AF_UNIX, trio.socket.SOCK_STREAM)
        await listener.bind(str(path))
        listener.listen()

        async def serve_one(stream: trio.SocketStream) -> None:
            async with stream:
                await read_message(stream)
                await handler(stream)

        self._nursery.start_soon(trio.serve_listeners, serve_one, [trio.SocketListener(listener)])
        # By hand: py-multiaddr leaves out the slash that the path starts with.
        address = varint(_UNIX) + varint(len(str(path))) + str(path).encode()
        await self.ask(
            STREAM_HANDLER, field(4, field(1, address) + field(2, protocol) + field(3, 0))
        )


async def echo(stream: trio.SocketStream) -> None:
    """Send everything back, until the other side has finished."""
    async for part in stream:
        await stream.send_all(part)
    await stream.send_eof()


async def open_unix(path: Path) -> trio.SocketStream:
    """A connection to a socket of the file system that may be about to appear."""
    while True:
        try:
            return await trio.open_unix_socket(str(path))
        except (FileNotFoundError, ConnectionRefusedError, RuntimeError, OSError):
            await trio.sleep(0.01)


@asynccontextmanager
async def open_go_peer(*arguments: str) -> AsyncIterator[GoPeer]:
    """A daemon that listens on loopback with TCP, Noise and yamux, and serves as a relay."""
    with TemporaryDirectory(prefix="manyhands-go-") as name:
        folder = Path(name)
        command = [
            P2PD,
            f"-listen=/unix{folder}/control",
            "-hostAddrs=/ip4/127.0.0.1/tcp/0",
            "-tls=false",
            "-quic=false",
            "-q",
            # It goes by itself when even our end came too suddenly.
            "-idleTimeout=120s",
            *arguments,
        ]
        async with (
            open_process(command, stdout=DEVNULL, stderr=DEVNULL) as process,
            open_service_nursery() as nursery,
        ):
            peer = GoPeer(folder, nursery)
            nursery.start_soon(_fail_when_ended, process)
            await peer.learn()
            yield peer


async def _fail_when_ended(process: trio.Process) -> None:
    await process.wait()
    raise GoError(f"the daemon ended with {process.returncode}")
