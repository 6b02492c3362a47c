"""One process with a few nodes of hivemind's DHT, run by a Python that has it.

    PYTHON -I tools/bench/hivemind_dht_worker.py

It takes the orders of tools.bench.dht_worker and stores the same values. The nodes run in this
process, which spares them the pipe to a process of its own that hivemind.DHT puts before each.
"""

from __future__ import annotations

import asyncio
import hashlib
import sys
import time
from importlib import import_module
from pathlib import Path
from typing import Any

# The file beside this one is found by its path alone, behind all that hivemind needs.
sys.path.append(str(Path(__file__).parent))
TTL_S = 3600.0
VALUE_BYTES = 128
_HOST = {
    "host_maddrs": ["/ip4/127.0.0.1/tcp/0"],
    # Nobody else is wanted, and nobody is asked.
    "nat_port_map": False,
    "auto_nat": False,
    "use_relay": False,
}

Order = dict[str, Any]


def value_of(name: str, version: int = 0) -> bytes:
    """As in tools.bench.dht_worker, which cannot be imported here."""
    seed = hashlib.sha256(f"{name} {version}".encode()).digest()
    return (seed * (VALUE_BYTES // len(seed)))[:VALUE_BYTES]


def subkey_name(index: int) -> str:
    """As there."""
    return f"entry-{index:04}"


def now_s() -> float:
    """The time by which its records expire."""
    found: float = import_module("hivemind.utils").get_dht_time()
    return found


async def put(dht: Any, keys: list[str]) -> Order:
    """Store keys one after another."""
    seconds, succeeded = [], 0
    for key in keys:
        begun_s = time.perf_counter()
        succeeded += bool(await dht.store(key, value_of(key), now_s() + TTL_S))
        seconds.append(time.perf_counter() - begun_s)
    return {"seconds": seconds, "succeeded": succeeded}


async def get(dht: Any, keys: list[str], *, warm: bool, first: bool) -> Order:
    """Read keys one after another; later reads that are not warm ask for the latest."""
    seconds, succeeded = [], 0
    for key in keys:
        begun_s = time.perf_counter()
        found = await dht.get(key, latest=not warm and not first)
        seconds.append(time.perf_counter() - begun_s)
        succeeded += found is not None and found.value == value_of(key)
    return {"seconds": seconds, "succeeded": succeeded}


async def put_many(dht: Any, keys: list[str]) -> Order:
    """Store keys at once."""
    begun_s = time.perf_counter()
    done = await dht.store_many(keys, [value_of(key) for key in keys], now_s() + TTL_S)
    return {"seconds": [time.perf_counter() - begun_s], "succeeded": int(all(done.values()))}


async def bulk(dht: Any, keys: list[str]) -> Order:
    """Read keys at once."""
    begun_s = time.perf_counter()
    found = await dht.get_many(keys)
    took_s = time.perf_counter() - begun_s
    right = all(found[key] is not None and found[key].value == value_of(key) for key in keys)
    return {"seconds": [took_s], "succeeded": int(right)}


async def fill(dht: Any, key: str, entries: list[int], version: int) -> Order:
    """Write entries of a dictionary at once."""
    names = [subkey_name(index) for index in entries]
    begun_s = time.perf_counter()
    done = await dht.store_many(
        [key] * len(names),
        [value_of(name, version) for name in names],
        now_s() + TTL_S + version,
        subkeys=names,
    )
    return {"seconds": [time.perf_counter() - begun_s], "succeeded": int(all(done.values()))}


async def poll(dht: Any, key: str, versions: list[int]) -> Order:
    """Read the latest of a dictionary."""
    begun_s = time.perf_counter()
    found = await dht.get(key, latest=True)
    took_s = time.perf_counter() - begun_s
    wanted = {
        subkey_name(index): value_of(subkey_name(index), version)
        for index, version in enumerate(versions)
    }
    right = (
        found is not None and {name: entry.value for name, entry in found.value.items()} == wanted
    )
    return {"seconds": [took_s], "succeeded": int(right), "received_bytes": None}


async def obey(dht: Any, order: Order) -> Order:
    """Do what one node is asked for."""
    do = order["do"]
    if do == "put":
        return await put(dht, order["keys"])
    if do == "get":
        return await get(dht, order["keys"], warm=order["warm"], first=order["first"])
    if do == "put_many":
        return await put_many(dht, order["keys"])
    if do == "bulk":
        return await bulk(dht, order["keys"])
    if do == "fill":
        return await fill(dht, order["key"], order["entries"], order["version"])
    return await poll(dht, order["key"], order["versions"])


async def serve(orders: Any) -> None:
    """Join as told, and obey until the parent is gone."""
    node_class = import_module("hivemind.dht.node").DHTNode
    loop = asyncio.get_running_loop()
    dhts: list[Any] = []
    while True:
        # In a thread: the nodes serve others meanwhile.
        order = await loop.run_in_executor(None, orders.next)
        if order["do"] == "join":
            initial = list(order["initial_peers"])
            for _ in range(order["nodes"]):
                dht = await node_class.create(initial_peers=initial, **_HOST)
                dhts.append(dht)
                initial = initial or [str(one) for one in await dht.get_visible_maddrs()]
            orders.answer({"initial_peers": initial})
            continue
        done = obey(dhts[order["node"]], order)
        orders.answer(await asyncio.wait_for(done, order["limit_s"]))


def main() -> None:
    """Obey the parent; an error is an answer, too."""
    orders = import_module("hivemind_worker").Orders()
    try:
        asyncio.run(serve(orders))
    except Exception as exc:
        orders.answer({"error": f"{type(exc).__name__}: {exc}"})
        raise


if __name__ == "__main__":
    main()
