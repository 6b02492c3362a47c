"""One peer of the fault driver: it averages when it is told to, and says what came of it.

python -m tests.soak.round_peer
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import numpy as np
import trio

from averaging import (
    Averager,
    AveragerConfig,
    RoundFailed,
    RoundId,
    RoundReport,
    TensorSpec,
    open_averager,
)
from p2p import Node, NodeConfig, open_node, open_service_nursery, parse_peer_id_untrusted
from tests.soak.round_plan import PEERS, Vector, plan_round, vector_of
from tools.bench.orders import Orders, reason


class RoundPeer:
    """The orders that a peer takes; each returns what to answer."""

    def __init__(self, node: Node, averager: Averager, vector: Vector) -> None:
        self._node = node
        self._averager = averager
        self._vector = vector

    async def meet(self, *, addresses: list[str]) -> dict[str, Any]:
        """Learn where the others are now."""
        for address in addresses:
            peer_id = parse_peer_id_untrusted(address.rsplit("/", 1)[1])
            if peer_id != self._node.peer_id:
                self._node.add_addresses(peer_id, [address])
        return {}

    async def bring(self, *, seed: int, probe: str, number: int, rank: int) -> dict[str, Any]:
        """Make the values for a round, so that the round itself begins at once."""
        plan = plan_round(seed, probe, number)
        self._vector[...] = vector_of(plan, rank, len(self._vector))
        return {"sha256": self._sha256()}

    async def step(
        self,
        *,
        round_number: int,
        parent: str,
        weight: float,
        deadline_s: float,
        expected: list[str],
        cancel_after_s: float | None,
    ) -> dict[str, Any]:
        """Take a step; times are of the clock that all processes share."""
        report: RoundReport | None = None
        begun_s = trio.current_time()
        with trio.move_on_after(float("inf") if cancel_after_s is None else cancel_after_s):
            try:
                report = await self._averager.step(
                    {"vector": self._vector},
                    weight=weight,
                    deadline_s=deadline_s,
                    round=RoundId(round_number, bytes.fromhex(parent)),
                    expected=[parse_peer_id_untrusted(peer) for peer in expected],
                )
            except RoundFailed as failed:
                report = failed.report
        seconds = trio.current_time() - begun_s
        return {
            "outcome": "cancelled" if report is None else report.outcome,
            "seconds": seconds,
            "ended_s": time.monotonic(),
            "sha256": self._sha256(),
            "report": None if report is None else _plain(report),
        }

    async def save(self, *, path: str) -> dict[str, Any]:
        """Write the vector to a file."""
        np.save(path, self._vector)
        return {}

    def _sha256(self) -> str:
        return hashlib.sha256(self._vector.tobytes()).hexdigest()


def _plain(report: RoundReport) -> dict[str, Any]:
    return {
        "text": str(report),
        "digest": report.digest.hex(),
        "group_id": report.group_id.hex(),
        "reason": report.reason,
        "attempts": report.attempts,
        "lost": list(report.lost),
        "members": {
            peer: {"fraction": member.fraction, "weight": member.weight, "reason": member.reason}
            for peer, member in report.members.items()
        },
    }


async def _run(orders: Orders) -> None:
    """Take orders until the parent is gone, whatever is under way then."""
    pass_on, come = trio.open_memory_channel[Any](1)
    async with open_service_nursery() as nursery:
        nursery.start_soon(_listen, orders, pass_on, nursery.cancel_scope)
        first = await come.receive()
        vector = np.zeros(first["elements"], np.float32)
        # A majority: so a round has one result, though some peers do not hear of others.
        config = AveragerConfig(group_size_min=PEERS // 2 + 1)
        node_config = NodeConfig(identity_path=Path(first["identity_path"]))
        async with (
            open_node(node_config) as node,
            open_averager(node, "rounds", TensorSpec.of({"vector": vector}), config) as averager,
        ):
            peer = RoundPeer(node, averager, vector)
            does: dict[str, Callable[..., Awaitable[dict[str, Any]]]] = {
                "meet": peer.meet,
                "bring": peer.bring,
                "step": peer.step,
                "save": peer.save,
            }
            orders.answer({"address": node.addresses[0]})
            async for order in come:
                orders.answer(await does[order.pop("do")](**order))


async def _listen(
    orders: Orders, pass_on: trio.MemorySendChannel[Any], scope: trio.CancelScope
) -> None:
    while (order := await orders.wait()) is not None:
        await pass_on.send(order)
    scope.cancel()


def main() -> None:
    """Run until stdin closes; an error is an answer, too."""
    logging.basicConfig(level=logging.WARNING)
    orders = Orders()
    try:
        trio.run(_run, orders)
    except Exception as exc:
        orders.answer({"error": reason(exc)})
        raise


if __name__ == "__main__":
    main()
