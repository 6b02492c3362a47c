"""One process that averages, with us or with gloo, as its parent asks for.

    python -m tools.bench.allreduce_worker ours|aes|noise|secure|gloo|bare-aes|bare-noise RANK

`secure` is ours with secure sums instead of all-reduces; `bare` is no more than the work on bytes.

It says where it can be met, hears where the others are, and then obeys: `open` a vector, `prepare`
a round, `go` at an instant of the clock that all processes here share, and `check` what came.
"""

from __future__ import annotations

import logging
import os
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import trio

from tools.bench.orders import Orders, reason
from tools.bench.vectors import Array, errors, fill, mean_of, pattern_of
from tools.heap import freeze_heap

ROUND_S_MAX = 120.0
CODEC = "int8-block"
"""Stands where a dtype does, for ours alone: what the others have is measured by `bench codecs`."""
TOLERANCE = {"float32": 1e-4, "float16": 2e-2, CODEC: 2e-1}
"""An element farther than this from the mean holds something else."""

JOIN_WINDOW_S = 30.0
"""Where nobody is lost, a round waits for all peers: many processes on few cores come far apart."""
SECURE_VALUE_MAX = 8.0
"""Beyond every value of the patterns."""

Order = dict[str, Any]


class Ended(Exception):
    """The parent is gone."""


def _expect(order: Order | None) -> Order:
    if order is None:
        raise Ended
    return order


@dataclass
class Vector:
    """This peer's vector, and what it should become."""

    rank: int
    peers: int
    dtype: str
    values_V: Array
    round_index: int = 0
    cpu_before_s: float = 0.0

    def prepare(self, round_index: int) -> None:
        """Put in what this peer contributes to the round."""
        self.round_index = round_index
        fill(self.values_V, pattern_of(self.rank, round_index))

    def check(self, lost: int | None) -> Order:
        """What came of the round; with one lost, each element may lack that one or not."""
        cpu_s = time.process_time() - self.cpu_before_s
        ranks = range(self.peers)
        means = [mean_of(ranks, self.round_index)]
        if lost is not None:
            means.append(mean_of([rank for rank in ranks if rank != lost], self.round_index))
        error_max, right = errors(self.values_V, means, TOLERANCE[self.dtype])
        return {"cpu_s": cpu_s, "error_max": error_max, "right_fraction": right}


class Losses(logging.Handler):
    """When this process first took each of its peers for lost, by a connection or a log line."""

    def __init__(self, ranks: Mapping[str, int]) -> None:
        """The ranks are found by the short peer id."""
        super().__init__(logging.INFO)
        self._ranks = ranks
        self.at_s: dict[int, float] = {}

    def note(self, rank: int) -> None:
        """This peer is lost, as we know from now on."""
        self.at_s.setdefault(rank, time.perf_counter())

    def emit(self, record: logging.LogRecord) -> None:
        """Log lines name an event, such as aggregator_lost, and a peer."""
        event, *words = record.getMessage().split()
        if not event.endswith("_lost"):
            return
        for word in words:
            name, _, value = word.partition("=")
            if name == "peer" and value in self._ranks:
                self.note(self._ranks[value])


async def average_with_us(orders: Orders, rank: int, rival: str) -> None:
    """Average over nodes of our own, whose records are as the rival's name says."""
    import p2p

    config = p2p.NodeConfig(record_layer="noise" if rival == "noise" else "auto")
    async with p2p.open_node(config) as node:
        orders.answer({"hello": node.addresses[0]})
        met = _expect(await orders.wait())
        peer_ids = [
            p2p.parse_peer_id_untrusted(address.rsplit("/", 1)[1]) for address in met["hellos"]
        ]
        for peer_id, address in list(zip(peer_ids, met["hellos"], strict=True))[:rank]:
            await node.connect(peer_id, [address])
        for connection in node.connections:
            # Whoever measures AES records must not be given Noise in silence.
            got = "noise" if connection.record_layer == "/noise" else "aes"
            if rival in ("aes", "noise") and rival != got:
                raise RuntimeError(f"this machine's connections got {connection.record_layer}")
        async with p2p.open_service_nursery() as nursery:
            losses = Losses({p2p.short(peer_id): i for i, peer_id in enumerate(peer_ids)})
            if met["watch"]:
                logging.getLogger("averaging").addHandler(losses)
                logging.getLogger("averaging").setLevel(logging.INFO)
            orders.answer({})
            order = _expect(await orders.wait())
            if met["watch"]:
                # Everybody has met everybody when the next order comes.
                for other, peer_id in enumerate(peer_ids):
                    if other != rank:
                        nursery.start_soon(_note_disconnected, node, peer_id, losses, other)
            while True:
                opened = _open_averager(
                    node, order, secure=rival == "secure", patient=not met["watch"]
                )
                order = await _average_one_vector(orders, order, opened, rank, peer_ids, losses)


async def _note_disconnected(node: Any, peer_id: Any, losses: Losses, rank: int) -> None:
    await node.wait_disconnected(peer_id)
    losses.note(rank)


def _open_averager(
    node: Any, opened: Order, *, secure: bool, patient: bool
) -> AbstractAsyncContextManager[Any]:
    """The averager that is measured."""
    import averaging

    spec = averaging.TensorSpec.of({"vector": np.empty(opened["elements"], np.float32)})
    if secure:
        secure_config = averaging.SecureConfig(value_max=SECURE_VALUE_MAX)
        return averaging.open_secure_averager(node, opened["name"], spec, secure_config)
    coded = opened["dtype"] == CODEC
    config = averaging.AveragerConfig(
        wire_dtype=None if coded else opened["dtype"],
        codec=CODEC if coded else None,
        join_window_s=JOIN_WINDOW_S if patient else averaging.AveragerConfig.join_window_s,
    )
    return averaging.open_averager(node, opened["name"], spec, config)


async def _average_one_vector(
    orders: Orders,
    order: Order,
    opened: AbstractAsyncContextManager[Any],
    rank: int,
    peer_ids: list[Any],
    losses: Losses,
) -> Order:
    """All rounds with one vector; returns the order to open the next."""
    import averaging

    mine = Vector(rank, len(peer_ids), order["dtype"], np.empty(order["elements"], np.float32))
    async with opened as averager:
        freeze_heap()
        orders.answer({})
        while True:
            order = _expect(await orders.wait())
            if order["do"] == "open":
                return order
            if order["do"] == "prepare":
                mine.prepare(order["round"])
                orders.answer({})
            elif order["do"] == "check":
                digest = _digest(mine.values_V) if order["digest"] else ""
                orders.answer({**mine.check(order["lost"]), "tensor_digest": digest})
            else:
                losses.at_s.clear()
                await trio.sleep(max(0.0, order["at_s"] - time.perf_counter()))
                mine.cpu_before_s, begun_s = time.process_time(), time.perf_counter()
                try:
                    report = await averager.step(
                        {"vector": mine.values_V}, deadline_s=ROUND_S_MAX, expected=peer_ids
                    )
                except averaging.RoundFailed as exc:
                    report = exc.report
                ended_s = time.perf_counter()
                orders.answer(
                    {"begun_s": begun_s, "ended_s": ended_s, **_report(report, peer_ids, losses)}
                )


def _report(report: Any, peer_ids: list[Any], losses: Losses) -> Order:
    """What the parent needs to know of a round; peers are ranks, as they have no names there."""
    return {
        "outcome": report.outcome,
        "reason": report.reason,
        "matchmaking_s": report.matchmaking_seconds,
        "transfer_s": report.transfer_seconds,
        "sent_bytes": report.sent_bytes,
        "digest": report.digest.hex(),
        "attempts": report.attempts,
        "group_size": sum(member.fraction == 1.0 for member in report.members.values()),
        "fractions": {
            peer_ids.index(peer): member.fraction for peer, member in report.members.items()
        },
        "noticed_s": losses.at_s,
    }


def _digest(values_V: Array) -> str:
    from blake3 import blake3

    return blake3(values_V.view(np.uint8).data).hexdigest()


async def average_with_gloo(orders: Orders, rank: int) -> None:
    """Average with torch.distributed, whose vectors have the dtype that travels."""
    import torch
    import torch.distributed as dist

    async def average(values_V: Array) -> None:
        tensor = torch.from_numpy(values_V)
        dist.all_reduce(tensor)
        tensor /= peers

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        # They meet at a file of the first one; all learn its name through the parent.
        orders.answer({"hello": str(Path(folder) / "meeting")})
        hellos = _expect(await orders.wait())["hellos"]
        peers = len(hellos)
        dist.init_process_group(
            "gloo", init_method=f"file://{hellos[0]}", rank=rank, world_size=peers
        )
        orders.answer({})
        await _obey(orders, rank, peers, average)


async def average_bare(orders: Orders, rank: int, rival: str) -> None:
    """Average without any protocol."""
    from tools.bench.bare import open_bare

    async def meet(hello: str) -> list[str]:
        orders.answer({"hello": hello})
        hellos: list[str] = _expect(await orders.wait())["hellos"]
        return hellos

    async with open_bare(rival, rank, meet) as bare:
        orders.answer({})
        await _obey(orders, rank, bare.peers, bare.average)


async def _obey(
    orders: Orders, rank: int, peers: int, average: Callable[[Array], Awaitable[None]]
) -> NoReturn:
    """All vectors and rounds of a rival that averages in place."""
    mine = Vector(rank, peers, "float32", np.empty(0, np.float32))
    while True:
        order = _expect(await orders.wait())
        if order["do"] == "open":
            values_V = np.empty(order["elements"], order["dtype"])
            mine = Vector(rank, peers, order["dtype"], values_V)
            freeze_heap()
            orders.answer({})
        elif order["do"] == "prepare":
            mine.prepare(order["round"])
            orders.answer({})
        elif order["do"] == "check":
            orders.answer(mine.check(order["lost"]))
        else:
            await trio.sleep(max(0.0, order["at_s"] - time.perf_counter()))
            mine.cpu_before_s, begun_s = time.process_time(), time.perf_counter()
            await average(mine.values_V)
            orders.answer({"begun_s": begun_s, "ended_s": time.perf_counter()})


def main() -> None:
    """Run as the arguments say; an error is an answer, too."""
    orders = Orders()
    rival, rank = sys.argv[1], int(sys.argv[2])
    try:
        if rival == "gloo":
            trio.run(average_with_gloo, orders, rank)
        elif rival.startswith("bare"):
            trio.run(average_bare, orders, rank, rival)
        else:
            trio.run(average_with_us, orders, rank, rival)
    except Ended:
        # Threads of a library may still wait for peers that are gone, too.
        os._exit(0)
    except Exception as exc:
        orders.answer({"error": reason(exc)})
        raise


if __name__ == "__main__":
    main()
