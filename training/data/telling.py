"""The service that tells our part of the shards in the DHT, and hears the others'."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from p2p import (
    Dht,
    MessageInvalid,
    Node,
    P2PError,
    PeerId,
    open_service_nursery,
    owned_subkey,
    short,
)
from training.data.news import decode_news_untrusted, encode_news, shards_key
from training.data.shares import ShardNews

logger = logging.getLogger(__name__)

# Who left is soon no trainer any more, and then is not believed anyway.
_LIFE_S = 60.0
# A shard takes minutes. What is new is told at once, but for this pause between two records.
_INTERVAL_S = 10.0
_PAUSE_S = 1.0
_FIRST_S = 5.0


class ShardTelling:
    """Tells and hears again and again. Used from trio's thread."""

    def __init__(self, node: Node, dht: Dht, run: str) -> None:
        self._dht = dht
        self._key = shards_key(run)
        self._me = node.peer_id
        self._subkey = owned_subkey(node.peer_id)
        self._own: ShardNews | None = None
        self._changed = trio.Event()
        self._heard: dict[PeerId, ShardNews] = {}
        self._has_heard = trio.Event()

    async def exchange(self, own: ShardNews) -> dict[PeerId, ShardNews]:
        """From now on this is our part; returns the others', the first time after asking for it."""
        if own != self._own:
            self._own = own
            self._changed.set()
        with trio.move_on_after(_FIRST_S):
            await self._has_heard.wait()
        return dict(self._heard)

    async def run(self) -> None:
        """Hear and tell, for ever."""
        while True:
            try:
                await self._hear()
            except P2PError as exc:
                logger.warning("shards_not_heard cause=%s", exc)
            self._has_heard.set()
            if self._own is not None:
                self._changed = trio.Event()
                value = encode_news(self._own)
                try:
                    await self._dht.put(self._key, value, subkey=self._subkey, ttl_s=_LIFE_S)
                except P2PError as exc:
                    logger.warning("shards_not_told cause=%s", exc)
            await trio.sleep(_PAUSE_S)
            with trio.move_on_after(_INTERVAL_S - _PAUSE_S):
                await self._changed.wait()

    async def _hear(self) -> None:
        heard = {}
        for subkey, entry in (await self._dht.get_dictionary(self._key)).items():
            owner = entry.owner
            if owner is None or owner == self._me or subkey != owned_subkey(owner):
                continue
            try:
                heard[owner] = decode_news_untrusted(entry.value)
            except MessageInvalid as exc:
                logger.warning("shards_invalid peer=%s cause=%s", short(owner), exc)
        self._heard = heard


@asynccontextmanager
async def open_shard_telling(node: Node, dht: Dht, run: str) -> AsyncIterator[ShardTelling]:
    """Tell and hear while the block lasts."""
    async with open_service_nursery() as nursery:
        telling = ShardTelling(node, dht, run)
        nursery.start_soon(telling.run)
        yield telling
