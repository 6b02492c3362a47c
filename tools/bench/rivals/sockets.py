"""Trio's sockets, in clear or under TLS 1.3: what a program without a muxer would use."""

from __future__ import annotations

import datetime
import ssl
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import trio
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
)

from p2p import open_service_nursery
from tools.bench.rivals import Client, Handler, call_over_pipe

# What OpenSSL prefers on processors with AES instructions; others would compare something else.
_CIPHER = "TLS_AES_256_GCM_SHA384"


class SocketRival:
    """A listener, and one socket for each stream."""

    def __init__(self, *, tls: bool) -> None:
        self._tls = tls

    @asynccontextmanager
    async def open_server(self, handle: Handler) -> AsyncIterator[str]:
        context = _server_context() if self._tls else None

        async def serve(stream: trio.SocketStream) -> None:
            wrapped: trio.abc.Stream = stream
            if context is not None:
                wrapped = trio.SSLStream(stream, context, server_side=True, https_compatible=True)
            # Clients hang up when they have measured enough.
            with suppress(trio.BrokenResourceError):
                async with wrapped:
                    await handle(_Pipe(wrapped))

        async with open_service_nursery() as nursery:
            listeners = await nursery.start(trio.serve_tcp, serve, 0)
            yield str(listeners[0].socket.getsockname()[1])

    @asynccontextmanager
    async def open_client(self) -> AsyncIterator[Client]:
        client = _Client(self._tls)
        try:
            yield client
        finally:
            with trio.CancelScope(shield=True):
                for stream in client.streams:
                    await trio.aclose_forcefully(stream)


class _Client:
    def __init__(self, tls: bool) -> None:
        self._context = _client_context() if tls else None
        self.streams: list[trio.abc.Stream] = []

    async def connect(self, address: str) -> None:
        self._port = int(address)
        self._ready: _Pipe | None = await self._dial()

    async def open(self) -> _Pipe:
        ready, self._ready = self._ready, None
        return ready or await self._dial()

    async def call(self, data: bytes) -> bytes:
        return await call_over_pipe(self, data)

    async def _dial(self) -> _Pipe:
        stream: trio.abc.Stream = await trio.open_tcp_stream("127.0.0.1", self._port)
        self.streams.append(stream)
        if self._context is not None:
            secured = trio.SSLStream(
                stream, self._context, server_hostname="localhost", https_compatible=True
            )
            await secured.do_handshake()
            if (cipher := secured.cipher()[0]) != _CIPHER:
                raise RuntimeError(f"TLS agreed on {cipher}, which is not what is compared")
            stream = secured
        return _Pipe(stream)


class _Pipe:
    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream
        self.send = stream.send_all
        self.close = stream.aclose

    async def receive(self) -> bytes:
        return bytes(await self._stream.receive_some())


def _client_context() -> ssl.SSLContext:
    context = ssl.create_default_context()
    # The certificate is made for this run; who is there is not what is measured.
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    return context


def _server_context() -> ssl.SSLContext:
    key = generate_private_key(SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .sign(key, SHA256())
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "both.pem"
        path.touch(mode=0o600)
        path.write_bytes(
            key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
            + certificate.public_bytes(Encoding.PEM)
        )
        context.load_cert_chain(path)
    return context
