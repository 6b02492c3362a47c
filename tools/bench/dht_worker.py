"""One process with a few nodes of our DHT, as its parent asks for.

    python -m tools.bench.dht_worker

It joins with as many nodes as it is told to, and then obeys: `put` and `get` keys one after
another, `bulk` reads many at once, `fill` writes subkeys of a dictionary and `poll` reads it.
Every value follows from its key and version, so that a wrong one is found out.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import Any

import trio
from prometheus_client import REGISTRY

from p2p import Dht, NodeConfig, PutItem, open_dht, open_node
from tools.bench.orders import Orders, reason

TTL_S = 3600.0
WARM_S = 600.0
"""A warm read takes an answer that this node was given so recently."""
_VALUE_BYTES = 128

Order = dict[str, Any]


class Ended(Exception):
    """The parent is gone."""


def value_of(name: str, version: int = 0) -> bytes:
    """What is stored under this name."""
    seed = hashlib.sha256(f"{name} {version}".encode()).digest()
    return (seed * (_VALUE_BYTES // len(seed)))[:_VALUE_BYTES]


def subkey_name(index: int) -> str:
    """The names of a dictionary's entries."""
    return f"entry-{index:04}"


def _received_bytes() -> float:
    return REGISTRY.get_sample_value("p2p_received_bytes_total") or 0.0


async def put(dht: Dht, keys: Sequence[str]) -> Order:
    """Store keys one after another."""
    seconds, succeeded = [], 0
    for key in keys:
        begun_s = time.perf_counter()
        report = await dht.put(key, value_of(key), ttl_s=TTL_S)
        seconds.append(time.perf_counter() - begun_s)
        succeeded += report.replicas > 0
    return {"seconds": seconds, "succeeded": succeeded}


async def get(dht: Dht, keys: Sequence[str], *, warm: bool) -> Order:
    """Read keys one after another; warm: an answer that was given before is good enough."""
    seconds, succeeded = [], 0
    for key in keys:
        begun_s = time.perf_counter()
        entry = await dht.get(key, max_age_s=WARM_S if warm else 0.0)
        seconds.append(time.perf_counter() - begun_s)
        succeeded += entry is not None and entry.value == value_of(key)
    return {"seconds": seconds, "succeeded": succeeded}


async def put_many(dht: Dht, keys: Sequence[str]) -> Order:
    """Store keys at once."""
    begun_s = time.perf_counter()
    reports = await dht.put_many(
        [PutItem(key=key, value=value_of(key), ttl_s=TTL_S) for key in keys]
    )
    took_s = time.perf_counter() - begun_s
    return {"seconds": [took_s], "succeeded": int(all(one.replicas for one in reports))}


async def bulk(dht: Dht, keys: Sequence[str]) -> Order:
    """Read keys at once."""
    begun_s = time.perf_counter()
    found = await dht.get_many(keys)
    took_s = time.perf_counter() - begun_s
    right = all(key in found and found[key].value == value_of(key) for key in keys)
    return {"seconds": [took_s], "succeeded": int(right)}


async def fill(dht: Dht, key: str, entries: Sequence[int], version: int) -> Order:
    """Write entries of a dictionary at once; a later version lives longer, and so wins."""
    items = [
        PutItem(
            key=key,
            value=value_of(subkey_name(index), version),
            subkey=subkey_name(index),
            ttl_s=TTL_S + version,
        )
        for index in entries
    ]
    begun_s = time.perf_counter()
    reports = await dht.put_many(items)
    took_s = time.perf_counter() - begun_s
    return {"seconds": [took_s], "succeeded": int(all(one.replicas for one in reports))}


async def poll(dht: Dht, key: str, versions: Sequence[int]) -> Order:
    """Read a dictionary of these versions; says what this process received meanwhile."""
    before_bytes, begun_s = _received_bytes(), time.perf_counter()
    found = await dht.get_dictionary(key)
    took_s = time.perf_counter() - begun_s
    wanted = {
        subkey_name(index): value_of(subkey_name(index), version)
        for index, version in enumerate(versions)
    }
    right = {subkey: entry.value for subkey, entry in found.items()} == wanted
    received_bytes = _received_bytes() - before_bytes
    return {"seconds": [took_s], "succeeded": int(right), "received_bytes": received_bytes}


async def obey(dht: Dht, order: Order) -> Order:
    """Do what one node is asked for."""
    match order["do"]:
        case "put":
            return await put(dht, order["keys"])
        case "get":
            return await get(dht, order["keys"], warm=order["warm"])
        case "put_many":
            return await put_many(dht, order["keys"])
        case "bulk":
            return await bulk(dht, order["keys"])
        case "fill":
            return await fill(dht, order["key"], order["entries"], order["version"])
    return await poll(dht, order["key"], order["versions"])


async def serve(orders: Orders) -> None:
    """Join as told, and obey until the parent is gone."""
    config = NodeConfig(listen=("/ip4/127.0.0.1/tcp/0",), port_mapping=False, relay_client="never")
    dhts: list[Dht] = []
    async with AsyncExitStack() as stack:
        while (order := await orders.wait()) is not None:
            if order["do"] == "join":
                initial = list(order["initial_peers"])
                for _ in range(order["nodes"]):
                    node = await stack.enter_async_context(open_node(config))
                    dhts.append(
                        await stack.enter_async_context(open_dht(node, initial_peers=initial))
                    )
                    initial = initial or list(node.addresses)
                orders.answer({"initial_peers": initial})
                continue
            with trio.fail_after(order["limit_s"]):
                orders.answer(await obey(dhts[order["node"]], order))
        # Nobody waits for a farewell.
        raise Ended


def main() -> None:
    """Obey the parent; an error is an answer, too."""
    orders = Orders()
    try:
        trio.run(serve, orders)
    except* Ended:
        os._exit(0)
    except* Exception as group:
        orders.answer({"error": reason(group)})
        raise


if __name__ == "__main__":
    main()
