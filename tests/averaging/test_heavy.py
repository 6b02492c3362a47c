"""Numeric work stays off the event loop when it is large, and costs no thread when it is small."""

from __future__ import annotations

import threading

import numpy as np
import trio

from averaging import TensorSpec, open_averager
from averaging.heavy import run_heavy
from p2p import Node, NodeConfig, open_node

LARGE_BYTES = 8_000_000


async def test_large_work_runs_beside_the_loop_and_small_work_in_it() -> None:
    async with open_node(NodeConfig(client_mode=True)) as node:
        here = threading.get_ident()
        assert await run_heavy(node, 1000, threading.get_ident) == here
        assert await run_heavy(node, LARGE_BYTES, threading.get_ident) != here


async def test_the_loop_turns_while_large_work_runs() -> None:
    """The work ends only when the loop has gone on without it."""
    turned = threading.Event()

    async def turn() -> None:
        await trio.lowlevel.checkpoint()
        turned.set()

    async with open_node(NodeConfig(client_mode=True)) as node, trio.open_nursery() as nursery:
        nursery.start_soon(turn)
        assert await run_heavy(node, LARGE_BYTES, turned.wait, 30.0)


async def test_a_step_over_real_sockets_is_the_mean() -> None:
    """Large enough that what is done on whole vectors runs in threads."""
    vectors = [np.full(2_000_000, value, np.float32) for value in (1.0, 4.0)]

    async def step(node: Node, other: Node, vector: np.ndarray) -> None:
        node.add_addresses(other.peer_id, other.addresses)
        tensors = {"vector": vector}
        async with open_averager(node, "heavy", TensorSpec.of(tensors)) as averager:
            await averager.step(tensors, expected=[node.peer_id, other.peer_id])

    async with open_node() as alice, open_node() as bob, trio.open_nursery() as nursery:
        nursery.start_soon(step, alice, bob, vectors[0])
        nursery.start_soon(step, bob, alice, vectors[1])
    for vector in vectors:
        np.testing.assert_array_equal(vector, 2.5)
