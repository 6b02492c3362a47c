"""Waves of attackers on a node in a process of its own: descriptors and memory come back."""

import psutil
import pytest
import trio

from p2p import NodeConfig, StreamBroken, open_node
from tests.netlab.peer import ECHO
from tests.processes.test_patience import open_peer_process

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

WAVES = 30
ATTACKERS = 12
STREAMS = 40
SENT_BYTES = 300_000
# A wave brings up to 144 MB. The C library keeps some of what was freed, more after one wave than
# after another, and settles within ten; the least of ten waves shows what is really not free.
GROWTH_BYTES_MAX = 60_000_000
HELD_BYTES_MAX = 400_000_000


async def attack(address: str) -> None:
    """Open many streams, fill each with what is to be echoed, and read nothing of it."""
    async with open_node(NodeConfig(client_mode=True)) as attacker:
        peer_id = await attacker.connect_address(address)
        for _ in range(STREAMS):
            stream = await attacker.open_stream(peer_id, ECHO)
            with trio.move_on_after(0.02):
                try:
                    await stream.send_all(bytes(SENT_BYTES))
                except StreamBroken:
                    return  # the node has had enough of us


async def test_what_attackers_made_a_node_hold_is_free_for_the_next() -> None:
    async with open_peer_process() as (process, friend, peer_id):
        node = psutil.Process(process.pid)
        address = friend.addresses_of(peer_id)[0]
        descriptors = node.num_fds()
        held = []
        for _ in range(WAVES):
            async with trio.open_nursery() as nursery:
                for _ in range(ATTACKERS):
                    nursery.start_soon(attack, address)
            # The attackers have hung up; the timeout of the test bounds how long it takes.
            while node.num_fds() > descriptors:  # noqa: ASYNC110 - another process tells nobody
                await trio.sleep(0.05)
            held.append(node.memory_info().rss)
            stream = await friend.open_stream(peer_id, ECHO)
            await stream.send_all(b"hello")
            assert await stream.receive_exactly(5) == b"hello"
            await stream.aclose()
        print("held after each wave:", [f"{size / 1e6:.0f} MB" for size in held])
        settled, last = held[WAVES // 3 : 2 * WAVES // 3], held[2 * WAVES // 3 :]
        assert min(last) - min(settled) <= GROWTH_BYTES_MAX
        assert max(held) <= HELD_BYTES_MAX
