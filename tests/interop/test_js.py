"""js-libp2p and we: connect, identify, ping, echo, half-close and a slow reader, both ways."""

from __future__ import annotations

import hashlib

import pytest
import trio

from p2p import Node, open_node
from tests.interop.js_peer import JsPeer, open_js_peer
from tests.interop.ours import echo, identify_of, ping, send_and_compare
from tests.interop.processes import ECHO, JS, SIZE_BYTES, pattern

pytestmark = pytest.mark.slow
NEEDS = JS
PAUSE_S = 6.0
"""Longer than the five seconds after which a stock py-libp2p host gives up on a reader."""


async def connect(js: JsPeer, ours: Node, *, we_dial: bool) -> None:
    ours.serve(ECHO, echo)
    if we_dial:
        assert await ours.connect_address(js.addresses[0]) == js.peer_id
    else:
        answer = await js("connect", address=ours.addresses[0])
        assert answer == {"peer": ours.peer_id, "limited": False}


@pytest.mark.parametrize("we_dial", [True, False], ids=["we dial js", "js dials us"])
async def test_they_know_each_other(we_dial: bool) -> None:
    async with open_js_peer() as js, open_node() as ours:
        await connect(js, ours, we_dial=we_dial)
        seen = await js("identified", peer=ours.peer_id)
        assert seen["agent"] == "manyhands"
        assert seen["keyType"] == "Ed25519"
        assert set(seen["protocols"]) >= {ECHO, "/ipfs/id/1.0.0", "/ipfs/ping/1.0.0"}
        assert seen["observed"].startswith("/ip4/127.0.0.1/tcp/")
        assert [f"{address}/p2p/{ours.peer_id}" for address in seen["listening"]] == list(
            ours.addresses
        )
        told = await identify_of(ours, js.peer_id)
        assert told.agent.startswith("js-libp2p/")
        assert told.peer_id == js.peer_id
        assert ECHO in told.protocols
        assert told.observed.startswith("/ip4/127.0.0.1/tcp/")
        assert await ping(ours, js.peer_id) > 0
        assert await js("ping", peer=ours.peer_id)


@pytest.mark.parametrize("we_dial", [True, False], ids=["we dial js", "js dials us"])
async def test_sixteen_mebibytes_come_back_the_same(we_dial: bool) -> None:
    async with open_js_peer() as js, open_node() as ours:
        await connect(js, ours, we_dial=we_dial)
        data = pattern(SIZE_BYTES)
        await send_and_compare(ours, js.peer_id, data)
        answer = await js("echo", peer=ours.peer_id, sizeBytes=SIZE_BYTES)
        assert answer["received"] == SIZE_BYTES
        assert answer["sha256"] == hashlib.sha256(data).hexdigest()


async def test_slow_readers_are_borne_with() -> None:
    async with open_js_peer() as js, open_node() as ours:
        await connect(js, ours, we_dial=True)
        data = pattern(SIZE_BYTES)

        async def js_pauses() -> None:
            answer = await js(
                "echo", peer=ours.peer_id, sizeBytes=SIZE_BYTES, pauseMs=PAUSE_S * 1000
            )
            assert answer["sha256"] == hashlib.sha256(data).hexdigest()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(js_pauses)
            await send_and_compare(ours, js.peer_id, data, pause_s=PAUSE_S)
