"""The service that keeps our record of metrics in the DHT."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from p2p import Dht, Node, P2PError, encode, open_service_nursery, owned_subkey
from training.metrics.schema import Metrics, metrics_key

logger = logging.getLogger(__name__)

# Who left is still shown for a minute; who watches sees figures that are ten seconds old.
_LIFE_S = 60.0
_INTERVAL_S = 10.0


class MetricsPublisher:
    """Publishes the newest metrics that it was told, again and again. Used from trio's thread."""

    def __init__(self, node: Node, dht: Dht, run: str) -> None:
        self._dht = dht
        self._key = metrics_key(run)
        self._subkey = owned_subkey(node.peer_id)
        self._newest: Metrics | None = None
        self._told = trio.Event()

    async def tell(self, metrics: Metrics) -> None:
        """From now on these are the newest."""
        self._newest = metrics
        self._told.set()

    async def publish(self) -> None:
        """Put the newest record, for ever."""
        await self._told.wait()
        while True:
            assert self._newest is not None
            value = encode(self._newest)
            try:
                await self._dht.put(self._key, value, subkey=self._subkey, ttl_s=_LIFE_S)
            except P2PError as exc:
                logger.warning("metrics_put_failed cause=%s", exc)
            await trio.sleep(_INTERVAL_S)


@asynccontextmanager
async def open_metrics_publisher(node: Node, dht: Dht, run: str) -> AsyncIterator[MetricsPublisher]:
    """Publish what is told while the block lasts."""
    async with open_service_nursery() as nursery:
        publisher = MetricsPublisher(node, dht, run)
        nursery.start_soon(publisher.publish)
        yield publisher
