"""Ours through a relay that runs in a third process."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from tools.bench.relay import open_relay
from tools.bench.rivals import Client, Handler
from tools.bench.rivals.ours import OurRival


class RelayedRival:
    """Two nodes and the relay between them."""

    @asynccontextmanager
    async def open_server(self, handle: Handler) -> AsyncIterator[str]:
        async with (
            open_relay() as relay,
            OurRival(record_layer="auto", relay=relay).open_server(handle) as address,
        ):
            yield address

    def open_client(self) -> AbstractAsyncContextManager[Client]:
        return OurRival(record_layer="auto").open_client()
