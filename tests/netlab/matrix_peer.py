"""A peer of the matrix, on a host of the laboratory; obeys lines on stdin, and answers in JSON.

python -m tests.netlab.matrix_peer MULTIADDRESS …

The addresses are of public nodes: it stays connected to them, and uses those that are relays.
Each `open PORT auto|always` begins a new life with another identity, `close` ends it. In between:

    meet ADDRESS[,ADDRESS…]          connect, and say when which path stood
    call PEER BYTES WAY              send so much to and fro, again until it comes back by that
                                     way (`any` for all ways), and say how it travelled
    average NAME PEER OWN OTHER      average a vector with a peer, each made from a seed
"""

from __future__ import annotations

import hashlib
import itertools
import json
import sys
from collections.abc import AsyncIterator
from typing import Any, Literal, cast

import numpy as np
import numpy.typing as npt
import trio

from averaging import AveragerConfig, RoundFailed, TensorSpec, open_averager
from p2p import Node, NodeConfig, P2PError, PeerId, Stream, open_node
from p2p.address import parse_address, parse_tcp_address

ECHO = "/test/echo/1"
ELEMENTS = 2 * 1024 * 1024
"""Of float32: 8 MiB."""
ROUND_S_MAX = 90.0
# A machine that is busy with other things is no reason to average alone.
ROUNDS = AveragerConfig(group_size_min=2, silence_s=30.0)
Vector = npt.NDArray[np.float32]


def say(event: str, **more: Any) -> None:
    """Tell the test."""
    print(json.dumps({"event": event, **more}), flush=True)


async def echo(stream: Stream) -> None:
    """Send everything back."""
    while data := await stream.receive_some():
        await stream.send_all(data)


async def main(publics: list[str]) -> None:
    """Live as often as told."""
    lines = trio.wrap_file(sys.stdin)
    async for line in lines:
        command, port, mode = line.split()
        assert command == "open", line
        config = NodeConfig(
            listen=(f"/ip4/0.0.0.0/tcp/{port}",),
            relays=tuple(publics[:2]),
            relay_client=cast(Literal["auto", "always"], mode),
        )
        async with open_node(config) as node, trio.open_nursery() as nursery:
            node.serve(ECHO, echo)
            for address in publics:
                nursery.start_soon(keep_connected, node, address)
            nursery.start_soon(report_always, node)
            await obey(node, lines)
            nursery.cancel_scope.cancel()
        say("closed")


async def keep_connected(node: Node, address: str) -> None:
    """Connect to a public node, and again whenever the connection is lost."""
    while True:
        try:
            peer_id = await node.connect_address(address)
        except P2PError:
            await trio.sleep(0.5)
            continue
        await node.wait_disconnected(peer_id)


async def report_always(node: Node) -> None:
    """Say how things stand, whenever that has changed."""
    before: dict[str, object] = {}
    while True:
        report = node.net_report
        puncher = node.hole_puncher
        now: dict[str, object] = {
            "peer_id": node.peer_id,
            "reachability": report.reachability,
            "mapping": report.mapping,
            "behind": report.behind,
            "mapped": report.port_mapping.external if report.port_mapping else None,
            "relays": [one.peer_id for one in report.relays],
            "addresses": node.addresses,
            "connections": sorted(
                (one.peer_id, one.path, one.address.split("/p2p/")[0]) for one in node.connections
            ),
            "punches": {
                one.peer_id: [one.outcome, one.tries, one.seconds, one.reason]
                for one in (puncher.results.values() if puncher else ())
            },
        }
        if now != before:
            say("report", **now, details=[(d.address, d.evidence) for d in report.details])
        before = now
        await trio.sleep(0.1)


async def obey(node: Node, lines: AsyncIterator[str]) -> None:
    """Do what the lines say, one after the other, until one says that it is over."""
    async for line in lines:
        command, *words = line.split()
        if command == "close":
            return
        try:
            if command == "meet":
                await meet(node, words[0].split(","))
            elif command == "call":
                await call(node, PeerId(words[0]), int(words[1]), words[2])
            elif command == "average":
                name, peer, own, other = words
                await average(node, name, PeerId(peer), int(own), int(other))
        except (P2PError, RoundFailed) as exc:
            say(command, error=f"{type(exc).__name__}: {exc}")


async def meet(node: Node, addresses: list[str]) -> None:
    """Connect; the first byte is told of, and later the first path without a relay, if any."""
    peer_id = parse_address(addresses[0]).peer_id
    assert peer_id is not None
    began_s = trio.current_time()
    await node.connect(peer_id, addresses)
    path = await _echoed(node, peer_id)
    first_s = trio.current_time() - began_s
    say("meet", path=path, seconds=first_s)
    if path != "relayed":
        say("settled", path=path, seconds=first_s, address=_address(node, peer_id))
        return
    while _paths(node, peer_id) == {"relayed"}:
        puncher = node.hole_puncher
        result = puncher.results.get(peer_id) if puncher else None
        if result is not None and result.outcome == "failed":
            say("settled", path="relayed", seconds=first_s, address="")
            return
        await trio.sleep(0.01)
    settled_s = trio.current_time() - began_s
    path = await _echoed(node, peer_id)
    say("settled", path=path, seconds=settled_s, address=_address(node, peer_id))


async def call(node: Node, peer_id: PeerId, size_bytes: int, way: str) -> None:
    """Send something and have it back, however often that takes."""
    began_s = trio.current_time()
    for tries in itertools.count(1):
        try:
            path = await _echoed(node, peer_id, size_bytes)
        except P2PError:
            path = ""
        if path == way or (path and way == "any"):
            say("call", path=path, seconds=trio.current_time() - began_s, tries=tries)
            return
        await trio.sleep(0.2)


async def _echoed(node: Node, peer_id: PeerId, size_bytes: int = 5) -> str:
    """How a stream travels on which so much came back."""
    data = bytes(range(256)) * (size_bytes // 256 + 1)
    stream = await node.open_stream(peer_id, ECHO)
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stream.send_all, data)
            assert await stream.receive_exactly(len(data)) == data
        return stream.path
    except* P2PError as group:
        raise group.exceptions[0] from None
    finally:
        stream.reset()


def _paths(node: Node, peer_id: PeerId) -> set[str]:
    return {one.path for one in node.connections if one.peer_id == peer_id}


def _address(node: Node, peer_id: PeerId) -> str:
    """Where the socket of the best connection to a peer leads."""
    [*_, info] = [
        one for one in node.connections if one.peer_id == peer_id and one.path != "relayed"
    ]
    address = parse_tcp_address(info.address)
    return f"{address.host}:{address.port}" if info.outbound else "came in"


async def average(node: Node, name: str, peer_id: PeerId, own: int, other: int) -> None:
    """Average 8 MiB with a peer, and compare with what must come out."""
    vector, theirs = _vector(own), _vector(other)
    mean = (vector + theirs) / 2
    tensors = {"vector": vector}
    began_s = trio.current_time()
    async with open_averager(node, name, TensorSpec.of(tensors), ROUNDS) as averager:
        report = await averager.step(
            tensors, deadline_s=ROUND_S_MAX, expected=[node.peer_id, peer_id]
        )
    say(
        "average",
        right=bool(np.allclose(vector, mean, rtol=0.0, atol=1e-6)) and len(report.members) == 2,
        bits=hashlib.sha256(vector.tobytes()).hexdigest(),
        paths=dict(report.bytes_by_path),
        seconds=trio.current_time() - began_s,
        matchmaking_s=report.matchmaking_seconds,
        report=str(report),
    )


def _vector(seed: int) -> Vector:
    return np.random.default_rng(seed).standard_normal(ELEMENTS, np.float32)


if __name__ == "__main__":
    trio.run(main, sys.argv[1:])
