"""NegotiatedStream: a muxed stream with its protocol, agreed on without waiting."""

from __future__ import annotations

from contextlib import AbstractContextManager

import trio

from p2p.errors import MessageInvalid, RefusedError, StreamBroken
from p2p.host import multistream
from p2p.host.muxed_stream import MuxedStream
from p2p.host.stream import Intake, Stream
from p2p.host.transport import ConnectionInfo


class NegotiatedStream(Stream):
    """The opener sends its proposal ahead of its data and reads the answer at its first receive.

    So a small call costs one round trip in all.
    """

    def __init__(
        self, muxed: MuxedStream, info: ConnectionInfo, protocol: str, *, agreed: bool
    ) -> None:
        self.peer_id = info.peer_id
        self.protocol = protocol
        self.path = info.path
        self.address = info.address
        self._muxed = muxed
        self._agreed = agreed
        self._refusal: RefusedError | None = None
        self._answer = _AnswerReader(muxed)

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self._muxed.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self._muxed.wait_send_all_might_not_block()

    async def send_eof(self) -> None:
        await self._muxed.send_eof()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        if not self._agreed:
            await self._read_answer()
        return await self._muxed.receive_some(max_bytes)

    async def fill(self, intake: Intake) -> None:
        if not self._agreed:
            await self._read_answer()
        await self._muxed.fill(intake)

    async def receive_exactly(self, size_bytes: int) -> bytes:
        if size_bytes and not self._agreed:
            await self._read_answer()
        return await self._muxed.receive_exactly(size_bytes)

    async def _read_answer(self) -> None:
        if self._refusal is not None:
            raise self._refusal
        self._answer.rewind()
        try:
            await multistream.read_answer_untrusted(self._answer, self.protocol)
        except RefusedError as exc:
            self._refusal = exc
            self._muxed.reset()
            raise
        except MessageInvalid as exc:
            self._muxed.reset()
            raise StreamBroken(f"the peer does not negotiate: {exc}") from exc
        self._agreed = True

    def reset(self) -> None:
        self._muxed.reset()

    async def aclose(self) -> None:
        await self._muxed.aclose()

    def cancelling_when_broken(self) -> AbstractContextManager[trio.CancelScope]:
        return self._muxed.cancelling_when_broken()

    async def wait_broken(self) -> None:
        await self._muxed.wait_broken()


class _AnswerReader:
    """Reads the answer so that a cancelled attempt can be taken up again from its start."""

    def __init__(self, muxed: MuxedStream) -> None:
        self._muxed = muxed
        self._seen = bytearray()
        self._position = 0

    def rewind(self) -> None:
        """Read from the start again what a cancelled attempt had read."""
        self._position = 0

    async def receive_exactly(self, size_bytes: int) -> bytes:
        end = self._position + size_bytes
        if end > len(self._seen):
            self._seen += await self._muxed.receive_exactly(end - len(self._seen))
        part = bytes(self._seen[self._position : end])
        self._position = end
        return part
