"""All that has come over a session or into a reader, as a muxer would take it out."""

from __future__ import annotations

from p2p.host.noise import NoiseSession
from p2p.host.records import RecordReader


def opened(reader: RecordReader) -> list[bytes]:
    """All plaintexts that have come whole, without the empty ones."""
    plains = []
    while (size_bytes := reader.next_size_bytes()) is not None:
        plains.append(reader.open_next(size_bytes))
    return [plain for plain in plains if plain]


async def next_plains(session: NoiseSession) -> list[bytes]:
    """The plaintexts that come next, as many as are there; empty at the end of the stream."""
    plains: list[bytes] = []
    while not plains and (size_bytes := await session.wait_record()) is not None:
        while size_bytes is not None:
            plains.append(session.open_next(size_bytes))
            size_bytes = session.next_size_bytes()
        plains = [plain for plain in plains if plain]
    return plains
