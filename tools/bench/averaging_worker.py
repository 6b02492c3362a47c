"""One process that averages, with us or with gloo, as its parent asks for.

python -m tools.bench.averaging_worker manyhands|gloo
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import trio

from tools.bench.orders import Orders, reason

Vector = npt.NDArray[np.float32]
ROUND_S_MAX = 120.0


class Ended(Exception):
    """The parent is gone."""


def vector(rank: int, elements: int) -> Vector:
    """What the peer of this rank puts in: shape (elements,)."""
    return np.random.default_rng(rank).standard_normal(elements, dtype=np.float32)


def mean(peers: int, elements: int) -> Vector:
    """What all of them should get: shape (elements,)."""
    total = np.zeros(elements, dtype=np.float64)
    for rank in range(peers):
        total += vector(rank, elements)
    return (total / peers).astype(np.float32)


def _expect(order: dict[str, Any] | None) -> dict[str, Any]:
    if order is None:
        raise Ended
    return order


async def average_with_us(orders: Orders) -> None:
    """Average over nodes of our own."""
    import averaging
    import p2p

    task = _expect(await orders.wait())
    elements, rounds = task["elements"], task["rounds"]
    mine, expected = vector(task["rank"], elements), mean(task["peers"], elements)
    async with p2p.open_node() as node:
        orders.answer({"hello": node.addresses[0]})
        peer_ids = []
        for address in _expect(await orders.wait())["hellos"]:
            peer_ids.append(p2p.parse_peer_id_untrusted(address.rsplit("/", 1)[1]))
            node.add_addresses(peer_ids[-1], [address])
        spec = averaging.TensorSpec.of({"vector": mine})
        steps_s: list[float] = []
        error, cpu_s = 0.0, 0.0
        async with averaging.open_averager(node, "bench", spec) as averager:
            for index in range(rounds + 1):
                tensors = {"vector": mine.copy()}
                cpu_before, before = time.process_time(), time.perf_counter()
                await averager.step(tensors, deadline_s=ROUND_S_MAX, expected=peer_ids)
                if index:  # the first round also connects
                    steps_s.append(time.perf_counter() - before)
                    cpu_s += time.process_time() - cpu_before
                error = max(error, float(np.abs(tensors["vector"] - expected).max()))
        orders.answer({"steps_s": steps_s, "cpu_s": cpu_s, "error_max": error})
        _expect(await orders.wait())
    orders.answer({})


def average_with_gloo(orders: Orders) -> None:
    """Average with torch.distributed."""
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    task = _expect(orders.next())
    rank, peers, elements, rounds = (task[k] for k in ("rank", "peers", "elements", "rounds"))
    with tempfile.TemporaryDirectory() as folder:
        # They meet at a file of the first one; all learn its name through the parent.
        orders.answer({"hello": str(Path(folder) / "meeting")})
        meeting = _expect(orders.next())["hellos"][0]
        dist.init_process_group(
            "gloo", init_method=f"file://{meeting}", rank=rank, world_size=peers
        )
        expected = mean(peers, elements)
        mine = vector(rank, elements)
        steps_s: list[float] = []
        error, cpu_s = 0.0, 0.0
        for index in range(rounds + 1):
            tensor = torch.from_numpy(mine.copy())
            dist.barrier()
            cpu_before, before = time.process_time(), time.perf_counter()
            dist.all_reduce(tensor)
            tensor /= peers
            if index:
                steps_s.append(time.perf_counter() - before)
                cpu_s += time.process_time() - cpu_before
            error = max(error, float(np.abs(tensor.numpy() - expected).max()))
        orders.answer({"steps_s": steps_s, "cpu_s": cpu_s, "error_max": error})
        _expect(orders.next())
        dist.destroy_process_group()
    orders.answer({})


def main() -> None:
    """Run as the argument says; an error is an answer, too."""
    orders = Orders()
    (rival,) = sys.argv[1:]
    try:
        if rival == "manyhands":
            trio.run(average_with_us, orders)
        else:
            average_with_gloo(orders)
    except Ended:
        # Threads of a library may still wait for peers that are gone, too.
        os._exit(1)
    except Exception as exc:
        orders.answer({"error": reason(exc)})
        raise


if __name__ == "__main__":
    main()
